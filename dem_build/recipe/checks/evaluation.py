"""Rules of `[evaluate]` and `[[gates]]`: what is measured, and what is asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import TRUNK, UNHEALED
from dem_build.actions.compose.methods import METHODS
from dem_build.recipe.checks.tables import WRONG, Rules, datasets, gates, items, names, with_rows
from dem_build.recipe.messages import Mistake, nearest
from dem_build.recipe.sections import BASE_REVISION, Evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.recipe.schema import Recipe
    from dem_build.recipe.sections import Gate
    from dem_build.recipe.toml import Key

MODELS = ("composed", "base", "vectors")
TAKEN = (*MODELS, BASE_REVISION)
"""What no table may be called, as a gate or `models` would name two things."""
LOSS_METRICS = ("loss", "loss_stderr")
LOSS_HINT = "it takes [evaluate] with loss = true, and a test share of the dataset"

RULES = Rules()


@RULES.whole
def _known_models(recipe: Recipe) -> Iterator[Mistake]:
    method = METHODS.get(recipe.compose.method)
    known = [*MODELS, *names(recipe, "baselines"), *(method.candidates if method else ())]
    seen: set[str] = set()
    for index, model in items(recipe.evaluate.models) if recipe.evaluate else ():
        key = ("evaluate", "models", index)
        if model not in known:
            yield Mistake(key, f"there is no model `{model}`", nearest(model, known))
        elif model in seen:
            yield Mistake(key, f"`{model}` is named twice")
        seen.add(model)


@RULES.whole
def _each_task_once(recipe: Recipe) -> Iterator[Mistake]:
    seen: set[str] = set()
    for index, name in _tasks(recipe):
        if name in seen:
            yield Mistake(("evaluate", "tasks", index), f"the task `{name}` is named twice", "give it once")
        seen.add(name)


@RULES.whole
def _answers_have_prompts(recipe: Recipe) -> Iterator[Mistake]:
    evaluate = recipe.evaluate
    if evaluate and "max_new_tokens" in evaluate.model_fields_set and not evaluate.prompts:
        what = "has no effect where there are no `prompts`"
        yield Mistake(("evaluate", "max_new_tokens"), what, "remove it, or ask something")


@RULES.whole
def _prompts_are_answered(recipe: Recipe) -> Iterator[Mistake]:
    evaluate = recipe.evaluate
    # By default a question is asked of those that are there to answer; written out, somebody shall answer.
    asked = evaluate and "prompts" in evaluate.model_fields_set and evaluate.prompts
    if asked and not {"composed", "base"} & {*_models(recipe)}:
        what = "nobody answers: composed model and base do, and `models` names neither"
        yield Mistake(("evaluate", "prompts"), what, 'add "composed" or "base" to `models`')


@RULES.whole
def _each_prompt_once(recipe: Recipe) -> Iterator[Mistake]:
    prompts = recipe.evaluate.prompts if recipe.evaluate else ()
    seen: set[str] = set()
    for index, prompt in items(prompts) if isinstance(prompts, tuple) else ():
        if prompt in seen:
            yield Mistake(("evaluate", "prompts", index), "this prompt is given twice", "give it once")
        seen.add(prompt)


@RULES.each(gates)
def _gates_have_bounds(_: Recipe, key: Key, gate: Gate) -> Iterator[Mistake]:
    if gate.min is None and gate.max is None and gate.max_drop is None and gate.margin is None:
        hint = "give it min, max, or max_drop with against"
        yield Mistake(key, "has no bound, and so passes always", hint)
    if gate.max_drop is not None and gate.against is None:
        what = "says of no model what it may drop from"
        yield Mistake((*key, "max_drop"), what, 'add against = "base"')
    if gate.margin is not None and gate.max_drop is None and gate.against is None:
        what = "says of no model what it may lie below"
        yield Mistake((*key, "margin"), what, 'add against = "base"')
    if gate.against is not None and gate.max_drop is None and gate.margin is None:
        yield Mistake((*key, "against"), "has no effect without `max_drop`", "add max_drop, or remove it")
    if gate.min is not None and gate.max is not None and gate.min > gate.max:
        what = f"min is {gate.min:g} and max is {gate.max:g}, so nothing can pass"
        yield Mistake((*key, "min"), what)


@RULES.each(gates)
def _gates_are_measured(recipe: Recipe, key: Key, gate: Gate) -> Iterator[Mistake]:
    known = [name for _, name in _tasks(recipe)] + _losses(recipe)
    if gate.task not in known:
        # A loss of data that is there is asked of a recipe that does not measure it, and needs no other spelling.
        held_out = [f"loss:{name}" for name in names(recipe, "datasets", "probes")]
        hint = LOSS_HINT if gate.task in held_out else nearest(gate.task, known)
        hint = hint or "add it to `tasks` in [evaluate]"
        yield Mistake((*key, "task"), f"nothing evaluates `{gate.task}`", hint)


@RULES.each(gates)
def _gates_name_metrics(recipe: Recipe, key: Key, gate: Gate) -> Iterator[Mistake]:
    if gate.task in _losses(recipe) and gate.metric not in LOSS_METRICS:
        what = f"a held-out loss has no metric `{gate.metric}`"
        yield Mistake((*key, "metric"), what, nearest(gate.metric, LOSS_METRICS))


@RULES.each(gates)
def _gates_compare_models(recipe: Recipe, key: Key, gate: Gate) -> Iterator[Mistake]:
    models = _models(recipe)
    # The composed one is what a gate judges, and "vectors" stands for each of them by its name.
    known = {*models} - {"composed", "vectors"} | {BASE_REVISION}
    known |= {*names(recipe, "datasets", "vectors")} if "vectors" in models else set()
    known |= {TRUNK} if recipe.trunk is not None else set()
    known |= {UNHEALED} if recipe.heal is not None else set()
    if gate.against is not None and gate.against not in known:
        what = f"`{gate.against}` is no model that [evaluate] measures besides the composed one"
        yield Mistake((*key, "against"), what, "add it to `models` in [evaluate]")


@RULES.whole
def _gates_judge_the_composed_model(recipe: Recipe) -> Iterator[Mistake]:
    if gates(recipe) and "composed" not in _models(recipe):
        what = "gates judge the composed model, and it is not measured"
        yield Mistake(("evaluate", "models"), what, 'add "composed"')


def _models(recipe: Recipe) -> list[str]:
    return [model for _, model in items((recipe.evaluate or Evaluate()).models)]


def _tasks(recipe: Recipe) -> list[tuple[int, str]]:
    tasks = items(recipe.evaluate.tasks) if recipe.evaluate else []
    return [(index, task.name) for index, task in tasks if task.name is not WRONG]


def _losses(recipe: Recipe) -> list[str]:
    if recipe.evaluate is None or recipe.evaluate.loss is False:
        return []
    tested = {key for key, _ in with_rows(recipe, "test")}
    untested = {key[1] for key, _ in datasets(recipe) if key not in tested}
    return [f"loss:{name}" for name in names(recipe, "datasets", "probes") if name not in untested]
