"""What trainings that are due will take, before they run: memory from shapes, time from earlier runs, disk.

Rough by nature: allocators, kernels and libraries are not counted. What cannot be known yet is None. Torch-free.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dem_build import hub
from dem_build.errors import DemError
from dem_build.plan import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON, Digest
    from dem_build.machine import Machine
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Record, Store

__all__ = ["Estimate", "Rows", "Shape", "estimates", "seen_tokens", "training_disk", "training_memory"]

BYTES = {"bfloat16": 2, "float32": 4}
MASTER = 4
STATES = {"adamw_torch_fused": 8, "adamw_8bit": 2, "adafactor": 0}
"""Bytes a parameter of an optimizer's state; adafactor's rows and columns are next to nothing."""
CHECKPOINTS = 3
"""Two are kept, and one more is being written."""


@dataclass(frozen=True)
class Shape:
    """What a decoder's memory follows from.

    Attributes:
        parameters: Of the whole model, tied ones once.
        layers: How many.
        hidden: Width of the residual stream.
        keys: Width of all key heads together.
        inner: Width inside of the MLP that a token goes through.
        vocabulary: Rows of the embedding.
    """

    parameters: int
    layers: int
    hidden: int
    keys: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, JSON], parameters: int | None = None) -> Shape | None:
        """Return the shape that a `config.json` describes; None where it uses other names.

        Args:
            config: The document.
            parameters: Their number where it is known; else it is that of a gated MLP and no biases.
        """
        hidden, layers = (
            _first(config, "hidden_size", "n_embd"),
            _first(config, "num_hidden_layers", "n_layer"),
        )
        heads, vocabulary = _first(config, "num_attention_heads", "n_head"), _first(config, "vocab_size")
        if not hidden or not layers or not heads or not vocabulary:
            return None
        head = _first(config, "head_dim") or hidden // heads
        keys = (_first(config, "num_key_value_heads") or heads) * head
        inner = _first(config, "intermediate_size", "n_inner") or 4 * hidden
        experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts") or 1
        if experts > 1:
            inner = _first(config, "moe_intermediate_size") or inner
        layer = 2 * hidden * (heads * head + keys) + 3 * hidden * inner * experts
        embeddings = 1 if config.get("tie_word_embeddings", True) else 2
        counted = layers * layer + embeddings * vocabulary * hidden
        active = (_first(config, "num_experts_per_tok") or 1) if experts > 1 else 1
        return cls(parameters or counted, layers, hidden, keys, inner * active, vocabulary)


@dataclass(frozen=True)
class Rows:
    """What a dataset's train split holds."""

    rows: int
    tokens: int
    trained_tokens: int


@dataclass(frozen=True)
class Estimate:
    """What one training is expected to take.

    Attributes:
        name: The action.
        memory: Bytes on the device, or of the process on a CPU; sequences as long as they may be.
        tokens: Tokens that it reads.
        seconds: Time, at the speed of earlier trainings of the same base on this host.
        disk: Bytes of the vector.
        scratch: Bytes of its checkpoints, which go when it is done.
    """

    name: str
    memory: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    disk: int | None = None
    scratch: int | None = None

    def document(self) -> dict[str, JSON]:
        """Return it as JSON."""
        return asdict(self)


def training_memory(
    shape: Shape, params: Mapping[str, JSON], machine: Machine, length: int, trained: float = 1.0
) -> int:
    """Return the bytes that a training needs: weights, gradients, optimizer, activations and logits.

    Args:
        shape: Of the base.
        params: Of the kind `finetune`.
        machine: Its micro-batch, and whether activations are computed again.
        length: Tokens of a sequence.
        trained: Share of the tokens that count; only they get logits.
    """
    width = 2 if params["bf16"] else 4
    weights = shape.parameters * (2 * MASTER + STATES[params["optim"]] + (2 if params["bf16"] else 0))
    tokens = min(machine.micro_batch, params["global_batch_size"]) * length
    attention = width * (6 * shape.hidden + 2 * shape.keys) + 2 * 4 * shape.hidden  # norms are in float32
    layer = attention + width * 4 * shape.inner
    kept = (
        shape.layers * width * shape.hidden + layer
        if machine.gradient_checkpointing
        else shape.layers * layer
    )
    logits = trained * shape.vocabulary * (2 * width + 3 * 4)  # and in float32, their softmax and gradient
    return int(weights + tokens * (kept + logits))


def training_disk(shape: Shape, params: Mapping[str, JSON]) -> tuple[int, int]:
    """Return the bytes of a vector, and of the checkpoints while it is trained."""
    checkpoint = MASTER + STATES[params["optim"]]
    best = MASTER if params.get("load_best_model_at_end") else 0
    return shape.parameters * BYTES[params["vector_dtype"]], shape.parameters * (
        CHECKPOINTS * checkpoint + best
    )


def seen_tokens(rows: Rows, params: Mapping[str, JSON]) -> int:
    """Return the tokens that a training reads: of its epochs, or of its steps."""
    if not params.get("max_steps"):
        return round(rows.tokens * (params.get("num_train_epochs") or 1))
    sequences = math.ceil(rows.tokens / params["max_length"]) if params.get("packing") else rows.rows
    steps: int = params["max_steps"] * params["global_batch_size"]
    return round(steps * rows.tokens / max(sequences, 1))


def estimates(plan: Plan, store: Store, machine: Machine) -> list[Estimate]:
    """Return an estimate for each training that is due, or may be; a plan without one reads nothing.

    Args:
        plan: What is due.
        store: Its records tell of the data, and of earlier trainings.
        machine: How this machine is to be used.
    """
    due = [v for v in plan.verdicts.values() if v.action.kind == "finetune" and v.status is not Status.HIT]
    if not due:
        return []
    base = plan.verdicts.get("base")
    shape = _shape(base, store) if base else None
    weights = base.record.outputs["weights"].digest if base and base.record else None
    speed = _speed(store.records(), weights)
    return [_estimate(verdict, plan, machine, shape, speed) for verdict in due]


def _estimate(
    verdict: Verdict, plan: Plan, machine: Machine, shape: Shape | None, speed: float | None
) -> Estimate:
    params = verdict.action.params
    data = next(plan.verdicts[t.edge.action] for t in verdict.action.takes if t.of == "data/train")
    rows = _rows(data.record) if data.record else None
    tokens = seen_tokens(rows, params) if rows else None
    seconds = tokens / speed if tokens and speed else None
    if shape is None:
        return Estimate(verdict.action.name, tokens=tokens, seconds=seconds)
    trained = rows.trained_tokens / max(rows.tokens, 1) if rows else 1.0
    memory = training_memory(shape, params, machine, data.action.params["max_length"], trained)
    return Estimate(verdict.action.name, memory, tokens, seconds, *training_disk(shape, params))


def _shape(base: Verdict, store: Store) -> Shape | None:
    """Return the base's shape: of its record, else of the config that it is imported from."""
    try:
        if base.record is not None:
            config = json.loads(store.read_bytes(base.record.outputs["config"]))
            return Shape.of(config, base.record.provenance.get("parameters"))
        sources = [source for source in base.action.sources if source.tag == "config.json"]
        paths = [hub.cached(s.hub) if s.hub is not None else s.path for s in sources]
        return Shape.of(json.loads(paths[0].read_text(encoding="utf-8"))) if paths and paths[0] else None
    except (OSError, ValueError, DemError):
        return None  # a build tells what is wrong with it; a plan goes on


def _rows(record: Record) -> Rows | None:
    train = record.provenance.get("splits", {}).get("train")
    return Rows(train["rows"], train["tokens"], train["trained_tokens"]) if train else None


def _speed(records: Iterable[Record], weights: Digest | None) -> float | None:
    """Return the tokens a second of the newest training of the same base on this host."""
    host = os.uname().nodename
    found = [
        record.provenance
        for record in records
        if weights and record.kind == "finetune" and record.provenance.get("host") == host
        if any(i["of"] == "base/weights" and i["sha256"] == weights for i in record.preimage["inputs"])
    ]
    newest = max(found, key=lambda p: str(p.get("finished")), default=None)
    if newest is None or not newest.get("device_seconds"):
        return None
    return float(newest["tokens"]["seen"] / newest["device_seconds"])


def _first(config: Mapping[str, JSON], *names: str) -> int | None:
    """Return the first of the names that has a number."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)
