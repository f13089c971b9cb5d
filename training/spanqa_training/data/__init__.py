"""Training data: datasets as labelled windows in batches, and what a dataset holds."""
