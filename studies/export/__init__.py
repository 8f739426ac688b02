"""A chosen configuration as files, and training with it again."""
