"""`dem blame`: which vector broke or mended one item."""
