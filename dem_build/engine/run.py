"""One run of one action: lease, verified inputs, the step, publication. Runs inside a worker."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shutil
import sys
import time
import traceback
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from dem_build import __version__
from dem_build.action import grouped
from dem_build.actions.checkpoints import adopt, complete_checkpoints, step_of
from dem_build.engine.protocol import Answer, Reply, read_events
from dem_build.engine.writer import writer
from dem_build.errors import (
    ActionError,
    CorruptObjectError,
    DemError,
    InterruptedBuildError,
    LeaseHeldError,
)
from dem_build.hardware import cpu_name, let_open
from dem_build.lock import hub
from dem_build.lock.absent import is_absent
from dem_build.step import Context, Group, Inputs, Resident, StoredFile
from dem_build.store import Record
from dem_build.store.files import FULL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dem_build.action import Input, Kind, SourceFile
    from dem_build.digest import JSON, Blob, Output
    from dem_build.engine.protocol import Request
    from dem_build.step import Provenance, Step
    from dem_build.store import Store

EVENTS = "events.jsonl"
CAPTURED = "output.txt"
RUNS = "runs"
"""The store's folder for trackers: `tensorboard --logdir cache/runs`, `wandb sync cache/runs/*/wandb/*`."""
MOST_EARLIER = 16
"""Files of earlier measurements that a step is given: a few megabytes each."""
# How torch's writer of archives and numpy end where a write fails: less was written than they counted.
LESS_WRITTEN = ("PytorchStreamWriter failed writing", "unexpected pos ", "iostream error", " requested and ")


@dataclass
class Runner:
    """Runs actions one after another in this process.

    Attributes:
        store: Where inputs are and results go.
        stopping: Whether the user asked to stop.
        started: Called with the work folder once the action is this process's to run.
        resident: The model kept loaded between actions.
    """

    store: Store
    stopping: Callable[[], bool]
    started: Callable[[Path], None]
    resident: Resident = field(default_factory=Resident)

    def run(self, request: Request) -> Reply:
        """Run an action, unless it is recorded or another process runs it. Never raises for a failed action."""
        begun = time.monotonic()
        try:
            with self.store.in_use():
                return self._run_unless_recorded(request, begun)
        except LeaseHeldError as error:
            return Reply(Answer.HELD, what=error.what)
        except DemError as error:
            # Stopped for so long that it counted as dead: another process has made it meanwhile, and removed all work
            # on it, the folder that this one was just making too.
            if not request.force and self.store.records.lookup(request.key) is not None:
                return Reply(Answer.FOUND)
            return Reply(Answer.FAILED, time.monotonic() - begun, what=error.located, hint=error.hint)

    def _run_unless_recorded(self, request: Request, begun: float) -> Reply:
        if not request.force and self.store.records.lookup(request.key) is not None:
            return Reply(Answer.FOUND)
        # Looked up before the lease too: what is recorded needs none, and another process may hold it.
        with self.store.leases.take(request.key):
            # Another process may have published between our look and our lease.
            if not request.force and self.store.records.lookup(request.key) is not None:
                return Reply(Answer.FOUND)
            return self._run_leased(request, begun)

    def _run_leased(self, request: Request, begun: float) -> Reply:
        work = self.store.work.new(request.key)
        self.started(work)
        try:
            resumed = _adopt_checkpoint(self.store, request.key, work)
            with _captured(work / CAPTURED):
                same, log = self._publish(request, work, begun)
        except InterruptedBuildError:
            return Reply(Answer.INTERRUPTED, time.monotonic() - begun, str(work))
        except (Exception, SystemExit) as error:  # noqa: BLE001  a step's failure must not take the worker down
            self.resident.clear()  # half changed, or what memory ran out for
            if not request.force and self.store.records.lookup(request.key) is not None:
                return Reply(
                    Answer.FOUND
                )  # another process had it too, was first, and removed all work on it
            if is_lost(error, self._places(request, work)):
                lost = CorruptObjectError("an input was taken away while it was read")
                lost.__cause__ = error  # for the log
                error = lost
            return _failed(error, work, time.monotonic() - begun)
        self.store.work.drop(request.key)
        notes = [f"resumed from step {resumed}"] if resumed is not None else []
        if same is not None:
            another = "came out different; the first record stays (a `salt` disowns it)"
            notes.append("came out as recorded" if same else another)
        return Reply(Answer.DONE, time.monotonic() - begun, note=", ".join(notes), log=log)

    def _places(self, request: Request, work: Path) -> set[Path]:
        """Where the action's inputs lie: objects, and folders of links to them."""
        blobs = {blob.digest for taken in request.inputs for blob in taken.at.blobs()}
        return {work / "in", *map(self.store.objects.path, blobs)}

    def _publish(self, request: Request, work: Path, begun: float) -> tuple[bool | None, Blob]:
        """Run the step and publish; return whether it came out as recorded (None: nothing was), and the run's log."""
        context = Context(
            work=work,
            out=work / "out",
            machine=request.machine,
            threads=request.threads,
            stopping=self.stopping,
            resident=self.resident,
            earlier=() if request.force else tuple(self._earlier(request)),
            runs=self.store.root / RUNS / f"{request.name.replace(':', '-')}-{request.key[:8]}",
        )
        request = replace(request, sources=tuple(_fetched(request, context)))
        # Before and after the step: a file that changed while it was read would be recorded under the old digest.
        self._check_sources(request)
        inputs = self._inputs(request, work)
        let_open(request.name, sum(len(tuple(taken.at.blobs())) for taken in request.inputs))
        step = _step_of(request.kind)
        provenance = _timed(step, inputs, request, context)
        self._check_sources(request)
        outputs = self._put(request, context)
        return self._record(request, work, outputs, provenance | _surroundings(request, work, begun))

    def _earlier(self, request: Request) -> Iterator[Path]:
        """Yield what earlier actions measured of the same base, the newest last; what is damaged is passed over."""
        measured, measures = request.kind.measured, request.kind.measures
        wanted = measured(request.preimage)
        if wanted is None or measures is None:
            return
        alike = [
            r
            for r in self.store.records.all()
            if r.kind == request.kind.name and measured(r.preimage) == wanted
        ]
        newest = sorted(alike, key=lambda r: (str(r.provenance.get("finished")), r.key))[-MOST_EARLIER:]
        for found in newest:
            record = self.store.records.lookup(found.key)  # which keeps it from collection while we read
            if record is None:
                continue
            with contextlib.suppress(
                CorruptObjectError, ValueError, KeyError
            ):  # what is no such file is no help
                yield self.store.objects.open(record.outputs[measures])

    def _record(
        self, request: Request, work: Path, outputs: dict[str, Output], provenance: Provenance
    ) -> tuple[bool | None, Blob]:
        before = self.store.records.lookup(request.key)
        log = self.store.objects.put_bytes(_log(work))
        # The record comes last: where it is, all that it names is whole and on the disk.
        made = Record(request.key, request.kind.name, request.preimage, outputs, provenance, log)
        self.store.records.publish(made)
        return None if before is None else _digests(before) == _digests(made), log

    def _inputs(self, request: Request, work: Path) -> Inputs:
        """Verify what the action takes and lay it out for the step."""
        folder = work / "in"
        folder.mkdir(exist_ok=True)
        found: list[Input[StoredFile]] = []
        for index, taken in enumerate(request.inputs):
            path = self.store.views.view(taken.at, folder, f"{index}-{taken.of.replace('/', '-')}")
            found.append(taken.moved(StoredFile(path, taken.at.digest)))
        alone = [i for i in found if i.group is None]
        weighted = {i.at.digest: i for i in alone if i.of == request.kind.weighted}
        named = {i.of: i.at for i in alone if i.of != request.kind.weighted}
        # The preimage has the terms as they are composed: ω of equal vectors summed, in the order of digests.
        entries = [e for e in request.preimage["inputs"] if e["of"] == request.kind.weighted]
        return Inputs(
            {of: at.path for of, at in named.items()},
            {of: at.digest for of, at in named.items()},
            tuple(replace(weighted[e["sha256"]], omega=e.get("omega")) for e in entries),
            request.sources,
            tuple(
                Group(
                    name,
                    request.groups[name],
                    {i.of: i.at.path for i in found if i.group == name},
                    {i.of: i.at.digest for i in found if i.group == name},
                )
                for name, _ in grouped(
                    found, request.groups
                )  # in the order of the preimage, which knows no names
            ),
        )

    def _check_sources(self, request: Request) -> None:
        """Refuse files that are not, or no longer, what the lock resolved; unchanged ones are only looked at."""
        for source in request.sources:
            if self.store.hints.digest_of(source.path).digest == source.digest:
                continue
            if source.hub is not None:
                hint = "delete it, and build again: it is downloaded anew"
                raise ActionError("is not what the lock pins", where=str(source.path.resolve()), hint=hint)
            raise ActionError("changed while the build ran", where=str(source.path), hint="build again")

    def _put(self, request: Request, context: Context) -> dict[str, Output]:
        paths = {name: context.out / name for name in request.kind.outputs}
        if missing := [name for name, path in paths.items() if not path.exists()]:
            raise ActionError(
                f"the step made no output {missing[0]!r}", where=request.name, hint="a bug in dem"
            )
        return self.store.objects.put_all(paths, context.hashed)


def _step_of(kind: Kind) -> Step:
    """Import what runs a kind of action.

    Its libraries make 700,000 objects that all stay. To look for cycles among them meanwhile takes a quarter of the
    time, and each look later on half a second: those of the first step, before any action has left a thing, are spared.
    """
    gc.disable()
    try:
        return cast("Step", importlib.import_module(kind.module))
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        gc.enable()


def _timed(step: Step, inputs: Inputs, request: Request, context: Context) -> Provenance:
    """Run a step. One that counts no time on a device itself had the CPU, or the device it names, all the while."""
    begun = time.monotonic()
    told = step.run(inputs, request.params, context)
    return {"device": cpu_name(), "device_seconds": round(time.monotonic() - begun, 3)} | told


def _fetched(request: Request, context: Context) -> Iterator[SourceFile]:
    """Yield the sources as files of this machine: those of a hub are downloaded where they are not here yet.

    Raises:
        ActionError: One of the user's is not here.
    """
    if missing := [s for s in request.sources if s.hub is None and is_absent(s.path)]:
        raise _not_here(request.name, missing)
    for source in request.sources:
        if source.hub is None:
            yield source
            continue
        context.check_stop()
        unit = f"bytes of {PurePosixPath(source.hub.name).name}"

        def tell(done: int, total: int, unit: str = unit) -> None:
            context.check_stop()
            context.progress(done, total, unit)

        yield replace(source, path=hub.download(source.hub, tell))


def _not_here(name: str, missing: Sequence[SourceFile]) -> ActionError:
    first, others = missing[0], len(missing) - 1
    what = f"is not on this machine; its SHA-256 is {first.digest}"
    if others:
        what += f" ({others} more of {name} {'is' if others == 1 else 'are'} missing)"
    hint = f"put there what was locked, or use a cache that has what {name} makes"
    return ActionError(what, where=str(first.path), hint=hint)


def _adopt_checkpoint(store: Store, key: str, work: Path) -> int | None:
    """Copy the newest sound checkpoint of earlier runs into this run's folder; return its step.

    A copy, not a move: the earlier run's process may be stopped rather than dead, and write on when it wakes up. Once
    the copy is on the disk, the checkpoints that it replaces go.
    """
    folders = [old / "checkpoints" for old in store.work.previous(key) if old != work]
    found = sorted((c for f in folders for c in complete_checkpoints(f)), key=step_of, reverse=True)
    adopted = (adopt(checkpoint, work / "checkpoints") for checkpoint in found)
    copied = next((copy for copy in adopted if copy is not None), None)
    for folder in {c.parent for c in found}:  # each may be many times the model; their logs stay
        shutil.rmtree(folder, ignore_errors=True)
    if copied is None:
        return None
    told = {"time": time.time(), "event": "resumed", "step": step_of(copied)}
    with (work / EVENTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
    return step_of(copied)


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[None]:
    """Send what libraries print, from Python or below it, to the file at `path`."""
    # Below Python: torch, tokenizers and CUDA write to the descriptors themselves.
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for original, target in zip(saved, (1, 2), strict=True):
                os.dup2(original, target)
                os.close(original)


def is_lost(error: BaseException | None, places: Iterable[Path]) -> bool:
    """Whether an error comes of a file that is not there, at or below one of some paths.

    Inputs are verified before a step begins. Where locks do nothing, a collection that began before they were in use
    may take one after that, and puts it back when it looks again.
    """
    lost = False
    while error is not None and not lost:
        if isinstance(error, FileNotFoundError):
            path = Path(os.fsdecode(error.filename or ""))
            lost = any(path.is_relative_to(place) for place in places)
        error = error.__cause__ or error.__context__
    return lost


def _failed(error: BaseException, work: Path, seconds: float) -> Reply:
    """Keep the traceback in the action's log, and say in a sentence what a user can do."""
    # A full disk takes no log, and a folder that another process removed has no place for one.
    with contextlib.suppress(OSError), (work / CAPTURED).open("a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    if isinstance(error, CorruptObjectError):
        return Reply(Answer.CORRUPT, seconds, str(work), error.what, error.hint)
    if isinstance(error, DemError):
        return Reply(Answer.FAILED, seconds, str(work), error.located, error.hint)
    if _is_full(error):
        return Reply(
            Answer.FAILED,
            seconds,
            str(work),
            f"the disk is full: {getattr(error, 'filename', None) or work}",
            "free some space; `dem build` goes on from here",
        )
    if isinstance(error, MemoryError):
        return Reply(
            Answer.FAILED,
            seconds,
            str(work),
            "out of memory",
            "lower micro_batch or eval_batch_size in the machine file",
        )
    last = str(error).strip().splitlines()[:1]
    what = f"{type(error).__name__}: {last[0] if last else 'no message'}"
    return Reply(Answer.FAILED, seconds, str(work), what, "`dem logs` shows the traceback")


def _is_full(error: BaseException) -> bool:
    """Whether a disk takes no more; libraries in other languages say it in words alone."""
    number = error.errno if isinstance(error, OSError) else None
    words = (*(os.strerror(full) for full in FULL), *LESS_WRITTEN)
    return number in FULL or any(word in str(error) for word in words)


def _log(work: Path) -> bytes:
    """The run's log: its events, then what libraries printed, as JSON lines."""
    events = (work / EVENTS).read_bytes() if (work / EVENTS).exists() else b""
    printed = (work / CAPTURED).read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [
        json.dumps({"event": "output", "line": line}, ensure_ascii=False) for line in printed if line.strip()
    ]
    return events + "".join(f"{line}\n" for line in lines).encode()


def _surroundings(request: Request, work: Path, begun: float) -> Provenance:
    """What is recorded of every run, whatever its kind."""
    said = read_events(_log(work))
    # Keys know digests alone: which repositories of a hub the sources are of is said here.
    repos = sorted({(s.hub.kind, s.hub.repo, s.hub.commit) for s in request.sources if s.hub is not None})
    fetched: list[JSON] = [{kind: repo, "commit": commit} for kind, repo, commit in repos]
    return {
        "seconds": round(time.monotonic() - begun, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "writer": writer(),
        "dem": __version__,
        "python": sys.version.split()[0],
        "threads": request.threads,
        **({"job": job} if (job := os.environ.get("DEM_JOB")) else {}),
        "machine": request.machine.model_dump(exclude={"cache", "work", "remotes", "engine", "submit"}),
        **({"fetched": fetched} if fetched else {}),
        "warnings": _said(said, "warning"),
        "notes": _said(said, "note"),
    }


def _said(events: list[dict[str, JSON]], kind: str) -> list[str]:
    return [str(e["message"]) for e in events if e.get("event") == kind and "message" in e]


def _digests(record: Record) -> dict[str, str]:
    return {name: output.digest for name, output in record.outputs.items()}
