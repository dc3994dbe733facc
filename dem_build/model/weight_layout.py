"""How the tensors of a checkpoint's files are a model's own, and back, by transformers' conversion of this model.

Files are published in one layout, and transformers may hold another in memory: the experts of a mixture one by one, and
fused; `embed_out`, and `lm_head`. dem keeps the layout in which a base came: what is composed is then published as it
came, tensor by tensor and with no conversion, and vectors are of the same tensors. It is converted where a model is in
memory anyway, and where a fine-tune or an adapter came in another layout than its base; of that, one group at a time.

What transformers would do with names and tensors is not told again here: each is asked of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import conversion_mapping, core_model_loading
from transformers.core_model_loading import WeightConverter, WeightRenaming

from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transformers import PreTrainedModel

# Its functions carry no types.
_loading: Any = core_model_loading
_mapping: Any = conversion_mapping


@dataclass(frozen=True, eq=False)
class TensorGroup:
    """Tensors of the files that together are tensors of the model: mostly one and one.

    Attributes:
        own: The model's names.
        files: The files' names, in the order in which the model has them.
        patterns: Of each of the files' names, which pattern of the converter it is of.
        converter: What makes the one of the other; None where they are one tensor under two names, or the same.
    """

    own: tuple[str, ...]
    files: tuple[str, ...]
    patterns: tuple[str, ...]
    converter: WeightConverter | None


class WeightLayout:
    """How some files hold the tensors of a model.

    Attributes:
        groups: What belongs together, in the order of the names.
        of_file: Name of a file's tensor → its group.
        of_own: The model's own name of a tensor → its group.
        unknown: A name that the model has no tensor for → what transformers makes of the name.
    """

    def __init__(self, model: PreTrainedModel, names: Iterable[str]) -> None:
        self._model: Any = model
        self._transforms = _mapping.get_model_conversion_mapping(model)
        self._renamings = [t for t in self._transforms if isinstance(t, WeightRenaming)]
        self._converters = [t for t in self._transforms if isinstance(t, WeightConverter)]
        self.unknown: dict[str, str] = {}
        self.groups = self._group(list(names))
        self.of_file = {name: group for group in self.groups for name in group.files}
        self.of_own = {name: group for group in self.groups for name in group.own}

    def to_model(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The model's tensors, from the files' of whole groups."""
        made: dict[str, torch.Tensor] = {}
        for group in dict.fromkeys(self.of_file[name] for name in tensors):
            first = group.own[0]
            if group.converter is None:
                made[first] = tensors[group.files[0]]
                continue
            converter: Any = deepcopy(
                group.converter
            )  # it gathers the tensors of one conversion, and is shared
            for name, pattern in zip(group.files, group.patterns, strict=True):
                converter.add_tensor(first, name, pattern, tensors[name])
            found = converter.convert(first, model=self._model, config=self._model.config)
            made |= {name: t[0] if isinstance(t, list) else t for name, t in found.items()}
        return made

    def to_files(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The files' tensors, from the model's of whole groups; views of them where that is possible."""
        groups = dict.fromkeys(self.of_own[name] for name in tensors)
        made = {g.files[0]: tensors[g.own[0]] for g in groups if g.converter is None}
        regrouped = {name: tensors[name] for g in groups if g.converter is not None for name in g.own}
        return made | self.saved(regrouped) if regrouped else made

    def saved(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors of the model, whole groups of them, as `save_pretrained` writes a model of such files."""
        used = [transform for transform in self._transforms if transform.was_used()]
        if not used:
            return dict(tensors)
        self._model._weight_conversions = used  # noqa: SLF001  what loading from these files notes of a model
        made: dict[str, torch.Tensor] = _loading.revert_weight_conversion(self._model, dict(tensors))
        return made

    def kept_in_float32(self, dtype: str) -> frozenset[str]:
        """The names of the files' tensors that transformers keeps in float32 in a model of this type."""
        plan = self._model._get_dtype_plan(getattr(torch, dtype))  # noqa: SLF001
        if not plan:
            return frozenset()
        kept, *_ = _loading.build_glob_alternation(list(plan))
        return frozenset(name for group in self.groups if kept.search(group.own[0]) for name in group.files)

    def _group(self, names: Sequence[str]) -> list[TensorGroup]:
        state, prefix = self._model.state_dict(), self._model.base_model_prefix
        files: dict[str, dict[str, str]] = {}
        # In the order of transformers: experts are numbered, and some renamings depend on earlier ones.
        for name in sorted(names, key=_loading.dot_natural_key):
            own, pattern = _loading.rename_source_key(name, self._renamings, self._converters, prefix, state)
            if (
                own not in state and name in state
            ):  # a rule of another layout, and the name was the model's already
                own, pattern = _loading.rename_source_key(name, [], [], prefix, state)
            held = files.setdefault(own, {})
            # Two names for one tensor are a group only where a converter makes it of several.
            if own not in state or (held and not (pattern and all(held.values()))):
                self.unknown[name] = own
            else:
                held[name] = pattern or ""
        made = [self._made(own, held) for own, held in files.items() if held]
        place = {name: at for at, name in enumerate(names)}
        return sorted(made, key=lambda group: min(place[name] for name in group.files))

    def _made(self, own: str, held: Mapping[str, str]) -> TensorGroup:
        files, patterns = tuple(held), tuple(held.values())
        if not patterns[0]:
            return TensorGroup((own,), files, patterns, None)
        converter = next(c for c in self._converters if patterns[0] in c.source_patterns)
        first, *_ = targets = converter.target_patterns
        return TensorGroup(
            tuple(own.replace(first, target) for target in targets), files, patterns, converter
        )


class _NamedWeights(Mapping[str, "torch.Tensor | None"]):
    """A model's tensors by the names of the files, converted when they are asked for, and of one group at a time.

    Iterating goes group by group. A name that the model has no tensor for has None.
    """

    def __init__(
        self, layout: WeightLayout, tensors: Mapping[str, torch.Tensor], names: Iterable[str]
    ) -> None:
        self._layout, self._tensors = layout, tensors
        self._order = [*layout.of_file, *(name for name in names if name not in layout.of_file)]
        self._last: tuple[TensorGroup | None, dict[str, torch.Tensor]] = (None, {})

    def __getitem__(self, name: str) -> torch.Tensor | None:
        group = self._layout.of_file.get(name)
        if group is None:
            return None
        # The last group is kept: its names are asked for one after another, and a layer's experts take seconds.
        if self._last[0] is not group:
            self._last = (group, self._layout.to_files({n: self._tensors[n] for n in group.own}))
        return self._last[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


def published_tensors(model: Any, *, ties: bool = False) -> dict[str, torch.Tensor]:
    """The files' tensors, without memory, in the layout in which models of this kind are published.

    Args:
        model: The model.
        ties: Also those that are another one under a second name, which files do not hold.
    """
    seconds = () if ties else model.all_tied_weights_keys
    state = {name: tensor.to("meta") for name, tensor in model.state_dict().items() if name not in seconds}
    model._weight_conversions = None  # noqa: SLF001  those of its kind, not of the files that it was loaded from
    made: dict[str, torch.Tensor] = _loading.revert_weight_conversion(model, state)
    return made


def named_weights(model: PreTrainedModel, names: Iterable[str]) -> Mapping[str, torch.Tensor | None]:
    """A loaded model's weights by the names of the file that it was loaded from.

    transformers may rename and regroup weights while loading (the experts of a mixture become one tensor); this goes
    back, for one group of tensors after another as they are asked for. A tensor of the file that the model does not
    use, as old files have, is None.

    Args:
        model: As `load_model` gave it, trained or not.
        names: The tensors of the file.

    Raises:
        CheckpointError: A parameter of the model has no place among the names.
    """
    names = list(names)
    layout = WeightLayout(model, names)
    placed = layout.of_own
    ties: Any = model.all_tied_weights_keys
    # A tied tensor counts under either of its names.
    lost = sorted(
        name for name, _ in model.named_parameters() if name not in placed and ties.get(name) not in placed
    )
    if lost:
        raise CheckpointError(
            f"{len(lost)} weights of the model have no place in the base's files, first {lost[0]}"
        )
    return _NamedWeights(layout, model.state_dict(), names)
