"""Names of the outside world → digests and commits, and the file that remembers them."""
