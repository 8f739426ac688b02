"""The training job: the settings that all trials of a study share, and the arguments that they become."""
