"""A recipe, its machine, store, lock, graph and plan together: what a command or a notebook begins with, and builds."""
