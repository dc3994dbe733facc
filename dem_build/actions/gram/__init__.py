"""`gram:NAME`: what the linear layers of a fine-tuned model are given, as Gram matrices."""
