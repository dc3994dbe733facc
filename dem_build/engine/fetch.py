"""Inputs on their way here: brought by a thread of the driver, so that no worker ever asks another store.

So each object is fetched once whoever wants it, credentials stay in one process, a copy of the driver needs no client
of its own, and a worker may run where no network is.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dem_build.errors import DemError, InterruptedBuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.digest import JSON, Blob
    from dem_build.store import Store


class Fetch:
    """Brings objects here, and sets `ended` when no more come.

    Attributes:
        error: Why it ended before all that can be brought was here.
    """

    def __init__(self, store: Store, blobs: Sequence[Blob], ended: threading.Event) -> None:
        self.error: DemError | None = None
        self._store = store
        self._blobs = blobs
        self._come = 0
        self._stopped = False
        self._counting = threading.Lock()
        self._ended = ended
        self._thread = threading.Thread(target=self._run, name="dem-fetch", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether it still brings something."""
        return self._thread.is_alive()

    @property
    def missing(self) -> list[Blob]:
        """What is not here."""
        return [blob for blob in self._blobs if not self._store.objects.present(blob)]

    def stop(self) -> None:
        """End it soon. What came is kept for the next one."""
        self._stopped = True

    def progress(self) -> dict[str, JSON]:
        """How far it is, as an event of an action."""
        total = sum(blob.size for blob in self._blobs)
        return {"event": "progress", "done": self._come, "total": total, "unit": "bytes fetched"}

    def _run(self) -> None:
        try:
            self._store.objects.bring(self._blobs, self._came)
        except DemError as error:
            self.error = error
        finally:
            self._ended.set()

    def _came(self, more: int) -> None:
        if self._stopped:
            raise InterruptedBuildError("stopped while inputs were fetched")
        with self._counting:
            self._come += more
