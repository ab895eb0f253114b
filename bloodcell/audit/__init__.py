"""What is really in a folder of images."""
