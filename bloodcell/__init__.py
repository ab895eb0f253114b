"""Fine-tunes a MobileNet on photographs of blood cells, and scores it by photograph."""

__version__ = "0.1.0"
