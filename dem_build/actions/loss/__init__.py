"""`loss:MODEL:NAME`: the held-out loss of a model on a dataset."""
