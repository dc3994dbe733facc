"""Counts what a run does, so that a test can say how it grows without a clock."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["assert_linear", "calls_of"]


def calls_of(run: Callable[[], object]) -> int:
    """How many calls of functions, of Python's and of C's, a run makes; each step of a generator is one."""
    count = 0

    def count_one(_frame: object, event: str, _what: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count_one)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


def assert_linear(cost: Callable[[int], int], sizes: tuple[int, int, int], slack: float = 1.15) -> None:
    """Assert that a cost grows no faster than its size: one more of a thing costs as much among many as among few.

    Args:
        cost: Size → what it costs.
        sizes: Three, ascending.
        slack: How many times as much one more may cost between the second and the third as between the first two.
    """
    few, some, many = (cost(size) for size in sizes)
    among_few, among_many = (some - few) / (sizes[1] - sizes[0]), (many - some) / (sizes[2] - sizes[1])
    assert among_many <= slack * among_few, f"one more costs {among_few:.0f} calls, and then {among_many:.0f}"
