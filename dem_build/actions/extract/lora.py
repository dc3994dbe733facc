"""A LoRA adapter as its files describe it: which tensors it changes, and by which factor. Torch-free; reads no tensor.

An adapter adds scale · B A to a weight, where scale is alpha / r, with rsLoRA alpha / √r. Rank and alpha are the
config's, or those of the first pattern that the target's name ends with. All that its two files contradict each other
in is refused here; whether it fits a base is seen with the base beside it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.digest import JSON

    Shapes = Mapping[str, tuple[int, ...]]

OF_THIS_BASE = "take an adapter that was trained on this base"
AGAIN = "download or save the adapter again, config and weights of one training"
PREFIX = "base_model.model."
DEFAULTS = {"r": 8, "lora_alpha": 8}  # peft's, where a config leaves them out
INNER = ".base_layer"  # peft's name for what it has wrapped
_PART = re.compile(
    r"(?P<path>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(\.weight)?"
)


@dataclass(frozen=True)
class Update:
    """What an adapter adds to one tensor: the names of its own tensors, and their shapes.

    Attributes:
        path: The module, as the adapter names it.
        depth: Of several tensors of one module, how many the adapter wrapped after this one.
        a: A, [r, in]; of an embedding [r, rows].
        b: B, [out, r].
        shape: Of the product as a linear layer has it: (out, in).
        rank: Rows of A; of the experts of a layer together, r times their number.
        embedding: Whether the weight is the product transposed, [rows, width].
        bias: What is added to the module's bias, times the scale; None where there is none.
        magnitude: DoRA's length of each output; None where it is no DoRA.
    """

    path: str
    depth: int
    a: str
    b: str
    shape: tuple[int, int]
    rank: int
    embedding: bool
    bias: str | None
    magnitude: str | None


@dataclass(frozen=True)
class Adapter:
    """What an adapter's files say.

    Attributes:
        config: Its `adapter_config.json`.
        updates: What it adds to.
        replaced: Name of a tensor of the base → the adapter's own that takes its place.
        shapes: Of the adapter's tensors.
        where: What messages call it.
    """

    config: Mapping[str, JSON]
    updates: tuple[Update, ...]
    replaced: Mapping[str, str]
    shapes: Shapes
    where: str


def read_adapter(config: Mapping[str, JSON], shapes: Shapes, where: str) -> Adapter:
    """What an adapter's config and the header of its weights say.

    Args:
        config: `adapter_config.json`, of a LoRA that dem merges.
        shapes: Name → shape of each tensor.
        where: What messages call the adapter.

    Raises:
        CheckpointError: Half of a pair is missing, a tensor is none that a LoRA has, or ranks are not the config's.
    """
    parts: dict[tuple[str, int], dict[str, str]] = {}
    replaced: dict[str, str] = {}
    unknown = []
    for name in shapes:
        path, part = _place(name)
        if path is None:
            unknown.append(name)
        elif part is None:
            replaced[path.replace(INNER, "")] = name
        else:
            depth = len(path) - len(path := path.replace(INNER, ""))
            parts.setdefault((path, depth // len(INNER)), {})[part] = name
    if unknown:
        count, first = len(unknown), unknown[0]
        what = f"the adapter does not fit: a LoRA has no place for {count} of its weights, first {first}"
        raise CheckpointError(what, where=where, hint=AGAIN)
    updates = tuple(_update(*key, found, shapes, where) for key, found in parts.items())
    adapter = Adapter(config, updates, replaced, shapes, where)
    if not updates and not replaced:
        raise CheckpointError("the adapter holds no weights", where=where, hint=AGAIN)
    if not config.get("target_parameters"):  # else a rank is known with the number of experts
        for update in updates:
            scale_of(adapter, update.path, update.rank)
    return adapter


def _place(name: str) -> tuple[str | None, str | None]:
    """A tensor's module and part (`lora_A.weight`); its name in the base and None if it replaces one; else two None."""
    if not name.startswith(PREFIX):
        return None, None
    inside = name.removeprefix(PREFIX)
    if (found := _PART.fullmatch(inside)) is not None:
        return found["path"], found["part"]
    return (None if ".lora_" in inside else inside), None


def _update(path: str, depth: int, parts: Mapping[str, str], shapes: Shapes, where: str) -> Update:
    embedding = any(part.startswith("lora_embedding") for part in parts)
    halves = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A.weight", "lora_B.weight")
    for half in halves:
        if half not in parts:
            what = f"the adapter does not fit: its config asks for {path}.{half}, and it lacks that"
            raise CheckpointError(what, where=where, hint=AGAIN)
    a, b = (parts[half] for half in halves)
    sizes = (*shapes[a], *shapes[b])
    if len(shapes[a]) != 2 or len(shapes[b]) != 2 or sizes[0] != sizes[3] or 0 in sizes:
        what = f"the adapter does not fit: {a} is {shapes[a]} and {b} is {shapes[b]}, which have no product"
        raise CheckpointError(what, where=where, hint=AGAIN)
    more = parts.get("lora_B.bias"), parts.get("lora_magnitude_vector")
    return Update(path, depth, a, b, (sizes[2], sizes[1]), sizes[0], embedding, *more)


def scale_of(adapter: Adapter, target: str, rank: int) -> float:
    """The factor of B A.

    Args:
        adapter: Whose config says it.
        target: Name of the module, or of the parameter, in the adapter's words.
        rank: Of its A.

    Raises:
        CheckpointError: The config says another rank, or no numbers.
    """
    config = adapter.config
    said = _of_pattern(config, "rank_pattern", target, "r", adapter.where)
    alpha = _of_pattern(config, "alpha_pattern", target, "lora_alpha", adapter.where)
    if said != rank:
        what = f"the adapter does not fit: {target} has rank {rank}, and its config says r = {said:g}"
        raise CheckpointError(what, where=adapter.where, hint=AGAIN)
    # rsLoRA (Kalajdzievski 2023, arXiv 2312.03732): with alpha / r an update of high rank learns ever less.
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def rivals(adapter: Adapter, target: str) -> tuple[str, str] | None:
    """The pattern that says a target's alpha, and one that would say another if it came first, as it may have once.

    peft sorts patterns as it saves them: where they are in another order, that is the one of the training.

    Args:
        adapter: Whose config says it.
        target: As of `scale_of`.

    Raises:
        CheckpointError: One is no pattern.
    """
    table = adapter.config.get("alpha_pattern")
    if not isinstance(table, dict) or list(table) != sorted(table):
        return None
    found = list(_matching(table, "alpha_pattern", target, adapter.where))
    others = (pattern for pattern in found[1:] if table[pattern] != table[found[0]])
    return next(((found[0], other) for other in others), None)


def _of_pattern(config: Mapping[str, JSON], patterns: str, target: str, default: str, where: str) -> float:
    table = config.get(patterns)
    value = config.get(default)
    value = DEFAULTS[default] if value is None else value
    if isinstance(table, dict):
        value = next((table[pattern] for pattern in _matching(table, patterns, target, where)), value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        what = f"{default} of {target} is {value!r} in the adapter's config, and no number"
        raise CheckpointError(what, where=where, hint=AGAIN)
    return float(value)


def _matching(table: Mapping[str, JSON], patterns: str, target: str, where: str) -> Iterator[str]:
    """Yield the patterns that match a target, in the order of the file."""
    for pattern in table:
        try:
            found = re.match(rf"(.*\.)?({pattern})$", target)
        except re.error as error:
            what = f"{patterns} of the adapter's config has {pattern!r}, which is no pattern: {error}"
            raise CheckpointError(what, where=where, hint=AGAIN) from error
        if found:
            yield pattern


def refuse_misfits(adapter: Adapter, base: Shapes, *, grows: bool) -> None:
    """Refuse an adapter of another base, as far as names that both have tell it.

    Args:
        adapter: As `read_adapter` returns it.
        base: Name → shape of the base's tensors; a mixture of experts may have other names, of which nothing is said.
        grows: Whether its import will add rows for tokens: then a tensor may yet get as many as an update has.

    Raises:
        CheckpointError: A shape that is not the base's.
    """
    if adapter.config.get("target_parameters"):
        return
    for update in adapter.updates:
        name = f"{update.path}.weight"
        stored = base.get(name)
        made = update.shape[::-1] if update.embedding else update.shape
        if stored is None:
            continue
        # The tensor may have more rows, for tokens new to the adapter. GPT-2's layers keep their weights transposed.
        if all(
            len(shape) != len(stored) or shape[1:] != stored[1:] or (shape[0] > stored[0] and not grows)
            for shape in (made, made[::-1])
        ):
            raise misfit(adapter, name, made, stored)


def misfit(adapter: Adapter, name: str, made: Iterable[int], stored: Iterable[int]) -> CheckpointError:
    """The error of an update whose shape is not the base's."""
    what = f"the adapter does not fit the base: it changes {name} of shape {tuple(made)}, and the base's is "
    return CheckpointError(f"{what}{tuple(stored)}", where=adapter.where, hint=OF_THIS_BASE)
