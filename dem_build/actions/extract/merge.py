"""A LoRA adapter added to the base by its formula, tensor by tensor, with nothing taken on trust.

W + scale · B A is computed here and not by peft, whose conversion of the adapters of experts loses ranks and patterns.
peft says which modules a config means; the adapter's weights must be exactly those. They may have the model's own names
or those of its published files, whichever the base's are: what they change is converted as weights are
(`model/weight_layout.py`), the tensors that transformers keeps as one together: memory does not grow with the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from transformers.pytorch_utils import Conv1D

from dem_build.actions.extract.lora import OF_THIS_BASE, misfit, read_adapter, rivals, scale_of
from dem_build.checkpoint.filenames import ADAPTER_WEIGHTS
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import CheckpointError
from dem_build.lock.finetuned import ADAPTER_KEYS
from dem_build.model.weight_layout import WeightLayout, published_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from dem_build.actions.extract.lora import Adapter, Update
    from dem_build.checkpoint.reader import Checkpoint
    from dem_build.digest import JSON
    from dem_build.model.weight_layout import TensorGroup
    from dem_build.step import Context, Inputs

    Conversion = Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]]
    Edit = Callable[[torch.Tensor], torch.Tensor]

EXPERTS = 3  # dimensions of a tensor that holds a matrix for each expert
ALL_LINEAR = "all-linear"


def merged_weights(
    inputs: Inputs, config: Mapping[str, JSON], model: Any, base: Checkpoint, context: Context
) -> Iterator[tuple[str, NDArray[np.float32] | None]]:
    """Yield the base's weights with an adapter added to them, in float32; None where it changes nothing.

    Args:
        inputs: The adapter's files as sources.
        config: The adapter's config.
        model: The base's model, built without memory.
        base: The base's weights, open.
        context: Is told what the user should know.

    Raises:
        CheckpointError: An adapter of another base, a damaged one, or one that cannot be merged.
    """
    [path] = [s.path for s in inputs.sources if s.tag == ADAPTER_WEIGHTS]
    weights = open_checkpoint(path)
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    adapter = read_adapter(config, shapes, inputs.sources[0].origin)
    merger = _Merger(adapter, weights, model, context.note)
    if doubt := merger.doubt():
        context.warn(f"{adapter.where}: {doubt}")
    with weights:
        yield from merger.merge(base)


@dataclass(frozen=True)
class _Target:
    """What an update adds to: a tensor under the model's name or the published one, and the words of its pattern."""

    name: str
    words: str


class _Merger:
    """An adapter beside the base's architecture."""

    def __init__(
        self, adapter: Adapter, weights: Checkpoint, model: Any, note: Callable[[str], None]
    ) -> None:
        self.adapter, self.weights, self.model, self.note = adapter, weights, model, note
        published = published_tensors(model, ties=True)
        self.published = WeightLayout(model, published)
        named = {name: published[name] for name in self.published.of_file} | model.state_dict()
        self.shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
        self.modules = dict(model.named_modules())
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        self.tokens = {  # what has a row for each token
            f"{path}.{kind}"
            for path, module in model.named_modules()
            if any(module is end for end in ends)
            for kind in ("weight", "bias")
        }
        self.edits: dict[str, list[Edit]] = {}
        for name, own in adapter.replaced.items():
            self._replace(name, own)
        self.targets = [(update, self._target(update)) for update in adapter.updates]
        _Wanted(adapter, self.modules, self.published, model).refuse_differences(self.targets)
        for update, target in self.targets:
            self._update(update, target)

    def doubt(self) -> str:
        """What the adapter may have been trained with in place of what its file says; empty where nothing is open."""
        found = {
            target.words: two for _, target in self.targets if (two := rivals(self.adapter, target.words))
        }
        if not found:
            return ""
        module, (first, second) = next(iter(found.items()))
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return (
            f"{first!r} and {second!r} in alpha_pattern both match {module}{more}, with two values: the first counts, "
            "as in peft, which sorts patterns as it saves them. If the other came first in training, write it first in "
            "adapter_config.json"
        )

    def merge(self, base: Checkpoint) -> Iterator[tuple[str, NDArray[np.float32] | None]]:
        """Yield each of the base's float tensors once."""
        stored = WeightLayout(self.model, base.tensors)
        self._check_ties(base, stored)
        seen: set[TensorGroup] = set()
        for first in stored.groups:
            if first in seen:
                continue
            # What the base has apart may be one tensor of what is published, and the adapter changes that.
            own = [name for n in first.own for name in self.published.of_own[n].own if name in stored.of_own]
            groups = dict.fromkeys(stored.of_own[name] for name in own)
            seen.update(groups)
            yield from self._merged(base, stored, list(groups))

    def _merged(
        self, base: Checkpoint, stored: WeightLayout, groups: list[TensorGroup]
    ) -> Iterator[tuple[str, NDArray[np.float32] | None]]:
        files = [name for group in groups for name in group.files]
        own = [name for group in groups for name in group.own]
        theirs = {name for n in own for name in self.published.of_own[n].files} - self.published.of_own.keys()
        changed = self.edits.keys() & {*own, *theirs}
        # Where each tensor that is changed is one of the base's files, nothing needs to be converted.
        places = [(g.files[0], g.own[0]) for g in groups if g.converter is None]
        places += [(name, name) for name in theirs if name in stored.of_file]
        there = {file: name for file, name in places if name in changed}
        if len(there) == len(changed):
            for n in files:
                yield n, self._edited(there[n], _read(base, n)).numpy() if n in there else None
            return
        # To the model's tensors, and from there on to the published ones where the adapter changes these; then back.
        tensors = self._exactly({file: _read(base, file) for file in files}, stored.to_model, stored.to_files)
        tensors = {name: self._edited(name, values) for name, values in tensors.items()}
        if changed & theirs:
            tensors = self._exactly(tensors, self.published.to_files, self.published.to_model)
            tensors = {n: self._edited(n, values) if n in theirs else values for n, values in tensors.items()}
            tensors = self.published.to_model(tensors)
        yield from ((n, values.contiguous().numpy()) for n, values in stored.to_files(tensors).items())

    def _exactly(
        self, tensors: Mapping[str, torch.Tensor], there: Conversion, back: Conversion
    ) -> dict[str, torch.Tensor]:
        """Tensors in another layout.

        Raises:
            CheckpointError: They do not come back as they were: then the vector would hold more than the adapter.
        """
        made = there(tensors)
        found = back(made)
        for name, values in tensors.items():
            if name not in found or not torch.equal(found[name], values):
                what = f"the adapter cannot be merged: transformers changes {name} while it loads or saves a model"
                hint = "merge it with peft, save the model, and name that folder in `checkpoint`"
                raise CheckpointError(what, where=self.adapter.where, hint=hint)
        return made

    def _edited(self, name: str, values: torch.Tensor) -> torch.Tensor:
        for edit in self.edits.get(name, ()):
            values = edit(values)
        return values

    def _check_ties(self, base: Checkpoint, stored: WeightLayout) -> None:
        """Refuse an adapter after which embeddings and head are no longer one, as the base has them."""
        for twin, name in self.model.all_tied_weights_keys.items():
            if not {twin, name} & self.edits.keys():
                continue
            if self.adapter.config.get("ensure_weight_tying"):
                self.edits.setdefault(name, self.edits.get(twin, []))
                self.edits.setdefault(twin, self.edits[name])
            values = _read(base, stored.of_own[name].files[0])
            if not torch.equal(self._edited(name, values), self._edited(twin, values)):
                raise CheckpointError(
                    "added to the base, the adapter computes something else: it changes embeddings or a head that "
                    "the base ties to each other",
                    where=self.adapter.where,
                    hint="train it without embed_tokens and lm_head",
                )
            self.edits.pop(twin, None)

    def _target(self, update: Update) -> _Target:
        """What an update adds to.

        Raises:
            CheckpointError: Nothing that the base has.
        """
        wrapped = _parameters_of(self.adapter, self.modules.get(update.path), update.path)
        if wrapped and update.depth < len(wrapped):  # the first is wrapped first, and lies innermost
            name = wrapped[len(wrapped) - 1 - update.depth]
            return _Target(name, name)
        name = f"{update.path}.weight"
        if name not in self.shapes or update.depth:
            what = f"the adapter does not fit the base: it changes {update.path}, which the base has not"
            raise CheckpointError(what, where=self.adapter.where, hint=OF_THIS_BASE)
        return _Target(name, update.path)

    def _add(self, name: str, edit: Edit) -> None:
        """Note an edit, under the model's own name where that is another of the same tensor: ties are told by these."""
        group = self.published.of_file.get(name)
        if group and group.converter is None and name not in self.published.of_own:
            name = group.own[0]
        self.edits.setdefault(name, []).append(edit)

    def _read(self, name: str) -> torch.Tensor:
        values = _read(self.weights, name)
        if not torch.isfinite(values).all():
            hint = "its training diverged, or its file is damaged: take another"
            what = f"{name} of the adapter holds values that are not finite"
            raise CheckpointError(what, where=self.adapter.where, hint=hint)
        return values

    def _replace(self, name: str, own: str) -> None:
        """Note that a tensor of the base becomes the adapter's."""
        made = self.adapter.shapes[own]
        if name not in self.shapes:
            what = f"the adapter does not fit: the base has no place for {own}"
            raise CheckpointError(what, where=self.adapter.where, hint=OF_THIS_BASE)
        rows = self._rows(name, made)
        self._add(name, lambda values: _on_rows(values, rows, lambda _: self._read(own)))

    def _update(self, update: Update, target: _Target) -> None:
        """Note what an update does to its weight, and to a bias."""
        stored = self.shapes[target.name]
        if len(stored) == EXPERTS:
            self._add(target.name, self._of_experts(update, target, stored))
            return
        scale = scale_of(self.adapter, target.words, update.rank)
        module = self.modules.get(update.path)
        transposed = update.embedding or isinstance(module, Conv1D)
        rows = self._rows(target.name, update.shape[::-1] if transposed else update.shape)
        if update.embedding is not isinstance(module, torch.nn.Embedding):
            raise misfit(self.adapter, target.name, update.shape, stored)

        def edit(values: torch.Tensor) -> torch.Tensor:
            # LoRA (Hu et al. 2021, arXiv 2106.09685), in float32 whatever the adapter is stored in: nothing is rounded
            # before the vector is.
            product = self._read(update.b) @ self._read(update.a)
            delta = (product.T if transposed else product) * scale
            if update.magnitude is None:
                return values + delta
            # DoRA (Liu et al. 2024, arXiv 2402.09353): each output (of an embedding, each of its channels) has a length
            # of its own, and the sum has only the direction.
            magnitude, across = self._read(update.magnitude), 0 if transposed else 1
            moved = values + delta
            factor: torch.Tensor = magnitude / moved.norm(dim=across)
            return moved * (factor.view(1, -1) if transposed else factor.view(-1, 1))

        self._add(target.name, lambda values: _on_rows(values, rows, edit))
        if update.bias is not None:
            self._add_bias(f"{update.path}.bias", update.bias, scale)

    def _add_bias(self, name: str, own: str, scale: float) -> None:
        if name not in self.shapes:
            what = f"the adapter cannot be merged: it adds a bias, and the base has no {name}"
            raise CheckpointError(what, where=self.adapter.where, hint=OF_THIS_BASE)
        rows = self._rows(name, self.adapter.shapes[own])
        self._add(name, lambda values: _on_rows(values, rows, lambda kept: kept + self._read(own) * scale))

    def _of_experts(self, update: Update, target: _Target, stored: tuple[int, ...]) -> Edit:
        """What adds to the matrices of all experts, which peft keeps as one A and one B."""
        experts = stored[0]
        turned = bool(getattr(self.modules.get(update.path), "is_transposed", False))
        rank, odd = divmod(update.rank, experts)
        if (
            odd
            or stored[1:] != (update.shape[::-1] if turned else update.shape)
            or update.magnitude
            or update.bias
        ):
            raise misfit(self.adapter, target.name, update.shape, stored)
        scale = scale_of(self.adapter, target.words, rank)
        # peft's own order: in A an expert's rows lie together, and in B the experts' columns lie in turn.
        axes = "ore,eri->eio" if turned else "ore,eri->eoi"

        def edit(values: torch.Tensor) -> torch.Tensor:
            a = self._read(update.a).reshape(experts, rank, -1)
            b = self._read(update.b).reshape(-1, rank, experts)
            return torch.einsum(axes, b, a).mul_(scale).add_(values)

        return edit

    def _rows(self, name: str, made: tuple[int, ...]) -> int:
        """How many rows of a tensor are changed: all, but for tokens that the base alone has.

        Raises:
            CheckpointError: Another shape than the base's.
        """
        stored = self.shapes[name]
        more = name in self.tokens and made[1:] == stored[1:] and made[0] < stored[0]
        if not more and made != stored:
            raise misfit(self.adapter, name, made, stored)
        if more:
            last = stored[0] - made[0]
            self.note(f"{name} has no rows for the last {last} tokens of the base, which stay as they are")
        return made[0]


def _read(weights: Checkpoint, name: str) -> torch.Tensor:
    return torch.from_numpy(weights.read(name))


def _on_rows(values: torch.Tensor, rows: int, edit: Edit) -> torch.Tensor:
    """Values whose first rows are edited."""
    if rows == len(values):
        return edit(values)
    return torch.cat([edit(values[:rows]), values[rows:]])


def _parameters_of(adapter: Adapter, module: Any, path: str) -> list[str]:
    """A module's tensors that the config names as parameters, in the module's order."""
    wanted = tuple(adapter.config.get("target_parameters") or ())
    if module is None or not wanted:
        return []
    names = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
    return [name for name in names if any(name == w or name.endswith(f".{w}") for w in wanted)]


class _Wanted:
    """What an adapter's config asks for."""

    def __init__(
        self, adapter: Adapter, modules: Mapping[str, Any], published: WeightLayout, model: Any
    ) -> None:
        self.adapter, self.modules, self.published, self.model = adapter, modules, published, model
        used: dict[str, Any] = {k: v for k in ADAPTER_KEYS if (v := adapter.config.get(k)) is not None}
        try:
            self.config = LoraConfig(**used)
        except (ValueError, TypeError) as error:
            what = f"the adapter's config is none of a LoRA: {str(error).partition(chr(10))[0]}"
            raise CheckpointError(what, where=adapter.where, hint=OF_THIS_BASE) from error

    def refuse_differences(self, targets: Iterable[tuple[Update, _Target]]) -> None:
        """Refuse weights that the config does not ask for, and a config that asks for more.

        Raises:
            CheckpointError: They are not one adapter's, or not of this base.
        """
        has = {target.words: update for update, target in targets}
        # Modules that were trained whole have all of their tensors in the adapter.
        saved = tuple(self.config.modules_to_save or ())
        paths = [path for path in self.modules if saved and path.endswith(saved)]
        whole = {f"{path}.{name}" for path in paths for name, _ in self.modules[path].named_parameters()}
        wanted = self._modules(has) | self._parameters() | whole
        if self.config.target_modules and not has and not self.adapter.replaced:
            wanted = wanted or {str(self.config.target_modules)}
        if missing := sorted(name for name in wanted - has.keys() if not self._replaces(name)):
            self._refuse(f"its config asks for {len(missing)} weights that it lacks, first of {missing[0]}")
        if odd := sorted(words for words in has if not self._asks_for(words)):
            self._refuse(f"its config has no place for {len(odd)} of its weights, first {has[odd[0]].a}")

    def _replaces(self, name: str) -> bool:
        """Whether the adapter has a tensor of the base whole, under this name or those of published files."""
        replaced, group = self.adapter.replaced, self.published.of_own.get(name)
        return name in replaced or (group is not None and all(file in replaced for file in group.files))

    def _refuse(self, what: str) -> None:
        raise CheckpointError(
            f"the adapter does not fit: {what}", where=self.adapter.where, hint=OF_THIS_BASE
        )

    def _asks_for(self, words: str) -> bool:
        if words in self._parameters() or self.config.target_modules is None:
            return True
        if str(self.config.target_modules).lower() == ALL_LINEAR:
            module = self.modules.get(words)  # all but the head
            return module is None or module is not self.model.get_output_embeddings()
        return bool(check_target_module_exists(self.config, words))

    def _modules(self, has: Mapping[str, object]) -> set[str]:
        """The modules that the config means; experts that are one tensor now, where it has weights of them."""
        if self.config.target_modules is None:
            return set()
        kinds = (torch.nn.Linear, Conv1D)
        if str(self.config.target_modules).lower() != ALL_LINEAR:
            kinds = (*kinds, torch.nn.Embedding)  # type: ignore[assignment]
        found = {path for path, module in self.modules.items() if isinstance(module, kinds)}
        apart = {
            name.removesuffix(".weight")
            for name in self.published.of_file
            if name.endswith(".weight") and name.removesuffix(".weight") not in self.modules
        }
        found |= apart if apart & has.keys() else set()
        return {path for path in found if self._asks_for(path)}

    def _parameters(self) -> set[str]:
        each = (_parameters_of(self.adapter, module, path) for path, module in self.modules.items())
        return {name for names in each for name in names}
