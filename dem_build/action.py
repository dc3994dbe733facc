"""What an action is: its kind, what it takes, and the key that is made of both. Torch-free.

The key of an action is the SHA-256 of its preimage, a canonical JSON document made here and nowhere else:

    {"dem": 1, "kind", "version", "params", "inputs": [{"of", "sha256", "omega"?}], "sources": [{"tag", "sha256"}]}

`inputs` are outputs of other actions, each tagged with what it is of; `sources` are files from outside. Inputs that
belong together (a dataset's vector and its validation rows) stand in `groups` instead, each with what is said of it
alone: `[{"params", "inputs"}]`. No path, time, or name that only people read ever enters.

Rows of which several have one prompt have `"unit": "prompt"` beside their digest, where standard errors are of them.
Nothing new is said of them by that, it follows from their bytes; but such rows have keys of their own by it.

The kinds themselves are in `actions/`, a folder each, and `actions.KINDS` has them all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from dem_build import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from dem_build.digest import JSON, Digest
    from dem_build.workload import Workload

PREIMAGE_VERSION = 1

BASE = "base"
TUNE = "tune"
MODEL = "model"
COMPOSED = "composed"
TRUNK = "trunk"
HEAL = "heal"
UNHEALED = "unhealed"
OF_A_VECTOR = ("gram", "saliency")
"""What some ways to compose ask of each vector, as the first part of an action's name: it is of that vector alone."""
MODEL_PARTS = ("weights", "config", "tokenizer", "generation_config")


@dataclass(frozen=True, eq=False)
class Kind:
    """What one kind of action is: a row of `actions.KINDS`, made by the `spec.py` of its folder.

    Attributes:
        name: In keys and records: `finetune`.
        module: The folder's `run`; its `run(inputs, params, context)` does the work.
        family: Its word in plans (`import`, `prepare`, `finetune`, `extract`, `compose` …).
        version: Raised when the same preimage gives other results than before.
        params: Every parameter that enters the key.
        outputs: Names of what it makes.
        added: Parameters added after the kind's first release → their neutral value, at which they are left out.
        optional: Parameters left out where they do not apply.
        weighted: The tag of inputs that carry an ω: taken in the order of their digests, ω of equal ones summed.
        device: Whether it runs a model, and so wants a GPU where there is one.
        light: Whether its run imports nothing that takes seconds (torch, transformers …). Its action then waits for no
            worker to start: a copy of the driver's own process runs it.
        before_training: Whether no training starts while one of it is due: a mistake in data is found within minutes.
        resumes: Whether a run of it that was stopped leaves something that the next one goes on from.
        trains: Whether it holds gradients and the states of an optimizer.
        streams: Whether it has a model in memory one layer at a time, and never whole.
        writes_model: Whether it writes a model or a vector; what the others write is small beside them.
        measures: An output that holds what was measured of the inputs outside groups, and says of which groups. It is
            of use to another action of the kind that measures the same for another end, or with other groups.
        measured_since: The first version that measured as this one does.
        sampled: Tags of rows that standard errors of its results are of; those of one prompt count as one there.
        chooses: Whether a choice follows from an input, so that nothing is judged fairly on its rows; None for never.
        work: What its time goes by; None where nothing tells of it before it runs.
        slopes: Of what makes candidates of base and vectors and looks at them: whether it takes derivatives. None for
            what looks at none.
        gradients: How many gradients of all parameters it holds beside such a model.
        unfit: What a user can do where that, or a candidate, does not fit into memory.
    """

    name: str
    module: str
    family: str
    version: int
    params: tuple[str, ...]
    outputs: tuple[str, ...]
    added: Mapping[str, JSON] = field(default_factory=lambda: MappingProxyType({}))
    optional: frozenset[str] = frozenset()
    weighted: str | None = None
    device: bool = False
    light: bool = False
    before_training: bool = False
    resumes: bool = False
    trains: bool = False
    streams: bool = False
    writes_model: bool = False
    measures: str | None = None
    measured_since: int = 1
    sampled: frozenset[str] = frozenset()
    chooses: Callable[[Action, Input[Edge]], bool] | None = None
    work: Workload | None = None
    slopes: Callable[[Action], bool] | None = None
    gradients: int = 0
    unfit: str | None = None

    def measured(self, document: Mapping[str, JSON]) -> Digest | None:
        """A hash of what actions of this kind have in common that can use each other's measurements.

        Args:
            document: The preimage of one.

        Returns:
            None where the kind, or the version that made it, measures nothing that is of use.
        """
        version = document.get("version")
        # A cache may be anybody's, and a record's kind another than its preimage's.
        if self.measures is None or document.get("kind") != self.name or not isinstance(version, int):
            return None
        if not self.measured_since <= version <= self.version:
            return None
        salt = [document["salt"]] if "salt" in document else []  # what is disowned is not taken over either
        return digest.of_json([self.name, document.get("inputs"), document.get("sources"), *salt])


class HasDigest(Protocol):
    """An output of the store, or a file in a run: all that a key asks of an input."""

    @property
    def digest(self) -> Digest:
        """The digest."""
        ...


At = TypeVar("At", covariant=True)  # noqa: PLC0105  `Input[At]` is read as a preposition
To = TypeVar("To")


@dataclass(frozen=True)
class Input(Generic[At]):
    """An output that an action takes, the same from a recipe to a tensor but for where it is.

    Attributes:
        of: What it is to the action: `base/weights`, `delta`, `data/train` …
        at: Where it is: an `Edge` of the graph, once that is made an `Output` of the store, in a run a file.
        omega: Its ω where it has one.
        group: Which of the action's groups it belongs to.
        watched: Whether the action only looks on with it: no result follows from it, and it enters no key.
    """

    of: str
    at: At
    omega: float | None = None
    group: str | None = None
    watched: bool = False

    def moved(self, to: To) -> Input[To]:
        """The same input at another place."""
        return Input(self.of, to, self.omega, self.group, self.watched)


@dataclass(frozen=True)
class Edge:
    """One output of one action: `vector:math/delta`."""

    action: str
    output: str

    def __str__(self) -> str:
        return f"{self.action}/{self.output}"


@dataclass(frozen=True, order=True)
class HubFile:
    """A file on a hub, which a run downloads when it needs it.

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
        absent: Whether a file of the user's is not on this machine: a lock tells its digest.
        size: Its bytes, where a lock tells them of a file on a hub.
        rows: About how many rows it has, where a lock tells that of a file on a hub.
    """

    tag: str
    digest: Digest
    path: Path = field(compare=False)
    hub: HubFile | None = field(default=None, compare=False)
    absent: bool = field(default=False, compare=False)
    size: int | None = field(default=None, compare=False)
    rows: int | None = field(default=None, compare=False)

    @property
    def origin(self) -> str:
        """What messages call that which the file is a part of: its folder, or its repository at a commit."""
        return str(self.path.parent) if self.hub is None else self.hub.origin


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation is about: a model of the recipe, and the task's name in results (`loss:math`, `arc_easy`)."""

    model: str
    task: str


@dataclass(frozen=True)
class Action:
    """One node of the graph. Its name is for people; its key is made of everything else.

    Attributes:
        name: `base`, `data:math`, `vector:math`, `model`, `loss:composed:math`, `eval:composed:arc_easy` …
        kind: What it is.
        params: What the recipe says, after defaults.
        takes: Outputs of other actions.
        sources: Files from outside the store.
        salt: Disowns a generation of results.
        evaluation: What it evaluates, None for all other actions.
        runs_code: Whether it executes a local task file, which needs the user's word.
        watching: Parameters that only make an action look on, and enter no key.
        groups: Inputs that belong together, by a name for people → what is said of them alone.
    """

    name: str
    kind: Kind
    params: Mapping[str, JSON]
    takes: tuple[Input[Edge], ...] = ()
    sources: tuple[SourceFile, ...] = ()
    salt: str | None = None
    evaluation: Evaluation | None = None
    runs_code: bool = False
    watching: Mapping[str, JSON] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)

    @cached_property
    def upstream(self) -> tuple[str, ...]:
        """Names of the actions whose outputs it takes, each once."""
        return tuple(dict.fromkeys(t.at.action for t in self.takes))

    def starting_from(self, model: str) -> Action:
        """The same action with another model where it takes the base.

        Args:
            model: The action that makes that model.
        """
        takes = (t.moved(Edge(model, t.at.output)) if t.of.startswith("base/") else t for t in self.takes)
        return replace(self, takes=tuple(takes))

    def called(self, name: Callable[[str], str]) -> Action:
        """The same action, and those that it takes from, under other names."""
        takes = (t.moved(Edge(name(t.at.action), t.at.output)) for t in self.takes)
        return replace(self, name=name(self.name), takes=tuple(takes))

    def salted(self, salt: str | None) -> Action:
        """The same action of another generation of results."""
        return self if salt == self.salt else replace(self, salt=salt)


def preimage(action: Action, inputs: Iterable[Input[HasDigest]]) -> dict[str, JSON]:
    """The document whose hash is the key of an action.

    Args:
        action: The action.
        inputs: What it takes, made. What it only looks on with is left out.

    Raises:
        ValueError: A parameter that the kind does not declare, or lacks, or an input of a group that is none of the
            action's, which would be in no key: a mistake in dem itself.
    """
    kind = action.kind
    taken = [i for i in inputs if not i.watched]
    if stray := {i.group for i in taken} - {None, *action.groups}:
        raise ValueError(f"{action.name}: inputs of groups that it has not: {sorted(map(str, stray))}")
    document: dict[str, JSON] = {
        # Whatever is added here makes every key another one, and with that every cache out there one of misses.
        "dem": PREIMAGE_VERSION,
        "kind": kind.name,
        "version": kind.version,
        "params": _params(kind, action.params),
        "inputs": _terms(kind, [i for i in taken if i.group is None]),
        "sources": [{"tag": s.tag, "sha256": s.digest} for s in sorted(action.sources)],
    }
    if action.groups:
        document["groups"] = [group for _, group in grouped(taken, action.groups, kind.sampled)]
    return document if action.salt is None else document | {"salt": action.salt}


def grouped(
    inputs: Iterable[Input[HasDigest]],
    groups: Mapping[str, Mapping[str, JSON]],
    sampled: Collection[str] = frozenset(),
) -> list[tuple[str, dict[str, JSON]]]:
    """The name of each group and the group as a preimage has it, sorted by their canonical bytes: no name enters."""
    taken: dict[str | None, list[Input[HasDigest]]] = {}
    for found in inputs:
        if not found.watched:
            taken.setdefault(found.group, []).append(found)
    documents = [
        (
            name,
            {
                "params": {param: value for param, value in said.items() if value is not None},
                "inputs": [_input(i, sampled) for i in sorted(taken.get(name, ()), key=_order)],
            },
        )
        for name, said in groups.items()
    ]
    return sorted(documents, key=lambda group: digest.canonical(group[1]))


def key_of(document: Mapping[str, JSON]) -> Digest:
    """The key that belongs to a preimage."""
    return digest.of_json(dict(document))


def _params(kind: Kind, params: Mapping[str, JSON]) -> dict[str, JSON]:
    declared = {*kind.params, *kind.added}
    if unknown := set(params) - declared:
        raise ValueError(f"{kind.name}: parameters that its spec does not declare: {sorted(unknown)}")
    if missing := set(kind.params) - kind.optional - set(params):
        raise ValueError(f"{kind.name}: parameters without a value: {sorted(missing)}")
    # A parameter that came later is left out at the value which does what was done before it: old keys stay.
    return {
        name: value
        for name, value in params.items()
        if not (name in kind.optional and value is None)
        and not (name in kind.added and value == kind.added[name])
    }


def _terms(kind: Kind, inputs: Iterable[Input[HasDigest]]) -> list[dict[str, JSON]]:
    """Inputs by tag and digest; the ω of equal digests are summed, and terms of ω = 0 dropped."""
    plain: dict[tuple[str, Digest], dict[str, JSON]] = {}
    omegas: dict[Digest, list[float]] = {}
    for taken in inputs:
        if taken.of == kind.weighted and taken.omega is not None:
            omegas.setdefault(taken.at.digest, []).append(taken.omega)
        else:  # a vector that is there twice is one; its ω come from elsewhere
            plain[taken.of, taken.at.digest] = _input(taken, kind.sampled)
    # fsum rounds once: the order in the file must not matter, and `sum` differs between Python 3.11 and 3.12.
    sums = {d: math.fsum(ws) for d, ws in omegas.items()}
    terms = [{"of": kind.weighted, "sha256": d, "omega": sums[d]} for d in sorted(sums) if sums[d] != 0]
    return [plain[name] for name in sorted(plain)] + terms


def _order(taken: Input[HasDigest]) -> tuple[str, Digest]:
    return taken.of, taken.at.digest


def _input(taken: Input[HasDigest], sampled: Collection[str]) -> dict[str, JSON]:
    document: dict[str, JSON] = {"of": taken.of, "sha256": taken.at.digest}
    if taken.of in sampled and isinstance(taken.at, digest.Output) and taken.at.repeats:
        document["unit"] = "prompt"
    return document if taken.omega is None else document | {"omega": taken.omega}
