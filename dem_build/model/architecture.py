"""What weights a config's model has, and a checkpoint's tensors that are these, after every check that needs none.

The model is built without memory. A checkpoint's tensors are taken as transformers would load them: all of them, in
whichever of its layouts they came, and nothing else.
"""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

from dem_build.checkpoint.filenames import INDEX, shards_of
from dem_build.checkpoint.floats import CODES, FLOATS
from dem_build.checkpoint.reader import Checkpoint, check_index, open_checkpoint
from dem_build.errors import CheckpointError
from dem_build.model.load import quiet
from dem_build.model.weight_layout import WeightLayout
from dem_build.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.checkpoint.header import TensorInfo
    from dem_build.digest import JSON
    from dem_build.model.weight_layout import TensorGroup

# Buffers that old checkpoints stored and that are computed now.
COMPUTED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")
# What transformers raises of a config that it does not know or that contradicts itself.
UNKNOWN_MODEL = (ValueError, KeyError, TypeError, AttributeError, ImportError, OSError, RuntimeError)
COMPARED = 1 << 20  # elements of two tied tensors that are compared at once
MOST_NAMED = 3  # tensors in a message


@dataclass(frozen=True)
class Architecture:
    """The weights of a config's model.

    Attributes:
        model: Name of the model's class.
        tied: Whether the config ties the word embeddings to the head.
        tensors: Name in memory → tensor, without memory, of each that must be stored.
        ties: Name of a tensor that is another one under a second name → that one.
        ignored: Patterns of names that a checkpoint may hold and that are not used.
        spared: Patterns of names in memory that a checkpoint may lack: they start as the model does.
        vocabulary: Rows of the word embeddings.
        built: The model, built without memory.
    """

    model: str
    tied: bool
    tensors: Mapping[str, torch.Tensor]
    ties: Mapping[str, str]
    ignored: tuple[str, ...]
    spared: tuple[str, ...]
    vocabulary: int
    built: Any

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name in memory → shape of each tensor that must be stored."""
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}


def parse_config(config: JSON, where: str) -> Any:
    """A `config.json` as transformers reads it, with every default filled in.

    Raises:
        CheckpointError: transformers does not know such a model.
    """
    with tempfile.TemporaryDirectory(prefix="dem-config-") as folder, quiet():
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except UNKNOWN_MODEL as error:
            raise _cannot_be_built(error, where) from error


def architecture(config: JSON, where: str) -> Architecture:
    """The weights that the model of a `config.json` has.

    Raises:
        CheckpointError: transformers knows no causal language model of this config.
    """
    parsed = parse_config(config, where)
    with quiet():
        try:
            with torch.device("meta"):  # no memory, however large the model is
                auto: Any = AutoModelForCausalLM  # its methods carry no types
                model: Any = auto.from_config(parsed, trust_remote_code=False)
        except UNKNOWN_MODEL as error:
            raise _cannot_be_built(error, where) from error
    ties = dict(model.all_tied_weights_keys)
    return Architecture(
        model=type(model).__name__,
        tied=bool(getattr(model.config, "tie_word_embeddings", False)),
        tensors={name: tensor for name, tensor in model.state_dict().items() if name not in ties},
        ties=ties,
        ignored=(*COMPUTED, *sorted(model._keys_to_ignore_on_load_unexpected or ())),  # noqa: SLF001
        spared=tuple(sorted(model._keys_to_ignore_on_load_missing or ())),  # noqa: SLF001
        vocabulary=model.get_input_embeddings().weight.shape[0],
        built=model,
    )


def _cannot_be_built(error: Exception, where: str) -> CheckpointError:
    reason = str(error).partition("\n")[0]
    hint = f"transformers {transformers.__version__} must know this model; a newer one may"
    return CheckpointError(f"no causal language model can be built: {reason}", where=where, hint=hint)


def open_files(files: Mapping[str, Path]) -> Checkpoint:
    """Open weights; each file's digest is in the key, so what is not among `files` does not count.

    Args:
        files: Name → file: `model.safetensors`, or shards and their index.

    Raises:
        CheckpointError: Damaged files, or an index that disagrees with its shards.
    """
    if INDEX not in files:
        return open_checkpoint([path for tag, path in sorted(files.items()) if tag.endswith(".safetensors")])
    shards = shards_of(files[INDEX])
    checkpoint = open_checkpoint([files[tag] for tag in sorted(set(shards.values()))])
    check_index(checkpoint, shards, files[INDEX])
    return checkpoint


@dataclass(frozen=True)
class _Names:
    """How a checkpoint's tensors are the architecture's.

    Attributes:
        held: Name under which dem keeps a tensor → the checkpoint's.
        twins: The checkpoint's name of a second copy of a tied tensor → its twin's, in the checkpoint too.
        tensors: Name under which dem keeps it → the tensor, without memory.
    """

    held: Mapping[str, str]
    twins: Mapping[str, str]
    tensors: Mapping[str, torch.Tensor]


def select(weights: Architecture, stored: Checkpoint, where: str) -> Checkpoint:
    """The architecture's tensors, in file order and in the layout that they came in, after every check of them.

    Names without the body's prefix, as in a checkpoint that was saved without a head, get it.

    Raises:
        CheckpointError: Missing or unknown tensors, shapes or formats that differ, tied tensors that differ.
    """
    names = _resolve(weights, stored.tensors, where)
    for name, found in names.held.items():
        _check_tensor(weights, names.tensors[name], stored.tensors[found])
    with stored:
        # A tied tensor may be stored twice. Where the two differ, there is no telling which one is meant.
        for copy, twin in names.twins.items():
            if not _equal(stored, stored.tensors[copy], stored.tensors[twin]):
                raise CheckpointError(
                    f"{copy} and {twin} differ, and config.json ties them",
                    where=where,
                    hint='set "tie_word_embeddings": false in config.json, or remove the one that is not meant',
                )
    own = {found: name for name, found in names.held.items()}
    kept = {own[n]: replace(t, name=own[n]) for n, t in stored.tensors.items() if n in own}
    return Checkpoint(kept, {})


def _resolve(weights: Architecture, stored: Iterable[str], where: str) -> _Names:
    """Find each of the architecture's tensors in a checkpoint.

    Raises:
        CheckpointError: A tensor that is missing, or one that the architecture does not have.
    """
    names = list(stored)
    layout = WeightLayout(weights.built, names)
    prefix = f"{weights.built.base_model_prefix}."
    held: dict[str, str] = {}
    wanted: dict[str, torch.Tensor] = {}
    lacking = dict(weights.tensors)
    file_of: dict[str, str] = {}
    for group in (g for g in layout.groups if g.own[0] not in weights.ties):
        tensors = {name: lacking.pop(name) for name in group.own}
        wanted |= (kept := _kept(layout, group, tensors, prefix))
        held |= {name: file for file in group.files for name in (file, prefix + file) if name in kept}
        file_of[group.own[0]] = group.files[0]
    seconds = {g.own[0]: g.files[0] for g in layout.groups if g.own[0] in weights.ties}
    for own, file in sorted(seconds.items()):
        # A checkpoint may hold a tied tensor only under its second name.
        if (first := weights.ties[own]) in lacking:
            wanted[first] = lacking.pop(first)
            held[first] = file_of[first] = file
    # transformers' own lists of what may be there unused, and of what may be missing since it is computed.
    extra = {*names} - {*held.values()} - {*seconds.values()}
    extra -= {n for n in extra if _matches(weights.ignored, n, layout.unknown.get(n, n))}
    lacking = {name: tensor for name, tensor in lacking.items() if not _matches(weights.spared, name)}
    missing = {*wanted, *layout.saved(lacking)} - {*held}
    _refuse_differences(weights, sorted(missing), sorted(extra), where)
    twins = {file: file_of[weights.ties[own]] for own, file in seconds.items()}
    return _Names(held, {copy: twin for copy, twin in twins.items() if copy != twin}, wanted)


def _kept(
    layout: WeightLayout, group: TensorGroup, tensors: Mapping[str, torch.Tensor], prefix: str
) -> Mapping[str, torch.Tensor]:
    """A group's tensors under the names that they get: as they came, with the prefix of a body's names."""
    if group.converter is not None:
        return layout.saved(tensors)
    [(own, tensor)], [file] = tensors.items(), group.files
    if own in (file, prefix + file):
        return {own: tensor}
    [saved] = layout.saved(tensors)
    return {saved if saved == prefix + file else file: tensor}


def _matches(patterns: Iterable[str], *names: str) -> bool:
    return any(re.search(pattern, name) for pattern in patterns for name in names)


def _refuse_differences(weights: Architecture, missing: list[str], extra: list[str], where: str) -> None:
    if not missing and not extra:
        return
    parts = [f"{weights.model} has {first_of(missing, MOST_NAMED)}, and the files do not"] if missing else []
    parts += [f"the files hold {first_of(extra, MOST_NAMED)}, and {weights.model} does not"] if extra else []
    hint = "config.json and the weights must be of one model, whole"
    if missing == ["lm_head.weight"]:
        hint = 'where the head is the embeddings, config.json must say "tie_word_embeddings": true'
    raise CheckpointError("; ".join(parts), where=where, hint=hint)


def _check_tensor(weights: Architecture, wanted: torch.Tensor, tensor: TensorInfo) -> None:
    if tensor.shape != tuple(wanted.shape):
        what = f"{tensor.name} has the shape {tensor.shape}, and {weights.model} has {tuple(wanted.shape)}"
        hint = "config.json and the weights must be of one model"
        raise CheckpointError(what, where=str(tensor.path), hint=hint)
    if wanted.is_floating_point() and tensor.dtype not in FLOATS:
        what = f"{tensor.name} is stored as {tensor.dtype}; dem takes {', '.join(CODES)}"
        raise CheckpointError(what, where=str(tensor.path), hint="take the model's float original")


def _equal(stored: Checkpoint, one: TensorInfo, other: TensorInfo) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    # By bytes, piece by piece: as numbers, -0 would be 0 and NaN unequal to itself.
    size = one.nbytes // max(one.size, 1)
    for start in range(0, one.size, COMPARED):
        count = min(COMPARED, one.size - start) * size
        pair = np.empty((2, count), np.uint8)
        stored.read_into(one, start, pair[0])
        stored.read_into(other, start, pair[1])
        if not np.array_equal(pair[0], pair[1]):
            return False
    return True
