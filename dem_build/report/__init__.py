"""Recorded results → tables, documents, the model card and the summary."""
