"""Weights of other projects, taken over and given back."""
