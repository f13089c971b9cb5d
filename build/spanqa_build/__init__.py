"""Building what is served: export, optimisation, parity and the model repository."""
