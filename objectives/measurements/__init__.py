"""The measurements of a trial: its outcome, the objectives that read it, and how it is stored."""
