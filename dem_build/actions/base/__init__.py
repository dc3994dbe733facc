"""`base`: a base model becomes weights, config and tokenizer in canonical form."""
