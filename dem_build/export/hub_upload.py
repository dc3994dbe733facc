"""Files → one commit in a repository on a hub, through the hub's own client.

One commit, so that nobody loads half of a new model: the large files go first, by their digests, and what an earlier
call that was stopped has brought there is not sent again. What has not changed is in no commit. Which files are dem's
the repository says itself, in `WROTE`: of those alone one goes that the next upload has not.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.checkpoint.filenames import ADAPTER_CONFIG, WEIGHTS
from dem_build.errors import RemoteError, UsageError
from dem_build.json_text import MALFORMED, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.hf_api import RepoFile

    from dem_build.digest import JSON

MAIN = "main"
WROTE = ".dem.json"
"""The file of a repository that says which others dem put there: path → SHA-256."""
ADDRESS = re.compile(r"(for url: |\()?\bhttps?://\S+")  # of an upload: it may carry a signature


@dataclass(frozen=True)
class Uploaded:
    """What became of an upload.

    Attributes:
        commit: What the branch names now.
        private: Whether the repository is.
        changed: Whether there was anything to send.
        removed: Files of an earlier upload that are gone, and weights, as a loader would have taken them.
        kept: Files of an earlier upload that this one has not, and that somebody has edited there since.
    """

    commit: str
    private: bool
    changed: bool
    removed: tuple[str, ...]
    kept: tuple[str, ...] = ()


def upload(
    files: Mapping[str, Path | bytes], name: str, message: str, *, revision: str | None, public: bool
) -> Uploaded:
    """Make these files the ones of a branch; of what else lies there, what an earlier upload brought and weights go.

    Args:
        files: Path in the repository → a file or its content.
        name: The repository, `org/name`: made where there is none.
        message: Of the commit.
        revision: The branch: made where there is none; None for `main`.
        public: Whether everybody may read a repository that is made, and whether one may that is there.

    Raises:
        UsageError: The user may not write there, the name is none, the repository is public and was not to be, or it
            holds a model and this is a vector, or the reverse.
        RemoteError: The hub cannot be reached, or does not take something.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete  # noqa: PLC0415  slow, for this alone
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415  as above

    # The hub would make one without an owner among the user's own, and not find it by this name again.
    if "/" not in name:
        raise _no_name(name)
    with _asking(name) as api:
        private = _repository(api, name, public=public)
        branch = revision or MAIN
        if branch != MAIN:
            api.create_branch(name, branch=branch, exist_ok=True)
        before = api.repo_info(name, revision=branch).sha
        tree = api.list_repo_tree(name, revision=before, recursive=True)
        there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        _refuse_another_kind(name, {*there}, files.keys())
        added = [CommitOperationAdd(path, content) for path, content in files.items()]
        ours = _ours(api, name, before, {path: f for path, f in there.items() if path not in files})
        # Beside an index or another whole file weights would be loaded, and not what is uploaded.
        stale = sorted(f for f in there.keys() - files.keys() if WEIGHTS.fullmatch(f) or ours.get(f))
        operations: list[CommitOperationAdd | CommitOperationDelete] = [*added, _wrote(added)]
        operations += map(CommitOperationDelete, stale)
        made = api.create_commit(
            name, operations, commit_message=message, revision=branch, parent_commit=before
        )
    return Uploaded(made.oid, private, made.oid != before, tuple(stale), tuple(sorted({*ours} - {*stale})))


def _wrote(added: Iterable[CommitOperationAdd]) -> CommitOperationAdd:
    """The file that says what dem put there; the same for the same files."""
    from huggingface_hub import CommitOperationAdd  # noqa: PLC0415  as above

    digests: JSON = {each.path_in_repo: each.upload_info.sha256.hex() for each in added}
    return CommitOperationAdd(WROTE, digest.canonical({"dem-files": 1, "files": digests}))


def _ours(api: HfApi, name: str, commit: str | None, others: Mapping[str, RepoFile]) -> dict[str, bool]:
    """Which of the files of a commit an earlier upload brought → whether each is as that left it."""
    if WROTE not in others:
        return {}
    with tempfile.TemporaryDirectory(prefix="dem-publish-") as work:

        def content(path: str) -> bytes:
            return Path(api.hf_hub_download(name, path, revision=commit, local_dir=work)).read_bytes()

        said = content(WROTE)  # what fails of this is the hub, and not the file
        try:
            wrote = parse_json(said)["files"]
            named = {path: wrote[path] for path in others if path in wrote}
        except MALFORMED:
            return {}  # somebody wrote it, who is not dem
        large = {path: others[path].lfs for path in named}
        found = {path: lfs.sha256 if lfs else digest.of_bytes(content(path)) for path, lfs in large.items()}
    return {path: found[path] == named[path] for path in named}


def _refuse_another_kind(name: str, there: set[str], files: Iterable[str]) -> None:
    """Refuse a vector where a model lies, and a model where an adapter does.

    There is one card, and transformers takes an adapter's config before the weights that lie beside it.

    Raises:
        UsageError: The branch holds the other one.
    """
    weights = {file for file in there if WEIGHTS.fullmatch(file)}
    is_model = any(WEIGHTS.fullmatch(file) for file in files)
    if other := sorted(there & {ADAPTER_CONFIG} if is_model else weights):
        kinds = ("an adapter", "a model") if is_model else ("a model", "a vector")
        what = f"the repository {name!r} holds {kinds[0]} ({other[0]}), and would hold {kinds[1]} beside it"
        raise UsageError(what, hint="name another repository")


def _repository(api: HfApi, name: str, *, public: bool) -> bool:
    """Make a repository where there is none; whether it is private.

    Raises:
        UsageError: It is public, and nobody said so.
    """
    from huggingface_hub.errors import RepositoryNotFoundError  # noqa: PLC0415  as above

    try:
        private = bool(api.repo_info(name).private)
    except RepositoryNotFoundError:
        api.create_repo(name, private=not public, exist_ok=True)
        return not public
    if not private and not public:
        hint = "--public publishes there all the same; or name another repository"
        raise UsageError(f"everybody can read the repository {name!r}", hint=hint)
    return private


@contextmanager
def _asking(name: str) -> Iterator[HfApi]:
    """Give the hub's client, and say what it refuses; no message carries an address, which may be signed."""
    from huggingface_hub import HfApi  # noqa: PLC0415  as above

    # HTTPError is the client library's own, whichever that is, and not declared as exported.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # noqa: PLC0415
        HfHubHTTPError,
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
    )

    try:
        yield HfApi()
    except HFValidationError as error:
        raise _no_name(name) from error
    except OfflineModeIsEnabled as error:
        raise UsageError(
            "this call is offline, and a hub is to be asked", hint="leave out --offline"
        ) from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code in (401, 403, 404):
            hint = "set HF_TOKEN to a token that may write there, or call `hf auth login`"
            raise UsageError(f"the hub does not let you write the repository {name!r}", hint=hint) from error
        raise _failed(name, error) from error
    except (HTTPError, ValueError, OSError, RuntimeError) as error:
        raise _failed(name, error) from error


def _no_name(name: str) -> UsageError:
    return UsageError(f"{name!r} is no name of a repository", hint="it is called ORG/NAME, or USER/NAME")


def _failed(name: str, error: Exception) -> RemoteError:
    said = "\n".join(str(one) for one in (error, error.__cause__) if one is not None)
    lines = [line for line in (ADDRESS.sub("", part).strip() for part in said.splitlines()) if line]
    reason = " ".join(lines[:2]) or type(error).__name__
    hint = "call it again: what has been sent is not sent again"
    return RemoteError(f"the hub does not take {name!r}: {reason}", hint=hint)
