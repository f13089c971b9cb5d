"""Checkpoints: what a trained model is on the disk, open or encrypted."""
