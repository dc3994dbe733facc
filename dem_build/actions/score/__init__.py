"""`score`: what a vector of new rows would do to each skill of a model, before it is trained."""
