"""`sample:MODEL`: what a model answers to a few prompts."""
