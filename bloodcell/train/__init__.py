"""Training: the LightningModule and what happens around a run."""
