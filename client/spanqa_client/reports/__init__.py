"""Evaluation reports: statistics of a run over a dataset, the page that shows them, and the model card."""
