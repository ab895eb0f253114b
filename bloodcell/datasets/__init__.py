"""Named data sets: one module for each, and their photo tables."""
