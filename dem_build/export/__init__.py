"""What a build made, in the forms that other programs load: GGUF, adapters, checkpoints, repositories on a hub."""
