"""Checks a folder of images for faults."""
