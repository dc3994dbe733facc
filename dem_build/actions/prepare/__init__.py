"""`data:NAME`: the files of a dataset become token ids and labels, split."""
