"""Write `docs/recipe.md` from the models: `python -m dem_build.recipe.docs > docs/recipe.md`."""

from __future__ import annotations

import inspect
import json
import sys
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from dem_build.machine import Machine
from dem_build.recipe import models
from dem_build.recipe.checks.unsupported import LATER
from dem_build.recipe.examples import EXAMPLES, MACHINE_EXAMPLE
from dem_build.recipe.row_docs import rows_page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

__all__ = ["markdown"]

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("## `[base]`", models.Base),
    ("## `[train]`", models.Train),
    ("## `[datasets.NAME]`", models.Dataset),
    ("## `[probes.NAME]`", models.Probe),
    ("## `[vectors.NAME]`", models.Vector),
    ("## `[compose]`", models.Compose),
    ("## `[tune]`", models.Tune),
    ("## `[analysis]`", models.Analysis),
    ("## `[evaluate]`", models.Evaluate),
    ("### A task of `[evaluate]`", models.Task),
    ("## `[[gates]]`", models.Gate),
    ("## `[baselines.NAME]`", models.Baseline),
)
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

INTRODUCTION = """\
<!-- Written by `python -m dem_build.recipe.docs`. Change the models, not this page. -->

# The recipe language

A recipe is a TOML file that says what to build: a base model, datasets with a weight ω for each, and what to measure.
How and where to build is in the [machine file](#the-machine-file), which never changes what is built.

- An unknown key, a wrong type or a contradiction is an error. `dem check RECIPE` tells all of them at once, with
  file, line, key and the nearest valid key, before anything is read or run.
- Names follow Hugging Face where it has one.
- Relative paths start from the recipe's folder, and `~` is the home folder.
- Of models, bare names, `./`, `../`, `/`, `~` and `*.gguf` are local and nothing else. `org/name` is a local folder if
  there is one, else a hub id.
- Names of tables are made of letters, digits, `_` and `-`. Datasets, vectors, probes and baselines share their names,
  and none is called `composed`, `base` or `vectors`.
- Numbers are finite, and no text is read as a number.
- `--set KEY=VALUE` changes a key from the command line: a dotted key and a TOML value, such as
  `--set train.learning_rate=1e-5` or `--set evaluate.tasks.0.limit=10`. A bare word is text. A build with it leaves
  the lock as it is.
"""

MACHINE = """\
## The machine file

`--machine FILE`, else `$DEM_MACHINE`, else `machine.toml` beside the recipe; all keys are optional. The cache is
`--cache`, else `$DEM_CACHE`, else `cache` here, else `cache/` in the nearest folder around the recipe that holds `.git`
or `pyproject.toml`, else beside the recipe.
"""
LATER_INTRODUCTION = """\
## Not in this version yet

The language has these, and dem refuses them until they are built. What is said of `train` is said of the own `train` of
a dataset or baseline as well.

| key | what | until then |
|---|---|---|
"""


def markdown() -> str:
    """Return the page."""
    parts = [INTRODUCTION, f"## The file\n\n{_table(models.Recipe)}"]
    parts += [
        _section(title, model) + (f"\n{rows_page()}" if model is models.Dataset else "")
        for title, model in SECTIONS
    ]
    parts += [MACHINE, _table(Machine), _toml(MACHINE_EXAMPLE), _later()]
    return "\n".join(part for part in parts if part)


def _section(title: str, model: type[BaseModel]) -> str:
    parts = [
        f"{title}\n",
        f"{inspect.cleandoc(model.__doc__ or '')}\n",
        _table(model),
        _toml(EXAMPLES.get(model, "")),
    ]
    return "\n".join(part for part in parts if part)


def _later() -> str:
    shown = [later for later in LATER if ".*.train." not in later.key]
    return LATER_INTRODUCTION + "".join(
        f"| `{x.key}` | {x.feature.rstrip(',')} | {x.until} |\n" for x in shown
    )


def _toml(text: str) -> str:
    return f"```toml\n{text}```\n" if text else ""


def _table(model: type[BaseModel]) -> str:
    fields = model.model_fields
    shared = models.Source.model_fields if model is models.Probe else {}
    rows = "".join(_row(name, field) for name, field in fields.items() if name not in shared)
    first = "The keys `path` to `salt` of a dataset, and:\n\n" if shared else ""
    return f"{first}| key | type | default | meaning |\n|---|---|---|---|\n{rows}" if rows else ""


def _row(name: str, field: FieldInfo) -> str:
    kind = _type(field.annotation, field.metadata).replace("|", "\\|")
    return f"| `{name}` | {kind} | {_default(field)} | {field.description} |\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "" if isinstance(field.json_schema_extra, dict) else "required"
    if field.default_factory is not None or field.default is None or field.default == ():
        return ""
    return f"`{json.dumps(field.default, ensure_ascii=False)}`"


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Say what values a key takes: their TOML type, and their limits."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(args[0], args[1:])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in args)
    if origin is tuple:
        item = _type(args[0])
        return f"list of {item}{'' if item[-1] == '`' else 's'}"
    if origin is dict:
        return f"table: name = {_type(args[1])}"
    if args:
        return " or ".join(_type(a) for a in args if a is not NoneType) + _limits(metadata)
    return WORDS.get(annotation, "table") + _limits(metadata)


def _limits(metadata: Iterable[Any]) -> str:
    limits = [limit for m in metadata for limit in (m.metadata if isinstance(m, FieldInfo) else [m])]
    texts = [
        f" {sign} {getattr(m, name)}" for m in limits for name, sign in SIGNS.items() if hasattr(m, name)
    ]
    return ",".join(texts)


if __name__ == "__main__":
    sys.stdout.write(markdown())
