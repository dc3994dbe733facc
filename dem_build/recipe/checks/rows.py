"""Rules of where things come from: names, the rows of datasets and probes, and vectors from elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dem_build.action import HEAL, TRUNK, UNHEALED
from dem_build.data.columns import OPTIONAL, REQUIRED
from dem_build.paths import is_local, may_be_hub_id
from dem_build.recipe.checks.evaluation import TAKEN
from dem_build.recipe.checks.tables import WRONG, Rules, datasets, is_any, items, names, sources, vectors
from dem_build.recipe.messages import Mistake, any_of, listed, nearest
from dem_build.recipe.schema import NAME, SplitName

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dem_build.recipe.schema import Dataset, Recipe, RowSource, Source, Vector
    from dem_build.recipe.toml import Key

HUB_KEYS = ("config", "revision", "split")

COLUMNS = {form: (*REQUIRED[form], *OPTIONAL[form]) for form in REQUIRED}
EVERY_COLUMN = tuple(role for roles in COLUMNS.values() for role in roles)
LOSSES: dict[str, tuple[str, ...]] = {"text": ("all",)}
"""Losses of a format that has not all of them."""

RULES = Rules()


@RULES.whole
def _good_names(recipe: Recipe) -> Iterator[Mistake]:
    for section in ("datasets", "probes", "vectors", "baselines"):
        for name in names(recipe, section):
            if not NAME.fullmatch(name):
                yield Mistake((section, name), "a name is made of letters, digits, `_` and `-`")


@RULES.whole
def _one_name_space(recipe: Recipe) -> Iterator[Mistake]:
    # Results name models: composed, base, each single vector by its dataset, and baselines.
    shared = "datasets, vectors, probes and baselines share their names"
    taken: dict[str, str] = {}
    for section in ("datasets", "vectors", "probes", "baselines"):
        for name in names(recipe, section):
            key = (section, name)
            if name in TAKEN:
                yield Mistake(key, f"`{name}` names a model of every build", "choose another name")
            elif name in (TRUNK, HEAL, UNHEALED):
                yield Mistake(key, f"`{name}` names what [trunk] or [heal] makes", "choose another name")
            elif name in taken:
                yield Mistake(key, f"the name `{name}` is taken by [{taken[name]}.{name}]", shared)
            taken.setdefault(name, section)


@RULES.each(sources)
def _one_source(_: Recipe, key: Key, source: Source) -> Iterator[Mistake]:
    for place, rows in _origins(source):
        if rows.path is not None and rows.hub is not None:
            what = "`path` and `hub` are one choice, and both are given"
            yield Mistake((*key, *place, "hub"), what, "remove one of them")
        elif rows.path is None and rows.hub is None:
            yield Mistake((*key, *place), "has neither `path` nor `hub`", 'name its file: path = "…"')
        for name in _given(rows, *HUB_KEYS, "files", "max_files") if rows.hub is None else ():
            hint = "remove it, or use `hub`"
            yield Mistake((*key, *place, name), "applies to a hub dataset only", hint)


@RULES.each(sources)
def _parts_or_one(_: Recipe, key: Key, source: Source) -> Iterator[Mistake]:
    parts = getattr(source, "parts", None)
    for name in _given(source, "path", "hub", *HUB_KEYS) if parts is not None else ():
        yield Mistake((*key, name), f"`parts` and `{name}` are one choice", "move it into a part")


@RULES.each(datasets)
def _files_or_splits(_: Recipe, key: Key, dataset: Dataset) -> Iterator[Mistake]:
    for index, part in [] if dataset.parts is None else items(dataset.parts):
        for name in _given(part, "config", "split") if part.files is not None else ():
            what = f"`files` and `{name}` are one choice, and both are given"
            yield Mistake((*key, "parts", index, name), what, "remove one of them")


def _given(table: RowSource, *keys: str) -> list[str]:
    """Those of some keys that a table gives."""
    return [key for key in keys if key in table.model_fields_set]


@RULES.each(datasets)
def _parts_share_alike(_: Recipe, key: Key, dataset: Dataset) -> Iterator[Mistake]:
    parts = [] if dataset.parts is None else items(dataset.parts)
    giving = ["share" in part.model_fields_set for _, part in parts]
    if any(giving) and not all(giving):
        index = parts[giving.index(False)][0]
        what = "gives no `share`, and other parts do"
        yield Mistake((*key, "parts", index), what, "give it one, or leave them all out")
    if all(giving) and len(parts) == 1:
        what = "has no effect: there is no other part"
        yield Mistake((*key, "parts", 0, "share"), what, "remove it")


@RULES.each(datasets)
def _each_part_once(_: Recipe, key: Key, dataset: Dataset) -> Iterator[Mistake]:
    seen: list[RowSource] = []
    for index, part in [] if dataset.parts is None else items(dataset.parts):
        if part in seen:
            yield Mistake((*key, "parts", index), "this part is given twice", "give it once")
        seen.append(part)


def _origins(source: Source) -> list[tuple[Key, Any]]:
    """Where rows come from, by the key below the table's own that says it: a source itself, or each of its parts."""
    parts = getattr(source, "parts", None)
    return [((), source)] if parts is None else [(("parts", index), part) for index, part in items(parts)]


@RULES.each(sources)
def _columns_fit(_: Recipe, key: Key, source: Source) -> Iterator[Mistake]:
    form = source.format
    # A format of the wrong shape says nothing of columns: then one of any format will do, as where none is given.
    of, known = "any format", EVERY_COLUMN
    if is_any(form, *COLUMNS):
        of, known = f'format = "{form}"', COLUMNS[str(form)]
    tables = {(): source} | {place: rows for place, rows in _origins(source) if place}
    for place, table in tables.items():
        columns = {**(source.columns or {}), **(table.columns or {})}
        for role in table.columns or {}:
            if role not in known:
                yield Mistake((*key, *place, "columns", role), f"is no column of {of}", nearest(role, known))
        # What no format has is told above, and is no reason to say that they do not go together.
        meant = set(columns) & set(EVERY_COLUMN)
        if form is None and columns and not any(meant <= set(roles) for roles in COLUMNS.values()):
            what = f"no format has the columns {listed(columns)} together"
            yield Mistake((*key, *place, "columns"), what, "set `format`")


@RULES.each(sources)
def _loss_fits(_: Recipe, key: Key, source: Source) -> Iterator[Mistake]:
    losses = LOSSES.get(source.format or "", ())
    if losses and source.loss is not None and source.loss not in losses:
        what = f'format = "{source.format}" has no loss = "{source.loss}"'
        yield Mistake((*key, "loss"), what, f"use {any_of(losses)}")


@RULES.each(sources)
def _chat_fits(_: Recipe, key: Key, source: Source) -> Iterator[Mistake]:
    if source.chat is False and is_any(source.format, "messages", "sharegpt"):
        what = f"the turns of {source.format} are written by the base's chat template"
        yield Mistake((*key, "chat"), what, "remove it")
    is_text = is_any(source.format, "text")
    if is_text and source.chat is True:
        yield Mistake((*key, "chat"), "text has no turns to put in a chat template", "remove it")
    if "system" in source.model_fields_set and is_text:
        yield Mistake((*key, "system"), "text has no turns, and so no system prompt", "remove it")
    elif "system" in source.model_fields_set and source.chat is False:
        yield Mistake((*key, "system"), "has no effect with chat = false", "remove one of them")


@RULES.each(datasets)
def _shares_leave_rows(_: Recipe, key: Key, dataset: Dataset) -> Iterator[Mistake]:
    shares = [share for share in (dataset.validation, dataset.test) if isinstance(share, float)]
    if len(shares) == 2 and sum(shares) >= 1:
        # The one that is written is at fault, not the default.
        part = "test" if "test" in dataset.model_fields_set else "validation"
        what = f"validation and test hold out {sum(shares):g}, which leaves nothing to train on"
        yield Mistake((*key, part), what)


@RULES.each(datasets)
def _splits_are_the_hubs(_: Recipe, key: Key, dataset: Dataset) -> Iterator[Mistake]:
    for part in ("validation", "test"):
        if isinstance(getattr(dataset, part), SplitName) and dataset.hub is None:
            hint = "give a share such as 0.05, or a path"
            what = (
                "only a hub dataset has splits" if dataset.parts is None else "parts have no split together"
            )
            yield Mistake((*key, part), what, hint)


@RULES.each(vectors)
def _one_origin(_: Recipe, key: Key, vector: Vector) -> Iterator[Mistake]:
    if (vector.checkpoint is None) == (vector.adapter is None):
        which = "neither is" if vector.adapter is None else "both are"
        yield Mistake(key, f"`checkpoint` and `adapter` are one choice, and {which} given")


def revisions_of_folders(recipe: Recipe, folder: Path | None) -> Iterator[Mistake]:
    """Each revision of a base or vector that is on this machine: hubs have some, and folders have none.

    Args:
        recipe: The recipe.
        folder: The recipe's folder, which tells whether `org/name` is one here; None where none is.
    """
    models: list[tuple[Key, Any]] = [] if recipe.base is WRONG else [(("base",), recipe.base)]
    for key, model in (*models, *vectors(recipe)):
        named = ("model",) if key == ("base",) else ("checkpoint", "adapter")
        for source in named if "revision" in model.model_fields_set else ():
            name = getattr(model, source)
            if name is not None and name is not WRONG and is_local(name, folder):
                what, hint = f"a local {source} has no revision", f"name a hub id in `{source}`"
                if may_be_hub_id(name):
                    what, hint = f"{what}, and there is a folder `{name}` here", "move that folder away"
                yield Mistake((*key, "revision"), what, f"remove it, or {hint}")
                break  # of a checkpoint and an adapter only one can stay
