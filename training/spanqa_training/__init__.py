"""Training: specs, model, checkpoints, data, loop and evaluation."""
