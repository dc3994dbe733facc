"""`response`: how the losses change as one ω does."""
