"""What a user names to be added to a recipe, looked at as a build would: a table for it, and what was seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.action import SourceFile
from dem_build.checkpoint.filenames import ADAPTER_CONFIG, CONFIG
from dem_build.cli.edit.changes import relative_to
from dem_build.data.formats import FORMATS, resolve
from dem_build.data.rows import columns_of, parquet_rows, read_rows
from dem_build.data.sources import FILE_TYPES, expand, file_type
from dem_build.errors import DataError, UsageError
from dem_build.paths import expanded, may_be_hub_id
from dem_build.recipe.messages import listed, mistakes_of
from dem_build.recipe.schema import Dataset
from dem_build.report.quantities import size
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dem_build.lock.pin import Pin

KINDS = {
    "dataset": ("datasets", "path"),
    "probe": ("probes", "path"),
    "checkpoint": ("vectors", "checkpoint"),
    "adapter": ("vectors", "adapter"),
}
"""What something can be added as → the section of the recipe, and the key that names a place on this machine."""

HUB = "hub:"
FIRST_ROWS = 100
"""Rows of each dataset that are read, to say what is wrong with them before a build does."""
MOST_BYTES = 1 << 26
"""Bytes of text up to which rows are counted, and of a file on a hub up to which it is downloaded to be looked at."""

OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("question", "query", "input", "instruction", "problem", "user", "source"),
    "completion": ("answer", "response", "output", "solution", "assistant", "target", "chosen"),
    "messages": ("conversation", "dialog", "dialogue", "chat", "turns"),
    "text": ("content", "document", "body", "passage"),
}
"""Role → what its column is called elsewhere."""


@dataclass(frozen=True)
class Seen:
    """Something that can be added."""

    section: str
    table: dict[str, Any]
    lines: tuple[str, ...]


def look(source: str, kind: str | None, recipe: Path, more: Mapping[str, Any], *, offline: bool) -> Seen:
    """Look at what a user names.

    Args:
        source: A path, a pattern, or `hub:` and an id.
        kind: One of `KINDS`; None where it is to be found out.
        recipe: The recipe's file, from whose folder its paths start.
        more: Further keys of the table, as the user gives them: they stand above what is found out.
        offline: Ask no hub.

    Raises:
        UsageError: There is no such thing, or it is none that dem takes: a row is none, or no format fits; or what is
            given to read rows by is of a wrong shape.
    """
    read_by = {key: more[key] for key in ("format", "columns") if key in more}
    for mistake in mistakes_of(Dataset, {"path": "rows", **read_by}):
        raise UsageError(
            mistake.what, where=f"--set {'.'.join(map(str, mistake.key))}", hint=mistake.hint or None
        )
    try:
        if source.startswith(HUB):
            return _on_hub(source.removeprefix(HUB), kind or "dataset", more, offline=offline)
        return _here(source, kind, recipe, more)
    except DataError as error:  # no action failed: the call names what none could take
        raise UsageError(error.what, where=error.where, hint=error.hint) from error


def _here(source: str, kind: str | None, recipe: Path, more: Mapping[str, Any]) -> Seen:
    """Something on this machine."""
    path = expanded(source)
    if path.is_dir():
        found = _model_in(path) if kind is None else kind
        if found in {"checkpoint", "adapter"}:
            section, key = KINDS[found]
            what = "a full fine-tune" if found == "checkpoint" else "a LoRA adapter"
            table = {key: relative_to(recipe, source.rstrip("/") or source), **more}
            return Seen(section, table, (f"{source}: {what}, {size(_bytes_of(path))}",))
        source = _pattern_in(source, path)
    section, key = KINDS[kind or "dataset"]
    try:
        files = expand(source, Path.cwd())
    except UsageError as error:
        if path.suffix or not may_be_hub_id(source):
            raise
        raise UsageError(error.what, hint=f"a dataset on the hub is named {HUB}{source}") from error
    sources = [SourceFile(file_type(path), "", path) for path in files]
    line = _rows_line(source, sources, more)
    return Seen(section, {key: relative_to(recipe, source), **more}, (line,))


def _model_in(folder: Path) -> str | None:
    """What a folder has of a model: an adapter's files may lie beside those of the model that they were merged into."""
    files = (("adapter", ADAPTER_CONFIG), ("checkpoint", CONFIG))
    return next((kind for kind, name in files if (folder / name).is_file()), None)


def _pattern_in(source: str, folder: Path) -> str:
    """The pattern of a folder's data files.

    Raises:
        UsageError: It has none, or files of several types.
    """
    endings = Counter(p.suffix for p in folder.iterdir() if p.suffix.lower() in FILE_TYPES and p.is_file())
    patterns = [f"{source.rstrip('/')}/*{ending}" for ending in endings]
    if len(patterns) == 1:
        return patterns[0]
    if not patterns:
        hint = (
            f"a data file ends in {', '.join(FILE_TYPES)}; a model's folder has {CONFIG} or {ADAPTER_CONFIG}"
        )
        raise UsageError(f"the folder `{source}` holds no data file and no model", hint=hint)
    raise UsageError(
        f"the folder `{source}` holds data files of several types", hint=f"name one: {' or '.join(patterns)}"
    )


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _rows_line(named: str, sources: Sequence[SourceFile], more: Mapping[str, Any]) -> str:
    """What rows of some files are, of which format; the first of them are read."""
    octets = sum(source.path.stat().st_size for source in sources)
    formats = dict.fromkeys(_format_of(source, more) for source in sources)
    amounts = [_counted(sources, octets), f"{len(sources)} files" if len(sources) > 1 else "", size(octets)]
    return f"{named}: {' and '.join(formats)}; {', '.join(filter(None, amounts))}"


def _format_of(source: SourceFile, more: Mapping[str, Any]) -> str:
    """The format of a file's rows, in words.

    Raises:
        DataError: No format fits, several do, or one of the first rows is none of it.
    """
    available = columns_of(source)
    if not available:
        raise DataError("holds no row", where=str(source.path), hint="write a row on each line")
    try:
        layout = resolve(more.get("format"), more.get("columns"), available, str(source.path))
    except DataError as error:
        given = more.get("columns")
        hint = _other_names(available, given if isinstance(given, dict) else {})
        raise DataError(error.what, where=error.where, hint=hint or error.hint) from error
    for row in islice(read_rows(source, layout.required, layout.format.optional), FIRST_ROWS):
        layout.example(row)
    read = [column for column in layout.columns.values() if column in available]
    left = [column for column in available if column not in read]
    return f"{layout.format.name} ({listed(read)}{f'; not read: {listed(left)}' if left else ''})"


def _other_names(available: Iterable[str], given: Mapping[str, str]) -> str | None:
    """A hint that names the columns, where they are called as elsewhere, beside those that the user gives."""
    names = {name.lower(): name for name in available}
    found = {
        role: given.get(role) or next((names[word] for word in (role, *words) if word in names), None)
        for role, words in OTHER_NAMES.items()
    }
    for form in ("prompt-completion", "messages", "text"):
        columns = {role: found[role] for role in FORMATS[form].roles}
        if all(columns.values()):
            told = " ".join(f"--set columns.{role}={column}" for role, column in columns.items())
            meant = f"if {listed(columns.values())} are what is meant: {told}"  # type: ignore[arg-type]
            pairs = "`rejected` is read by nothing, as there is no training on preferences (DPO); "
            return f"{pairs}{meant}" if "rejected" in names else meant
    return None


def _counted(sources: Sequence[SourceFile], octets: int) -> str:
    """How many rows there are, where that is soon known."""
    if all(source.tag == "parquet" for source in sources):
        rows = sum(map(parquet_rows, sources))
    elif octets <= MOST_BYTES:
        rows = sum(1 for source in sources for _ in read_rows(source))
    else:
        return ""
    return counted(rows, "row")


def _on_hub(name: str, kind: str, more: Mapping[str, Any], *, offline: bool) -> Seen:
    """Something on a hub, which is asked for it."""
    name, _, revision = name.partition("@")
    if not may_be_hub_id(name):
        raise UsageError(
            f"{HUB}{name} is no id of a hub", hint=f"{HUB}ORG/NAME, such as {HUB}HuggingFaceTB/smoltalk"
        )
    section, key = KINDS[kind]
    table = {"hub" if key == "path" else key: name, **({"revision": revision} if revision else {}), **more}
    if offline:
        return Seen(section, table, (f"{HUB}{name}: not looked at, as asked",))
    from dem_build.lock.pin import DatasetRef, ModelRef, Resolver  # noqa: PLC0415  only for what is on a hub
    from dem_build.store import Hints  # noqa: PLC0415  as above

    at = str(table.get("revision", "main"))
    if key != "path":
        pin = Resolver((), Hints()).resolve(ModelRef(key, name, at))
        return Seen(section, table, (f"{HUB}{name}: {len(pin.files)} files, commit {pin.commit[:12]}",))
    split = str(table.get("split", "train"))
    try:
        pin = Resolver((), Hints()).resolve(DatasetRef(name, at, table.get("config"), (("train", split),)))
    except UsageError as error:
        hint = f"{error.hint}; of a model, say --as checkpoint or --as adapter; --offline adds it unseen"
        raise UsageError(error.what, hint=hint) from error
    return Seen(
        section, table, (f"{HUB}{name}: {_hub_rows(pin, more)}, split {split}, commit {pin.commit[:12]}",)
    )


def _hub_rows(pin: Pin, more: Mapping[str, Any]) -> str:
    """What the rows of a split are: its first file is downloaded, unless it is large."""
    from dem_build.lock import hub  # noqa: PLC0415  as above

    sizes = {each.file: each.size for each in hub.files_of("dataset", pin.ref.name, pin.commit)}
    own = [(sizes[file.hub], file) for file in pin.files if file.hub is not None]
    octets, first = min(own)
    total = f"{counted(len(own), 'file')}, {size(sum(each for each, _ in own))}"
    if first.hub is None or octets > MOST_BYTES:
        return f"columns not looked at; {total}"
    here = SourceFile(first.tag, first.digest, hub.download(first.hub), first.hub)
    return f"{_format_of(here, more)}; {total}"
