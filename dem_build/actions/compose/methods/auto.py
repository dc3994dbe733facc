"""`auto`: the best of three ways on validation rows."""

from __future__ import annotations

from types import MappingProxyType

from dem_build.actions.compose.methods.dem import EDIT
from dem_build.actions.compose.methods.match import MATCH
from dem_build.actions.compose.methods.method import Method

AUTO = Method(
    name="auto",
    formula="the best on validation rows of Θ + Σ ωᵢ ΔΘᵢ, one ω a layer, and matching",
    sentence=(
        "the best on validation rows of three models: `sum`, by `dem` with one ω a vector, `layers`, by `dem` with one "
        "ω a vector and layer, and `match`, by `match` with equal importances"
    ),
    keeps="as the best of them",
    omega="searched for each model, and so not given",
    default="tune",
    tuned=True,
    given=False,
    keys=MATCH.keys,
    candidates=MappingProxyType({"sum": EDIT.name, "layers": EDIT.name, "match": MATCH.name}),
)
