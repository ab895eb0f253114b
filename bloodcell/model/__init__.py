"""The network and its weights, in plain PyTorch without Lightning."""
