"""The search for ω, as numerics alone: what is measured comes from a function, and no model is known here."""

from dem_build.search.bootstrap import Intervals, intervals, spread
from dem_build.search.problem import Found, Objective, Sample, SearchProblem, gain_scale
from dem_build.search.searches import SEARCHES, gradient_search, search, softmax_start

__all__ = [
    "SEARCHES",
    "Found",
    "Intervals",
    "Objective",
    "Sample",
    "SearchProblem",
    "gain_scale",
    "gradient_search",
    "intervals",
    "search",
    "softmax_start",
    "spread",
]
