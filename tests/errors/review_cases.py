"""Calls of `dem ci` that cannot be answered: what is wrong with a recipe is part of its answer."""

from __future__ import annotations

from diff_cases import committed
from error_cases import Call, write

__all__ = ["REVIEWS"]

REVIEWS = (
    Call(
        "A review without a revision to compare with",
        "ci",
        (
            "error: dem ci: says of no revision what to compare with\n"
            "  hint:  add --base REV, such as --base origin/main"
        ),
        setup=committed,
    ),
    Call(
        "A review of a recipe that neither revision has",
        "ci recpie.toml --base main",
        ("error: neither revision has a recipe `recpie.toml`\n  hint:  the recipes are: recipe.toml"),
        setup=committed,
    ),
    Call(
        "Code of a head that is taken for a stranger's",
        "ci --base main --untrusted --trust-tasks",
        (
            "error: dem ci: --trust-tasks runs code, and --untrusted forbids that\n"
            "  hint:  leave out one of the two"
        ),
        setup=committed,
    ),
    Call(
        "A file that is no review",
        "ci --render review.json",
        (
            "error: review.json: is no review: against: Field required\n"
            "  hint:  it is what `dem ci --json` writes, by a dem of the same version"
        ),
        setup=write("review.json", "{}"),
    ),
)
