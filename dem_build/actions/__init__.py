"""The actions: a folder for each kind.

`spec.py` says what the kind is and how a recipe asks for it, without torch; `run.py` does the work in a
worker; `read.py` turns what it recorded into a value, and `show.py` shows that. `KINDS` is the sum of the specs.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build.actions.analysis.spec import ANALYSIS
from dem_build.actions.base.spec import IMPORT
from dem_build.actions.compose.spec import COMPOSE
from dem_build.actions.extract.spec import EXTRACT
from dem_build.actions.finetune.spec import FINETUNE
from dem_build.actions.ladder.spec import LADDER
from dem_build.actions.loss.spec import LOSS
from dem_build.actions.mix.spec import MIX
from dem_build.actions.prepare.spec import PREPARE
from dem_build.actions.response.spec import RESPONSE
from dem_build.actions.sample.spec import SAMPLE
from dem_build.actions.task.spec import TASK
from dem_build.actions.tsne.spec import TSNE
from dem_build.actions.tune.spec import SEARCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Kind

__all__ = ["KINDS"]

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            IMPORT,
            PREPARE,
            MIX,
            FINETUNE,
            EXTRACT,
            SEARCH,
            COMPOSE,
            ANALYSIS,
            RESPONSE,
            LADDER,
            TSNE,
            LOSS,
            SAMPLE,
            TASK,
        )
    }
)
