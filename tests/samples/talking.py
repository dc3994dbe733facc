"""What the tests of `dem chat` share: a built recipe of two vectors with a chat template, and a browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from project import Project, dataset, recipe
from tiny import make_base, make_data

from dem_build.cli.chat.chat import _models
from dem_build.cli.session import Call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.cli.chat.models import ChatModels

TEMPLATE = (
    "{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
COMMENTED = "omega = 0.5   # what add counts\n"
RECIPE = recipe(
    dataset("add", test=0.2, validation=0.1) + COMMENTED,
    '[datasets.copy]  # says it again\npath = "data/copy.jsonl"\nvalidation = 0.1\nomega = 0.25\n',
    "# nothing is searched\n",
    steps=2,
)
MORE = RECIPE.replace('name = "tiny"', 'name = "more"') + dataset("upper", omega=0.5, validation=0.1)


def talking(home: Path) -> Project:
    """A project whose recipe is built, and another one that has a vector more, which is not."""
    # Untied: a tied model this small says its last token again and again.
    make_base(home / "base", chat_template=TEMPLATE, tied=False)
    make_data(home / "data")
    project = Project(home)
    project.write("[project]\nname = 'x'\n", "pyproject.toml")
    project.build(RECIPE)
    project.write(MORE, "more.toml")
    return project


@contextmanager
def opened(named: str = "tiny.toml", *overrides: str) -> Iterator[ChatModels]:
    """The models of a recipe of the current folder, as a chat has them."""
    with ExitStack() as held:
        yield _models(named, Call(overrides=overrides), held)


class Browser:
    """Chromium without a window, spoken to through a pipe in the protocol of its developer tools."""

    def __init__(self, profile: Path) -> None:
        (ours, theirs), (heard, told) = os.pipe(), os.pipe()

        def in_place() -> None:  # where --remote-debugging-pipe reads and writes
            os.dup2(os.dup(ours), 3)
            os.dup2(os.dup(told), 4)

        program = shutil.which("chromium") or "chromium"
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]
        self._process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
            preexec_fn=in_place,  # noqa: PLW1509
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (ours, told):
            os.close(end)
        self._to, self._from = os.fdopen(theirs, "wb", 0), os.fdopen(heard, "rb")
        self._number = 0
        self.problems: list[str] = []
        """What the page's console complains of."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)  # what is narrow folds most of the page

    _session: str | None = None

    def send(self, method: str, **params: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            reply = json.loads(self._message())
            if reply.get("id") == self._number:
                assert "error" not in reply, (method, reply)
                return reply["result"]
            if reply.get("method") in {"Log.entryAdded", "Runtime.exceptionThrown"}:
                self.problems.append(json.dumps(reply["params"]))

    def _message(self) -> bytes:
        found = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser has ended"
            found += byte
        return bytes(found)

    def run(self, script: str) -> Any:
        """The value of an expression on the page, waited for where it is a promise."""
        told = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, condition: str, seconds: float = 60) -> Any:
        """Wait until an expression is true on the page, and return it."""
        wait = f"""new Promise((done, fail) => {{
            const begun = Date.now();
            const look = () => {{
                const found = ({condition});
                if (found) done(found);
                else if (Date.now() - begun > {seconds * 1000}) fail(new Error(document.body.innerText));
                else setTimeout(look, 50);
            }};
            look();
        }})"""
        return self.run(wait)

    def open(self, address: str) -> None:
        self.send("Page.navigate", url=address)
        self.until(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def key(self, key: str, text: str | None = None) -> None:
        codes = {"Enter": 13, "Tab": 9, "ArrowRight": 39, "ArrowLeft": 37, "Escape": 27}
        about = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        self.send("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)
        self._to.close()
        self._from.close()
