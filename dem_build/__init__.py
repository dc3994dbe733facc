"""A declarative, recipe-driven build system for models."""

__version__ = "0.1.0"
