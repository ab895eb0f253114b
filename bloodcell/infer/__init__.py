"""Classification of images with a trained model, and export of models."""
