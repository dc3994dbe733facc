"""The ways to compose a model of a base and its vectors: a file each.

`METHODS` is the one list of them: what a recipe may name, its rules and its documentation, the graph, the sum, the card
and the report go by it, and name none.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build.actions.compose.methods.auto import AUTO
from dem_build.actions.compose.methods.dare import DARE
from dem_build.actions.compose.methods.dem import EDIT
from dem_build.actions.compose.methods.interpolation import INTERPOLATION
from dem_build.actions.compose.methods.match import MATCH
from dem_build.actions.compose.methods.method import Chunk, Method, Tensor
from dem_build.actions.compose.methods.regmean import REGMEAN
from dem_build.actions.compose.methods.slerp import SLERP
from dem_build.actions.compose.methods.ties import TIES

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EDIT", "INTERPOLATION", "METHODS", "Chunk", "Method", "Tensor"]

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for method in (EDIT, INTERPOLATION, MATCH, REGMEAN, AUTO, TIES, DARE, SLERP)}
)
