"""One worker's part of a study: prepare, ask, run, tell, recover."""
