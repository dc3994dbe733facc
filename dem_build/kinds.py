"""The table of actions: each kind's VERSION, parameters, inputs and outputs. Torch-free.

The key of an action is the SHA-256 of its preimage, a canonical JSON document made here and nowhere else:

    {"dem": 1, "kind", "version", "params", "inputs": [{"of", "sha256", "omega"?}], "sources": [{"tag", "sha256"}]}

`inputs` are outputs of other actions, each tagged with what it is of; `sources` are files from outside. Inputs that
belong together (a dataset's vector and its validation rows) stand in `groups` instead, each with what is said of it
alone: `[{"params", "inputs"}]`. No path, time, or name that only people read ever enters.
Bump a kind's `version` when a change of ours changes its results.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build import digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from dem_build.digest import JSON, Digest

__all__ = [
    "KINDS",
    "GroupDigest",
    "HubFile",
    "Kind",
    "SourceFile",
    "TakenDigest",
    "key_of",
    "measured",
    "preimage",
]

PREIMAGE_VERSION = 1


@dataclass(frozen=True)
class Kind:
    """What one kind of action is.

    Attributes:
        family: The kind's word in plans (`import`, `prepare`, `finetune`, `extract`, `compose` …).
        version: Bumped when the same preimage would give other results than before.
        module: The step's module; its `run` does the work.
        params: Every parameter that enters the key.
        outputs: Names of what it makes.
        added: Parameters added after the kind's first release → their neutral value, at which they are left out.
        optional: Parameters left out where they do not apply.
        weighted: The tag of inputs that carry an ω: taken in the order of their digests, ω of equal ones summed.
        device: Whether it runs a model, and so wants a GPU where there is one.
        measures: An output that holds what was measured of the inputs outside groups, and says of which groups. It is
            of use to another action of the kind that measures the same for another end, or with other groups.
        measured_since: The first version that measured as this one does.
        light: Whether its step imports nothing that takes seconds (torch, transformers …). Its action then waits for no
            worker to start: a copy of the driver's own process runs it.
    """

    family: str
    version: int
    module: str
    params: tuple[str, ...]
    outputs: tuple[str, ...]
    added: Mapping[str, JSON] = field(default_factory=lambda: MappingProxyType({}))
    optional: frozenset[str] = frozenset()
    weighted: str | None = None
    device: bool = False
    measures: str | None = None
    measured_since: int = 1
    light: bool = False


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "import": Kind(
            family="import",
            # 2: the tokens are those of tokenizer.json; what transformers keeps in float32 stays so
            version=2,
            module="dem_build.actions.base.run",
            params=("source", "dtype"),
            outputs=("weights", "config", "tokenizer", "generation_config"),
            # The recipe's chat template is a source.
            added=MappingProxyType({"pad_token": None, "added_tokens": []}),
        ),
        "prepare": Kind(
            family="prepare",
            # 2: nulls of parquet are nothing, and `system`, `history`, `train` … are heeded
            version=2,
            module="dem_build.actions.prepare.run",
            params=(
                "format",
                "columns",
                "chat",
                "system",
                "loss",
                "max_length",
                "on_overflow",
                "validation",
                "test",
                "max_samples",
            ),
            outputs=("train", "validation", "test"),
            added=MappingProxyType({"group_by": None}),
            optional=frozenset({"columns", "chat", "system", "loss", "max_samples"}),
        ),
        "mix": Kind(
            family="mix",
            version=2,  # 2: datasets of the same rows are drawn from as one
            module="dem_build.actions.mix.run",
            # How long its training is; without any of them, as long as all of its groups' together.
            params=("epochs", "sequences", "pack"),
            outputs=("train", "validation"),
            optional=frozenset({"epochs", "sequences", "pack"}),
            light=True,
        ),
        "finetune": Kind(
            family="finetune",
            version=1,
            module="dem_build.actions.finetune.run",
            params=(
                "method",
                "optim",
                "adam_beta1",
                "adam_beta2",
                "adam_epsilon",
                "learning_rate",
                "num_train_epochs",
                "max_steps",
                "global_batch_size",
                "bf16",
                "lr_scheduler_type",
                "warmup_steps",
                "weight_decay",
                "max_grad_norm",
                "vector_dtype",
                "seed",
            ),
            outputs=("delta",),
            # max_length reaches an unpacked vector through its data alone.
            added=MappingProxyType(
                {
                    "packing": False,
                    "max_length": None,
                    "eval_steps": 0,
                    "load_best_model_at_end": False,
                    "early_stopping_patience": None,
                }
            ),
            optional=frozenset(
                {"num_train_epochs", "max_steps", "adam_beta1", "adam_beta2", "adam_epsilon", "warmup_steps"}
            ),
            device=True,
        ),
        "extract": Kind(
            family="extract",
            version=1,
            module="dem_build.actions.extract.run",
            params=("source", "vector_dtype"),
            outputs=("delta",),
            # Of an adapter: by its formula, since peft scales those of experts wrongly.
            added=MappingProxyType({"merged_by": "peft"}),
        ),
        "tune": Kind(
            family="tune",
            version=5,  # 5: looks for other optima; ω follow from the inputs, whatever other searches measured
            module="dem_build.actions.tune.run",
            params=("search", "objective", "granularity", "max_samples", "bounds", "dtype"),
            outputs=("omega", "trace", "passes"),
            device=True,
            measures="passes",
            measured_since=5,  # earlier ones do not say what each pass was measured under
        ),
        "compose": Kind(
            family="compose",
            version=1,
            module="dem_build.actions.compose.run",
            params=("method", "dtype"),
            outputs=("weights", "config", "tokenizer", "generation_config"),
            weighted="delta",
            light=True,
        ),
        "analysis": Kind(
            family="analyze",
            version=1,
            module="dem_build.actions.analysis.run",
            params=(),
            outputs=("tables",),
            weighted="delta",
            light=True,
        ),
        "response": Kind(
            family="analyze",
            version=1,
            module="dem_build.actions.response.run",
            params=("omegas", "max_samples"),
            outputs=("curves",),
            device=True,
        ),
        "ladder": Kind(
            family="analyze",
            version=4,  # 4: other models of the losses
            module="dem_build.actions.ladder.run",
            params=("objective", "max_samples", "bounds", "test_samples"),
            outputs=("rungs",),
            device=True,
        ),
        "tsne": Kind(
            family="analyze",
            version=1,
            module="dem_build.actions.tsne.run",
            params=("max_samples", "dtype"),
            outputs=("map",),
            device=True,
        ),
        "loss": Kind(
            family="evaluate",
            version=1,
            module="dem_build.actions.loss.run",
            params=("dtype",),
            outputs=("metrics", "rows"),
            device=True,
        ),
        "sample": Kind(
            family="evaluate",
            version=1,
            module="dem_build.actions.sample.run",
            # Texts, or how many held-out rows; an answer is always the likeliest one.
            params=("prompts", "max_new_tokens", "dtype"),
            outputs=("answers",),
            device=True,
        ),
        "task": Kind(
            family="evaluate",
            version=2,  # 2: special tokens are those of training, in every kind of request
            module="dem_build.actions.task.run",
            params=(
                "task",
                "num_fewshot",
                "limit",
                "apply_chat_template",
                "dtype",
                "lm_eval",
                "dataset_revision",
            ),
            outputs=("metrics", "samples"),
            optional=frozenset({"num_fewshot", "limit", "dataset_revision"}),
            device=True,
        ),
    }
)


@dataclass(frozen=True, order=True)
class TakenDigest:
    """An output that an action takes: what it is of, its digest, and its ω where it has one."""

    of: str
    digest: Digest
    omega: float | None = None


@dataclass(frozen=True)
class GroupDigest:
    """Inputs that belong together, and what is said of them alone. Its name is for people, and enters no key."""

    name: str
    params: Mapping[str, JSON]
    inputs: tuple[TakenDigest, ...]

    @property
    def order(self) -> bytes:
        """What the groups of a preimage are sorted by: their documents' canonical bytes."""
        return digest.canonical(self.document())

    def document(self) -> dict[str, JSON]:
        """Return the group as a preimage has it."""
        params = {name: value for name, value in self.params.items() if value is not None}
        return {"params": params, "inputs": [_input(i) for i in sorted(self.inputs)]}


@dataclass(frozen=True, order=True)
class HubFile:
    """A file on a hub, which a step downloads when it needs it.

    Attributes:
        kind: Of repository: `dataset` or `model`.
        repo: Its name, `org/name`.
        commit: The commit that the lock pins.
        name: The file's path in the repository.
    """

    kind: str
    repo: str
    commit: str
    name: str

    @property
    def origin(self) -> str:
        """What messages call its repository."""
        return f"{self.repo} at {self.commit[:8]}"


@dataclass(frozen=True, order=True)
class SourceFile:
    """A file from outside the store. Its tag (a file name that means something, or a type) and digest enter keys.

    Attributes:
        tag: What the file is to the action: `config.json`, `jsonl`, `arc_easy.yaml` …
        digest: SHA-256 of its bytes.
        path: Where it is on this machine; of a file on a hub, its path there until it is downloaded. Never hashed.
        hub: Where it lies on a hub; None for a file of the user's.
    """

    tag: str
    digest: Digest
    path: Path = field(compare=False)
    hub: HubFile | None = field(default=None, compare=False)

    @property
    def origin(self) -> str:
        """What messages call that which the file is a part of: its folder, or its repository at a commit."""
        return str(self.path.parent) if self.hub is None else self.hub.origin


def preimage(
    kind: str,
    params: Mapping[str, JSON],
    inputs: Iterable[TakenDigest | GroupDigest],
    sources: Iterable[SourceFile] = (),
    salt: str | None = None,
) -> dict[str, JSON]:
    """Return the document whose hash is the action's key.

    Raises:
        ValueError: A parameter that the kind's table does not declare, or lacks: a mistake in dem itself.
    """
    spec = KINDS[kind]
    taken = list(inputs)
    document: dict[str, JSON] = {
        "dem": PREIMAGE_VERSION,
        "kind": kind,
        "version": spec.version,
        "params": _params(kind, spec, params),
        "inputs": [_input(i) for i in _ordered(spec, [i for i in taken if isinstance(i, TakenDigest)])],
        "sources": [{"tag": s.tag, "sha256": s.digest} for s in sorted(sources)],
    }
    if grouped := sorted((i for i in taken if isinstance(i, GroupDigest)), key=lambda group: group.order):
        document["groups"] = [group.document() for group in grouped]
    return document if salt is None else document | {"salt": salt}


def measured(document: Mapping[str, JSON]) -> Digest | None:
    """Return a hash of what actions of a kind have in common that can use each other's measurements.

    None where the kind, or that version of it, measures nothing that is of use.
    """
    spec = KINDS.get(document["kind"])
    if spec is None or spec.measures is None:
        return None
    if not spec.measured_since <= document["version"] <= spec.version:
        return None
    salt = [document["salt"]] if "salt" in document else []  # what is disowned is not taken over either
    return digest.of_json([document["kind"], document["inputs"], document["sources"], *salt])


def key_of(document: Mapping[str, JSON]) -> Digest:
    """Return the key that belongs to a preimage."""
    return digest.of_json(dict(document))


def _params(kind: str, spec: Kind, params: Mapping[str, JSON]) -> dict[str, JSON]:
    declared = {*spec.params, *spec.added}
    if unknown := set(params) - declared:
        raise ValueError(f"{kind}: parameters not declared in kinds.py: {sorted(unknown)}")
    if missing := set(spec.params) - spec.optional - set(params):
        raise ValueError(f"{kind}: parameters without a value: {sorted(missing)}")
    return {
        name: value
        for name, value in params.items()
        if not (name in spec.optional and value is None)
        and not (name in spec.added and value == spec.added[name])
    }


def _ordered(spec: Kind, inputs: Iterable[TakenDigest]) -> list[TakenDigest]:
    """Order inputs by tag and digest; sum the ω of equal digests and drop terms of ω = 0."""
    plain: set[TakenDigest] = set()
    omegas: dict[Digest, list[float]] = {}
    for taken in inputs:
        if taken.of == spec.weighted and taken.omega is not None:
            omegas.setdefault(taken.digest, []).append(taken.omega)
        else:
            plain.add(taken)  # a vector that is there twice is one; its ω come from elsewhere
    # fsum rounds once: the order in the file must not matter, and `sum` differs between Python 3.11 and 3.12.
    sums = {d: math.fsum(ws) for d, ws in omegas.items()}
    terms = [TakenDigest(spec.weighted or "", d, w) for d, w in sums.items() if w != 0]
    return sorted(plain) + sorted(terms)


def _input(taken: TakenDigest) -> dict[str, JSON]:
    document: dict[str, JSON] = {"of": taken.of, "sha256": taken.digest}
    return document if taken.omega is None else document | {"omega": taken.omega}
