"""`model`, matched: each linear layer fitted, on a few training rows, to what the fine-tuned models put out there."""
