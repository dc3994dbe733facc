"""Recipe and lock → actions and the outputs they take. Pure: it reads no file and knows no record."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dem_build.action import BASE, COMPOSED, HEAL, MODEL, TRUNK, TUNE, UNHEALED
from dem_build.actions import SPECS
from dem_build.actions.base.spec import base_action
from dem_build.actions.choose.spec import candidates_of
from dem_build.actions.compose.methods import EDIT, INTERPOLATION
from dem_build.actions.compose.spec import composed_model, single_model, tuned_model
from dem_build.actions.extract.spec import extracted_vector
from dem_build.actions.finetune.spec import finetune_action
from dem_build.actions.mix.spec import KIND as MIX
from dem_build.actions.mix.spec import mix_action
from dem_build.actions.prepare.spec import prepared_rows
from dem_build.actions.tune.spec import best_single, scale_of, tune_action
from dem_build.errors import UsageError
from dem_build.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from dem_build.action import Action
    from dem_build.lock.lock import Lock
    from dem_build.lock.task_groups import TaskGroup
    from dem_build.recipe import Recipe

MOST_LISTED = 8
"""Actions that are listed where a pattern matches several, and one is wanted."""


@runtime_checkable
class AnalysisSpec(Protocol):
    """The `spec.py` of what `[analysis]` asks for."""

    def analyses(self, recipe: Recipe, omega: Mapping[str, float | None]) -> list[Action]:
        """The actions, none where the recipe does not ask for them; ω are None where they are searched."""
        ...


@runtime_checkable
class EvaluationSpec(Protocol):
    """The `spec.py` of what `[evaluate]` asks for."""

    def evaluations(self, recipe: Recipe, lock: Lock, models: Mapping[str, str]) -> list[Action]:
        """The actions; `models` are the names of those that are asked → the actions that make them."""
        ...


@runtime_checkable
class ComposingSpec(Protocol):
    """The `spec.py` of what a way to compose asks for beside the action `compose`, or in place of it.

    Attributes:
        COMPOSES: The method's name in `METHODS`.
    """

    COMPOSES: str

    def composing(self, recipe: Recipe, name: str, omega: Mapping[str, float | None]) -> list[Action]:
        """The actions, each after those it takes from; the last is NAME, and makes the model.

        ω are None where they are searched.
        """
        ...


@dataclass(frozen=True)
class Graph:
    """All actions of a recipe, each after those it depends on.

    Attributes:
        actions: Name → action, in topological order.
        models: Name of a model in results (`composed`, `base`, `math`) → the action whose outputs it is.
        omega: Vector → ω, as the recipe says.
        baselines: Baseline → its method.
        stages: `trunk` and `heal`, where the recipe has them → the model in results that shows what each brings: the
            trunk, and the composed model before it was healed.
        candidates: Models of which the composed one is the best, by their names in results, as in `models`.
        method: The way to compose, as the recipe names it.
        groups: Groups of evaluation tasks, whose scores are made of theirs.
    """

    actions: Mapping[str, Action]
    models: Mapping[str, str] = field(default_factory=dict)
    omega: Mapping[str, float] = field(default_factory=dict)
    baselines: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    method: str = EDIT.name
    groups: Mapping[str, TaskGroup] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """The action that makes what vectors start from, and are added to."""
        return self.models[TRUNK] if TRUNK in self.stages else BASE

    def base_of(self, action: Action) -> str:
        """The action that imports the base which an action goes back to: graphs that are united have one each."""
        while action.upstream:
            action = self.actions[action.upstream[0]]
        return action.name

    @property
    def composing(self) -> str:
        """The action that composes the model of its vectors."""
        return self.models[UNHEALED] if HEAL in self.stages else MODEL

    @property
    def mixed(self) -> set[str]:
        """Names that actions have beside those of datasets, probes and vectors: of baselines, `trunk`, `heal`."""
        return {*self.baselines, *self.stages}

    def __iter__(self) -> Iterator[Action]:
        return iter(self.actions.values())

    def only(self, targets: Iterable[str]) -> Graph:
        """The part of the graph that `targets`, names or patterns, depend on, themselves included.

        Raises:
            UsageError: As `matching`.
        """
        wanted: set[str] = set()
        stack = self.matching(targets)
        while stack:
            name = stack.pop()
            if name not in wanted:
                wanted.add(name)
                stack.extend(self.actions[name].upstream)
        return replace(self, actions={n: a for n, a in self.actions.items() if n in wanted})

    def matching(self, named: Iterable[str]) -> list[str]:
        """The names of the actions that a user means, each once.

        Args:
            named: Names of actions, or patterns of a shell: `*`, which `:` does not end, `?` and `[abc]`; case counts.
                A name that an action has is no pattern.

        Raises:
            UsageError: One is no action of this graph, and matches none; what is near is said.
        """
        found: dict[str, None] = {}
        for name in named:
            matched = [name] if name in self.actions else [n for n in self.actions if fnmatchcase(n, name)]
            if not matched:
                raise self._unknown(name)
            found |= dict.fromkeys(matched)
        return [*found]

    def action(self, named: str) -> Action:
        """The action that a name, or a pattern as `matching` reads it, means.

        Raises:
            UsageError: There is none, or a pattern matches several.
        """
        first, *others = self.matching([named])
        if others:
            listed = first_of([first, *others], MOST_LISTED)
            what = f"{named!r} matches {len(others) + 1} actions, and one is wanted: {listed}"
            raise UsageError(what, hint="name one of them")
        return self.actions[first]

    def _unknown(self, name: str) -> UsageError:
        """What is said where no action has a name or matches a pattern."""
        import difflib  # noqa: PLC0415  only for a mistake

        if {*"*?["}.isdisjoint(name):
            what, most = f"there is no action {name!r} in this recipe", 1
            near = [*self.actions]
        else:
            what, most = f"no action of this recipe matches {name!r}", 3
            words = [action.split(":") for action in self.actions]
            near = [
                ":".join(part)
                for w in words
                for i in range(1, len(w))
                for part in ([*w[:i], "*"], ["*", *w[i:]])
            ]
            near += self.actions
        # Actions of a dataset or vector of that name, else what is nearest, however it is capitalised.
        meant = [action for action in self.actions if action.partition(":")[2] == name]
        if not meant:
            by = {each.casefold(): each for each in near}
            meant = [by[each] for each in difflib.get_close_matches(name.casefold(), by, n=most)]
        hint = "`dem plan` lists them all"
        if meant:
            hint = f"did you mean {' or '.join(meant)}? {hint}"
        else:
            hint += "; quote a pattern, else a shell makes names of files of it: 'vector:*'"
        return UsageError(what, hint=hint)


def build_graph(recipe: Recipe, lock: Lock) -> Graph:
    """The graph that a recipe and its lock describe."""
    actions = [base_action(recipe, lock)]
    actions += [prepared_rows(recipe, name, lock) for name in recipe.sources]
    trunk = _trunk(recipe)
    origin = trunk[-1].name if trunk else BASE
    actions += trunk
    actions += [
        finetune_action(name, recipe.train_of(name)).starting_from(origin) for name in recipe.datasets
    ]
    actions += [extracted_vector(recipe, name, lock) for name in recipe.vectors]
    said = recipe.omegas
    omega = {name: float(value) for name, value in said.items() if value != "tune"}
    composed = _composed(recipe, MODEL, {name: omega.get(name) for name in said})
    actions += _healed(recipe, [action.starting_from(origin) for action in composed])
    if recipe.analysis and said:
        wanted = {name: omega.get(name) for name in said}
        analyses = [spec for spec in SPECS if isinstance(spec, AnalysisSpec)]
        made = [a.starting_from(origin) for spec in analyses for a in spec.analyses(recipe, wanted)]
        actions += [a.salted(recipe.analysis.salt) for a in made]
    candidates = candidates_of(recipe)
    stages = {name: model for name, model in ((TRUNK, TRUNK), (HEAL, UNHEALED)) if name in recipe.stages}
    models = {COMPOSED: MODEL, BASE: BASE} | {
        model: f"{MODEL}:{model}" for model in (*stages.values(), *candidates)
    }
    if recipe.evaluate and "vectors" in recipe.evaluate.models:
        singles = [single_model(recipe, name) for name in said]
        actions += [single.starting_from(origin) for single in singles]
        models |= {a.name.removeprefix("model:"): a.name for a in singles}
    for name in recipe.baselines:
        made = _baseline(recipe, name)
        # A mixture is what one would train without any of this: it starts from the base.
        mixes = recipe.baselines[name].method == "mixing"
        actions += made if mixes else [action.starting_from(origin) for action in made]
        models[name] = actions[-1].name
    if evaluate := recipe.evaluate:
        # Single vectors are there only where they are asked for, and stages wherever the composed model is measured.
        staged = () if COMPOSED in evaluate.models else stages.values()
        named = (COMPOSED, BASE, *candidates, *recipe.baselines, *staged)
        asked = {m: made for m, made in models.items() if m in evaluate.models or m not in named}
        evaluations = [spec for spec in SPECS if isinstance(spec, EvaluationSpec)]
        made = [a for spec in evaluations for a in spec.evaluations(recipe, lock, asked)]
        actions += [a.salted(evaluate.salt) for a in made]
    methods = {name: baseline.method for name, baseline in recipe.baselines.items()}
    by_name = {a.name: a for a in actions}
    return Graph(by_name, models, omega, methods, stages, candidates, recipe.compose.method, lock.groups)


def united(graphs: Mapping[str, Graph]) -> Graph:
    """The actions of several graphs in one, as `vector:math@LABEL`: for who runs them, and tells nothing of models."""
    found = [
        action.called(partial("{1}@{0}".format, label)) for label, graph in graphs.items() for action in graph
    ]
    return Graph({action.name: action for action in found})


def _composed(recipe: Recipe, name: str, omega: Mapping[str, float | None]) -> list[Action]:
    """What composes by the recipe's method, each action after those it takes from; NAME is the last.

    ω are None where they are searched.
    """
    makers = {spec.COMPOSES: spec.composing for spec in SPECS if isinstance(spec, ComposingSpec)}
    if (made_by := makers.get(recipe.compose.method)) is not None:
        return made_by(recipe, name, omega)
    given = {vector: value for vector, value in omega.items() if value is not None}
    if len(given) < len(omega):
        return [tune_action(recipe, given), tuned_model(recipe, name, omega, TUNE)]
    return [composed_model(recipe, name, given)]


def _trunk(recipe: Recipe) -> list[Action]:
    """What makes the trunk, where there is one; the last is its model."""
    if recipe.trunk is None:
        return []
    made = composed_model(recipe, f"{MODEL}:{TRUNK}", {TRUNK: 1.0}, EDIT.name)
    made = replace(made, params={**made.params, "dtype": recipe.trunk.dtype})
    return _salted([*_mixture(recipe, TRUNK), made], recipe.trunk.salt)


def _healed(recipe: Recipe, composed: list[Action]) -> list[Action]:
    """What makes the model: what composes it, and where it is to be healed what trains that further."""
    if recipe.heal is None:
        return composed
    *before, last = composed
    unhealed = replace(last, name=f"{MODEL}:{UNHEALED}")
    made = [*_mixture(recipe, HEAL), composed_model(recipe, MODEL, {HEAL: 1.0}, EDIT.name)]
    healing = [action.starting_from(unhealed.name) for action in _salted(made, recipe.heal.salt)]
    return [*before, unhealed, *healing]


def _mixture(recipe: Recipe, name: str) -> list[Action]:
    """The rows of several datasets, and a vector that is trained on them.

    It is trained once over its rows, which are as many as they have to be, or by its own steps.
    """
    train = recipe.train_of(name)
    if recipe.mixture_of(name).train.length != "max_steps":
        train = train.model_copy(update={"num_train_epochs": 1.0, "max_steps": None})
    return [mix_action(recipe, name), finetune_action(name, train)]


def _salted(made: Iterable[Action], salt: str | None) -> list[Action]:
    """Actions with the salt of their table, but for trainings, which have that of their own `train`."""
    return [action if action.kind.trains else action.salted(salt) for action in made]


def _baseline(recipe: Recipe, name: str) -> list[Action]:
    """What makes a baseline, each action after those it takes from; the last is `model:NAME`."""
    return _salted(_makers(recipe, name), recipe.baselines[name].salt)


def _makers(recipe: Recipe, name: str) -> list[Action]:
    baseline, made = recipe.baselines[name], f"model:{name}"
    vectors = [*recipe.datasets, *recipe.vectors]
    equal = dict.fromkeys(vectors, 1 / max(len(vectors), 1))
    if baseline.method == "single":
        return [best_single(recipe, name), tuned_model(recipe, made, vectors, f"{TUNE}:{name}")]
    if baseline.method == "uniform":
        return [composed_model(recipe, made, equal, EDIT.name)]
    if baseline.method == INTERPOLATION.name:
        return [composed_model(recipe, made, baseline.omega or equal, INTERPOLATION.name)]
    mixture = _mixture(recipe, name)
    if baseline.alpha == "tune":
        scale = scale_of(recipe, name)
        return [*mixture, scale, tuned_model(recipe, made, [name], scale.name)]
    return [*mixture, composed_model(recipe, made, {name: float(baseline.alpha)}, EDIT.name)]


def chosen_by(graph: Graph) -> set[tuple[str, str]]:
    """The dataset or probe, and its split, of all rows that choose: nothing is judged fairly on their prompts.

    They choose ω, a checkpoint, or when a training stops. A mixture's validation rows are those of its datasets.
    """
    found: set[tuple[str, str]] = set()
    for action in graph:
        chooses = action.kind.chooses
        for taken in action.takes if chooses else ():
            if chooses and chooses(action, taken):
                made = graph.actions[taken.at.action]
                mixed = [t for t in made.takes if t.of == taken.of]
                parts = mixed if made.kind is MIX else [taken]
                found |= {(part.at.action.removeprefix("data:"), part.at.output) for part in parts}
    return found
