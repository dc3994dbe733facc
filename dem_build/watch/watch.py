"""Watches a call, and leaves a witness where it found nothing to do.

What a call looks at is not declared by those who look but heard where they ask the system: Python's audit events tell
of each file that is opened and each folder that is listed, and `os.stat` and `os.lstat`, of which they do not tell, are
replaced by functions that do. So no module has to know of this one, and none can forget to say what it depends on.
What is not heard: `stat` of an entry of `os.scandir`, and libraries that open files themselves (`DEAF`).

What a remote is asked is told by `heard`, as libraries that ask do not tell Python.

A call that does more leaves no witness: one that writes a file and leaves it, starts a process or asks a network for
anything else. Nor does one that ends otherwise than well or at a gate, or whose command has not said with `vouch` that
nothing else entered: the time, or what is free of memory and disk.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
import threading
import time
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from dem_build.errors import GateError
from dem_build.watch.witness import (
    ASKED,
    CONTENT,
    FILE,
    FOLDER,
    LINK,
    MOST_READ,
    NAMES,
    STATUS,
    Witness,
    failure,
    folder,
    look,
    signature,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

GRAIN_NS: Final = 2_000_000_000  # as of the hints: a second change within a clock's grain leaves no trace
MOST_WITNESSES: Final = 64
WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PROC: Final = b"/proc"  # what lies there is no file: it says what is now, see `vouch`
USERS: Final = "/etc/passwd"  # where the C library looks `~name` up
DEAF: Final = frozenset({"numpy", "pyarrow", "tokenizers", "torch"})
"""Where one of these is loaded, a library may have opened data itself, without a word to Python. No plan needs one."""
DEEDS: Final = ("os.", "shutil.", "socket.", "subprocess.", "pty.")
"""How audit events begin that tell of more than looking, but for those below."""
HARMLESS: Final = frozenset({"os.fwalk", "os.putenv", "os.unsetenv", "os.walk"})

_stat, _lstat = os.stat, os.lstat
_current: Watch | None = None


def vouch(until: float) -> None:
    """Say that until a time this call will find and say the same as long as the files that it looked at are the same.

    Args:
        until: Seconds since 1970. Of several the earliest counts.
    """
    if _current is not None:
        _current.until = until if _current.until is None else min(until, _current.until)


def disavow(why: str) -> None:
    """Say that this call does more than look, before it does: nobody listens from here on."""
    if _current is not None:
        _current.give_up(why)


def asked(question: bytes, answer: bytes) -> None:
    """Note what a remote was asked, and how it answered.

    Args:
        question: As `asked` puts it again.
        answer: What tells the answer from others.
    """
    if _current is not None:
        _current.note(ASKED, question, answer)


class Watch:
    """Watches a call, as a context manager, until it does something that a witness cannot do again.

    Args:
        call: Its circumstances, as they were when it began; None watches nothing.

    Attributes:
        until: What was vouched for; None where nothing was.
        doubt: Why the call leaves no witness, as far as that is known.
        ended: Whether it listens no more.
    """

    def __init__(self, call: str | None) -> None:
        self.until: float | None = None
        self.doubt = "" if call else "such a call has none"
        self.ended = False
        self._call = call
        self._began = time.time_ns()
        self._looks: dict[tuple[str, bytes], bytes] = {}
        self._touched: dict[bytes, tuple[str, bytes]] = {}  # opened to be written → what was there
        self._said: list[tuple[int, bytes]] = []
        self._streams: tuple[TextIO, TextIO] | None = None
        self._busy: set[int] = set()  # threads that are in here: what they open is nobody's look

    def __enter__(self) -> Self:
        """Begin to listen."""
        if not (isinstance(sys.stdout, io.TextIOWrapper) and isinstance(sys.stderr, io.TextIOWrapper)):
            self.doubt = self.doubt or "a stream is none of the system's"
        elif not self.doubt:
            self._streams = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = (_copied(self, s, n) for n, s in enumerate(self._streams, 1))
            for path in sys.path:
                self._look(FOLDER, path or ".")
            _listen(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Listen no more."""
        self.ended = True
        if self._streams is not None:
            sys.stdout, sys.stderr = self._streams
        if _current is self:
            _listen(None)

    def keep(self, status: int) -> None:
        """Write the witness of what was watched, unless it is in doubt; where none can be written there is none."""
        if status not in (0, GateError.exit_status):
            self.give_up(f"it ends with {status}")
        elif self.until is None:
            self.give_up("nobody vouches for it")
        if not self.doubt:
            for name, (way, before) in self._touched.items():
                if look(way, name) != before:  # neither gone again nor as it was
                    self.give_up(f"{os.fsdecode(name)} was written")
            self._look_at_code()
        place = folder()
        if self.doubt or not self._call or self.until is None or place is None:
            return
        said = [
            (n, b"".join(data for _, data in parts)) for n, parts in groupby(self._said, lambda part: part[0])
        ]
        witness = Witness(status, self._began / 1e9, self.until, self._looks, said)
        with suppress(OSError):
            _write(Path(place), self._call, witness.to_bytes(self._call))

    def give_up(self, why: str) -> None:
        """Leave no witness."""
        self.doubt = self.doubt or why
        if _current is self:
            _listen(None)

    def said(self, number: int, data: bytes) -> None:
        """Note what is written to stdout (1) or stderr (2)."""
        if not self.doubt:
            self._said.append((number, data))

    # What is looked at.

    def note(self, way: str, path: Any, seen: bytes) -> None:
        """Note what somebody saw at a path; what changes meanwhile cannot be witnessed."""
        if isinstance(path, int):
            return  # an open file: it was noted when it was opened
        name = os.fsencode(path)
        if _is_of_now(name) or self._touched.get(name) == _NOTHING:
            return
        if self._looks.setdefault((way, name), seen) != seen:
            self.give_up(f"{os.fsdecode(name)} changes")

    def _look(self, way: str, path: Any) -> tuple[str, bytes]:
        """Look at what is about to be read; where its times may not show the next change, read it as well.

        Only `stat` is asked, as the caller opens it in a moment: what that says late is older than what the caller
        sees, so that a witness of it holds never rather than too long.
        """
        name = os.fsencode(path)
        try:
            found = _stat(name)
        except OSError as error:
            careful, seen = way, failure(error)
        else:
            careful = self._careful(way, name, found)
            seen = signature(way, found) if careful == way else look(careful, name)
        self.note(careful, path, seen)
        return careful, seen

    def _careful(self, way: str, name: bytes, found: os.stat_result) -> str:
        """The way to look at a path that misses no later change.

        Args:
            way: How it is looked at where its times tell.
            name: The path.
            found: What `stat` says of it.
        """
        if max(found.st_mtime_ns, found.st_ctime_ns) < self._began - GRAIN_NS:
            return way
        if stat.S_ISREG(found.st_mode):
            if found.st_size >= MOST_READ:
                self.give_up(f"{os.fsdecode(name)} is young, and large")
            return CONTENT
        return NAMES if way == FOLDER and stat.S_ISDIR(found.st_mode) else way

    def _look_at_code(self) -> None:
        """Look at all the code that ran; what is young may be other code than that by now."""
        for module in [*sys.modules.values()]:
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and self._look(STATUS, path)[0] != STATUS:
                self.give_up(f"{path} is young")
            if isinstance(made := getattr(module, "__cached__", None), str):
                for way in (FILE, CONTENT):  # what is compiled of the code that was looked at just now
                    self._looks.pop((way, os.fsencode(made)), None)
        self.note(STATUS, USERS, look(STATUS, os.fsencode(USERS)))
        if deaf := DEAF & sys.modules.keys():
            self.give_up(f"{', '.join(deaf)} may have opened a file")

    # What is done.

    def heed(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take in an audit event."""
        me = threading.get_ident()
        if me in self._busy:
            return
        self._busy.add(me)
        try:
            with suppress(ValueError):  # a name that can be no file's, which is for others to say
                self._take(event, arguments)
        finally:
            self._busy.discard(me)

    def _take(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            self._opened(arguments[0], arguments[2])
        elif event in ("os.listdir", "os.scandir"):
            self._listed(arguments[0])
        elif event.startswith(DEEDS) and event not in HARMLESS and not self._is_harmless(event, arguments):
            self.give_up(event)

    def _is_harmless(self, event: str, arguments: tuple[Any, ...]) -> bool:
        """Whether a deed changes nothing that is there when the call has ended."""
        if event == "os.mkdir":
            return os.path.isdir(arguments[0])  # noqa: PTH112
        if event == "os.remove":
            return self._touched.get(os.fsencode(arguments[0])) == _NOTHING
        if event == "os.utime":
            # Whoever takes long says that they live by the time of a file of theirs, which is gone when they end.
            return isinstance(arguments[0], int) and self._made(arguments[0])
        return event == "os.kill" and arguments[1] == 0  # signal 0 asks who is there

    def _made(self, descriptor: int) -> bool:
        """Whether an open file is one that was not there before this call."""
        with suppress(OSError):
            new = [name for name, seen in self._touched.items() if seen == _NOTHING]
            return any(os.path.samestat(os.fstat(descriptor), _stat(name)) for name in new)
        return False

    def _opened(self, path: Any, flags: int) -> None:
        if isinstance(path, int):
            return
        name = os.fsencode(path)
        seen = self._look(FILE, path)
        if flags & WRITES:
            self._touched.setdefault(name, seen)

    def _listed(self, path: Any) -> None:
        if isinstance(path, int):
            self.give_up("an open folder is listed")
            return
        path = os.fspath(path or ".")
        self._look(FOLDER, path)
        with suppress(OSError), os.scandir(os.fsencode(path)) as entries:
            for entry in entries:
                if entry.is_symlink():  # who lists may ask the entry, and not `stat`, where it leads
                    self.note(STATUS, entry.path, look(STATUS, entry.path))


_NOTHING: Final = (FILE, b"%d" % errno.ENOENT)


def _is_of_now(name: bytes) -> bool:
    """Whether a path is of /proc itself, and not of a file that a link there leads to."""
    try:
        return name.startswith(PROC + b"/") and _stat(name).st_dev == _stat(PROC).st_dev
    except OSError:
        return False


def _listen(watch: Watch | None) -> None:
    """Let a watch hear what this process looks at and does, or let nobody."""
    global _current  # noqa: PLW0603  what is heard is the process's
    _current = watch
    for name, function in (("stat", _heard_stat), ("lstat", _heard_lstat)):
        setattr(os, name, function if watch else {"stat": _stat, "lstat": _lstat}[name])
    if watch is not None and _heed not in _hooks:
        sys.addaudithook(_heed)  # none is ever taken away again
        _hooks.append(_heed)


def _heed(event: str, arguments: tuple[Any, ...]) -> None:
    if _current is not None:
        _current.heed(event, arguments)


_hooks: list[object] = []


def _heard_stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
    watch, way = _current, STATUS if follow_symlinks else LINK
    try:
        found = _stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
    except OSError as error:
        if watch is not None:
            watch.note(way, path, failure(error))
        raise
    if watch is not None:
        watch.note(way, path, signature(way, found))
        if dir_fd is not None:
            watch.give_up("a path begins at an open folder")
    return found


def _heard_lstat(path: Any, *, dir_fd: int | None = None) -> os.stat_result:
    return _heard_stat(path, dir_fd=dir_fd, follow_symlinks=False)


# What is imported while a call is watched may ask what `os.stat` can do.
for _able in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
    _able |= {heard for heard, own in ((_heard_stat, _stat), (_heard_lstat, _lstat)) if own in _able}


class _Copied(io.BufferedIOBase):
    """The bytes of a stream, on their way."""

    def __init__(self, watch: Watch, stream: io.TextIOWrapper, number: int) -> None:
        self._watch = watch
        self._to = stream
        self._number = number

    @property
    def name(self) -> Any:
        return self._to.name

    def write(self, data: Any, /) -> int:
        self._watch.said(self._number, bytes(data))
        self._to.buffer.write(data)
        return len(data)

    def flush(self) -> None:
        if (
            not self._watch.ended
        ):  # else it is flushed when Python ends, which has its own words for what fails
            self._to.flush()

    def close(self) -> None:
        """Leave the stream as it is: it is not ours."""

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._to.isatty()

    def fileno(self) -> int:
        return self._to.fileno()


def _copied(watch: Watch, stream: io.TextIOWrapper, number: int) -> io.TextIOWrapper:
    """A stream that writes what it is given to another one at once, and lets a watch note it."""
    return io.TextIOWrapper(
        _Copied(watch, stream, number),
        stream.encoding,
        stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=True,
    )


def _write(place: Path, name: str, data: bytes) -> None:
    """Write a witness in one step, and drop the oldest where there are many."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = place / f".{name}-{os.getpid()}"
    partial.touch(mode=0o600)
    partial.write_bytes(data)
    partial.replace(place / name)
    found = sorted(place.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in found[MOST_WITNESSES:]:
        path.unlink()
