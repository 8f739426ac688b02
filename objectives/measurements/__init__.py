"""What a trial measures: its outcome, the objectives that read it, and how it is stored."""
