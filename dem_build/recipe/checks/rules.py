"""What the keys of a recipe say about each other: contradictions, and names that name nothing.

Each rule reads the raw tables and yields what is wrong, so that one mistake hides no other. Shapes are the models'
business: a rule passes over a value of the wrong type.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from dem_build.recipe.checks.baselines import CONTENDING
from dem_build.recipe.checks.evaluation import JUDGING, MODELS
from dem_build.recipe.checks.omega import WEIGHING
from dem_build.recipe.checks.tables import is_number, learners, names, raw, sources, tables, trains
from dem_build.recipe.places import is_local, may_be_hub_id
from dem_build.recipe.problems import Mistake, any_of, listed, nearest
from dem_build.recipe.training import IDLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dem_build.recipe.checks.tables import Raw
    from dem_build.recipe.locate import Key

    Rule = Callable[[Raw], Iterator[Mistake]]

__all__ = ["COLUMNS", "LOSSES", "NAME", "contradictions", "revisions_of_folders"]

NAME = re.compile(r"[A-Za-z0-9_-]+")
HUB_KEYS = ("config", "revision", "split")
CHOOSING = ("load_best_model_at_end", "early_stopping_patience")
NO_CHOICE = "has no effect while `eval_steps` is 0"
LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules")

COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "prompt-completion": ("prompt", "completion", "system", "tools", "chat_template_kwargs"),
    "messages": ("messages", "system", "functions", "tools", "chat_template_kwargs"),
    "alpaca": ("instruction", "output", "input", "system", "history", "tools", "chat_template_kwargs"),
    "sharegpt": ("conversations", "system", "tools", "chat_template_kwargs"),
}
TEMPLATED = ("messages", "sharegpt")
LOSSES: dict[str, tuple[str, ...]] = {
    "text": ("all",),
    "prompt-completion": ("completion", "assistant", "all"),
    "messages": ("completion", "assistant", "all"),
    "alpaca": ("completion", "assistant", "all"),
    "sharegpt": ("completion", "assistant", "all"),
}


def contradictions(data: Raw) -> list[Mistake]:
    """Return every contradiction in a recipe's tables, lists given as tuples."""
    return [mistake for rule in (*_RULES, *JUDGING, *WEIGHING, *CONTENDING) for mistake in rule(data)]


def revisions_of_folders(data: Raw, folder: Path) -> Iterator[Mistake]:
    """Yield each revision of a base or vector that is on this machine: hubs have some, and folders have none.

    Args:
        data: The recipe's tables.
        folder: The recipe's folder, which tells whether `org/name` is one here.
    """
    for key, table in ((("base",), raw(data, "base")), *tables(data, "vectors")):
        for source in ("model", "checkpoint", "adapter") if "revision" in table else ():
            name = table.get(source)
            if isinstance(name, str) and is_local(name, folder):
                what, hint = f"a local {source} has no revision", f"name a hub id in `{source}`"
                if may_be_hub_id(name):
                    what, hint = f"{what}, and there is a folder `{name}` here", "move that folder away"
                yield Mistake((*key, "revision"), what, f"remove it, or {hint}")
                break  # of a checkpoint and an adapter only one can stay


def _exact_numbers(data: Raw) -> Iterator[Mistake]:
    """JSON holds whole numbers exactly below 2**53, and keys are made of JSON."""
    found: list[tuple[Key, Any]] = [((), data)]
    while found:
        key, value = found.pop()
        if isinstance(value, int) and abs(value) >= 2**53:
            yield Mistake(key, "is too large a number", "write one below 2**53")
        elif isinstance(value, dict):
            found += [((*key, name), item) for name, item in value.items()]
        elif isinstance(value, tuple):
            found += [((*key, index), item) for index, item in enumerate(value)]


def _good_names(data: Raw) -> Iterator[Mistake]:
    for section in ("datasets", "probes", "vectors", "baselines"):
        for name in names(data, section):
            if not NAME.fullmatch(name):
                yield Mistake((section, name), "a name is made of letters, digits, `_` and `-`")


def _one_name_space(data: Raw) -> Iterator[Mistake]:
    # Results name models: composed, base, each single vector by its dataset, and baselines.
    shared = "datasets, vectors, probes and baselines share their names"
    taken: dict[str, str] = {}
    for section in ("datasets", "vectors", "probes", "baselines"):
        for name in names(data, section):
            if name in MODELS:
                yield Mistake(
                    (section, name), f"`{name}` names a model of every build", "choose another name"
                )
            elif name in taken:
                yield Mistake(
                    (section, name), f"the name `{name}` is taken by [{taken[name]}.{name}]", shared
                )
            taken.setdefault(name, section)


def _one_length(data: Raw) -> Iterator[Mistake]:
    for key, table in trains(data):
        if {"num_train_epochs", "max_steps"} <= table.keys():
            what = "`max_steps` and `num_train_epochs` are one choice, and both are given"
            yield Mistake((*key, "max_steps"), what, "remove one of them")


def _whole_warmup(data: Raw) -> Iterator[Mistake]:
    for key, table in trains(data):
        steps = table.get("warmup_steps")
        if isinstance(steps, float) and steps > 1 and math.isfinite(steps) and not steps.is_integer():
            yield Mistake((*key, "warmup_steps"), "from 1 on it is a number of steps, and must be whole")


def _lora_keys_need_lora(data: Raw) -> Iterator[Mistake]:
    if any(table.get("method") == "lora" for _, table in trains(data)):
        return
    for key, table in trains(data):
        for name in LORA_KEYS:
            if name in table:
                yield Mistake(
                    (*key, name), 'has no effect without method = "lora"', 'remove it, or set method = "lora"'
                )


def _idle_keys(data: Raw) -> Iterator[Mistake]:
    """Of [train] all who take it over must leave a key unread, of an own `train` its owner."""
    shared = raw(data, "train")
    for key, table in trains(data):
        readers = _resolved(data) if key == ("train",) else [shared | table]
        for (choice, value), idle in IDLE.items():
            for name in idle if all(reader.get(choice) == value for reader in readers) else ():
                if name in table:
                    hint = f"remove it, or set another `{choice}`"
                    yield Mistake((*key, name), f'has no effect with {choice} = "{value}"', hint)


def _resolved(data: Raw) -> list[Raw]:
    """Return the `train` of all that is trained over the shared one; the shared one alone where there is nothing."""
    shared = raw(data, "train")
    return [shared | raw(table, "train") for _, table in learners(data)] or [shared]


def _choosing_needs_validation(data: Raw) -> Iterator[Mistake]:
    shared = raw(data, "train")
    own = {str(key[-1]): raw(table, "train") for key, table in tables(data, "datasets")}
    for name in CHOOSING:
        # A dataset that says itself that it takes no losses wants none.
        lost = [
            n
            for n, t in own.items()
            if _chooses_nothing(shared | t, name) and (name in t or "eval_steps" not in t)
        ]
        for dataset in lost:
            if name in own[dataset]:
                yield Mistake(("datasets", dataset, "train", name), NO_CHOICE, "set eval_steps")
        heirs = [dataset for dataset in lost if name not in own[dataset]]
        if heirs and len(heirs) < len(own):
            what = f"has no effect on {listed(heirs)}, where `eval_steps` is 0"
            yield Mistake(
                ("train", name), what, "set eval_steps in [train], or move it to the datasets it is for"
            )
        elif heirs or (not own and _chooses_nothing(shared, name)):
            yield Mistake(("train", name), NO_CHOICE, "set eval_steps")


def _mixtures_choice_needs_validation(data: Raw) -> Iterator[Mistake]:
    shared = raw(data, "train")
    for key, table in learners(data):
        own = raw(table, "train")
        for name in CHOOSING if key[0] == "baselines" else ():
            if name in own and _chooses_nothing(shared | own, name):
                yield Mistake((*key, "train", name), NO_CHOICE, "set eval_steps")


def _chooses_nothing(train: Raw, name: str) -> bool:
    return bool(train.get(name)) and train.get("eval_steps") in (None, 0)


def _validating_needs_rows(data: Raw) -> Iterator[Mistake]:
    everywhere = raw(data, "train").get("eval_steps", 0)
    for key, table in tables(data, "datasets"):
        steps, share = raw(table, "train").get("eval_steps", everywhere), table.get("validation")
        if is_number(share) and share == 0 and steps not in (None, 0):
            what = "is 0, and `eval_steps` takes losses on it"
            yield Mistake((*key, "validation"), what, "hold out a share such as 0.05, or set eval_steps = 0")


def _one_source(data: Raw) -> Iterator[Mistake]:
    for key, table in sources(data):
        if "path" in table and "hub" in table:
            yield Mistake(
                (*key, "hub"), "`path` and `hub` are one choice, and both are given", "remove one of them"
            )
        elif "path" not in table and "hub" not in table:
            yield Mistake(key, "has neither `path` nor `hub`", 'name its file: path = "…"')
        if "hub" not in table:
            for name in HUB_KEYS:
                if name in table:
                    yield Mistake((*key, name), "applies to a hub dataset only", "remove it, or use `hub`")


def _columns_fit(data: Raw) -> Iterator[Mistake]:
    for key, table in sources(data):
        columns, form = raw(table, "columns"), table.get("format")
        known = COLUMNS.get(form) if isinstance(form, str) else None
        known = known or tuple(role for roles in COLUMNS.values() for role in roles)
        for role in columns:
            if role not in known:
                of = f'format = "{form}"' if form in COLUMNS else "any format"
                yield Mistake((*key, "columns", role), f"is no column of {of}", nearest(role, known))
        if form is None and columns and not _formats_with(columns):
            yield Mistake(
                (*key, "columns"), f"no format has the columns {listed(columns)} together", "set `format`"
            )


def _formats_with(columns: Raw) -> list[str]:
    every = {role for roles in COLUMNS.values() for role in roles}
    return [form for form, roles in COLUMNS.items() if set(columns) & every <= set(roles)]


def _loss_fits(data: Raw) -> Iterator[Mistake]:
    for key, table in sources(data):
        form, loss = table.get("format"), table.get("loss")
        if not isinstance(form, str) or not isinstance(loss, str) or form not in LOSSES:
            continue
        if loss in {"completion", "assistant", "all"} and loss not in LOSSES[form]:
            hint = f"use {any_of(LOSSES[form])}"
            yield Mistake((*key, "loss"), f'format = "{form}" has no loss = "{loss}"', hint)


def _chat_fits(data: Raw) -> Iterator[Mistake]:
    for key, table in sources(data):
        chat = table.get("chat", "auto")
        if chat is False and table.get("format") in TEMPLATED:
            what = f"the turns of {table['format']} are written by the base's chat template"
            yield Mistake((*key, "chat"), what, "remove it")
        if table.get("format") == "text" and chat is True:
            yield Mistake((*key, "chat"), "text has no turns to put in a chat template", "remove it")
        if "system" in table and table.get("format") == "text":
            yield Mistake((*key, "system"), "text has no turns, and so no system prompt", "remove it")
        elif "system" in table and chat is False:
            yield Mistake((*key, "system"), "has no effect with chat = false", "remove one of them")


def _shares_leave_rows(data: Raw) -> Iterator[Mistake]:
    for key, table in tables(data, "datasets"):
        shares = [table.get(part, 0.05) for part in ("validation", "test")]
        sizes = [s for s in shares if is_number(s) and 0 <= s < 1]
        if len(sizes) == 2 and sum(sizes) >= 1:
            part = "test" if "test" in table else "validation"
            yield Mistake(
                (*key, part), f"validation and test hold out {sum(sizes):g}, which leaves nothing to train on"
            )


def _splits_are_the_hubs(data: Raw) -> Iterator[Mistake]:
    for key, table in tables(data, "datasets"):
        for part in ("validation", "test"):
            if isinstance(table.get(part), dict) and "hub" not in table:
                yield Mistake(
                    (*key, part), "only a hub dataset has splits", "give a share such as 0.05, or a path"
                )


def _one_origin(data: Raw) -> Iterator[Mistake]:
    for key, table in tables(data, "vectors"):
        if ("checkpoint" in table) == ("adapter" in table):
            which = "both are" if "adapter" in table else "neither is"
            yield Mistake(key, f"`checkpoint` and `adapter` are one choice, and {which} given")


_RULES: tuple[Rule, ...] = (
    _exact_numbers,
    _good_names,
    _one_name_space,
    _one_length,
    _whole_warmup,
    _lora_keys_need_lora,
    _idle_keys,
    _choosing_needs_validation,
    _mixtures_choice_needs_validation,
    _validating_needs_rows,
    _one_source,
    _columns_fit,
    _loss_fits,
    _chat_fits,
    _shares_leave_rows,
    _splits_are_the_hubs,
    _one_origin,
)
