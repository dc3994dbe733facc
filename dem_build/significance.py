"""What a search for ω and the report take as known of a difference of losses: the figures both go by, in one place."""

__all__ = ["FEW_ROWS", "LEAST_SHARE", "SURE", "Z95"]

Z95 = 1.96
"""Standard errors on either side of a value: its 95 % interval, of a normal distribution."""

SURE = 2.0
"""Standard errors: a loss that rose by more is said to be worse; a vector that alone gains less is taken to gain this
much, where a gain is divided by it."""

LEAST_SHARE = 1e-3
"""Of the base's loss: a vector that alone gains less is taken to gain this much, where a gain is divided by it."""

FEW_ROWS = 8
"""Fewer have a standard error that is hardly known itself."""
