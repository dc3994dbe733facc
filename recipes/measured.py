"""What tables of recipes are made of: test losses by prompt, as builds have recorded them, and the gain in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dem_build.actions.loss.read import read_rows
from dem_build.search.problem import ratio_stderr
from dem_build.stats import by_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.session.session import Session
    from dem_build.store import Record

    Rows = tuple[np.ndarray, np.ndarray]
    Measured = tuple[float, float]


def record(session: Session, action: str) -> Record | None:
    """What is recorded of an action, None where nothing is."""
    verdict = session.plan.verdicts.get(action)
    return verdict.record if verdict else None


def rows(session: Session, model: str, dataset: str) -> Rows | None:
    """The summed loss and the tokens of the test rows of each prompt."""
    found = record(session, f"loss:{model}:{dataset}")
    if found is None:
        return None
    stored = read_rows(session.store.objects.read_bytes(found.outputs["rows"]))
    prompts = range(len(stored.nll)) if stored.prompts is None else stored.prompts
    return np.array(by_prompt(stored.nll, prompts)), np.array(by_prompt(stored.tokens, prompts))


def ratio(sums: np.ndarray, tokens: np.ndarray) -> Measured:
    """Σ sums / Σ tokens and its standard error."""
    return sums.sum() / tokens.sum(), float(ratio_stderr(sums[None], tokens[None])[0])


def gain(mine: Rows | None, theirs: Rows | None, base: Rows | None, single: Rows | None) -> Measured | None:
    """(L_theirs - L_mine) / (L_base - L_single) and its standard error; None where one is not measured."""
    if mine is None or theirs is None or base is None or single is None:
        return None
    scale, error = ratio(base[0] - single[0], base[1])
    value, stderr = ratio(theirs[0] - mine[0], mine[1])
    scale = max(scale, 2 * error)
    return value / scale, stderr / scale


def mean(found: Sequence[Measured]) -> Measured:
    """The mean of values, and its standard error."""
    values, errors = np.array(found).T
    return float(values.mean()), float(np.sqrt((errors**2).sum()) / len(errors))


def shown(found: Measured | None) -> str:
    """A value with its standard error."""
    return "" if found is None else f"{found[0]:.3f} ±{found[1]:.3f}"
