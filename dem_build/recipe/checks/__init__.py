"""What the keys of a recipe say about each other: every contradiction, told with its line."""
