"""What the built-in tasks make of texts: samples in the tokens of a model."""
