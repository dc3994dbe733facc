"""What is shown to a person on a terminal, in a log or in a notebook."""
