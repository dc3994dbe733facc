"""Names on a hub, asked of a small server on loopback by the real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from test_build import fresh, ran

COMMIT = "1234567890" * 4
RECIPE = """\
[base]
model = "base"

[evaluate]
loss = false
tasks = ["arc_easy"]
models = ["base"]
"""


class Hub(BaseHTTPRequestHandler):
    """Knows one dataset, at one commit."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        if "/datasets/" in self.path:
            Hub.asked.append(self.path)
        known = self.path.startswith("/api/datasets/allenai/ai2_arc/revision/main")
        body = (
            {"id": "allenai/ai2_arc", "sha": COMMIT, "private": False, "tags": []}
            if known
            else {"error": "no"}
        )
        data = json.dumps(body).encode()
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Hub.asked.clear()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def commit(name: str, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Ask in a process of its own: the client reads its settings when it is imported."""
    code = f"from dem_build.hub import dataset_commit; print(dataset_commit({name!r}))"
    variables = {**os.environ, "HF_ENDPOINT": endpoint, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False
    )


def test_a_dataset_is_resolved_to_its_commit(endpoint: str) -> None:
    assert commit("allenai/ai2_arc", endpoint).stdout.strip() == COMMIT


def test_an_unknown_dataset_is_said(endpoint: str) -> None:
    assert "the hub has no dataset 'allenai/other'" in commit("allenai/other", endpoint).stderr


def test_a_hub_out_of_reach_is_said() -> None:
    assert "cannot be asked" in commit("allenai/ai2_arc", "http://127.0.0.1:9").stderr


def test_offline_says_how_to_pin(endpoint: str) -> None:
    assert "dem lock" in commit("allenai/ai2_arc", endpoint, HF_HUB_OFFLINE="1").stderr
    assert Hub.asked == []


def test_the_lock_pins_a_built_in_tasks_dataset_and_asks_the_hub_once(
    tmp_path: Path, tiny_base: Path, endpoint: str
) -> None:
    project = fresh(tmp_path, tiny_base)
    project.environment |= {"HF_ENDPOINT": endpoint}
    project.write(RECIPE)
    project.call("lock", "tiny.toml")
    locked = json.loads((project.home / "tiny.lock").read_text())["tasks"]["arc_easy"]
    assert (locked["dataset"], locked["dataset_revision"]) == ("allenai/ai2_arc", COMMIT)
    assert len(Hub.asked) == 1
    project.call("plan", "tiny.toml")
    assert len(Hub.asked) == 1
    project.call("lock", "tiny.toml", "--upgrade")
    assert len(Hub.asked) == 2


def test_a_pinned_recipe_plans_offline(tmp_path: Path, tiny_base: Path, endpoint: str) -> None:
    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE)
    project.environment |= {"HF_ENDPOINT": endpoint}
    project.call("lock", "tiny.toml")
    project.environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    plan = json.loads(project.call("plan", "tiny.toml", "--json").stdout)
    assert "eval:base:arc_easy" in [a["name"] for a in plan["actions"]]
    assert ran(plan) == []
