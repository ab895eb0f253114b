"""Training: the LightningModule, the Trainer's callbacks, and the run folders."""
