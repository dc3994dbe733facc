"""Recipe and lock → actions and the outputs they take. Pure: it reads no file and knows no record."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dem_build.errors import UsageError
from dem_build.kinds import KINDS
from dem_build.recipe import Tune

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.kinds import SourceFile
    from dem_build.lock import Lock, LockedTask
    from dem_build.recipe import Recipe, Source, Task, Train

__all__ = ["Action", "Edge", "Evaluation", "Graph", "Taken", "build_graph"]

BASE = "base"
TUNE = "tune"
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
    """

    actions: Mapping[str, Action]
    models: Mapping[str, str] = field(default_factory=dict)
    omega: Mapping[str, float] = field(default_factory=dict)

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
        return Graph({n: a for n, a in self.actions.items() if n in wanted}, self.models, self.omega)

    def require(self, names: Iterable[str]) -> None:
        """Refuse a name that is no action of this graph, and say which was meant.

        Raises:
            UsageError: There is such a name.
        """
        for name in names:
            if name not in self.actions:
                close = difflib.get_close_matches(name, list(self.actions), n=1)
                hint = (
                    f"did you mean {close[0]}? `dem plan` lists them all"
                    if close
                    else "`dem plan` lists them all"
                )
                raise UsageError(f"there is no action {name!r} in this recipe", hint=hint)


def build_graph(recipe: Recipe, lock: Lock) -> Graph:
    """Return the graph that a recipe and its lock describe."""
    actions = [_base(recipe, lock)]
    actions += [_data(recipe, name, lock) for name in recipe.datasets]
    actions += [_probe(recipe, name, lock) for name in recipe.probes]
    actions += [_vector(recipe, name) for name in recipe.datasets]
    actions += [_extracted(recipe, name, lock) for name in recipe.vectors]
    said = {n: v.omega for table in (recipe.datasets, recipe.vectors) for n, v in table.items()}
    omega = {name: float(value) for name, value in said.items() if value != "tune"}
    if len(omega) < len(said):
        actions += [_tune(recipe, omega), _compose_tuned(recipe, said)]
    else:
        actions.append(_compose(recipe, "model", omega))
    models = {COMPOSED: "model", BASE: BASE}
    if recipe.evaluate and "vectors" in recipe.evaluate.models:
        singles = [_compose(recipe, f"model:{name}", {name: 1.0}) for name in said]
        actions += singles
        models |= {a.name.removeprefix("model:"): a.name for a in singles}
    actions += _evaluations(recipe, lock, models)
    return Graph({a.name: a for a in actions}, models, omega)


def _base(recipe: Recipe, lock: Lock) -> Action:
    dtype = recipe.base.dtype
    if dtype is None and lock.base.source == "gguf":
        dtype = "bfloat16"  # blocks of integers become some float: it is chosen here, and part of the key
    params = {
        "source": lock.base.source,
        "dtype": dtype,
        "pad_token": recipe.base.pad_token,
        "added_tokens": list(recipe.base.added_tokens),
    }
    return Action(BASE, "import", params, sources=lock.base.files, salt=recipe.base.salt)


def _data(recipe: Recipe, name: str, lock: Lock) -> Action:
    dataset, train = recipe.datasets[name], recipe.train_of(name)
    params = _source_params(dataset, train) | {
        # Files held out whole are sources with a tag of their own: their names enter no key.
        "validation": dataset.validation if isinstance(dataset.validation, int | float) else 0.0,
        "test": dataset.test if isinstance(dataset.test, int | float) else 0.0,
        "group_by": dataset.group_by,
    }
    return _prepare(name, params, lock, dataset.salt)


def _probe(recipe: Recipe, name: str, lock: Lock) -> Action:
    """A probe is prepared as a dataset whose rows are all held out."""
    params = _source_params(recipe.probes[name], recipe.train) | {"validation": 0.0, "test": 0.0}
    return _prepare(name, params, lock, recipe.probes[name].salt)


def _source_params(source: Source, train: Train) -> dict[str, JSON]:
    return {
        "format": source.format,
        "columns": source.columns,
        "chat": source.chat,
        "system": source.system,
        "loss": source.loss,
        "max_length": train.max_length,
        "on_overflow": source.on_overflow,
        "max_samples": source.max_samples,
    }


def _prepare(name: str, params: Mapping[str, JSON], lock: Lock, salt: str | None) -> Action:
    takes = (Taken("base/tokenizer", Edge(BASE, "tokenizer")),)
    return Action(f"data:{name}", "prepare", params, takes, lock.datasets[name], salt=salt)


def _vector(recipe: Recipe, name: str) -> Action:
    train = recipe.train_of(name)
    takes: tuple[Taken, ...] = (
        Taken("base/weights", Edge(BASE, "weights")),
        Taken("base/config", Edge(BASE, "config")),
        Taken("data/train", Edge(f"data:{name}", "train")),
    )
    params, watching = _train_params(train), {}
    if train.eval_steps:
        chosen = "eval_steps" in params
        watching = {} if chosen else {"eval_steps": train.eval_steps}
        validation = Edge(f"data:{name}", "validation")
        takes = (*takes, Taken("data/validation", validation, watched=not chosen))
    return Action(f"vector:{name}", "finetune", params, takes, salt=train.salt, watching=watching)


def _extracted(recipe: Recipe, name: str, lock: Lock) -> Action:
    vector = recipe.vectors[name]
    takes = (
        Taken("base/weights", Edge(BASE, "weights")),
        Taken("base/config", Edge(BASE, "config")),
    )
    params = {"source": vector.source, "vector_dtype": vector.vector_dtype or recipe.train.vector_dtype}
    return Action(f"vector:{name}", "extract", params, takes, lock.vectors[name], salt=vector.salt)


def _train_params(train: Train) -> dict[str, JSON]:
    """Return what the weights follow from: validation counts where it stops a training or chooses from it."""
    packing = {"packing": train.packing, "max_length": train.max_length if train.packing else None}
    choosing: tuple[str, ...] = ()
    if train.eval_steps and (train.load_best_model_at_end or train.early_stopping_patience):
        choosing = ("eval_steps", "load_best_model_at_end", "early_stopping_patience")
    found = {name: getattr(train, name) for name in (*KINDS["finetune"].params, *choosing)} | packing
    if train.optim == "adafactor":
        found |= {name: None for name in found if name.startswith("adam_")}
    return found


def _compose(recipe: Recipe, name: str, omega: Mapping[str, float]) -> Action:
    params = {"method": recipe.compose.method, "dtype": recipe.compose.dtype}
    takes = [Taken(f"base/{part}", Edge(BASE, part)) for part in MODEL_PARTS]
    takes += [Taken("delta", Edge(f"vector:{n}", "delta"), w) for n, w in omega.items()]
    return Action(name, "compose", params, tuple(takes))


def _compose_tuned(recipe: Recipe, vectors: Iterable[str]) -> Action:
    """Compose all vectors, with the ω that `tune` found."""
    composed = _compose(recipe, "model", {})
    takes = [Taken("delta", Edge(f"vector:{name}", "delta")) for name in vectors]
    return replace(composed, takes=(*composed.takes, *takes, Taken("omega", Edge(TUNE, "omega"))))


def _tune(recipe: Recipe, given: Mapping[str, float]) -> Action:
    """A dataset is judged on its validation rows; prompts that any vector was trained on are left out."""
    tune = recipe.tune or Tune()
    takes = [Taken(f"base/{part}", Edge(BASE, part)) for part in ("weights", "config")]
    groups: dict[str, dict[str, JSON]] = {}
    for name in recipe.vectors:
        groups[name] = {"omega": given.get(name)}
        takes.append(Taken("delta", Edge(f"vector:{name}", "delta"), group=name))
    for name, dataset in recipe.datasets.items():
        groups[name] = {"importance": tune.importance.get(name, 1.0), "omega": given.get(name)}
        takes.append(Taken("delta", Edge(f"vector:{name}", "delta"), group=name))
        takes.append(Taken("data/train", Edge(f"data:{name}", "train"), group=name))
        if dataset.validation != 0:
            takes.append(Taken("data/validation", Edge(f"data:{name}", "validation"), group=name))
    for name, probe in recipe.probes.items():
        groups[name] = {"limit": probe.max_loss_increase}
        takes.append(Taken("data/rows", Edge(f"data:{name}", "test"), group=name))
    params = {
        "search": tune.search,
        "objective": tune.objective,
        "granularity": tune.granularity,
        "max_samples": tune.max_samples,
        "bounds": list(tune.bounds),
        "dtype": recipe.compose.dtype,
    }
    return Action(TUNE, "tune", params, tuple(takes), groups=groups)


def _evaluations(recipe: Recipe, lock: Lock, models: Mapping[str, str]) -> list[Action]:
    evaluate = recipe.evaluate
    if evaluate is None:
        return []
    wanted = [m for m in models if m in evaluate.models or m not in (COMPOSED, BASE)]
    # A test share of 0 says that nothing is held out.
    tested = [*(n for n, d in recipe.datasets.items() if d.test != 0), *recipe.probes]
    datasets = tested if evaluate.loss else []
    losses = [_loss(recipe, model, models[model], name) for name in datasets for model in wanted]
    tasks = [
        _task(recipe, lock.tasks[task.name], model, models[model], task)
        for task in evaluate.tasks
        for model in wanted
    ]
    return losses + tasks


def _loss(recipe: Recipe, model: str, source: str, dataset: str) -> Action:
    takes = (
        Taken("model/weights", Edge(source, "weights")),
        Taken("model/config", Edge(source, "config")),
        Taken("data/rows", Edge(f"data:{dataset}", "test")),
    )
    params = {"dtype": recipe.compose.dtype}
    evaluation = Evaluation(model, f"loss:{dataset}")
    return Action(f"loss:{model}:{dataset}", "loss", params, takes, evaluation=evaluation)


def _task(recipe: Recipe, locked: LockedTask, model: str, source: str, task: Task) -> Action:
    params = {
        "task": task.name,
        "num_fewshot": task.num_fewshot,
        "limit": task.limit,
        "apply_chat_template": task.apply_chat_template,
        "dtype": recipe.compose.dtype,
        "lm_eval": locked.lm_eval,
        "dataset_revision": locked.dataset_revision,
    }
    takes = tuple(Taken(f"model/{part}", Edge(source, part)) for part in MODEL_PARTS)
    return Action(
        f"eval:{model}:{task.name}",
        "task",
        params,
        takes,
        locked.files,
        evaluation=Evaluation(model, task.name),
        runs_code=locked.local,
    )
