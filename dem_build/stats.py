"""What a search for ω and the report take as known of a difference of losses: the figures both go by, in one place."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

Z95 = 1.96
"""Standard errors on either side of a value: its 95 % interval, of a normal distribution."""

SURE = 2.0
"""Standard errors: a loss that rose by more is said to be worse; see also `least_gain`."""

LEAST_SHARE = 1e-3
"""Of the base's loss: whoever gains less than that alone has gained nothing that others could recover."""

FEW_ROWS = 8
"""Fewer, of different prompts, have a standard error that is hardly known itself."""


def least_gain(base: float, gain: float, stderr: float | None) -> float:
    """What a vector's gain alone counts as at least, where a gain recovered is divided by it, in nats.

    Args:
        base: The base's loss.
        gain: By how much the vector alone lowers it.
        stderr: The standard error of that. None where there are too few rows to tell: the gain itself, whatever its
            sign, then is what is known of its size.

    Returns:
        Two standard errors, and a thousandth of the base's loss at least.
    """
    # The interval of a ratio has no end where that of its denominator has 0 in it (E. C. Fieller, Some Problems in
    # Interval Estimation, JRSS B 16, 1954): a gain within its own error would make of any change any number.
    unsure = abs(gain) if stderr is None else SURE * stderr
    return max(unsure, LEAST_SHARE * base)


def stderr_of_share(share: float, stderr: float, samples: float) -> float:
    """The standard error that a share of samples has at least, where `stderr` is that of one.

    Of samples that are 0 or 1 it is estimated as sqrt(p (1 - p) / (n - 1)), by which a share is known to be one. Where
    none or all of them are 1 that is 0, though little is known of a share of 0 in 60: Wilson's 95 % interval of it goes
    to z² / (n + z²) = 0.060. So it is never less than what has that bound for its own,

        stderr(p) >= z / (n + z²)

    (E. B. Wilson, JASA 22, 1927, 209-212). Two errors taken together as if independent then are Newcombe's interval of
    a difference, on its side of a share at its bound (R. G. Newcombe, Stat. Med. 17, 1998, 873-890, method 10).

    Args:
        share: The mean of the samples.
        stderr: Its standard error, as it was estimated.
        samples: How many.
    """
    if not 0 <= share <= 1 or samples < 2:
        return stderr
    of_one = math.sqrt(share * (1 - share) / (samples - 1))
    is_one = math.isclose(stderr, of_one, rel_tol=1e-6, abs_tol=1e-9)
    return max(stderr, Z95 / (samples + Z95**2)) if is_one else stderr


def by_prompt(values: Iterable[float], prompts: Iterable[Hashable]) -> list[float]:
    """The sums of rows' values over the rows of each prompt, in the order in which prompts come first.

    They are rounded once, and so a prompt of one row has just that row's value.

    Args:
        values: Of each row.
        prompts: What two rows have in common that are of one prompt.
    """
    of: dict[Hashable, list[float]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        of.setdefault(prompt, []).append(value)
    return [math.fsum(some) for some in of.values()]


def stderr_of_ratio(
    sums: Sequence[float], counts: Sequence[float], prompts: Sequence[Hashable] | None = None
) -> float | None:
    """The standard error of Σ sums / Σ counts over rows, None where there are too few to tell.

    Prompts are what was sampled, not rows and not tokens: two answers to one question are easy or hard together. With n
    prompts, prompt i of t_i tokens that count in all of its rows and the sum l_i, the ratio is R = Σ l_i / Σ t_i, and
    linearised

        stderr(R) = sqrt(n / (n - 1) · Σ (l_i - R t_i)²) / Σ t_i

    (W. G. Cochran, Sampling Techniques, 3rd ed. 1977, eq. 2.39, without the finite population correction; of clusters,
    section 9A.1 there, as whatever its rows have to do with each other, a prompt has one residual).

    Args:
        sums: Of each row.
        counts: Of each row.
        prompts: As in `by_prompt`; None where each row has a prompt of its own, or nobody knows.
    """
    if prompts is not None:
        sums, counts = by_prompt(sums, prompts), by_prompt(counts, prompts)
    units, total = len(counts), math.fsum(counts)
    if units < 2 or total == 0:
        return None
    ratio = math.fsum(sums) / total
    residuals = [of - ratio * count for of, count in zip(sums, counts, strict=True)]
    return math.sqrt(units / (units - 1) * math.fsum(r * r for r in residuals)) / total
