"""What a run folder says: reads its files, imports nothing from training."""
