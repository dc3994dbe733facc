"""What git has at a revision, without a checkout: files, merge bases and renames, through plumbing commands alone.

Nothing that a revision holds is run or obeyed: no filter, no text conversion, no hook; a name is a name, whatever it
holds.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dem_build.errors import UsageError

REGULAR = ("100644", "100755")
_NO_GIT = "a revision is one of a git repository: call dem in one"
_SHALLOW = "fetch the history too: `fetch-depth: 0` of actions/checkout, or `git fetch --unshallow`"
_PARTIAL = "a partial clone fetches it: is the network there? else `git fsck` tells what is missing"
_UNKNOWN = "`git log --all --oneline` lists what there is; `git fetch` gets what is new"


@dataclass(frozen=True)
class GitBlob:
    """A file at a revision.

    Attributes:
        path: From the root of the repository, with `/`.
        oid: git's name of its bytes.
        size: In bytes.
        regular: Whether it is a file, and not a link.
    """

    path: str
    oid: str
    size: int
    regular: bool


@dataclass(frozen=True)
class Repository:
    """A git repository that is checked out.

    Attributes:
        root: Its folder, without links.
    """

    root: Path

    @classmethod
    def around(cls, folder: Path) -> Repository:
        """The repository that a folder lies in.

        Raises:
            UsageError: It lies in none, or there is no git.
        """
        found = _git(folder, "rev-parse", "--show-toplevel")
        if found is None:
            raise UsageError("is in no git repository", where=str(folder), hint=_NO_GIT)
        return cls(Path(os.fsdecode(found.rstrip(b"\n"))).resolve())

    def commit(self, revision: str) -> str:
        """The commit that a branch, tag or commit names.

        Raises:
            UsageError: git knows no such revision.
        """
        # --end-of-options: a revision that begins with a dash is no option.
        found = self._ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if found is None:
            hint = _SHALLOW if self.is_shallow else _UNKNOWN
            raise UsageError(f"git knows no revision `{revision}`", where=str(self.root), hint=hint)
        return found.decode().strip()

    @property
    def is_shallow(self) -> bool:
        """Whether older commits were left out when it was fetched."""
        return self._ask("rev-parse", "--is-shallow-repository") == b"true\n"

    def submodule(self, commit: str, path: str) -> str | None:
        """The submodule of a commit that a path leads into; None where it leads into none."""
        parts = path.split("/")
        places = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        listed = self._ask("ls-tree", "-z", "--full-tree", commit, "--", *places) or b""
        found = (entry.partition(b"\t") for entry in listed.split(b"\0") if entry)
        return next((os.fsdecode(name) for head, _, name in found if head.split()[1] == b"commit"), None)

    def merge_base(self, one: str, other: str) -> str:
        """The commit that two commits have in common.

        Raises:
            UsageError: None, as far as the history that is here tells.
        """
        found = self._ask("merge-base", one, other)
        if found is None:
            what = f"{one[:12]} and {other[:12]} have no commit in common here"
            raise UsageError(what, where=str(self.root), hint=_SHALLOW)
        return found.decode().split()[0]

    def files(self, commit: str) -> dict[str, GitBlob]:
        """Path → each file of a commit, links among them; no submodules.

        Raises:
            UsageError: git has not all that tells of them.
        """
        listed = self._told("ls-tree", "-r", "-z", "-l", "--full-tree", commit)
        found = {}
        for line in listed.split(b"\0"):
            if not line:
                continue
            head, _, name = line.partition(b"\t")
            mode, kind, oid, size = head.decode().split()
            if kind == "blob":
                path = os.fsdecode(name)
                found[path] = GitBlob(path, oid, int(size), mode in REGULAR)
        return found

    def read(self, blob: GitBlob) -> bytes:
        """The bytes of a file."""
        found = self._ask("cat-file", "blob", blob.oid)
        if found is None:
            raise UsageError("git has not the bytes of this file", where=blob.path, hint=_PARTIAL)
        return found

    def renames(self, before: str, after: str) -> dict[str, str]:
        """Old path → new path, of the files that git takes for moved between two commits.

        Raises:
            UsageError: git has not all that tells of them.
        """
        told = self._told("diff-tree", "-r", "-z", "-M", "--diff-filter=R", "--name-status", before, after)
        parts = [os.fsdecode(part) for part in told.split(b"\0") if part]
        return {old: new for _, old, new in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}

    def _ask(self, *arguments: str) -> bytes | None:
        return _git(self.root, *arguments)

    def _told(self, *arguments: str) -> bytes:
        # An answer that git cannot give is not an empty one: a revision would have no recipes, and nothing to judge.
        found = self._ask(*arguments)
        if found is None:
            raise UsageError("git cannot read what its commits hold", where=str(self.root), hint=_PARTIAL)
        return found


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git answers; None where it refuses.

    Raises:
        UsageError: There is no git.
    """
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(  # noqa: S603  the command is git, and no argument of another's is taken for an option
            ["git", *arguments],  # noqa: S607  the user's own git
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise UsageError("there is no git on this machine", hint="install it") from error
    return done.stdout if done.returncode == 0 else None
