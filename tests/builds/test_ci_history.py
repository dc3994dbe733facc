"""`dem ci` on a real repository: a dozen branches that each change one thing, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from ci_history import CASES, History

STATUSES = {
    "comment": 0, "reorder": 0, "move": 0, "row": 4, "omega": 0, "dataset": 4, "trained": 0, "loosened": 0,
    "removed-gate": 3, "worse": 3, "tests": 0, "stale": 4, "removed": 0, "mistake": 2, "outside": 2,
}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs/ci.md"


@pytest.fixture(scope="module")
def history(tmp_path_factory, tiny_base):
    made = History(tmp_path_factory.mktemp("history"), tiny_base)
    assert made.call("build", "recipes/tiny.toml").status == 0
    return made


@pytest.fixture(scope="module")
def said(history):
    """Branch → what was said of it: each is reviewed once."""
    found = {}
    for name, (_, change, options) in CASES.items():
        history.branch(name, change)
        found[name] = history.review(*options)
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_status(said, name):
    assert said[name].status == STATUSES[name], said[name].err
