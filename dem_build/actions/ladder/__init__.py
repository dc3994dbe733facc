"""`ladder`: what each vector more brings."""
