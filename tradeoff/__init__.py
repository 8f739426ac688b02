"""Search the settings of a Hugging Face fine-tune jointly, for accuracy, training time and peak memory."""
