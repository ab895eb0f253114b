"""Turns images on disk into batches: source, table, splits, decoded pixels, augmentation."""
