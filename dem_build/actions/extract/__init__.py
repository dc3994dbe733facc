"""`vector:NAME` of a fine-tune that somebody has trained."""
