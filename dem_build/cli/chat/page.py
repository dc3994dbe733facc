"""The page of a chat: one file with nothing to load, served to this machine alone, and what it asks of the models.

Whoever may open a port of this machine, or has a page open in its browser, is not the user: each request says a secret
that only the printed address has, and no site can read what is answered or give this server another name.
"""

from __future__ import annotations

import json
import secrets
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from rich.text import Text

from dem_build.cli.chat.models import mean_of, settings_of
from dem_build.cli.edit.changes import difference, replace_text
from dem_build.errors import DemError, UsageError
from dem_build.report.text import clean
from dem_build.session.session import checked
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from collections.abc import Callable

    from dem_build.cli.chat.terminal import Talk
    from dem_build.digest import JSON

ASSETS = Path(__file__).parent / "assets"
LOOPBACK = "127.0.0.1"
MOST_BYTES = 4_000_000
"""Of a request: a conversation longer than any model reads."""
ENDING_SECONDS = 2.0
"""Until it is said what is waited for."""
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address has the secret
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def serve(talk: Talk, port: int) -> int:
    """Serve the page until Ctrl-C.

    Raises:
        UsageError: The port is taken.
    """
    try:
        server = PageServer(talk, port)
    except OSError as error:
        what = f"port {port} cannot be had: {error.strerror}"
        raise UsageError(what, hint="name another one, or none: a free one is taken") from error
    console = make_console()
    console.print(Text(server.address), soft_wrap=True)
    line = f"{', '.join(talk.names)} of {talk.models.named}; open it in a browser on this machine, Ctrl-C ends it"
    console.print(Text(clean(line), "dim"), soft_wrap=True)
    loading = threading.Thread(target=server.load, daemon=True)
    loading.start()
    with server:
        try:
            server.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            console.print()
        finally:
            if not server.end(ENDING_SECONDS):
                console.print(Text("waits for the model at work; Ctrl-C once more waits for nothing", "dim"))
                server.end()
    return 0


class PageServer(ThreadingHTTPServer):
    """Serves the page and what it asks for, on the loopback interface.

    Attributes:
        address: The page's, with the secret.
        ending: Set when the server ends.
    """

    daemon_threads = True

    def __init__(self, talk: Talk, port: int = 0) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.talk = talk
        self.token = secrets.token_urlsafe(24)
        self.writing = threading.Lock()
        self.ending = threading.Event()
        port = self.server_address[1]
        self.address = f"http://{LOOPBACK}:{port}/?token={self.token}"
        # Any other name is one that somebody had lead here (DNS rebinding), to read as its own what this answers.
        self.hosts = frozenset({f"{LOOPBACK}:{port}", f"localhost:{port}"})

    def load(self) -> None:
        """Load the models that are asked at first, while the user opens the page; what is wrong is said there."""
        import contextlib  # noqa: PLC0415  only here
        import gc  # noqa: PLC0415  as above

        with contextlib.suppress(DemError):
            for name in self.talk.names:
                if not self.ending.is_set():
                    self.talk.models.load([name])
        gc.freeze()  # as a chat in a terminal
        gc.enable()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless somebody went away: anybody here may open a connection and leave."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def end(self, seconds: float = -1) -> bool:
        """Have answers end, and wait for what is at work, as of `settle`: who ends within torch is aborted."""
        self.ending.set()
        return self.talk.models.settle(seconds)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: PageServer
    server_version, sys_version = "dem", ""
    timeout = 60  # seconds in which what was begun has to come

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  as in http.server
        """Print nothing: the terminal is the user's."""

    def do_GET(self) -> None:
        """Send the page, or what it shows."""
        path, _, query = self.path.partition("?")
        if not self._is_ours():
            return
        if path == "/api/state":
            if self._knows(self._bearer()):
                self._send_json(_state(self.server.talk))
        elif path != "/":
            self._send(HTTPStatus.NOT_FOUND, "there is nothing here", "text/plain")
        elif self._knows(parse_qs(query).get("token", [""])[0]):
            self._send_page()

    def do_POST(self) -> None:
        """Do what the page asks for."""
        asks: dict[str, Callable[[JSON], JSON]] = {"/api/omega": self._omega, "/api/write": self._write}
        if not self._is_ours() or not self._knows(self._bearer()):
            return
        try:
            body = self._body()
            if self.path == "/api/answer":
                self._answer(body)
            elif self.path in asks:
                self._send_json(asks[self.path](body))
            else:
                self._send(HTTPStatus.NOT_FOUND, "there is nothing here", "text/plain")
        except DemError as error:
            self._send_json(_told(error), HTTPStatus.BAD_REQUEST)

    # Who may ask

    def _is_ours(self) -> bool:
        origin = self.headers.get("Origin")
        ours = self.headers.get("Host") in self.server.hosts
        if ours and (origin is None or origin.removeprefix("http://") in self.server.hosts):
            return True
        self._send(HTTPStatus.FORBIDDEN, "this page is for this machine alone", "text/plain")
        return False

    def _bearer(self) -> str:
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    def _knows(self, token: str) -> bool:
        if secrets.compare_digest(token.encode(), self.server.token.encode()):
            return True
        self._send(HTTPStatus.FORBIDDEN, "open the address that `dem chat` has printed", "text/plain")
        return False

    def _body(self) -> JSON:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            raise UsageError(f"a request of {length or 'no'} bytes", hint=f"at most {MOST_BYTES}")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise UsageError("a request that is no JSON") from error
        if not isinstance(body, dict):
            raise UsageError("a request that is no table")
        return body

    # What is sent

    def _send(self, status: HTTPStatus, text: str, kind: str, policy: str = "default-src 'none'") -> None:
        data = text.encode()
        self._head(status, kind, policy, {"Content-Length": str(len(data))})
        self.wfile.write(data)

    def _head(self, status: HTTPStatus, kind: str, policy: str, more: dict[str, str]) -> None:
        self.send_response(status)
        told = {"Content-Type": f"{kind}; charset=utf-8", "Content-Security-Policy": policy}
        for name, value in {**told, **HEADERS, **more}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_json(self, document: JSON, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json.dumps(document), "application/json")

    def _send_page(self) -> None:
        nonce = secrets.token_urlsafe(12)
        page = (ASSETS / "page.html").read_text(encoding="utf-8").replace("{nonce}", nonce)
        for name in ("page.css", "page.js"):
            page = page.replace(f"{{{name}}}", (ASSETS / name).read_text(encoding="utf-8"))
        self._send(HTTPStatus.OK, page, "text/html", POLICY.replace("{nonce}", nonce))

    # What is asked for

    def _answer(self, body: JSON) -> None:
        """Send an answer as it comes, a JSON document a line."""
        talk, name = self.server.talk, str(body.get("model"))
        talk.models.require([name])
        given = body.get("settings", {})
        if not isinstance(given, dict):
            raise UsageError("settings are a table")
        turns, settings = _turns(body, talk.system), settings_of(given, talk.settings)
        self._head(HTTPStatus.OK, "application/x-ndjson", "default-src 'none'", {})

        def send(**document: JSON) -> None:
            self.wfile.write(json.dumps(document).encode() + b"\n")
            self.wfile.flush()

        def hear(text: str) -> None:
            send(text=text)

        try:
            answer = talk.models.ask(name, turns, settings, hear, self.server.ending.is_set)
            send(tokens=answer.tokens, ended=answer.ended, seconds=answer.seconds)
        except DemError as error:
            send(**_told(error))
        except OSError:  # the page has gone, or somebody stopped the answer
            self.close_connection = True

    def _omega(self, body: JSON) -> JSON:
        given = body.get("omega")
        numbers = isinstance(given, dict) and all(
            value is None or (isinstance(value, int | float) and not isinstance(value, bool))
            for value in given.values()
        )
        if not numbers:
            raise UsageError("ω are numbers, by the names of vectors")
        seconds = self.server.talk.models.move(
            {n: None if value is None else float(value) for n, value in given.items()}
        )
        return _omegas(self.server.talk) | {"seconds": seconds}

    def _write(self, body: JSON) -> JSON:
        """Write the ω, where `body` says the lines that this changes, as they were shown; else tell these lines."""
        models = self.server.talk.models
        with self.server.writing:
            draft, text = models.draft, models.changed_text()
            lines = difference(draft.text, text)
            checked(draft.named, (), draft.bytes_of(text))
            shown = body.get("lines")
            if shown is not None and shown != lines:
                raise UsageError("ω have been moved since this was shown", hint="look at it once more")
            if not shown:
                return {"recipe": draft.named, "lines": lines, "written": False}
            replace_text(draft, text)
            models.written()
        return {"recipe": draft.named, "lines": lines, "written": True}


def _told(error: DemError) -> dict[str, JSON]:
    return {"error": error.located, "hint": error.hint or ""}


def _state(talk: Talk) -> JSON:
    """All that the page shows when it is opened."""
    models = talk.models
    models.look_again()
    return {
        "recipe": models.recipe_name,
        "file": models.named,
        "method": models.method.name,
        "formula": models.method.formula,
        "models": [{"name": name, "missing": models.missing(name)} for name in models.names],
        "asked": list(talk.names),
        "settings": talk.settings._asdict(),
        "live": models.live,
        "bounds": list(models.bounds),
        **_omegas(talk),
    }


def _omegas(talk: Talk) -> dict[str, JSON]:
    models = talk.models
    try:
        found = models.omega
    except DemError as error:
        return {"fixed": models.fixed or f"{error.what}: {error.hint}", "vectors": [], "note": ""}
    vectors = [
        {"name": name, "omega": mean_of(omega), "layers": isinstance(omega, dict)}
        for name, omega in found.items()
    ]
    return {"fixed": "", "vectors": vectors, "note": models.note()}


def _turns(body: JSON, system: str) -> list[dict[str, str]]:
    turns = body.get("turns")
    sound = isinstance(turns, list) and all(
        isinstance(turn, dict)
        and turn.get("role") in {"user", "assistant"}
        and isinstance(turn.get("content"), str)
        for turn in turns
    )
    if not sound or not turns or turns[-1]["role"] != "user":
        raise UsageError("a conversation ends with a question")
    said = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    return [*([{"role": "system", "content": system}] if system else []), *said]
