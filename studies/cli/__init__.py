"""The command `tradeoff`, one file a command."""
