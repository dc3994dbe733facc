"""What trackers are told of a training, with the packages themselves; none of it reaches the vector."""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from threading import Thread

import pytest
from finetune_samples import base, context_of, dropout_base, events, rows, run, stop_after, train

from dem_build.errors import InterruptedBuildError

__all__ = ["base", "dropout_base", "rows", "run"]  # fixtures, used by their names


def tracked(work, folder, *trackers, **more):
    context = context_of(work, report_to=trackers, **more)
    context.runs = folder
    return context


def scalars(folder):
    """Read what TensorBoard would show: tag → step → value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


def test_tensorboard_shows_the_curve_and_the_validation_losses_over_an_interruption(run, tmp_path):
    pytest.importorskip("tensorboard")
    work, folder = tmp_path / "work", tmp_path / "runs" / "math"
    _, untracked = run(tmp_path / "untracked", eval_steps=4)
    stop = stop_after(4, work)
    with pytest.raises(InterruptedBuildError):
        run(work, tracked(work, folder, "tensorboard", stopping=stop), eval_steps=4)
    provenance, delta = run(work, tracked(work, folder, "tensorboard"), eval_steps=4)
    assert delta.read_bytes() == untracked.read_bytes()
    shown = scalars(folder)
    assert shown["train/loss"] == {step: pytest.approx(loss) for step, loss, *_ in provenance["curve"]}
    assert (
        shown["train/learning_rate"].keys() == shown["train/grad_norm"].keys() == shown["train/loss"].keys()
    )
    assert min(shown["train/tokens_per_second"].values()) > 0
    assert shown["eval/loss"] == {s: pytest.approx(x) for s, x in provenance["validation"]["curve"]}
    assert not [e for e in events(work) if "stopped" in e.get("message", "")]


def test_wandb_writes_an_offline_run(base, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    work, folder = tmp_path / "work", tmp_path / "runs" / "math"
    train(base, work, tracked(work, folder, "wandb"), max_steps=2, num_train_epochs=None)
    [found] = (folder / "wandb").glob("offline-run-*/run-math.wandb")
    assert b"train/loss" in found.read_bytes()
    assert not [e for e in events(work) if "stopped" in e.get("message", "")]


@pytest.mark.skipif(
    find_spec("trackio") is None, reason="an extra"
)  # it looks for its folder when it is imported
def test_trackio_keeps_the_curve_in_one_database_and_asks_nobody_for_anything(run, tmp_path, monkeypatch):
    for name in ("TRACKIO_DIR", "TRACKIO_PROJECT", "TRACKIO_SERVER_URL", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = asked_hub(monkeypatch)
    work, folder = tmp_path / "work", tmp_path / "runs" / "vector:math"
    with pytest.raises(InterruptedBuildError):
        run(work, tracked(work, folder, "trackio", stopping=stop_after(4, work)), eval_steps=4)
    provenance, _ = run(work, tracked(work, folder, "trackio"), eval_steps=4)
    figures = told_trackio(tmp_path / "runs" / "trackio")
    assert {s: f["train/loss"] for s, f in figures.items() if "train/loss" in f} == {
        step: pytest.approx(loss) for step, loss, *_ in provenance["curve"]
    }
    assert {s: f["eval/loss"] for s, f in figures.items() if "eval/loss" in f} == {
        s: pytest.approx(x) for s, x in provenance["validation"]["curve"]
    }
    assert not [e for e in events(work) if "stopped" in e.get("message", "")]
    again = tmp_path / "again"  # the same training, from its beginning: its run begins anew
    run(again, tracked(again, folder, "trackio"), eval_steps=4)
    assert told_trackio(tmp_path / "runs" / "trackio", copies=1).keys() == figures.keys()
    assert asked == []


def asked_hub(monkeypatch):
    """Stand in for the hub; return what it is asked."""
    from huggingface_hub import constants

    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(500)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    return asked


def told_trackio(folder, copies=2):
    """Read its one run: step → figure → value, each at most so many times over."""
    [database] = folder.glob("*.db")
    with closing(sqlite3.connect(database)) as opened:
        rows = opened.execute("select run_name, step, metrics from metrics").fetchall()
    assert {name for name, *_ in rows} == {"vector:math"}
    found = {}
    for _, step, text in rows:
        for name, value in json.loads(text).items():
            found.setdefault(step, {}).setdefault(name, []).append(value)
    assert max(len(values) for figures in found.values() for values in figures.values()) <= copies
    return {step: {name: values[-1] for name, values in figures.items()} for step, figures in found.items()}


def test_a_tracker_that_fails_stops_nothing_and_is_said_once(base, tmp_path, monkeypatch):
    """A folder that cannot be made, and a package that went away since the build began."""
    (tmp_path / "file").write_text("")
    monkeypatch.setitem(sys.modules, "wandb", None)
    work = tmp_path / "work"
    context = tracked(work, tmp_path / "file" / "run", "tensorboard", "wandb")
    provenance, _ = train(base, work, context, max_steps=2, num_train_epochs=None)
    assert provenance["steps"] == 2
    said = [e["message"].partition(":")[0] for e in events(work) if e["event"] == "note"]
    assert said == ["tensorboard stopped", "wandb stopped"]
