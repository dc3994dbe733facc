"""Whether what is due fits into the memory of this machine.

Refused is only what cannot: where the weights alone, with gradients and optimizer states, are more than all memory
there is. What an estimate says is too much is warned of, as estimates err.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dem_build.actions.finetune.ranks.launch import trained_over_ranks
from dem_build.errors import EvaluationError, TrainingError
from dem_build.estimate.due import matchings, parameters_of, shape_of, trainings
from dem_build.estimate.memory import BYTES, MASTER, STATES, is_lora, least_memory
from dem_build.hardware import gigabytes, gpus, room

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import TypeAlias

    from dem_build.digest import JSON
    from dem_build.errors import ActionError
    from dem_build.estimate.due import DueMatching, Training
    from dem_build.estimate.memory import Shape
    from dem_build.hardware import Room
    from dem_build.machine import Machine
    from dem_build.plan import Plan, Verdict
    from dem_build.store import Store

    Settings: TypeAlias = tuple[Mapping[str, JSON], Machine, int]

SMALLER = ("adamw_8bit", "adafactor")  # the nearest to AdamW first: its moments in 8 bits, then other ones
SHORTEST = 64
MORE_RANKS = (2, 4, 8)


def refuse_unfit(plan: Plan, machine: Machine | None = None) -> None:
    """Refuse a build of which an action can never fit.

    Raises:
        ActionError: The first action that does not.
    """
    for error in unfit(plan, machine):
        raise error


def unfit(plan: Plan, machine: Machine | None = None) -> list[ActionError]:
    """What is due and can never fit, each with the numbers and what would help."""
    due = [verdict for verdict in plan.due if verdict.action.kind.device]
    parameters = parameters_of(plan.verdicts.get("base")) if due else None
    space = room() if parameters else None
    if parameters is None or space is None:
        return []
    found = []
    # What holds a whole model in memory. Composing does not: it takes a few megabytes of each tensor, or a layer.
    for verdict in (v for v in due if not v.action.kind.streams):
        kind = verdict.action.kind
        judge = (
            partial(_untrainable, 1 if machine is None else machine.gpus_per_action)
            if kind.trains
            else _unevaluable
            if kind.slopes is None
            else _untunable
        )
        found.append(judge(verdict, parameters, space))
    return [error for error in found if error]


def crowded(plan: Plan, store: Store, machine: Machine) -> list[str]:
    """A warning for each training or matching that is expected to need more memory than is free."""
    trained, matched = trainings(plan), matchings(plan)
    base = plan.verdicts.get("base")
    shape = shape_of(base, store) if base and (trained or matched) else None
    space = room() if shape else None
    if shape is None or space is None or space.free is None:
        return []
    found = [_crowded(training, shape, machine, space, space.free) for training in trained]
    found += [_crowded_matching(matching, shape, space, space.free) for matching in matched]
    return [text for text in found if text]


def _crowded_matching(matching: DueMatching, shape: Shape, space: Room, free: int) -> str | None:
    needs = matching.memory(shape, matching.rows, gpu=space.is_gpu)
    if needs <= free:
        return None
    fewer = (matching.rows >> halved for halved in range(1, matching.rows.bit_length()))
    ways = ((rows, matching.memory(shape, rows, gpu=space.is_gpu)) for rows in fewer)
    advice = next(
        (f"rows = {rows} in [compose] would need {gigabytes(n)}" for rows, n in ways if n <= free), None
    )
    return _told(matching.name, needs, space, free, advice)


def _told(name: str, needs: int, space: Room, free: int, advice: str | None) -> str:
    has = f"{space.place} has {gigabytes(free)} free"
    return f"{name} needs about {gigabytes(needs)}, and {has}; {advice or 'nothing smaller fits'}"


def _crowded(training: Training, shape: Shape, machine: Machine, space: Room, free: int) -> str | None:
    def memory(params: Mapping[str, JSON], on: Machine, length: int) -> int:
        return training.memory(shape, params, on, length, gpu=space.is_gpu)

    needs = memory(training.params, machine, training.length)
    if needs <= free:
        return None
    alone = machine.ranks(gpu=space.is_gpu) == 1
    ways = (
        (words, memory(*settings))
        for words, settings in _ways(training, machine)
        if alone or trained_over_ranks(settings[0])
    )
    advice = next((f"{words} would need {gigabytes(n)}" for words, n in ways if n <= free), None)
    return _told(training.name, needs, space, free, advice)


def _ways(training: Training, machine: Machine) -> Iterator[tuple[str, Settings]]:
    """Yield what can be changed, the cheapest first: the machine's ways cost time, the recipe's another vector."""
    params, length = training.params, training.length
    # The machine's settings first: they are in no key.
    rows = min(machine.micro_batch, params["global_batch_size"]) // 2
    while rows >= 1:
        yield f"micro_batch = {rows}", (params, machine.model_copy(update={"micro_batch": rows}), length)
        rows //= 2
    least = machine.model_copy(update={"micro_batch": 1, "gradient_checkpointing": True})
    words = "micro_batch = 1 and gradient_checkpointing = true"
    yield words, (params, least, length)
    for optim in SMALLER:
        if STATES[optim] < STATES[params["optim"]]:
            yield f'{words} with optim = "{optim}"', ({**params, "optim": optim}, least, length)
    while length > SHORTEST:
        length //= 2
        shorter = f'{words} with optim = "adafactor" and max_length = {length}'
        yield shorter, ({**params, "optim": "adafactor"}, least, length)


def _untrainable(gpus_each: int, verdict: Verdict, parameters: int, space: Room) -> ActionError | None:
    params = verdict.action.params
    # Processes of one machine share its memory all the same.
    ranks = gpus_each if space.is_gpu else 1
    least = least_memory(parameters, params, ranks)
    if least <= space.total:
        return None
    smaller = [*(("optim", optim) for optim in SMALLER), ("method", "lora")] if ranks == 1 else []
    needs = ((key, value, least_memory(parameters, {**params, key: value})) for key, value in smaller)
    ways = [(f'{key} = "{value}" needs {gigabytes(n)}', n) for key, value, n in needs]
    if space.is_gpu and trained_over_ranks(params):
        more = (n for n in MORE_RANKS if ranks < n <= len(gpus()))
        shared = ((n, least_memory(parameters, params, n)) for n in more)
        ways = [
            *((f"gpus_per_action = {n} needs {gigabytes(each)} of each", each) for n, each in shared),
            *ways,
        ]
    fitting = next((words for words, n in ways if n <= space.total), None)
    held = "weights" if is_lora(params) else "weights, gradients and optimizer states"
    of = f" of each of {ranks} GPUs" if ranks > 1 else ""
    return TrainingError(
        f"cannot fit: {held} of {parameters:,} parameters take {gigabytes(least)}{of}, "
        f"and {space.place} has {gigabytes(space.total)} of memory",
        where=verdict.action.name,
        hint=f"{fitting} and may fit" if fitting else "take a smaller base, or a machine with more memory",
    )


def _unevaluable(verdict: Verdict, parameters: int, space: Room) -> ActionError | None:
    dtype = verdict.action.params["dtype"]
    least = parameters * BYTES[dtype]
    if least <= space.total:
        return None
    half = dtype == "float32" and least // 2 <= space.total
    return EvaluationError(
        f"cannot fit: a model of {parameters:,} parameters in {dtype} takes {gigabytes(least)}, and {space.place} has "
        f"{gigabytes(space.total)} of memory",
        where=verdict.action.name,
        hint='set dtype = "bfloat16" in [compose]' if half else "evaluate on a machine with more memory",
    )


def _untunable(verdict: Verdict, parameters: int, space: Room) -> ActionError | None:
    """Judge what looks at candidates: one model in float32. Of most gradients a tensor's is there at a time."""
    held = verdict.action.kind.gradients
    least = parameters * MASTER * (1 + held)
    if least <= space.total:
        return None
    return EvaluationError(
        f"cannot fit: a model of {parameters:,} parameters in float32 {'and its gradient take' if held else 'takes'} "
        f"{gigabytes(least)}, and {space.place} has {gigabytes(space.total)} of memory",
        where=verdict.action.name,
        hint=verdict.action.kind.unfit,
    )
