"""A fine-tune that is a whole model: held against the base by their configs, and read in the layout of the base.

Whether it can be a fine-tune is told before a tensor is read. Where transformers holds the two in different layouts
(experts fused, or not), it is converted group by group as it is read.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dem_build.checkpoint.floats import NAMES
from dem_build.checkpoint.header import ITEM_SIZES, TensorInfo
from dem_build.checkpoint.reader import Checkpoint
from dem_build.errors import CheckpointError
from dem_build.model.architecture import architecture, parse_config
from dem_build.model.weight_layout import WeightLayout

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

    from dem_build.digest import JSON
    from dem_build.model.architecture import Architecture
    from dem_build.model.weight_layout import TensorGroup
    from dem_build.step import Context

OF_THE_BASE = "take a fine-tune of this base, or name its own base in [base]"
# What shapes do not tell, and weights mean nothing without.
STRUCTURE = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act")
# Keys that say nothing of what the weights compute; the shapes and the tie are compared by themselves.
IRRELEVANT = frozenset({
    "_attn_implementation", "_name_or_path", "architectures", "chunk_size_feed_forward", "dtype", "id2label",
    "initializer_range", "label2id", "output_attentions", "output_hidden_states", "pretraining_tp",
    "problem_type", "return_dict", "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache",
    "vocab_size",
})  # fmt: skip
TOLD = 4  # keys in a message
TYPES = {code: getattr(torch, name) for code, name in NAMES.items()}
HELD = 2  # groups: a layer's experts are two, whose tensors lie in turn in a file


def refuse_strangers(base: JSON, tuned: JSON, where: str, context: Context) -> Architecture:
    """Refuse a model that cannot be a fine-tune of the base, and warn where it computes with other settings.

    Returns:
        The architecture of the other model: the base's, but that it may have fewer rows of embeddings. Tokens are added
        to a base at the end, so the rows that it lacks are the base's last ones.

    Raises:
        CheckpointError: Another architecture, tie or shape, or rows of embeddings that the base has not.
    """
    of_base, of_tuned = architecture(base, "base"), architecture(tuned, where)
    if of_base.model != of_tuned.model:
        what = f"is a {of_tuned.model}, and the base is a {of_base.model}"
        raise CheckpointError(what, where=where, hint=OF_THE_BASE)
    _no_more_rows(of_base, of_tuned, where)
    _same_tie(of_base, of_tuned, where)
    _same_shapes(of_base, of_tuned, where)
    _same_settings(parse_config(base, "base"), parse_config(tuned, where), where, context)
    return of_tuned


def _no_more_rows(base: Architecture, tuned: Architecture, where: str) -> None:
    more = tuned.vocabulary - base.vocabulary
    if more <= 0:
        return
    what = f"has {tuned.vocabulary} rows of embeddings, and the base {base.vocabulary}: {more} were added, for new "
    hint = (
        f"where it can do without the added rows, cut them off: model.resize_token_embeddings({base.vocabulary})"
        ", then model.save_pretrained(NEW_FOLDER)"
    )
    raise CheckpointError(what + "tokens or as padding", where=where, hint=hint)


def _same_tie(base: Architecture, tuned: Architecture, where: str) -> None:
    if base.tied == tuned.tied:
        return
    if base.tied:
        what = "has a head of its own, and the base's is tied to the embeddings"
        hint = 'where its head equals its embeddings, set "tie_word_embeddings": true in its config.json'
    else:
        what = "ties its head to the embeddings, and the base has a head of its own"
        hint = OF_THE_BASE
    raise CheckpointError(what, where=where, hint=hint)


def _same_shapes(base: Architecture, tuned: Architecture, where: str) -> None:
    odd, rows = [], ((base.vocabulary,), (tuned.vocabulary,))
    for name in sorted({*base.shapes, *tuned.shapes}):
        # What has a row for each token may have another number of them than the base's, if they are as wide.
        ours, theirs = base.shapes.get(name, ()), tuned.shapes.get(name, ())
        alike = (ours[:1], theirs[:1]) == rows and ours[1:] == theirs[1:]
        if base.shapes.get(name) != tuned.shapes.get(name) and not alike:
            odd.append(name)
    if odd:
        first = odd[0]
        there, here = (f"has {w.shapes[first]}" if first in w.shapes else "has none" for w in (tuned, base))
        what = f"{len(odd)} of its tensors are not those of the base, first {first}: {there}, and the base {here}"
        raise CheckpointError(what, where=where, hint=OF_THE_BASE)


def _same_settings(base: Any, tuned: Any, where: str, context: Context) -> None:
    """Compare what transformers reads, so that a default that is written out is no difference."""
    # The keys that this kind of model has: what else a config.json holds is of other programs.
    known = type(base)().to_dict().keys() - IRRELEVANT
    ours, theirs = base.to_dict(), tuned.to_dict()
    odd = sorted(
        k for k in known if ours.get(k) != theirs.get(k) and not k.endswith(("_token_id", "dropout"))
    )
    said = [f"{k} is {theirs.get(k)}, the base's {ours.get(k)}" for k in odd]
    if structural := [line for key, line in zip(odd, said, strict=True) if key in STRUCTURE]:
        raise CheckpointError(
            f"differs from the base: {'; '.join(structural)}", where=where, hint=OF_THE_BASE
        )
    if said:
        more = f"; and {len(said) - TOLD} more" if len(said) > TOLD else ""
        context.warn(f"{where}: the composed model has the base's settings: {'; '.join(said[:TOLD])}{more}")


def in_layout_of(names: Iterable[str], stored: Checkpoint, weights: Architecture) -> Checkpoint:
    """A checkpoint under the names, and in the layout, of another one of the same model; itself if they are the same.

    Args:
        names: Of the other one's tensors, as `select` gave them.
        stored: The checkpoint, as `select` returned it, not yet open.
        weights: Its architecture.
    """
    wanted = list(names)
    return stored if stored.tensors.keys() == {*wanted} else _Converted(wanted, stored, weights)


class _Converted(Checkpoint):
    """Reads what it holds from files of another layout, from these to the model's tensors and on to the other files'.

    The last few groups are kept.
    """

    def __init__(self, names: Iterable[str], stored: Checkpoint, weights: Architecture) -> None:
        self._stored = stored
        self._from, self._to = WeightLayout(weights.built, stored.tensors), WeightLayout(weights.built, names)
        self._lock = threading.Lock()
        self._values = lru_cache(HELD)(self._convert)
        described: dict[str, TensorInfo] = {}
        for group in (g for g in self._to.groups if self._from.of_own.keys() >= {*g.own}):
            files = [self._stored.tensors[name] for own in group.own for name in self._from.of_own[own].files]
            codes = {info.dtype for info in files}
            code = files[0].dtype if len(codes) == 1 else "F32"  # which holds the values of all
            made = self._to.to_files({n: weights.tensors[n] for n in group.own})
            described |= {n: TensorInfo(n, code, tuple(t.shape), files[0].path, 0) for n, t in made.items()}
        super().__init__({name: described[name] for name in names if name in described}, {})

    def __enter__(self) -> Self:
        self._stored.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._values.cache_clear()
        self._stored.__exit__(kind, error, trace)

    def read_into(self, tensor: TensorInfo, start: int, out: NDArray[np.generic]) -> None:
        """Fill `out` as of any checkpoint."""
        with self._lock:  # a conversion is noted in the model that both layouts share
            values = self._values(self._to.of_file[tensor.name])[tensor.name]
        size = ITEM_SIZES[tensor.dtype]
        held = out.view(np.uint8)
        held[:] = values[start * size : start * size + held.size]

    def _convert(self, group: TensorGroup) -> dict[str, NDArray[np.uint8]]:
        """The bytes of a group's tensors in the other layout."""
        code = self.tensors[group.files[0]].dtype
        files = {name: self._load(name, code) for own in group.own for name in self._from.of_own[own].files}
        own = self._from.to_model(files)
        made = self._to.to_files({name: own[name] for name in group.own})
        return {name: t.contiguous().reshape(-1).view(torch.uint8).numpy() for name, t in made.items()}

    def _load(self, name: str, code: str) -> torch.Tensor:
        info = self._stored.tensors[name]
        if info.dtype != code:
            return torch.from_numpy(self._stored.read(name))
        stored = np.empty(info.nbytes, np.uint8)
        self._stored.read_into(info, 0, stored)
        return torch.from_numpy(stored).view(TYPES[code]).reshape(info.shape)
