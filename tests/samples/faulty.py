"""An HTTP server between a client and a real one, which does to chosen requests what networks and stores do.

with faulty(endpoint) as proxy:
    proxy.faults.append(Fault(r"^GET .*/cas/", cut=1000, times=1))
    …  # a client of proxy.endpoint
    assert proxy.received("GET") < 5000
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["Asked", "Fault", "Proxy", "faulty"]

_PIECE = 1 << 16
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "server", "date"}


class _GoneError(Exception):
    """The connection ends here, without another byte."""


@dataclass
class Fault:
    """What happens to requests that match; of several faults that match the first one happens.

    Attributes:
        match: A pattern that is looked for in `METHOD /path?query`.
        skip: How many requests that match pass before the first one that it happens to.
        times: How many requests it happens to; all of them where None.
        delay: Seconds before anything else.
        rate: Bytes a second of the reply.
        status: This answer, and the server is not asked.
        code: What S3 calls the reason of `status`.
        cut: The connection ends after as many bytes of the reply's body.
        wrong: The reply's body has its size and other bytes.
        edit: Makes of the reply's body another one.
        lose: The server is asked, and its reply is not passed on.
        vanish: The connection ends before the server is asked.
        overwrite: The server does not see the condition of a write, so it replaces and says that all is well.
        strike: Called before the server is asked; where `lose`, after it has answered.
    """

    match: str = ""
    skip: int = 0
    times: int | None = None
    delay: float = 0.0
    rate: float | None = None
    status: int | None = None
    code: str = ""
    cut: int | None = None
    wrong: bool = False
    edit: Callable[[bytes], bytes] | None = None
    lose: bool = False
    vanish: bool = False
    overwrite: bool = False
    strike: Callable[[], None] | None = None


class Asked(NamedTuple):
    """A request that came, and what went back.

    Attributes:
        line: `METHOD /path?query`.
        status: What was answered; 0 of no answer.
        sent: Bytes of the client's body.
        received: Bytes of the body that went back to the client.
    """

    line: str
    status: int
    sent: int
    received: int


@dataclass
class Proxy:
    """What stands between, and what came by.

    Attributes:
        endpoint: Where the client goes.
        server: Where requests are passed on to.
        faults: What happens to requests; may be changed at any time.
        asked: The requests that ended, in that order.
    """

    endpoint: str
    server: str
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    running: int = 0
    lock: threading.Condition = field(default_factory=threading.Condition)

    def count(self, match: str = "") -> int:
        """How many requests matched."""
        return len(self._matching(match))

    def received(self, match: str = "") -> int:
        """How many bytes of bodies the client got from requests that matched."""
        return sum(item.received for item in self._matching(match))

    def sent(self, match: str = "") -> int:
        """How many bytes of bodies the client sent with requests that matched."""
        return sum(item.sent for item in self._matching(match))

    def forget(self) -> None:
        """Begin anew, without faults and counts."""
        with self.lock:
            self.faults.clear()
            self.asked.clear()

    def _matching(self, match: str) -> list[Asked]:
        with self.lock:
            # A client has its reply a moment before the request has ended here; one that hangs is not waited for.
            self.lock.wait_for(lambda: not self.running, timeout=2)
            return [item for item in self.asked if re.search(match, item.line)]

    def fault_of(self, line: str) -> Fault:
        """What happens to a request that begins; a fault that does nothing where none matches."""
        with self.lock:
            self.running += 1
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.match, line):
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return Fault()

    def note(self, item: Asked) -> None:
        """Count a request that ended."""
        with self.lock:
            self.running -= 1
            self.asked.append(item)
            self.lock.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients that hang up are part of it."""


@contextmanager
def faulty(server: str) -> Iterator[Proxy]:
    """Stand between clients and an `http://` server while the block runs."""

    class Bound(_Handler):
        pass

    listening = _Server(("127.0.0.1", 0), Bound)
    proxy = Bound.proxy = Proxy(f"http://127.0.0.1:{listening.server_address[1]}", server)
    threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        listening.shutdown()
        listening.server_close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _pass(self) -> None:
        line = f"{self.command} {self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxy.fault_of(line)
        self.status = self.passed = 0
        try:
            self._answer(body, fault)
        except (_GoneError, OSError):
            self.close_connection = True
        finally:
            self.proxy.note(Asked(line, self.status, len(body), self.passed))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815  http.server's names

    def _answer(self, body: bytes, fault: Fault) -> None:
        time.sleep(fault.delay)
        if fault.strike is not None and not fault.lose:
            fault.strike()
        if fault.vanish:
            raise _GoneError
        if fault.status is not None:
            self._refuse(fault)
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() not in {"connection", "content-length"}}
        if fault.overwrite:
            headers = {k: v for k, v in headers.items() if k.lower() != "if-none-match"}
        connection = HTTPConnection(urlsplit(self.proxy.server).netloc, timeout=60)
        try:
            connection.request(
                self.command, self.path, body if body or self.command in {"PUT", "POST"} else None, headers
            )
            self._pass_on(connection.getresponse(), fault)
        finally:
            connection.close()

    def _pass_on(self, reply: HTTPResponse, fault: Fault) -> None:
        if fault.lose:
            reply.read()
            if fault.strike is not None:
                fault.strike()
            raise _GoneError
        kept = {name: value for name, value in reply.getheaders() if name.lower() not in _HOP}
        stated = reply.getheader("Content-Length")
        edit = fault.edit if self.command == "GET" else None
        whole = reply.read() if stated is None or edit is not None else None
        if whole is not None and edit is not None:
            whole = edit(whole)
        self._begin(reply.status, kept, len(whole) if whole is not None else int(stated or 0))
        if self.command == "HEAD":
            return
        most = _PIECE if fault.rate is None else max(1, int(fault.rate / 10))
        while piece := (reply.read(most) if whole is None else whole):
            if whole is not None:
                whole = b""
            if fault.wrong:
                piece = bytes(byte ^ 1 for byte in piece)
            if fault.cut is not None and self.passed + len(piece) >= fault.cut:
                self._send(piece[: fault.cut - self.passed])
                raise _GoneError
            self._send(piece)
            if fault.rate:
                time.sleep(len(piece) / fault.rate)

    def _refuse(self, fault: Fault) -> None:
        page = f"<Error><Code>{fault.code}</Code></Error>".encode() if fault.code else b""
        self._begin(fault.status or 0, {"Content-Type": "application/xml"}, len(page))
        if self.command != "HEAD":
            self._send(page)

    def _begin(self, status: int, headers: dict[str, str], size: int) -> None:
        self.status = status
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in {204, 304}:
            self.send_header("Content-Length", str(size))
        self.end_headers()

    def _send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()
        self.passed += len(data)
