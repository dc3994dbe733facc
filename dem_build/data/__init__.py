"""Rows of files → token ids with a loss mask: sources, formats, splits, masks. Imports no transformers and no torch."""
