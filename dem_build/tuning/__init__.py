"""The search for ω, as numerics alone: what is measured comes from a function, and no model is known here."""

from dem_build.tuning.bootstrap import Intervals, intervals, spread
from dem_build.tuning.objective import Objective, gain_scale
from dem_build.tuning.problem import Found, Problem, Sample
from dem_build.tuning.searches import SEARCHES, gradient_search, search, softmax_start

__all__ = [
    "SEARCHES",
    "Found",
    "Intervals",
    "Objective",
    "Problem",
    "Sample",
    "gain_scale",
    "gradient_search",
    "intervals",
    "search",
    "softmax_start",
    "spread",
]
