"""A store that others share: objects and records on a server, behind the same keys and digests as the local ones."""
