"""The Dockerfile names what there is, and its context has all that the wheel is made of, and little else.

It is built by nobody here: CI has no builder of images. What a build would trip over first is looked at.
"""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatchcase
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
STEPS = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()


def fits(path: PurePosixPath, pattern: str) -> bool:
    """Whether a pattern of .dockerignore is that of a path: part by part, from the top."""
    parts = pattern.split("/")
    if parts[0] == "**":
        return any(
            fits(PurePosixPath(*path.parts[at:]), "/".join(parts[1:])) for at in range(len(path.parts))
        )
    pairs = [*zip_longest(path.parts, parts)]
    return all(part and wanted and fnmatchcase(part, wanted) for part, wanted in pairs)


def is_sent(name: str) -> bool:
    """Whether a file of the repository comes to who builds the image: the last pattern of it or its folders counts."""
    path, sent = PurePosixPath(name), True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if any(fits(each, pattern) for each in (path, *path.parents)):
                sent = line.startswith("!")
    return sent


def of_the_wheel() -> list[str]:
    """All files that a build of the wheel reads."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    ours = [path for name in wheel["packages"] for path in (ROOT / name).rglob("*") if path.is_file()]
    names = [path.relative_to(ROOT).as_posix() for path in ours if "__pycache__" not in path.parts]
    project = PROJECT["project"]
    return ["pyproject.toml", project["readme"], *project["license-files"], *wheel["force-include"], *names]


def test_what_the_wheel_is_made_of_is_sent() -> None:
    wanted = of_the_wheel()
    assert len(wanted) > 300
    assert [name for name in wanted if not is_sent(name)] == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            ".git/objects/pack/pack-1.pack",
            ".venv/bin/python",
            "cache/cas/ab/cd",
            "out/assistant/model.safetensors",
        ),
        *(
            "recipes/demo/base/model.gguf",
            "recipes/study/data/train.jsonl",
            "mine/cache/cas/ab",
            "docs/tour.md",
        ),
        *("dem_build/__pycache__/graph.cpython-312.pyc", "dem_build/store/__pycache__/files.cpython-312.pyc"),
    ],
)
def test_what_is_large_or_ones_own_is_not(name: str) -> None:
    assert not is_sent(name)


def test_what_is_copied_is_there_and_sent() -> None:
    copied = [step.split()[1:-1] for step in STEPS if step.startswith("COPY")]
    names = [name for names in copied if not names[0].startswith("--from") for name in names]
    assert "." in names
    assert all((ROOT / name).exists() and is_sent(name) for name in names if name != ".")


def test_extras_pythons_and_the_command_are_those_of_the_project() -> None:
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)$", "\n".join(STEPS), re.MULTILINE))
    assert {*arguments["EXTRAS"].split(",")} <= {*PROJECT["project"]["optional-dependencies"]}
    assert f"Programming Language :: Python :: {arguments['PYTHON']}" in PROJECT["project"]["classifiers"]
    assert f'ENTRYPOINT ["{next(iter(PROJECT["project"]["scripts"]))}"]' in STEPS


def test_what_builds_the_wheel_is_as_in_the_constraints() -> None:
    """A build of the image tomorrow is that of today, but for the wheel's own backend."""
    pinned = {*(ROOT / "constraints.txt").read_text(encoding="utf-8").split()}
    asked = re.findall(r"[\w-]+==[\w.]+", "\n".join(STEPS))
    assert asked
    assert {*asked} <= pinned
