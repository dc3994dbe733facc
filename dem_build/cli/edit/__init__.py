"""The commands that write a user's files: a recipe, a table more or less in it, and the demo."""
