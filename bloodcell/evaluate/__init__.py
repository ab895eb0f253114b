"""Scores, figures and comparisons of runs; imports nothing from training."""
