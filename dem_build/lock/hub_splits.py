"""Which files of a hub dataset make up a split: the hub's own rules, over its list of files and its card. No network.

The rules are those of the `datasets` library (its `data_files.py`, version 5.2), which is too slow to import for a
plan. The card's `configs` name each configuration and the patterns of its splits. Where they do not, names tell:
`data/SPLIT-00000-of-00001.parquet` first; else folders called after train, validation or test, or their synonyms;
else files called so; else every file is of train. Two rules are dem's own: of files that no pattern of the card
chose, those of the commonest type that dem reads are the data; and a split with data of a type that dem does not
read is refused, where some of it would be left out without a word.
"""

from __future__ import annotations

import difflib
import fnmatch
import glob
import posixpath
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dem_build.data.sources import FILE_TYPES
from dem_build.errors import UsageError
from dem_build.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CONVERTED = "refs/convert/parquet"
"""The revision under which the hub keeps a dataset's rows as parquet files, `CONFIG/SPLIT/0000.parquet`."""

_SHOWN = 20
_OWN = "download it, and name its files in `path`"
_SHARDED = re.compile(r"data/(.+)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_CONVERTED_FILE = re.compile(r"([^/]+)/([^/]+)/\d+\.parquet")
_SYNONYMS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_END = "[-._ 0-9]"  # what may stand before and after a keyword
_IN_FOLDER = ("**/{k}/**", "**/{k}{e}*/**", "**/*{e}{k}/**", "**/*{e}{k}{e}*/**")
_IN_FILE = ("**/{k}{e}*", "**/*{e}{k}{e}*")
_NO_DATA = frozenset(
    {
        "README.md",
        "config.json",
        "dataset_info.json",
        "dataset_infos.json",
        "dummy_data.zip",
        "dataset_dict.json",
    }
)
_FAMILIES = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_PREFERRED = (".csv", ".json", ".jsonl", ".parquet")  # of equally many files, the last
_OTHER_DATA = frozenset(
    {".7z", ".arrow", ".bz2", ".feather", ".gz", ".h5", ".hdf5", ".lance", ".lz4", ".orc", ".pkl", ".rar", ".tar",
     ".tgz", ".tsv", ".xml", ".xz", ".zip", ".zst"}
)  # fmt: skip
# Keys of a configuration that say how its files are read, each as pandas or pyarrow mean it.
_READING = frozenset(
    {"column_names", "columns", "decimal", "delimiter", "encoding", "escapechar", "field", "filters", "header",
     "index_col", "names", "quotechar", "quoting", "sep", "skipfooter", "skiprows", "thousands", "usecols"}
)  # fmt: skip


@dataclass(frozen=True)
class HubData:
    """A hub dataset at a commit.

    Attributes:
        name: `org/name`.
        card: The YAML of its README.
        converted: Whether `paths` are the parquet files that the hub made of it.
    """

    name: str
    paths: Sequence[str]
    card: Mapping[str, Any] = field(default_factory=dict)
    converted: bool = False


def split_files(data: HubData, config: str | None, splits: Iterable[str]) -> dict[str, list[str]]:
    """Each split's files.

    Args:
        data: The dataset.
        config: The configuration; None for the dataset's default.
        splits: The splits' names.

    Raises:
        UsageError: The dataset is made by a script, or has no such configuration or split, or files that dem does not
            read.
    """
    _refuse_script(data)
    configs = _converted(data) if data.converted else _configs(data)
    chosen = _config(data, _chosen(data, configs, config), configs)
    return {split: chosen.files(split) for split in splits}


def part_files(data: HubData, named: Sequence[str], split: str) -> dict[str, list[str]]:
    """Each configuration's files of a split, where several are meant.

    Args:
        data: The dataset.
        named: Names of configurations, and patterns as of a shell; none means the dataset's default. One that begins
            with `!` takes away those that it means.
        split: The split's name. Of the configurations that a pattern means, those without it are left out.

    Raises:
        UsageError: As `split_files`; or a pattern means no configuration that has the split, or takes none away.
    """
    _refuse_script(data)
    configs = _converted(data) if data.converted else _configs(data)
    if not named:
        default = _chosen(data, configs, None)
        return {default: _config(data, default, configs).files(split)}
    found: dict[str, list[str]] = {}
    for name in named:
        if name.startswith("!"):
            _refuse_idle(data, name, configs, found)
            found = {c: paths for c, paths in found.items() if not fnmatch.fnmatchcase(c, name[1:])}
            continue
        if name in configs or not glob.has_magic(name):
            exact = _chosen(data, configs, name)
            found[exact] = _config(data, exact, configs).files(split)
            continue
        matching = [c for c in configs if fnmatch.fnmatchcase(c, name)]
        parts = {config: _config(data, config, configs) for config in matching}
        having = {config: part.files(split) for config, part in parts.items() if split in part.patterns}
        if not having:
            what = f"the dataset {data.name!r} has no config that matches {name!r}"
            what += f" and has a split {split!r}" if matching else ""
            raise UsageError(what, hint=f"its configs are {first_of(configs, _SHOWN)}")
        found |= having
    if not found:
        what = f"the dataset {data.name!r} has no config that {', '.join(named)} leave over"
        raise UsageError(what, hint="a name that begins with `!` takes away what stands before it")
    return found


def _refuse_idle(data: HubData, name: str, configs: Iterable[str], found: Iterable[str]) -> None:
    """Refuse what takes no configuration away: a slip, by which rows would be used that nobody wants."""
    if not found:
        what = f"{name!r} stands first, and takes nothing away"
        raise UsageError(what, hint="name before it what it takes something away from")
    if not fnmatch.filter(configs, name[1:]):
        what = f"the dataset {data.name!r} has no config that matches {name[1:]!r}"
        raise UsageError(what, hint=f"its configs are {first_of(configs, _SHOWN)}")


def named_files(data: HubData, pattern: str) -> list[str]:
    """The files of a dataset that a pattern means, by their names.

    Raises:
        UsageError: There are none, or one of a type that dem does not read.
    """
    found = _matches(pattern, data.paths)
    if not found:
        hint = f"it holds {_some(data.paths)}"
        raise UsageError(f"the dataset {data.name!r} has no file that matches {pattern!r}", hint=hint)
    if other := [path for path in found if _suffix(path) not in FILE_TYPES]:
        what = f"{pattern!r} of the dataset {data.name!r} means {other[0]}; dem reads {', '.join(FILE_TYPES)}"
        raise UsageError(what, hint="name the files that are data")
    return found


def told_rows(card: Mapping[str, Any], config: str, split: str) -> int | None:
    """How many rows a card's `dataset_info` says that a split of a configuration has; None where it does not."""
    told = card.get("dataset_info")
    for info in told if isinstance(told, list) else [told]:
        if not isinstance(info, dict) or str(info.get("config_name", "default")) != config:
            continue
        splits = info.get("splits")
        for each in splits if isinstance(splits, list) else ():
            if isinstance(each, dict) and each.get("name") == split:
                rows = each.get("num_examples")
                return rows if isinstance(rows, int) and rows >= 0 else None
    return None


def _refuse_script(data: HubData) -> None:
    script = f"{data.name.rpartition('/')[2]}.py"
    if script in data.paths:
        raise UsageError(
            f"the dataset {data.name!r} is made by a script, {script}, which dem does not run",
            hint=f'name the files that the hub made of it: revision = "{CONVERTED}"; or download it for `path`',
        )


@dataclass(frozen=True)
class _Config:
    """One configuration: its folder, the files below it, the patterns of its splits, and whether a card says them."""

    data: HubData
    folder: str
    paths: Sequence[str]
    patterns: Mapping[str, Sequence[str]]
    explicit: bool

    def files(self, split: str) -> list[str]:
        """The files of a split that dem reads."""
        name = self.data.name
        if split not in self.patterns:
            hint = _offer("splits", split, self.patterns)
            hint += "; `max_samples` takes some of the rows" if re.search(r"[\[+]", split) else ""
            raise UsageError(f"the dataset {name!r} has no split {split!r}", hint=hint)
        patterns = self.patterns[split]
        for pattern in patterns:
            # `datasets` would fetch it from wherever that is, which no lock pins.
            if "://" in pattern or "::" in pattern or pattern.startswith(("/", "..")):
                what = f"the card of the dataset {name!r} names {pattern}, which is not one of its own files"
                raise UsageError(what, hint=_OWN)
        found = dict.fromkeys(path for pattern in patterns for path in _matches(pattern, self.paths))
        other = [p for p in found if _suffix(p) in _OTHER_DATA]
        read = [p for p in found if _suffix(p) in FILE_TYPES]
        if other or not read:
            holds = other[0] if other else _some(list(found))
            raise UsageError(
                f"the split {split!r} of the dataset {name!r} holds {holds}; dem reads {', '.join(FILE_TYPES)}",
                hint=f'the hub may have made parquet files of it: revision = "{CONVERTED}"',
            )
        return [posixpath.join(self.folder, p) for p in (read if self.explicit else _commonest(read))]


def _config(data: HubData, name: str, configs: Mapping[str, Mapping[str, Any]]) -> _Config:
    rules = configs[name]
    if asked := sorted(_READING & rules.keys()):
        what = f"the card of the dataset {data.name!r} asks to read config {name!r} with `{asked[0]}`, which dem cannot"
        raise UsageError(what, hint=_OWN)
    folder = str(rules.get("data_dir") or "")
    start = posixpath.normpath(folder) + "/" if folder.strip("./") else ""
    paths = [p.removeprefix(start) for p in data.paths if p.startswith(start)]
    explicit = rules.get("data_files") is not None
    patterns = _patterns(data, rules["data_files"]) if explicit else _by_name(paths)
    if not patterns:
        raise UsageError(f"the dataset {data.name!r} has no data files", hint=f"it holds {_some(data.paths)}")
    return _Config(data, folder, paths, patterns, explicit)


def _configs(data: HubData) -> dict[str, Mapping[str, Any]]:
    """The configurations that the card names; one without rules where it names none."""
    listed = data.card.get("configs") or []
    if not isinstance(listed, list) or not all(isinstance(c, dict) and "config_name" in c for c in listed):
        what = f"the card of the dataset {data.name!r} has `configs` that cannot be read"
        raise UsageError(what, hint=_OWN)
    return {str(c["config_name"]): c for c in listed} or {"default": {}}


def _converted(data: HubData) -> dict[str, Mapping[str, Any]]:
    found: dict[str, dict[str, list[str]]] = {}
    for path in data.paths:
        if match := _CONVERTED_FILE.fullmatch(path):
            found.setdefault(match[1], {}).setdefault(match[2], []).append(path)
    if not found:
        raise UsageError(f"the hub has made no parquet files of the dataset {data.name!r}", hint=_OWN)
    return {
        config: {"data_files": [{"split": split, "path": files} for split, files in splits.items()]}
        for config, splits in found.items()
    }


def _chosen(data: HubData, configs: Mapping[str, Mapping[str, Any]], config: str | None) -> str:
    if config is not None:
        if config not in configs:
            hint = _offer("configs", config, configs)
            raise UsageError(f"the dataset {data.name!r} has no config {config!r}", hint=hint)
        return config
    # As `datasets` decides: the only one, one that is called so, or one whose card says so.
    defaults = [n for n, c in configs.items() if len(configs) == 1 or n == "default" or c.get("default")]
    if len(defaults) != 1:
        raise UsageError(
            f"the dataset {data.name!r} has several configs, and none is named",
            hint=f"set `config` to one of {first_of(configs, _SHOWN)}",
        )
    return defaults[0]


def _patterns(data: HubData, files: Any) -> dict[str, list[str]]:
    """Split → patterns of a configuration's `data_files`."""
    match files:
        case str():
            return {"train": [files]}
        case list() if files and all(isinstance(f, str) for f in files):
            return {"train": files}
        case list() if files and all(isinstance(f, dict) and {"split", "path"} <= f.keys() for f in files):
            return {str(f["split"]): _texts(f["path"]) for f in files}
        case dict():
            return {str(split): _texts(path) for split, path in files.items()}
    raise UsageError(f"the card of the dataset {data.name!r} has `data_files` that cannot be read", hint=_OWN)


def _texts(paths: Any) -> list[str]:
    return [str(p) for p in paths] if isinstance(paths, list) else [str(paths)]


def _by_name(paths: Sequence[str]) -> dict[str, list[str]]:
    """Split → patterns by what folders and files are called."""
    sharded = {m[1] for p in _matches("data/*-*-of-*.*", paths) if (m := _SHARDED.fullmatch(p))}
    if sharded:
        five = "[0-9]" * 5
        known = [s for s in _SYNONYMS if s in sharded]
        return {s: [f"data/{s}-{five}-of-{five}*.*"] for s in (*known, *sorted(sharded - set(known)))}
    # Where a folder is called after a split, what the files in it are called says nothing.
    for forms in (_IN_FOLDER, _IN_FILE):
        patterns = {
            s: [f.format(k=k, e=_END) for k in words for f in forms] for s, words in _SYNONYMS.items()
        }
        if found := {s: ps for s, ps in patterns.items() if any(_matches(p, paths) for p in ps)}:
            return found
    return {"train": ["**"]} if _matches("**", paths) else {}


def _commonest(paths: Sequence[str]) -> list[str]:
    # Files of other types lie beside the data, or are the same rows once more.
    counts = Counter(_suffix(p).replace(".ndjson", ".jsonl") for p in paths)
    family = _FAMILIES[max(counts, key=lambda s: (counts[s], _PREFERRED.index(s)))]
    return [p for p in paths if _FAMILIES[_suffix(p)] == family]


def _matches(pattern: str, paths: Sequence[str]) -> list[str]:
    """The files that a pattern of the hub means, sorted; hidden ones only where it names them."""
    from fsspec.utils import glob_translate  # type: ignore[import-untyped]  # noqa: PLC0415  only for a new name

    pattern = posixpath.normpath(pattern)
    try:
        regex = re.compile(glob_translate(pattern) if glob.has_magic(pattern) else re.escape(pattern) + r"\Z")
    except ValueError as error:
        raise UsageError(f"the dataset's pattern {pattern!r} cannot be read: {error}", hint=_OWN) from error
    ignored = _NO_DATA - {posixpath.basename(pattern)}
    return sorted(
        p
        for p in paths
        if regex.match(p)
        and posixpath.basename(p) not in ignored
        and _parts(p, ".") == _parts(pattern, ".")
        and _parts(posixpath.dirname(p), "__") == _parts(posixpath.dirname(pattern), "__")
    )


def _parts(path: str, mark: str) -> int:
    """Count the parts of a path that begin with a mark: what is hidden is asked for by as many in the pattern."""
    return sum(part.startswith(mark) and set(part) != {"."} for part in path.split("/"))


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()


def _offer(what: str, name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return (f"did you mean {close[0]}? " if close else "") + f"the {what} are {first_of(names, _SHOWN)}"


def _some(paths: Sequence[str]) -> str:
    shown = [p for p in paths if not p.startswith(".")][:5]
    return ", ".join(shown) if shown else "no file"
