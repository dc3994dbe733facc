"""From the address of a remote to what reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.errors import RemoteError
from dem_build.store.remote.bucket import scheme_of

if TYPE_CHECKING:
    from dem_build.store.remote.bucket import Bucket


def open_bucket(url: str, endpoint: str | None = None, *, hurried: bool = False) -> Bucket:
    """What reaches a remote; nothing is asked of it yet.

    Args:
        url: As `[[remotes]]` has it: an object store, `hf://`, `https://`, or a folder by its absolute path.
        endpoint: Where an object store is that is none of the large ones.
        hurried: An object store that does not answer soon is asked no more.

    Raises:
        RemoteError: There is no such kind of address.
    """
    scheme = scheme_of(url)
    if scheme in {"", "file"}:
        from pathlib import Path  # noqa: PLC0415  these two take longer than all else that a repeated call loads
        from urllib.parse import unquote, urlsplit  # noqa: PLC0415

        from dem_build.store.remote.folder import FolderBucket  # noqa: PLC0415

        return FolderBucket(Path(unquote(urlsplit(url).path) if scheme else url))
    if scheme == "hf":
        from dem_build.store.remote.hub import HubBucket  # noqa: PLC0415

        return HubBucket(url, endpoint)
    if scheme in {"s3", "gs", "az", "https", "http"}:
        from dem_build.store.remote.objectstore import ObjectStoreBucket  # noqa: PLC0415

        return ObjectStoreBucket(url, endpoint, hurried=hurried)
    raise RemoteError(
        f"`{scheme}://` is no kind of remote", hint="s3://, gs://, az://, hf://, https:// or a folder"
    )
