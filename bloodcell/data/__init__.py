"""From images on disk to batches: source, table, splits, decoded pixels, augmentation."""
