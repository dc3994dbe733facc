"""Object stores by `obstore`: S3 and its kin, Google Cloud Storage, Azure; and what a web server shows.

Retries, signatures and credentials are the library's. Ours are the deadlines, what an absence is, and that no client is
used in a process that another was copied into: the library's threads are not copied with it.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from dem_build.errors import RemoteError
from dem_build.store.remote.bucket import PIECE, Stored, scheme_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from obstore.store import ObjectStore

# Seconds. A small call ends within them, with all of its retries within about twice as many; of a large one, a piece.
_CONNECT, _SMALL, _STALLED, _PART, _RETRY = 5, 15, 20, 120, 10
_HURRIED = 3  # for all of a call of few bytes, once
_RETRIES = 2
_CHUNK = 64 << 10  # bytes: what has come of a chunk is lost where a connection is cut
_MEMORY = 128 << 20  # of parts under way at once
_PARTS = 9000  # stores take ten thousand
_ONE_BY_ONE = {"s3", "s3a"}  # many that speak S3's language do not know its DeleteObjects
_NO_CREDENTIALS = ("/latest/api/token", "/latest/meta-data", "/computeMetadata/", "/metadata/identity")
_REFUSED = (412, 409)  # a condition that failed, or one that somebody else's write made fail
_pid_in_use: int | None = None
"""The process in which the library has threads."""


class ObjectStoreBucket:
    """A bucket of an object store, or with `https://` what a web server shows; see `Bucket`.

    Args:
        url: `s3://bucket/prefix`, `gs://…`, `az://container/prefix`, `https://host/path`.
        endpoint: Where a store is that is none of the large ones: `http://127.0.0.1:9000`.
        hurried: Who asks has another way: an answer that does not come soon is none.
    """

    def __init__(self, url: str, endpoint: str | None = None, *, hurried: bool = False) -> None:
        self.url = url.rstrip("/")
        scheme = scheme_of(url)
        self.writable = self.conditional = self.listed = self.lively = scheme not in {"http", "https"}
        self._scheme = scheme
        self._endpoint = endpoint
        self._hurried = hurried
        self._stores: dict[str, ObjectStore] = {}
        self._making = threading.Lock()

    def get(self, name: str) -> bytes | None:
        """See `Bucket`."""
        with self._explained(name) as obstore:
            try:
                return bytes(obstore.get(self._store("small"), name).bytes())
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise  # a name that is wrong is no miss
                return None

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        """See `Bucket`."""
        if start and self._at_end(name, start):
            return
        with self._explained(name, absent=True) as obstore:
            skip = 0
            try:
                options = {"range": {"offset": start}} if start else None
                found = obstore.get(self._store("read"), name, options=options)
            except obstore.exceptions.NotSupportedError:
                skip, found = start, obstore.get(self._store("read"), name)  # a web server without ranges
            for piece in found.stream(min_chunk_size=_CHUNK):
                data = memoryview(piece)
                skip, data = max(skip - len(data), 0), data[skip:]
                for at in range(0, len(data), PIECE):
                    yield bytes(data[at : at + PIECE])

    def size(self, name: str) -> int | None:
        """See `Bucket`."""
        with self._explained(name) as obstore:
            try:
                return int(obstore.head(self._store("small"), name)["size"])
            except FileNotFoundError:
                return None

    def put(self, name: str, file: Path) -> None:
        """See `Bucket`."""
        self._must_write(name)
        size = file.stat().st_size
        part = max(PIECE, -(-size // _PARTS))
        with self._explained(name) as obstore:
            obstore.put(
                self._store("write"),
                name,
                file,
                chunk_size=part,
                max_concurrency=max(1, min(4, _MEMORY // part)),
                use_multipart=size > part,
            )

    def create(self, name: str, data: bytes) -> bool:
        """See `Bucket`."""
        self._must_write(name)
        with self._explained(name) as obstore:
            try:
                obstore.put(self._store("small"), name, data, mode="create", use_multipart=False)
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                return False
            except obstore.exceptions.BaseError as error:
                if any(f"status code: {status}" in str(error) for status in _REFUSED):
                    return False
                raise
            return True

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `Bucket`."""
        if not self.listed:
            raise RemoteError("a web server does not say what it has", where=self.url)
        # The library compares whole parts of a path.
        folder = prefix.rpartition("/")[0] or None
        with self._explained(prefix) as obstore:
            for chunk in obstore.list(self._store("small"), folder, chunk_size=1000):
                for item in chunk:
                    if item["path"].startswith(prefix):
                        yield Stored(item["path"], item["size"], item["last_modified"].timestamp())

    def delete(self, names: Iterable[str]) -> None:
        """See `Bucket`."""
        self._must_write("")
        every = list(names)
        with self._explained("") as obstore:
            for at in range(0, len(every), 1000):
                try:
                    obstore.delete(self._store("small"), every[at : at + 1000])
                except FileNotFoundError:
                    self._delete_each(every[at : at + 1000])

    def _delete_each(self, names: Iterable[str]) -> None:
        import obstore  # noqa: PLC0415

        for name in names:
            try:
                obstore.delete(self._store("small"), name)
            except FileNotFoundError:
                continue  # some stores say so of what is gone

    def _at_end(self, name: str, start: int) -> bool:
        """Whether nothing follows a position, which stores call an error."""
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return start >= size

    def _must_write(self, name: str) -> None:
        if not self.writable:
            raise RemoteError("a web server is read only", where=f"{self.url}/{name}")

    def _store(self, use: str) -> ObjectStore:
        """The library's client for small calls, for reading or for writing, which differ in their deadlines."""
        with self._making:
            if use not in self._stores:
                self._stores[use] = self._made(use)
            return self._stores[use]

    def _made(self, use: str) -> ObjectStore:
        from obstore.store import from_url  # noqa: PLC0415  an extra, and not loaded by a plan without a remote

        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=_CONNECT),
            "allow_http": (self._endpoint or self.url).startswith("http://"),
        }
        if use == "small":
            client["timeout"] = timedelta(seconds=_HURRIED if self._hurried else _SMALL)
        elif use == "read":
            client |= {"timeout": timedelta(days=1), "read_timeout": timedelta(seconds=_STALLED)}
        else:
            # Who is in a hurry writes signs of life, for which nobody waits: a line full of weights is no death.
            client["timeout"] = timedelta(seconds=_SMALL if self._hurried else _PART)
        retry: Any = {
            "max_retries": 0 if self._hurried else _RETRIES,
            "retry_timeout": timedelta(seconds=_RETRY),
            "backoff": {"max_backoff": timedelta(seconds=2)},
        }
        options: dict[str, Any] = {"endpoint": self._endpoint} if self._endpoint else {}
        if self._scheme in _ONE_BY_ONE:
            options |= {"disable_bulk_delete": True} | _profile()
        return from_url(self.url, client_options=client, retry_config=retry, **options)  # type: ignore[no-any-return, call-overload, unused-ignore]

    @contextmanager
    def _explained(self, name: str, *, absent: bool = False) -> Iterator[Any]:
        """The library, for a block whose errors become ours."""
        global _pid_in_use  # noqa: PLW0603  threads of a library are the process's
        where = f"{self.url}/{name}".rstrip("/")
        try:
            import obstore  # noqa: PLC0415
        except ImportError as error:
            what = "this store is reached by obstore, which is not installed"
            raise RemoteError(what, where=self.url, hint="pip install 'dem-build[remote]'") from error
        if _pid_in_use not in {None, os.getpid()}:
            what = "a copy of a process that asked a store cannot ask it as well"
            raise RemoteError(what, where=where, hint="ask in a process of its own")
        _pid_in_use = os.getpid()
        try:
            yield obstore
        except FileNotFoundError as error:
            if absent:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from error
            raise RemoteError("the bucket is not there", where=where) from error
        except (obstore.exceptions.BaseError, OSError, ValueError) as error:
            # Not `from error`: its text quotes addresses and what servers say, and nobody vouches for what these hold.
            raise _told(error, where) from None


def _profile() -> dict[str, Any]:
    """Credentials of AWS's files, by boto3 (profiles, SSO, roles): the library itself reads the environment."""
    shown = any(os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"))
    folder = os.path.expanduser("~/.aws")  # noqa: PTH111
    files = (
        os.environ.get("AWS_CONFIG_FILE", f"{folder}/config"),
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE", f"{folder}/credentials"),
    )
    if shown or not (os.environ.get("AWS_PROFILE") or any(os.path.exists(file) for file in files)):  # noqa: PTH110
        return {}
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

        return {"credential_provider": Boto3CredentialProvider()}
    except (ImportError, ValueError):
        return {}  # then the library looks where it looks, and `_told` says what was not found


def _told(error: Exception, where: str) -> RemoteError:
    """Our error for the library's, whose text names addresses, quotes the server's page and repeats itself."""
    text = str(error)
    if any(sign in text for sign in _NO_CREDENTIALS):
        hint = "set the store's variables, such as AWS_ACCESS_KEY_ID; profiles and SSO of AWS need `pip install boto3`"
        return RemoteError("no credentials for this store were found", where=where, hint=hint)
    if "status code: 403" in text or "status code: 401" in text:
        hint = "the store's access rules, or the credentials of this process, do not allow it"
        return RemoteError("the store forbids it", where=where, hint=hint)
    if "status code: " in text:
        return RemoteError(
            f"the store answered {text.partition('status code: ')[2][:3]}",
            where=where,
            hint="try again later",
        )
    if isinstance(error, OSError) and error.strerror:
        return RemoteError(f"cannot be read or written: {error.strerror}", where=where)
    timed = "timed out" in text or "TimedOut" in text
    what = "the store did not answer in time" if timed else "the store cannot be reached"
    return RemoteError(what, where=where, hint="is the address right, and the network up?")
