"""Figures of a run and of a comparison; imports no torch."""
