"""A repository of a Hugging Face hub as a bucket, by `huggingface_hub`.

Each write is a commit. A record is created by a commit that names the one it follows: the hub refuses it where somebody
else was faster, whatever they wrote, so it is tried again on top of theirs.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dem_build.errors import RemoteError
from dem_build.store.remote.bucket import PIECE, Stored

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from huggingface_hub import HfApi

_TYPES = {"datasets": "dataset", "models": "model"}
_CONNECT, _ANSWER, _WRITE = 5, 30, 120  # seconds
_ATTEMPTS = 10
_DELETED_AT_ONCE = 500


class HubBucket:
    """A model or dataset repository, or a folder of one; see `Bucket`.

    Args:
        url: `hf://org/name`, `hf://datasets/org/name`, either with a folder behind it.
        endpoint: The hub; that of `HF_ENDPOINT` where None.

    Raises:
        RemoteError: The address is none of a repository.
    """

    conditional = True
    writable = True
    listed = True
    lively = False

    def __init__(self, url: str, endpoint: str | None = None) -> None:
        self.url = url.rstrip("/")
        split = urlsplit(self.url)
        parts = [split.netloc, *split.path.strip("/").split("/")]
        self._type = _TYPES.get(parts[0], "model")
        parts = parts[1:] if parts[0] in _TYPES else parts
        if len(parts) < 2 or not all(parts) or parts[0] in {"spaces", "buckets"}:
            what = "a remote on a hub is a model or dataset repository"
            raise RemoteError(what, where=url, hint="hf://org/name or hf://datasets/org/name")
        self._repository = "/".join(parts[:2])
        self._folder = "".join(f"{part}/" for part in parts[2:])
        self._endpoint = endpoint

    def get(self, name: str) -> bytes | None:
        """See `Bucket`."""
        try:
            return b"".join(self.read(name))
        except FileNotFoundError:
            return None

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        """See `Bucket`."""
        with self._explained(name) as hub:
            api = self._api(hub)
            address = hub.hf_hub_url(
                self._repository, self._folder + name, repo_type=self._type, endpoint=api.endpoint
            )
            # What is compressed on the way has other ranges.
            headers = hub.utils.build_hf_headers() | {"Accept-Encoding": "identity"}
            if start:
                headers["Range"] = f"bytes={start}-"
            with hub.get_session().stream("GET", address, headers=headers) as reply:
                if reply.status_code == 416:
                    return  # the end, as nobody asks for what is beyond
                hub.utils.hf_raise_for_status(reply)
                skip = start if reply.status_code == 200 else 0
                for data in reply.iter_raw(PIECE):
                    piece = data[skip:]
                    skip = max(skip - len(data), 0)
                    if piece:
                        yield piece

    def size(self, name: str) -> int | None:
        """See `Bucket`."""
        with self._explained(name) as hub:
            return self._sizes(hub, [name]).get(name)

    def put(self, name: str, file: Path) -> None:
        """See `Bucket`."""
        with self._explained(name) as hub:
            hub.utils.disable_progress_bars()  # only the command line prints
            added = hub.CommitOperationAdd(self._folder + name, str(file))
            self._commit(hub, [added], f"Put {name}")

    def create(self, name: str, data: bytes) -> bool:
        """See `Bucket`."""
        with self._explained(name) as hub:
            for _ in range(_ATTEMPTS):
                at = self._api(hub).repo_info(self._repository, repo_type=self._type).sha
                if name in self._sizes(hub, [name], at):
                    return False
                added = hub.CommitOperationAdd(self._folder + name, data)
                try:
                    self._commit(hub, [added], f"Create {name}", at)
                except hub.errors.HfHubHTTPError as error:
                    if error.response.status_code not in {409, 412}:
                        raise
                else:
                    return True
        return False

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Bucket`."""
        with self._explained(prefix) as hub:
            folder = (self._folder + prefix).rpartition("/")[0]
            entries = self._api(hub).list_repo_tree(
                self._repository, folder or None, recursive=True, expand=True, repo_type=self._type
            )
            try:
                for entry in entries:
                    name = entry.path.removeprefix(self._folder)
                    if isinstance(entry, hub.hf_api.RepoFile) and name.startswith(prefix):
                        yield Stored(name, entry.size, entry.last_commit.date.timestamp())
            except hub.errors.EntryNotFoundError:
                return  # git has no empty folders

    def delete(self, names: Iterable[str]) -> None:
        """See `Bucket`."""
        every = [*names]
        with self._explained("") as hub:
            for at in range(0, len(every), _DELETED_AT_ONCE):
                there = self._sizes(hub, every[at : at + _DELETED_AT_ONCE])
                gone = [hub.CommitOperationDelete(self._folder + name, is_folder=False) for name in there]
                if gone:
                    self._commit(hub, gone, f"Delete {len(gone)} files")

    def _sizes(self, hub: Any, names: Sequence[str], revision: str | None = None) -> dict[str, int]:
        """Of those names that are there, how many bytes."""
        paths = [self._folder + name for name in names]
        found = self._api(hub).get_paths_info(
            self._repository, paths, revision=revision, repo_type=self._type
        )
        return {
            f.path.removeprefix(self._folder): f.size for f in found if isinstance(f, hub.hf_api.RepoFile)
        }

    def _commit(self, hub: Any, operations: Iterable[Any], message: str, parent: str | None = None) -> None:
        self._api(hub).create_commit(
            self._repository,
            operations,
            commit_message=message,
            repo_type=self._type,
            parent_commit=parent,
        )

    def _api(self, hub: Any) -> HfApi:
        return hub.HfApi(endpoint=self._endpoint)  # type: ignore[no-any-return]

    @contextmanager
    def _explained(self, name: str) -> Iterator[Any]:
        """The library, for a block whose errors become ours."""
        # Its parts are loaded when they are named, which `hub.utils` does not do.
        import huggingface_hub as hub  # noqa: PLC0415
        import huggingface_hub.errors  # noqa: PLC0415
        import huggingface_hub.hf_api  # noqa: PLC0415
        import huggingface_hub.utils  # noqa: PLC0415

        where = f"{self.url}/{name}".rstrip("/")
        # The library's own calls wait for ever for an answer.
        session = hub.get_session()
        session.timeout = (_CONNECT, _ANSWER, _WRITE, _ANSWER)
        transport: Any = import_module(
            type(session).__module__.partition(".")[0]
        )  # httpx, or what took its place
        try:
            yield hub
        except hub.errors.RepositoryNotFoundError as error:
            what = "there is no such repository, or it is not shown to you"
            raise RemoteError(what, where=self.url, hint="`hf repo create`, or `hf auth login`") from error
        except hub.errors.EntryNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from error
        except hub.errors.HfHubHTTPError as error:
            status = error.response.status_code
            if status in {401, 403}:
                raise RemoteError(
                    "the hub forbids it", where=where, hint="`hf auth login`, or HF_TOKEN"
                ) from error
            raise RemoteError(f"the hub answered {status}", where=where, hint="try again later") from error
        except (transport.HTTPError, OSError, ValueError) as error:
            hint = "is the address right, and the network up?"
            raise RemoteError("the hub did not answer", where=where, hint=hint) from error
