"""Models that `compose` makes, in memory: what one is summed of, its ω with today's names, and what holds it loaded."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dem_build.actions.compose.methods import METHODS
from dem_build.plan import Status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dem_build.action import Action
    from dem_build.digest import JSON, Digest, Output
    from dem_build.model.live import LiveModel, Omegas
    from dem_build.plan import Plan
    from dem_build.session.session import Session

    Known = Mapping[str, Mapping[str, Output]]

Omega = float | dict[str, float]
"""ω of a vector: a number, or one for each layer, as a search may find them."""


def recorded_outputs(plan: Plan) -> dict[str, Mapping[str, Output]]:
    """The outputs of each action that is built."""
    verdicts = plan.verdicts.items()
    return {n: v.record.outputs for n, v in verdicts if v.status is Status.HIT and v.record is not None}


def named_omegas(session: Session, action: Action, known: Known) -> dict[str, Omega]:
    """Vector → its ω in the model that an action `compose` makes: as the recipe gives it, or as a search found it."""
    vectors = session.recipe.omegas
    given = {name: float(omega) for name, omega in vectors.items() if omega != "tune"}
    if len(given) == len(vectors):
        return dict(given)
    from dem_build.actions.tune.omega import read_omega  # noqa: PLC0415  numpy, for this alone

    [output] = [known[t.at.action][t.at.output] for t in action.takes if t.of == "omega"]
    found = read_omega(session.store.objects.open(output))
    named: dict[Digest, list[str]] = {}
    for name in vectors:
        named.setdefault(known[f"vector:{name}"]["delta"].digest, []).append(name)
    omegas: dict[str, Omega] = dict.fromkeys(vectors, 0.0)
    for digest, alike in named.items():
        # Names of one vector share what is found of it, less what the recipe gives some of them.
        free = [name for name in alike if name not in given]
        fixed = math.fsum(given[name] for name in alike if name in given)
        omegas |= {name: _part(found[digest], fixed, len(free)) for name in free}
    return omegas | given


def terms_of(omegas: Mapping[str, Omega], known: Known) -> Omegas:
    """ω of each vector by its digest, as a build would give them to `compose`: those of 0 are no terms."""
    held: dict[Digest, list[Omega]] = {}
    for vector, omega in omegas.items():
        held.setdefault(known[f"vector:{vector}"]["delta"].digest, []).append(omega)
    totals = {digest: _total(of_one) for digest, of_one in held.items()}
    return {digest: total for digest, total in totals.items() if counts(total)}


def method_params(action: Action) -> tuple[str, dict[str, JSON]]:
    """The way in which an action `compose` sums, and the keys of `[compose]` that this reads."""
    method = str(action.params["method"])
    return method, {key: action.params[key] for key in METHODS[method].keys if key in action.params}


def live_model(session: Session, known: Known, action: Action, work: Path, *, summed: bool) -> LiveModel:
    """Load what an action makes, as its vectors' base alone where it is to be summed.

    Args:
        session: The recipe.
        known: Action → outputs.
        action: What makes the model.
        work: A folder for links to files of the store.
        summed: Whether it becomes what `compose` makes; else it is loaded as it was built.

    Raises:
        CheckpointError: As of `load_live`.
        UsageError: Likewise.
    """
    from dem_build.model.live import ModelFiles, load_live  # noqa: PLC0415  torch: only when it is needed

    objects, views = session.store.objects, session.store.views
    taken = {t.of: known[t.at.action][t.at.output] for t in action.takes} if summed else {}
    weights = taken["base/weights"] if summed else known[action.name]["weights"]
    config = taken["base/config"] if summed else known[action.name]["config"]
    vectors = [known[t.at.action][t.at.output] for t in action.takes if t.of == "delta"] if summed else []
    return load_live(
        ModelFiles(
            views.view(weights, work, weights.digest),
            weights.digest,
            views.view(config, work, config.digest),
        ),
        {output.digest: objects.open(output) for output in vectors},
        session.recipe.compose.dtype,
        attn_implementation=session.machine.attn_implementation,
    )


def counts(omega: Omega) -> bool:
    """Whether a vector of this ω takes part."""
    return any(omega.values()) if isinstance(omega, dict) else omega != 0


def _part(whole: Omega, fixed: float, free: int) -> Omega:
    if isinstance(whole, dict):
        return {layer: (value - fixed) / free for layer, value in whole.items()}
    return (whole - fixed) / free


def _total(omegas: Sequence[Omega]) -> Omega:
    """The ω of a vector of several names."""
    numbers = [omega for omega in omegas if not isinstance(omega, dict)]
    layers = {layer: None for omega in omegas if isinstance(omega, dict) for layer in omega}
    if not layers:
        return math.fsum(numbers)
    own = [omega for omega in omegas if isinstance(omega, dict)]
    return {layer: math.fsum([*numbers, *(omega.get(layer, 0.0) for omega in own)]) for layer in layers}
