"""An action may take more files than a process may have open at first, and none that it can never open begins."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
from dataclasses import replace

import numpy as np
import pytest
from build_samples import Made, make_graph
from safetensors.numpy import save_file

from dem_build.action import MODEL_PARTS, Action, Edge, Input
from dem_build.actions import KINDS
from dem_build.checkpoint.delta import write_delta
from dem_build.engine.preflight import refuse_too_many
from dem_build.engine.protocol import Answer, request_for
from dem_build.engine.run import Runner
from dem_build.errors import UsageError
from dem_build.machine import Machine
from dem_build.plan import History, decide
from dem_build.store import Hints, Store

VECTORS = 100
SOFT = 64


def composing(folder):
    """Return the request for a model of many tiny vectors that are in a store, which is made."""
    store = Store.open(folder / "cache", hints=Hints(folder / "hints"))
    base, shapes = folder / "base", {"w": (2, 3)}
    for part in ("weights", "tokenizer"):
        (base / part).mkdir(parents=True)
    save_file({"w": np.ones((2, 3), np.float32)}, base / "weights" / "model.safetensors")
    (base / "tokenizer" / "tokenizer.json").write_text("{}")
    for part in ("config", "generation_config"):
        (base / part).write_text('{"dtype": "float32"}')
    known = {"base": {part: store.objects.put(base / part) for part in MODEL_PARTS}}
    takes = [Input(f"base/{part}", Edge("base", part)) for part in MODEL_PARTS]
    digest = known["base"]["weights"].digest
    for i in range(VECTORS):
        write_delta(folder / "delta", digest, shapes, [("w", np.full((2, 3), i, np.float32))], "float32")
        known[f"v{i}"] = {"delta": store.objects.put(folder / "delta")}
        takes.append(Input("delta", Edge(f"v{i}", "delta"), 1 / VECTORS))
    model = Action("model", KINDS["compose"], {"method": "dem", "dtype": "float32"}, tuple(takes))
    verdict = decide(model, known, store.records, History())
    return request_for(verdict, known, Machine(), 1)


def replied(folder, request, hard):
    """Run a request where few files may be open, and a number more if that is asked for."""
    os.closerange(3, 4096)  # what tests before this one hold open
    resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, hard))
    store = Store.open(folder / "cache", hints=Hints(folder / "hints"))
    reply = Runner(store, lambda: False, lambda _: None).run(request)
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    (folder / "reply").write_text(json.dumps([reply.answer, reply.what, soft]))


@pytest.mark.parametrize("hard", [1000, 200])
def test_vectors_by_the_hundred_are_composed_where_few_files_may_be_open_at_first(tmp_path, hard):
    forked = multiprocessing.get_context("fork")
    process = forked.Process(target=replied, args=(tmp_path, composing(tmp_path), hard))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    answer, what, soft = json.loads((tmp_path / "reply").read_text())
    if hard == 1000:
        assert (Answer(answer), what) == (Answer.DONE, "")
        assert VECTORS < soft < hard, "no more than it takes: `select` takes no file of a large number"
    else:
        assert Answer(answer) is Answer.FAILED
        assert what.startswith("model: takes 106 files, for which a process needs 340 open ones, and 200 are")


def test_what_can_never_be_opened_is_refused_before_anything_runs(monkeypatch):
    limits = {"hard": 4096}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, limits["hard"]))
    made, graph = Made(), make_graph()
    model = graph.actions["model"]
    many = replace(
        model, takes=(*model.takes, *(replace(model.takes[-1], omega=i + 2.0) for i in range(2500)))
    )
    plan = made.plan(replace(graph, actions={**graph.actions, "model": many}))
    with pytest.raises(UsageError, match=r"takes 2505 files, .* 4096 are the limit here") as caught:
        refuse_too_many(plan)
    assert caught.value.where == "model"
    assert "ulimit -Hn" in str(caught.value.hint)
    for enough in (8192, resource.RLIM_INFINITY):
        limits["hard"] = enough
        refuse_too_many(plan)
