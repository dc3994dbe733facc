"""Names on a hub → commits, files and their digests. The only module of the planning path that may ask a network.

It asks the hub at `$HF_ENDPOINT` through the hub's own client, with the user's token where there is one, and only for
what no lock pins. Files are downloaded to the client's cache, which other programs share, when a step needs them.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dem_build.action import HubFile
from dem_build.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from huggingface_hub import HfApi

    from dem_build.action import SourceFile

_PIN = "`dem lock` with a network pins it; with the lock, builds work offline"

_TRUE = ("1", "ON", "YES", "TRUE")
"""What the client takes for true."""


@dataclass(frozen=True)
class Listed:
    """A file of a repository.

    Attributes:
        size: In bytes.
        sha256: Its digest where the hub knows it, which it does of large files.
    """

    file: HubFile
    size: int
    sha256: str | None


def commit_of(kind: str, name: str, revision: str = "main") -> str:
    """The commit that a branch, tag or commit of a repository stands for now.

    Args:
        kind: `dataset` or `model`.
        name: `org/name`.
        revision: The branch, tag or commit.

    Raises:
        UsageError: The hub has no such repository or revision, or cannot be reached.
    """
    with _asking(kind, name, revision) as api:
        commit = api.repo_info(name, revision=revision, repo_type=kind).sha
    if commit is None:
        raise UsageError(f"the hub names no commit of the {kind} {name!r}")
    return str(commit)


def files_of(kind: str, name: str, commit: str) -> list[Listed]:
    """Every file of a repository at a commit, in the order of their paths.

    Raises:
        UsageError: As `commit_of`.
    """
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415  as in _asking

    with _asking(kind, name, commit) as api:
        tree = list(api.list_repo_tree(name, revision=commit, repo_type=kind, recursive=True))
    files = sorted((f for f in tree if isinstance(f, RepoFile)), key=lambda f: f.path)
    return [
        Listed(HubFile(kind, name, commit, f.path), f.size, f.lfs.sha256 if f.lfs else None) for f in files
    ]


def require_access(file: HubFile) -> None:
    """Refuse a file that may be listed and not be read, as those of a gated repository, without downloading it.

    Raises:
        UsageError: As `download`.
    """
    from huggingface_hub import hf_hub_url  # noqa: PLC0415  as in _asking

    with _asking(file.kind, file.repo, file.commit) as api:
        url = hf_hub_url(file.repo, file.name, repo_type=file.kind, revision=file.commit)
        api.get_hf_file_metadata(url=url)


def download(file: HubFile, tell: Callable[[int, int], None] = lambda *_: None) -> Path:
    """Where a file lies on this machine; it is downloaded to the client's cache where it is not there yet.

    Args:
        file: The file, at a commit.
        tell: Called with the bytes that are here and those of the whole file; what it raises stops the download, which
            the next one goes on with.

    Raises:
        UsageError: The user may not read it, its commit is gone, the hub cannot be reached, or the cache cannot be
            written.
    """
    from huggingface_hub import hf_hub_download  # noqa: PLC0415  as in _asking

    with _asking(file.kind, file.repo, file.commit, file.name):
        return Path(
            hf_hub_download(
                file.repo, file.name, repo_type=file.kind, revision=file.commit, tqdm_class=_silent_bar(tell)
            )
        )


def cached(file: HubFile) -> Path | None:
    """Where a file lies in the client's cache, None where it is not there; no network is asked."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  as in _asking

    found = try_to_load_from_cache(file.repo, file.name, revision=file.commit, repo_type=file.kind)
    return Path(found) if isinstance(found, str) else None


def here(source: SourceFile) -> Path | None:
    """Where a source lies on this machine, None where it is not here; no network is asked."""
    if source.hub is not None:
        return cached(source.hub)
    return None if source.absent else source.path


def _silent_bar(tell: Callable[[int, int], None]) -> type[Any]:
    """What the client takes for a progress bar: it shows nothing, and tells what is done."""
    # Not declared as exported.
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # noqa: PLC0415  as in _asking

    bar: Any = tqdm  # its methods carry no types

    class Silent(bar):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more | {"disable": True})
            self._here = int(more.get("initial") or 0)

        def update(self, n: float | None = 1) -> bool | None:
            self._here += int(n or 0)
            tell(self._here, int(self.total or self._here))
            return None

        # Where chunks are fetched out of order, the client counts what came over the network as well: not told.
        def update_transfer(self, n: float | None = 1) -> None:
            pass

        def set_transfer_postfix_str(self, *arguments: Any, **more: Any) -> None:
            pass

    return Silent


@contextmanager
def _asking(kind: str, name: str, revision: str, file: str | None = None) -> Iterator[HfApi]:
    """Give the hub's client, and say what it refuses in words of the recipe."""
    # The client looks at this when it is loaded, which in a notebook may be long ago. What was downloaded it finds.
    if file is None and os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise _unpinned(f"the {kind} {name!r}")
    # Imported here: it takes longer than the rest of a plan, which as a rule finds all it needs in the lock.
    from huggingface_hub import HfApi  # noqa: PLC0415

    # HTTPError is the client library's own, whichever that is, and not declared as exported.
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # noqa: PLC0415
        DisabledRepoError,
        GatedRepoError,
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield HfApi()
    except GatedRepoError as error:
        hint = f"ask for access on the {kind}'s page, then set HF_TOKEN or call `hf auth login`"
        raise UsageError(f"the {kind} {name!r} is gated, and you may not read it", hint=hint) from error
    except RepositoryNotFoundError as error:
        hint = f"check the name; a private or gated {kind} needs HF_TOKEN"
        raise UsageError(f"the hub has no {kind} {name!r} that you may read", hint=hint) from error
    except RevisionNotFoundError as error:
        pinned = "the lock pins a commit that is gone: `dem lock --upgrade` pins what is there now"
        hint = "name a branch, a tag or a commit of it" if file is None else pinned
        raise UsageError(f"the {kind} {name!r} has no revision {revision!r}", hint=hint) from error
    except DisabledRepoError as error:
        raise UsageError(f"the hub has disabled the {kind} {name!r}", hint="use another") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HFValidationError, HTTPError, OSError) as error:
        raise _out_of_reach(f"the {kind} {name!r}", file, error) from error


def _out_of_reach(what: str, file: str | None, error: Exception) -> UsageError:
    """Say why the hub did not answer: nobody may ask it, it cannot be reached, or the disk takes no file."""
    from huggingface_hub.errors import OfflineModeIsEnabled  # noqa: PLC0415  as in _asking

    causes = (error, error.__cause__)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        if file is None:
            return _unpinned(what)
        hint = "one build with a network downloads it"
        return UsageError(f"{file} of {what} is not on this machine, and this build is offline", hint=hint)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno is not None and cause.filename is not None:
            hint = "free some space, mend its permissions, or set HF_HOME to another folder"
            return UsageError(f"cannot be written: {cause.strerror}", where=str(cause.filename), hint=hint)
    cause = error.__cause__ or error
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
    return UsageError(f"the hub cannot be asked for {what}: {reason}", hint=_PIN)


def _unpinned(what: str) -> UsageError:
    return UsageError(f"{what} is not in the lock, and this build is offline", hint=_PIN)
