"""What a build made, in the forms that other programs load: GGUF, adapters, plain checkpoints, repositories on a hub."""
