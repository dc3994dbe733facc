"""One training by several processes, *ranks*: each holds its rows of every parameter (decision 0064)."""
