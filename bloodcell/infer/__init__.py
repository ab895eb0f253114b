"""From a folder or a checkpoint to an answer."""
