"""`dem ci`: what a pull request does to the recipes of a repository, judged by two revisions of git."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.cli.review.reviewer import Reviewer
from dem_build.cli.review.view_review import say_review
from dem_build.engine.interrupt import Interrupt
from dem_build.errors import UsageError
from dem_build.review.comment import comment
from dem_build.review.document import MOST_RECIPES, Review, read_review, shown
from dem_build.review.found import pair_recipes, recipes_at
from dem_build.review.github import (
    annotation_lines,
    append_summary,
    commands_stopped,
    from_fork,
    in_actions,
    write_outputs,
)
from dem_build.review.junit import junit as junit_of
from dem_build.review.policy import POLICY, read_policy
from dem_build.review.repository import Repository
from dem_build.review.stale import Digests
from dem_build.review.untrusted import Boundary, without_tokens
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from dem_build.session.session import Call


def ci(  # noqa: PLR0913  the options of a command
    recipes: Sequence[str],
    call: Call,
    *,
    base: str | None,
    head: str | None,
    untrusted: bool,
    summary: Path | None,
    junit: Path | None,
    github: bool,
    render: Path | None,
) -> int:
    """Review the recipes of two revisions; the gravest status of a recipe is the call's.

    Args:
        recipes: Paths or patterns; none means all that git has at either revision.
        call: The options that other commands have, too.
        base: What the head is to be merged into. It is compared with what both have in common.
        head: What is reviewed; by default what is checked out.
        untrusted: Whether the head is a stranger's. So is what comes from a fork, whatever this says.
        summary: Where the Markdown goes.
        junit: Where the JUnit XML goes.
        github: Whether to write annotations, outputs and the job's summary for GitHub Actions.
        render: A review's JSON, of which all this is written again instead of reviewing anything.
    """
    console = make_console(stderr=call.as_json)

    def for_machine(line: str) -> None:
        console.file.write(f"{line}\n")
        console.file.flush()

    with ExitStack() as stack:
        if github or in_actions():
            stack.enter_context(commands_stopped(for_machine))
        if render is not None:
            review = _rendered(render, head)
        elif base is None:
            hint = "add --base REV, such as --base origin/main"
            raise UsageError("says of no revision what to compare with", where="dem ci", hint=hint)
        else:
            review = _reviewed(recipes, call, (base, head), console, untrusted=untrusted)
        say_review(review, console)
    text = comment(review)
    for path, made in ((summary, text), (junit, junit_of(review))):
        if path is not None:
            _put(path, made)
    if call.as_json:
        sys.stdout.write(review.model_dump_json(indent=2) + "\n")
    if github:
        for line in annotation_lines(review):
            for_machine(line)
        append_summary(text)
        write_outputs(review)
    return review.status


def _rendered(path: Path, head: str | None) -> Review:
    try:
        review = read_review(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if head is not None and review.head != head:
        what = f"is of {review.head[:12]}, and not of {head[:12]}"
        raise UsageError(what, where=str(path), hint="a newer commit has a review of its own")
    return review


def _put(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(path)) from error


def _reviewed(
    patterns: Sequence[str],
    call: Call,
    revisions: tuple[str, str | None],
    console: Console,
    *,
    untrusted: bool,
) -> Review:
    repository = Repository.around(Path.cwd())
    after = repository.commit(revisions[1] or "HEAD")
    before = repository.merge_base(repository.commit(revisions[0]), after)
    fork = from_fork()
    if (untrusted or fork) and call.trust_tasks:
        why = "the head is of a fork" if fork else "leave out one of the two"
        raise UsageError("--trust-tasks runs code, and --untrusted forbids that", where="dem ci", hint=why)
    files = repository.files(before), repository.files(after)
    boundary = None
    if untrusted or fork:
        without_tokens()
        policy = files[0].get(POLICY)
        allowed = read_policy(repository.read(policy) if policy is not None else None).untrusted
        boundary = Boundary(repository.root, files[1], allowed)
    pairs = pair_recipes(
        recipes_at(repository, files[0]),
        recipes_at(repository, files[1]),
        repository.renames(before, after),
        [Path(os.path.relpath(pattern, repository.root)).as_posix() for pattern in patterns],
    )
    if len(pairs) > MOST_RECIPES:
        what = f"there are {len(pairs)} recipes, and a review is of at most {MOST_RECIPES}"
        raise UsageError(what, where="dem ci", hint="name some of them: dem ci 'folder/*' --base REV")
    again = ["dem", "ci", *patterns, "--base", before[:12]]
    again += ["--head", after[:12]] if revisions[1] else []
    again += ["--no-train"] if call.no_train else []
    again += ["--untrusted"] if boundary else []
    with Interrupt() as interrupt:
        reviewer = Reviewer(
            replace(call, locked=True),
            Digests(repository),
            (before, after),
            files,
            boundary,
            console,
            interrupt,
        )
        return Review(
            against=shown(revisions[0], 1000),
            base=before,
            head=after,
            untrusted=boundary is not None,
            command=shown(shlex.join(again), 1000),
            recipes=tuple(reviewer.review(pair) for pair in pairs),
        )
