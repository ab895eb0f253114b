"""The seven published experiments, run again."""
