"""safetensors, tensor by tensor: reading, canonical writing, vectors, weighted sums. Torch-free."""
