"""What a graph is made of: actions, the outputs they take, and the whole of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dem_build.errors import UsageError
from dem_build.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.kinds import SourceFile

__all__ = [
    "ANALYSIS",
    "BASE",
    "COMPOSED",
    "LADDER",
    "MODEL",
    "MODEL_PARTS",
    "RESPONSE",
    "SAMPLE",
    "TSNE",
    "TUNE",
    "Action",
    "Edge",
    "Evaluation",
    "Graph",
    "Taken",
]

BASE = "base"
TUNE = "tune"
ANALYSIS = "analysis"
RESPONSE = "response"
LADDER = "ladder"
TSNE = "tsne"
SAMPLE = "sample"
MODEL = "model"
COMPOSED = "composed"
MODEL_PARTS = ("weights", "config", "tokenizer", "generation_config")


@dataclass(frozen=True)
class Edge:
    """One output of one action: `vector:math/delta`."""

    action: str
    output: str

    def __str__(self) -> str:
        return f"{self.action}/{self.output}"


@dataclass(frozen=True)
class Taken:
    """An output that an action takes.

    Attributes:
        of: What it is to the action.
        edge: The output.
        omega: Its ω where it has one.
        watched: Whether the action only looks on with it: no result follows from it, and it enters no key.
        group: Which of the action's groups it belongs to.
    """

    of: str
    edge: Edge
    omega: float | None = None
    watched: bool = False
    group: str | None = None


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
        kind: A row of `kinds.KINDS`.
        params: What the recipe says, after defaults.
        watching: Parameters that only make an action look on, and enter no key.
        groups: Inputs that belong together, by a name for people → what is said of them alone.
        takes: Outputs of other actions.
        sources: Files from outside the store.
        salt: Disowns a generation of results.
        evaluation: What it evaluates, None for all other actions.
        runs_code: Whether it executes a local task file, which needs the user's word.
    """

    name: str
    kind: str
    params: Mapping[str, JSON]
    takes: tuple[Taken, ...] = ()
    sources: tuple[SourceFile, ...] = ()
    salt: str | None = None
    evaluation: Evaluation | None = None
    runs_code: bool = False
    watching: Mapping[str, JSON] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, JSON]] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The kind's word in plans."""
        return KINDS[self.kind].family

    @property
    def upstream(self) -> tuple[str, ...]:
        """Names of the actions whose outputs it takes, each once."""
        return tuple(dict.fromkeys(t.edge.action for t in self.takes))


@dataclass(frozen=True)
class Graph:
    """All actions of a recipe, each after those it depends on.

    Attributes:
        actions: Name → action, in topological order.
        models: Name of a model in results (`composed`, `base`, `math`) → the action whose outputs it is.
        omega: Vector → ω, as the recipe says.
        baselines: Baseline → its method.
    """

    actions: Mapping[str, Action]
    models: Mapping[str, str] = field(default_factory=dict)
    omega: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions.values())

    def only(self, targets: Iterable[str]) -> Graph:
        """Return the part of the graph that `targets` depend on, themselves included.

        Raises:
            UsageError: A target that is no action of this graph.
        """
        wanted: set[str] = set()
        stack = list(targets)
        self.require(stack)
        while stack:
            name = stack.pop()
            if name not in wanted:
                wanted.add(name)
                stack.extend(self.actions[name].upstream)
        return replace(self, actions={n: a for n, a in self.actions.items() if n in wanted})

    def require(self, names: Iterable[str]) -> None:
        """Refuse a name that is no action of this graph, and say which was meant.

        Raises:
            UsageError: There is such a name.
        """
        for name in names:
            if name not in self.actions:
                hint = "`dem plan` lists them all"
                if meant := self._meant(name):
                    hint = f"did you mean {' or '.join(meant)}? {hint}"
                raise UsageError(f"there is no action {name!r} in this recipe", hint=hint)

    def _meant(self, name: str) -> list[str]:
        """Return the actions that a wrong name may stand for: of a dataset or vector of that name, else the nearest."""
        import difflib  # noqa: PLC0415  only for a mistake

        of = [action for action in self.actions if action.partition(":")[2] == name]
        return of or difflib.get_close_matches(name, list(self.actions), n=1)
