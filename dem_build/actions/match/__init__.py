"""`match`: the base and its vectors become one model, by the outputs of each on its own rows."""
