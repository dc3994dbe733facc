"""`analysis`: how the vectors lie to each other and to the base."""
