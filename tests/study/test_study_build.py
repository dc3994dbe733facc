"""Builds that Python started: as `dem build` makes them, from a script without a guard, a loop or a thread."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import warm
from project import EVALUATE, Project, dataset, fresh, recipe, vector_of

GATE = '[[gates]]\ntask = "loss:add"\nmetric = "loss"\nmax = 0.1\n'
TEXT = recipe(dataset("add", omega=0.5, test=0.2), EVALUATE)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Project:
    made = fresh(tmp_path_factory.mktemp("built"), tiny_base)
    made.write(TEXT)
    return made


def said(project: Project, code: str) -> object:
    """Run code, and return the document that it prints; nothing else may be said."""
    done = warm.python("import json, dem_build\n" + code, project.home, project.environment)
    assert (done.status, done.err) == (0, "")
    return json.loads(done.out)


def test_a_script_builds_what_the_command_builds_inside_a_running_loop(project):
    code = """
import asyncio

async def inside():
    return dem_build.load("tiny.toml").build(progress=False)

built = asyncio.run(inside())
study = dem_build.load("tiny.toml")
vector, model = study.vector("add"), study.model()
tensors, loaded = vector.load(), model.load()
base = study.model("base").load(dtype="float32").state_dict()
moved = max(
    (base[name] + 0.5 * delta - value.float()).abs().max().item()
    for name, delta in tensors.items() for value in [loaded.state_dict()[name]]
)
print(json.dumps({
    "statuses": dict(zip(built.frame().action, built.frame().status)),
    "published": str(built.model), "path": str(model.path), "digest": vector.digest, "moved": moved,
    "curve": built.results.curves.step.tolist(), "dtypes": sorted({str(t.dtype) for t in tensors.values()}),
    "tokens": len(model.tokenizer()("ab", add_special_tokens=False)["input_ids"]),
    "saved": sorted(p.name for p in study.model("base").save("copy").iterdir()),
}))
"""
    found = said(project, code)
    assert set(found["statuses"].values()) == {"ran"}
    assert found["published"] == found["path"] == str(project.home / "out/tiny/model")
    assert found["digest"] == vector_of(project, "add")
    assert found["curve"] == [1, 2, 3, 4]
    assert found["dtypes"] == ["torch.float32"]
    assert found["moved"] < 2e-3  # the model's tensors are rounded to bfloat16
    assert found["tokens"] == 2
    assert "model.safetensors" in found["saved"]
    # It is the command's build: nothing is due, and the lock is written.
    assert "up to date" in project.call("build", "tiny.toml").stdout
    assert (project.home / "tiny.lock").exists()


def test_a_thread_builds_and_what_failed_is_raised_with_all_that_did(project):
    project.write(TEXT + GATE, "gate.toml")
    for name in ("broken", "worse"):
        (project.home / f"data/{name}.jsonl").write_text(f'{{"{name}": 1}}\n')
    broken = (dataset(name, omega=0.1) for name in ("broken", "worse"))
    project.write(TEXT + "".join(broken), "broken.toml")
    code = """
from concurrent.futures import ThreadPoolExecutor

def caught(name, **more):
    try:
        dem_build.load(name).build(progress=False, **more)
    except dem_build.DemError as error:
        return [type(error).__name__, str(error), getattr(error, "__notes__", [])]

with ThreadPoolExecutor(1) as pool:
    gate = pool.submit(caught, "gate.toml").result()
    failed = pool.submit(caught, "broken.toml", keep_going=True).result()
    missing = pool.submit(caught, "gate.toml", rebuild="vector:add", no_train=True).result()
print(json.dumps([gate, failed, missing]))
"""
    gate, failed, missing = said(project, code)
    assert gate[:2] == ["GateError", "1 of 1 gates failed"]
    assert failed[0] == "ActionError"
    assert "data:broken" in failed[1]
    assert len(failed[2]) == 1
    assert failed[2][0].startswith("data:worse failed, too: ")
    assert missing[0] == "NotUpToDateError"


STOPPED = """
import os, signal, threading, time
from pathlib import Path

def stop():
    while "steps" not in "".join(p.read_text() for p in Path("cache/work").glob("*/*/events.jsonl")):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.{name})

threading.Thread(target=stop, daemon=True).start()
before = signal.getsignal(signal.SIGINT)
try:
    dem_build.load("long.toml", set={{"train.seed": {seed}}}).build(["vector:add"], progress=False)
except KeyboardInterrupt as error:
    assert signal.getsignal(signal.SIGINT) is before
    print(json.dumps(str(error)))
"""


def kept(project: Project) -> int:
    """Return how many checkpoints are there of trainings that are not done."""
    return len([*project.home.glob("cache/work/*/*/checkpoints/*/complete.json")])


def test_an_interruption_is_a_keyboard_interrupt_and_leaves_what_the_next_build_goes_on_from(project):
    project.write(TEXT.replace("max_steps = 4", "max_steps = 400"), "long.toml")
    text = said(project, STOPPED.format(name="SIGINT", seed=1))
    assert text == "stopped (build again to go on from here)"
    assert kept(project) == 1


def test_a_process_that_is_to_end_ends_when_the_state_is_saved(project):
    project.write(TEXT.replace("max_steps = 4", "max_steps = 400"), "long.toml")
    shutil.rmtree(project.home / "cache/work", ignore_errors=True)
    code = "import json, dem_build\n" + STOPPED.format(name="SIGTERM", seed=2)
    done = warm.python(code, project.home, project.environment)
    assert (done.status, done.out, done.err) == (-signal.SIGTERM, "", "")
    assert kept(project) == 1


def test_progress_goes_to_stderr(project):
    done = warm.python(
        "import dem_build; dem_build.load('tiny.toml').build(['base'], rebuild='base')",
        project.home,
        project.environment,
    )
    assert (done.status, done.out) == (0, "")
    assert "✓ base" in done.err
