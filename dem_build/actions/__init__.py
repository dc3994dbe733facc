"""The work itself, one module a kind. A step knows its inputs, parameters and work folder, nothing else."""
