"""`dem schema`: what editors complete and check recipes by."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.cli.edit.changes import opened, put
from dem_build.errors import UsageError
from dem_build.recipe.json_schema import json_schema
from dem_build.report.text import clean
from dem_build.store.files import replace_file
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from dem_build.session.session import Call

_LINE = re.compile(r"\A#:schema[^\n]*\n?")


def schema(file: str | None, call: Call, *, of: str | None) -> int:  # noqa: ARG001  every command has a call
    """Print a JSON Schema; or write it beside a file, whose first line names it for editors.

    Raises:
        RecipeError: There is no such file, or it is no TOML.
        UsageError: It is neither a recipe nor called `machine.toml`, or the schema cannot be written there.
    """
    if file is None:
        sys.stdout.write(_document(of or "recipe"))
        return 0
    draft = opened(file)
    kind = of or _kind_of(file, draft.text)
    target = Path(file).parent / f"{kind}.schema.json"
    try:
        replace_file(target, _document(kind).encode())
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(target)) from error
    make_console().print(Text(f"{clean(str(target))}: written"), soft_wrap=True)
    put(draft, f"#:schema ./{target.name}\n{_LINE.sub('', draft.text)}")
    return 0


def _kind_of(file: str, text: str) -> str:
    if Path(file).name == "machine.toml":
        return "machine"
    if "base" in tomllib.loads(text):
        return "recipe"
    hint = "--of recipe or --of machine says what it is"
    raise UsageError("has no base, as a recipe has, and is not called machine.toml", where=file, hint=hint)


def _document(of: str) -> str:
    return json.dumps(json_schema(of), indent=1, ensure_ascii=False) + "\n"
