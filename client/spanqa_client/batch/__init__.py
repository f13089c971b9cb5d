"""Batches: questions by the million from files into Parquet, each answered once, whatever stops the work in between."""
