"""`model`, chosen: the best of some models on validation rows."""
