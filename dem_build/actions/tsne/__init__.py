"""`tsne`: a map of the datasets as the base reads them."""
