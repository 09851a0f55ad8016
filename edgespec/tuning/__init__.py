"""Finding the settings that are fastest for a model on this machine."""
