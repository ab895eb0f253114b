"""The network and its weights: plain PyTorch, nothing of Lightning."""
