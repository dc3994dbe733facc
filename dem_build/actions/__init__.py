"""The actions: a folder for each kind.

`spec.py` says what the kind is and how a recipe asks for it, without torch; `run.py` does the work in a
worker; `read.py` turns what it recorded into a value, and `show.py` shows that.

`SPECS` is the one list of them. From it come `KINDS`, what `[analysis]` and `[evaluate]` ask for (`graph`), and what is
read and shown (`report.actions`): each by what the modules of a folder define.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

# Under other names than the folders have: `dem_build.actions.tune` is the folder.
from dem_build.actions.analysis import spec as analysis_spec
from dem_build.actions.base import spec as base_spec
from dem_build.actions.choose import spec as choose_spec
from dem_build.actions.compose import spec as compose_spec
from dem_build.actions.extract import spec as extract_spec
from dem_build.actions.finetune import spec as finetune_spec
from dem_build.actions.gram import spec as gram_spec
from dem_build.actions.ladder import spec as ladder_spec
from dem_build.actions.loss import spec as loss_spec
from dem_build.actions.match import spec as match_spec
from dem_build.actions.mix import spec as mix_spec
from dem_build.actions.prepare import spec as prepare_spec
from dem_build.actions.regmean import spec as regmean_spec
from dem_build.actions.response import spec as response_spec
from dem_build.actions.saliency import spec as saliency_spec
from dem_build.actions.sample import spec as sample_spec
from dem_build.actions.score import spec as score_spec
from dem_build.actions.task import spec as task_spec
from dem_build.actions.tsne import spec as tsne_spec
from dem_build.actions.tune import spec as tune_spec
from dem_build.actions.weigh import spec as weigh_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Kind

__all__ = ["KINDS", "SPECS", "Spec"]


class Spec(Protocol):
    """The `spec.py` of a folder."""

    __name__: str
    KIND: Kind


SPECS: tuple[Spec, ...] = (
    base_spec,
    prepare_spec,
    mix_spec,
    finetune_spec,
    extract_spec,
    tune_spec,
    compose_spec,
    saliency_spec,
    match_spec,
    weigh_spec,
    gram_spec,
    regmean_spec,
    choose_spec,
    analysis_spec,
    tsne_spec,
    response_spec,
    ladder_spec,
    loss_spec,
    task_spec,
    sample_spec,
    score_spec,
)
"""In the order in which a graph has them, where nothing else orders them."""

KINDS: Mapping[str, Kind] = MappingProxyType({spec.KIND.name: spec.KIND for spec in SPECS})
