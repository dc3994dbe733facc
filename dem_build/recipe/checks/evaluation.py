"""Rules of `[evaluate]` and `[[gates]]`: what is measured, and what is asked of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dem_build.recipe.checks.tables import items, names, raw
from dem_build.recipe.problems import Mistake, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dem_build.recipe.checks.tables import Raw

__all__ = ["JUDGING", "MODELS"]

MODELS = ("composed", "base", "vectors")
LOSS_METRICS = ("loss", "loss_stderr")
LOSS_HINT = "it takes [evaluate] with loss = true, and a test share of the dataset"


def _known_models(data: Raw) -> Iterator[Mistake]:
    known = [*MODELS, *names(data, "baselines")]
    for index, model in enumerate(items(raw(data, "evaluate").get("models"))):
        key = ("evaluate", "models", index)
        if not isinstance(model, str):
            continue
        if model not in known:
            yield Mistake(key, f"there is no model `{model}`", nearest(model, known))
        elif model in _models(data)[:index]:
            yield Mistake(key, f"`{model}` is named twice")


def _each_task_once(data: Raw) -> Iterator[Mistake]:
    seen: set[str] = set()
    for index, name in enumerate(_tasks(data)):
        if name in seen:
            yield Mistake(("evaluate", "tasks", index), f"the task `{name}` is named twice", "give it once")
        seen |= {name} if name else set()


def _prompts_are_answered(data: Raw) -> Iterator[Mistake]:
    evaluate = raw(data, "evaluate")
    prompts = evaluate.get("prompts")
    if "max_new_tokens" in evaluate and prompts in (0, ()):
        what = "has no effect where there are no `prompts`"
        yield Mistake(("evaluate", "max_new_tokens"), what, "remove it, or ask something")
    if prompts and not {"composed", "base"} & {m for m in _models(data) if isinstance(m, str)}:
        what = "nobody answers: composed model and base do, and `models` names neither"
        yield Mistake(("evaluate", "prompts"), what, 'add "composed" or "base" to `models`')
    for index, prompt in enumerate(items(prompts)):
        if prompt in items(prompts)[:index]:
            yield Mistake(("evaluate", "prompts", index), "this prompt is given twice", "give it once")


def _gates_have_bounds(data: Raw) -> Iterator[Mistake]:
    for index, gate in _gates(data):
        key = ("gates", index)
        if not gate.keys() & {"min", "max", "max_drop"}:
            yield Mistake(
                key, "has no bound, and so passes always", "give it min, max, or max_drop with against"
            )
        if "max_drop" in gate and "against" not in gate:
            yield Mistake(
                (*key, "max_drop"), "says of no model what it may drop from", 'add against = "base"'
            )
        if "against" in gate and "max_drop" not in gate:
            yield Mistake((*key, "against"), "has no effect without `max_drop`", "add max_drop, or remove it")
        low, high = gate.get("min"), gate.get("max")
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield Mistake((*key, "min"), f"min is {low:g} and max is {high:g}, so nothing can pass")


def _gates_are_measured(data: Raw) -> Iterator[Mistake]:
    known = [t for t in _tasks(data) if t] + _losses(data)
    sources = names(data, "datasets", "probes")
    for index, gate in _gates(data):
        task = gate.get("task")
        if isinstance(task, str) and task and task not in known:
            hint = LOSS_HINT if task[5:] in sources and task.startswith("loss:") else nearest(task, known)
            hint = hint or "add it to `tasks` in [evaluate]"
            yield Mistake(("gates", index, "task"), f"nothing evaluates `{task}`", hint)


def _gates_name_metrics(data: Raw) -> Iterator[Mistake]:
    for index, gate in _gates(data):
        metric = gate.get("metric")
        if gate.get("task") in _losses(data) and isinstance(metric, str) and metric not in LOSS_METRICS:
            what = f"a held-out loss has no metric `{metric}`"
            yield Mistake(("gates", index, "metric"), what, nearest(metric, LOSS_METRICS))


def _gates_compare_models(data: Raw) -> Iterator[Mistake]:
    models = _models(data)
    # The composed one is what a gate judges, and "vectors" stands for each of them by its name.
    known = [m for m in models if m not in ("composed", "vectors")]
    known += names(data, "datasets", "vectors") if "vectors" in models else []
    for index, gate in _gates(data):
        against = gate.get("against")
        if isinstance(against, str) and against not in known:
            what = f"`{against}` is no model that [evaluate] measures besides the composed one"
            yield Mistake(("gates", index, "against"), what, "add it to `models` in [evaluate]")
    if list(_gates(data)) and "evaluate" in data and "composed" not in models:
        yield Mistake(
            ("evaluate", "models"), "gates judge the composed model, and it is not measured", 'add "composed"'
        )


def _gates(data: Raw) -> Iterator[tuple[int, Raw]]:
    return ((i, gate) for i, gate in enumerate(items(data.get("gates"))) if isinstance(gate, dict))


def _models(data: Raw) -> tuple[Any, ...]:
    evaluate = raw(data, "evaluate")
    return items(evaluate["models"]) if "models" in evaluate else ("composed", "base")


def _tasks(data: Raw) -> list[str]:
    """Return the name of each task in the list; empty where it has none."""
    tasks = items(raw(data, "evaluate").get("tasks"))
    given = [task.get("name") if isinstance(task, dict) else task for task in tasks]
    return [name if isinstance(name, str) else "" for name in given]


def _losses(data: Raw) -> list[str]:
    if "evaluate" not in data or raw(data, "evaluate").get("loss") is False:
        return []
    tested = [name for name in names(data, "datasets") if raw(data, "datasets", name).get("test") != 0]
    return [f"loss:{name}" for name in (*tested, *names(data, "probes"))]


JUDGING: tuple[Callable[[Raw], Iterator[Mistake]], ...] = (
    _known_models,
    _each_task_once,
    _prompts_are_answered,
    _gates_have_bounds,
    _gates_are_measured,
    _gates_name_metrics,
    _gates_compare_models,
)
