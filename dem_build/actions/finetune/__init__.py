"""`vector:NAME`: the base is trained on a dataset, and the difference is kept."""
