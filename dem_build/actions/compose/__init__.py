"""`model`: the base and its vectors, each with an ω, become one model."""
