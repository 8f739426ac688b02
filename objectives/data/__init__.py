"""Labelled texts: the hub, local files, or generated reviews."""
