"""Named data sets, one module for each, and photo tables."""
