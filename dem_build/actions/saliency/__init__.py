"""`saliency:NAME`: how much each token's outputs of the layers of a fine-tuned model move its loss."""
