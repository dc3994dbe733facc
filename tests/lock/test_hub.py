"""Names on a hub, asked of a small server on loopback by the real client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubServer, serving
from project import fresh, ran

from dem_build.errors import UsageError
from dem_build.lock import hub as hub_module

RECIPE = """\
[base]
model = "base"

[evaluate]
loss = false
tasks = ["arc_easy"]
models = ["base"]
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving() as server:
        server.commit("datasets", "allenai/ai2_arc", {"README.md": b"what it is"})
        yield server


@pytest.fixture
def endpoint(hub: HubServer) -> str:
    return hub.endpoint


def commit(name: str, endpoint: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Ask in a process of its own: the client reads its settings when it is imported."""
    code = f"from dem_build.lock.hub import commit_of; print(commit_of('dataset', {name!r}))"
    variables = {**os.environ, "HF_ENDPOINT": endpoint, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False
    )


def test_a_dataset_is_resolved_to_its_commit(hub: HubServer) -> None:
    now = hub.repositories["datasets", "allenai/ai2_arc"].branches["main"]
    assert commit("allenai/ai2_arc", hub.endpoint).stdout.strip() == now


def test_an_unknown_dataset_is_said(endpoint: str) -> None:
    assert "the hub has no dataset 'allenai/other'" in commit("allenai/other", endpoint).stderr


def test_a_hub_out_of_reach_is_said() -> None:
    assert "cannot be asked" in commit("allenai/ai2_arc", "http://127.0.0.1:9").stderr


def test_offline_says_how_to_pin(hub: HubServer) -> None:
    assert "dem lock" in commit("allenai/ai2_arc", hub.endpoint, HF_HUB_OFFLINE="1").stderr
    assert hub.asked == []


def test_offline_counts_where_the_client_was_loaded_long_before(hub: HubServer, monkeypatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    assert hub_module.commit_of("dataset", "allenai/ai2_arc")
    asked = len(hub.asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="is not in the lock, and this build is offline"):
        hub_module.commit_of("dataset", "allenai/ai2_arc")
    assert len(hub.asked) == asked


def test_the_lock_pins_a_built_in_tasks_dataset_and_asks_the_hub_once(
    tmp_path: Path, tiny_base: Path, hub: HubServer
) -> None:
    project = fresh(tmp_path, tiny_base)
    project.environment |= {"HF_ENDPOINT": hub.endpoint}
    project.write(RECIPE)
    project.call("lock", "tiny.toml")
    locked = json.loads((project.home / "tiny.lock").read_text())["tasks"]["arc_easy"]
    assert (locked["dataset"], locked["dataset_revision"]) == (
        "allenai/ai2_arc",
        hub.repositories["datasets", "allenai/ai2_arc"].branches["main"],
    )
    assert len(hub.asked) == 1
    project.call("plan", "tiny.toml")
    assert len(hub.asked) == 1
    project.call("lock", "tiny.toml", "--upgrade")
    assert len(hub.asked) == 2


def test_a_pinned_recipe_plans_offline(tmp_path: Path, tiny_base: Path, endpoint: str) -> None:
    project = fresh(tmp_path, tiny_base)
    project.write(RECIPE)
    project.environment |= {"HF_ENDPOINT": endpoint}
    project.call("lock", "tiny.toml")
    project.environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    plan = json.loads(project.call("plan", "tiny.toml", "--json").stdout)
    assert "eval:base:arc_easy" in [a["name"] for a in plan["actions"]]
    assert ran(plan) == []


@pytest.mark.parametrize("first", [0, 3])
def test_a_download_by_chunks_tells_the_bytes_of_the_file_alone(first: int) -> None:
    """The client's own reporter of such a download counts two things: what is written, and what came over the net."""
    from huggingface_hub.utils._xet_progress_reporting import XetDownloadProgressReporter

    told: list[tuple[int, int]] = []
    bar = hub_module._silent_bar(lambda *numbers: told.append(numbers))
    with XetDownloadProgressReporter(
        reconstruction_desc="x", total=10, log_level=20, tqdm_class=bar
    ) as reporter:
        for written in (first, 4, 10):
            reporter.update_progress(
                SimpleNamespace(
                    total_bytes_completed=written,
                    total_transfer_bytes_completed=2 * written + 1,
                    total_bytes_completion_rate=None,
                    total_transfer_bytes_completion_rate=None,
                    total_bytes=10,
                )
            )
    assert told == [(n, 10) for n in (first, 4, 10) if n]
