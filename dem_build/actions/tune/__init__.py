"""`tune`: finds ω on validation rows that no vector was trained on."""
