"""The witness of a call that found nothing to do: what it looked at and what it said, so that it can be said again.

A call that writes nothing and starts nothing depends on its circumstances (`circumstances`), on the files that it
looked at and on what remotes answered, and on nothing else. `watch` writes down what those were and what was said. The
next call in the same circumstances asks `stat` about each of the files, then the remotes what they were asked. Where
every answer is the same it says the same and ends with the same status; any other answer, or a witness that is missing,
of another call or damaged, sends it the long way, which is the only one that decides anything. So a witness saves work
and is never needed: it may be deleted at any time.

This module is most of what a build with nothing to do runs: it imports what Python has loaded when it starts.
"""

import os
import stat
import sys
import time

from dem_build.host import host_folder

try:  # hashlib loads OpenSSL, which takes longer than all that is done here
    from _blake2 import blake2b
except ImportError:  # a Python that was built without
    from hashlib import blake2b

TYPE_CHECKING = False  # as `typing` has it, which is not loaded either
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION = 1
COMMANDS = (["build"], ["plan"], ["cache", "push"], ["cache", "pull"])
"""The commands that may have a witness, as a call begins with them."""

UNREAD = ("_", "OLDPWD", "SHLVL")
"""Variables that differ between two calls of one shell and say nothing to anybody who is called."""

MOST_READ = 1 << 20
"""Bytes of a file that is so young that its times may not show the next change, and that is compared by its bytes."""

# Ways to look at a path. A witness asks in the way in which the call did: opening what lies on another host asks that
# host, where `stat` may tell what it said a minute ago.
STATUS = "s"
"""By `stat`: it is a file as it was, or the same folder whatever is in it."""
LINK = "l"
"""By `lstat`: as `STATUS`, of the link itself where it is one."""
FILE = "f"
"""Opened: a file as it was."""
CONTENT = "c"
"""Opened, and young: with the same bytes too."""
FOLDER = "d"
"""Listed: a folder to which no entry came, and from which none went."""
NAMES = "n"
"""Listed, and young: with the same names too."""
ASKED = "a"
"""No path but a question to a remote (`asked`): it was answered so."""

# Bound here, as `watch` listens at these two.
_stat, _lstat = os.stat, os.lstat
_DIGITS = 32


class Witness:
    """What a call looked at and what it said.

    Attributes:
        status: Its exit status.
        since: When it was made, in seconds since 1970: it does not hold where the clock was set back.
        until: When it holds no longer, whatever is the same.
        looks: (way, path) → what was there.
        said: (1 for stdout or 2 for stderr, bytes), in order.
    """

    def __init__(
        self,
        status: int,
        since: float,
        until: float,
        looks: "Mapping[tuple[str, bytes], bytes]",
        said: "Sequence[tuple[int, bytes]]",
    ) -> None:
        self.status = status
        self.since = since
        self.until = until
        self.looks = looks
        self.said = said

    def to_bytes(self, call: str) -> bytes:
        """The bytes of its file: a check of all that follows, a line, looks, words."""
        looks = b"".join(b"%s %s\0%s\0" % (way.encode(), seen, p) for (way, p), seen in self.looks.items())
        lengths = " ".join(f"{number}:{len(data)}" for number, data in self.said)
        head = f"{call} {self.status} {self.since!r} {self.until!r} {len(looks)} {lengths}\n"
        rest = head.encode() + looks + b"".join(data for _, data in self.said)
        return _digest(rest).encode() + rest

    @classmethod
    def from_bytes(cls, data: bytes, call: str) -> "Witness":
        """The witness of a call, of the bytes of its file.

        Raises:
            ValueError: The bytes are not those that were written, or of another call.
        """
        rest = data[_DIGITS:]
        if data[:_DIGITS] != _digest(rest).encode():
            raise ValueError("damaged")
        head, _, body = rest.partition(b"\n")
        found, status, since, until, size, *lengths = head.decode().split(" ")
        if found != call:
            raise ValueError("of another call")
        parts = body[: int(size)].split(b"\0")[:-1]
        looks = {(chr(seen[0]), path): seen[2:] for seen, path in zip(parts[::2], parts[1::2], strict=True)}
        said, at = [], int(size)
        for length in filter(None, lengths):
            number, _, count = length.partition(":")
            said.append((int(number), body[at : at + int(count)]))
            at += int(count)
        return cls(int(status), float(since), float(until), looks, said)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=_DIGITS // 2).hexdigest()


def circumstances(arguments: "Sequence[str]") -> str | None:
    """What tells a call from those that may find or say something else in the same files.

    Arguments, working directory, user, host, Python and all of the environment but `UNREAD` enter, and which of the
    three streams are terminals, with their sizes. None where there is no witness of such a call.
    """
    if not any(list(arguments[: len(command)]) == command for command in COMMANDS):
        return None
    try:
        here = os.getcwd()  # noqa: PTH109
        streams = [(s.encoding, s.errors) for s in (sys.stdout, sys.stderr)]
    except (OSError, AttributeError):  # a folder that is gone, a stream that is closed
        return None
    environment = sorted(item for item in os.environ.items() if item[0] not in UNREAD)
    python = [sys.executable, sys.version, sys.flags, sys.warnoptions, sys.path]
    terminals = [_terminal(number) for number in range(3)]
    host = [os.uname().nodename, os.geteuid(), os.getegid()]
    told = (VERSION, list(arguments), here, host, environment, python, terminals, streams)
    return _digest(repr(told).encode())


def _terminal(number: int) -> object:
    try:
        return os.isatty(number) and os.get_terminal_size(number)
    except OSError:
        return None


def folder() -> str | None:
    """The folder of this host's witnesses; None where it has none."""
    host = host_folder()
    return None if host is None else os.path.join(host, f"witnesses-{VERSION}")  # noqa: PTH118


def look(way: str, path: bytes) -> bytes:
    """What is at a path, seen in one of the ways that are named above."""
    try:
        if way == STATUS:
            return signature(way, _stat(path))
        if way == LINK:
            return signature(way, _lstat(path))
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return signature(way, os.fstat(descriptor)) + _read(way, descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return failure(error)


def signature(way: str, found: os.stat_result) -> bytes:
    """What counts of an answer of `stat`: the same again means that nothing has changed."""
    mode = found.st_mode
    if stat.S_ISDIR(mode) and way not in (FOLDER, NAMES):
        return b"%x %x %x" % (mode, found.st_dev, found.st_ino)
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return b"%x %x %x %x %d %d" % (mode, found.st_dev, found.st_ino, found.st_size, *times)


def failure(error: OSError) -> bytes:
    """What counts where there is no answer."""
    return b"%d" % (error.errno or 0)


def _read(way: str, descriptor: int) -> bytes:
    """A digest of what is read of an open file or folder; nothing where its times tell enough."""
    if way == CONTENT:
        return _digest(os.read(descriptor, MOST_READ)).encode()
    if way == NAMES:
        return _digest(os.fsencode("/".join(sorted(os.listdir(descriptor))))).encode()
    return b""


def same(witness: Witness) -> bool:
    """Whether a witness still holds: this is its time, and all that was looked at or asked is as it was."""
    if not witness.since <= time.time() < witness.until:
        return False
    asked = {}
    for (way, path), seen in witness.looks.items():
        if way == ASKED:
            asked[path] = seen
        elif look(way, path) != seen:
            return False
    if not asked:
        return True
    from dem_build.watch.asked import answers  # noqa: PLC0415  most ask nobody

    return all(answer is not None and told(answer) == asked[question] for question, answer in answers(asked))


def told(answer: bytes) -> bytes:
    """What a witness has of a remote's answer."""
    return _digest(answer).encode()


def replayed(call: str | None) -> int | None:
    """Say what a call said when it was made last, and return its status; None where it has to be made."""
    place = folder()
    if call is None or place is None:
        return None
    try:
        with open(os.path.join(place, call), "rb") as file:  # noqa: PTH118, PTH123
            witness = Witness.from_bytes(file.read(), call)
    except (OSError, ValueError, LookupError):
        return None
    return _say(witness) if same(witness) else None


def _say(witness: Witness) -> int | None:
    streams = {1: sys.stdout.buffer, 2: sys.stderr.buffer}
    try:
        for number, data in witness.said:
            streams[number].write(data)
            streams[number].flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has gone; nothing more to say to it
        return 1
    except OSError:  # a full disk: what says so is on the long way
        return None
    return witness.status
