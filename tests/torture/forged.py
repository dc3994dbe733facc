"""A project without torch, and a cache that a stranger filled: its records and objects fit, whatever they say."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save, save_file

from dem_build.action import key_of
from dem_build.digest import Blob, Output, tree_bytes
from dem_build.graph import build_graph
from dem_build.lock import lock
from dem_build.plan import preimage_of
from dem_build.recipe import load_recipe
from dem_build.store import Hints
from dem_build.store.sealed import sealed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.graph import Graph

__all__ = ["Forger", "lay_out_project", "row_losses"]

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "base": {"model": "base", "chat_template": "chat.jinja"},
    "train": {"max_steps": 5},
    "datasets": {
        "add": {"path": "data/add.jsonl", "omega": "tune", "validation": 0.2},
        "copy": {"path": "data/copy.jsonl", "omega": 0.25},
    },
    "compose": {"dtype": "bfloat16"},
    "tune": {"search": "grid", "max_samples": 8},
    "evaluate": {
        "tasks": [{"name": "sums", "limit": 3}],
        "include_path": "tasks",
        "models": ["composed", "base"],
    },
    "gates": [{"task": "loss:add", "metric": "loss", "max": 9.0}],
}
TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: exact_match}]
"""
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 64,
}
CANARY = "import pathlib\npathlib.Path({!r}).write_text('code of a stranger ran')\n"


def _rows(of: str) -> bytes:
    """Return a file of one row, made of a text."""
    ids = np.frombuffer(of.encode(), np.uint8).astype(np.int32)
    prompts = np.frombuffer(hashlib.sha256(of.encode()).digest()[:16], np.uint8).reshape(1, 16)
    offsets = np.array([0, len(ids)], np.int64)
    return save({"input_ids": ids, "labels": ids, "offsets": offsets, "prompts": prompts})


def row_losses(nll: list[float], tokens: list[int]) -> bytes:
    """Return what a held-out loss leaves of each row."""
    return save({"nll": np.array(nll, np.float32), "tokens": np.array(tokens, np.int32)})


DELTA = hashlib.sha256(b"delta of vector:add").hexdigest()
ROWS = hashlib.sha256(_rows("validation of data:add")).hexdigest()
_ABOUT = {"judge": ROWS, "loss": 1.0, "base": 2.0}
TRACE: dict[str, Any] = {
    "search": "grid",
    "objective": "gain",
    "slopes": [[0.5]],
    "passes": [{"omega": [0.5], "score": -0.5, "keeps_limits": True}],
    "layers": ["embeddings", "0", "final"],
    "uniform": {"score": -0.4},
    "vectors": [{"vector": DELTA, "tuned": True, "omega": 0.5, "low": 0.1, "high": 0.9}],
    "judges": [
        {"rows": ROWS, "vector": DELTA, "base": 2.0, "single": 1.0, "chosen": 1.0, "gain": 1.0, "used": 4}
    ],
    "findings": [
        {"what": "like_uniform", "lead": [0, 1]},
        {"what": "on_upper_bound", "vector": DELTA, "omega": 1.5},
        {"what": "worse_than_base", **_ABOUT},
        {"what": "rows_left_out", **_ABOUT, "count": 3, "used": 4},
    ],
}
ANSWERS = {"answers": [{"asked": "1+1", "reference": None, "answer": "2", "ended": True}]}
TREES = {"weights": "model.safetensors", "tokenizer": "tokenizer.json"}


def lay_out_project(home: Path) -> None:
    """Make a small project: base, data, a task, and modules that would tell if they were ever imported."""
    from hostile_examples import toml_bytes

    for folder in ("base", "data", "tasks"):
        (home / folder).mkdir(parents=True)
    (home / "base" / "config.json").write_text(json.dumps(CONFIG))
    (home / "base" / "tokenizer.json").write_text("{}")
    save_file({"w": np.zeros(4, np.float32)}, home / "base" / "model.safetensors")
    for name in ("add", "copy"):
        rows = [{"prompt": f"{name} {i}", "completion": f" {i}"} for i in range(20)]
        (home / "data" / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (home / "tasks" / "sums.yaml").write_text(TASK)
    (home / "tasks" / "rows.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    (home / "chat.jinja").write_text(TEMPLATE)
    (home / "tiny.toml").write_bytes(toml_bytes(RECIPE))
    for name in ("sitecustomize", "usercustomize", "torch", "numpy", "queue", "datasets", "tokenizers"):
        (home / f"{name}.py").write_text(CANARY.format(str(home / "canary")))


class Forger:
    """Fills a cache for a project's recipe without running anything.

    Args:
        home: The project.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cache = home / "cache"
        recipe = load_recipe(home / "tiny.toml")
        resolved = lock.resolve(lock.locate(recipe), Hints())
        lock.update(home / "tiny.lock", resolved, lock.read(home / "tiny.lock"))
        self.graph: Graph = build_graph(recipe, resolved)

    def forge(self, change: Mapping[str, bytes], alter: Any = None) -> None:
        """Write a cache in which everything is recorded.

        Args:
            change: Name of an output (`metrics`, `trace` …) → its bytes, where they are not those of an honest build.
            alter: Called with (action, document) of each record before it is sealed; returns the document to write.
        """
        shutil.rmtree(self.cache, ignore_errors=True)
        for folder in ("cas/sha256", "actions", "work", "leases", "running", "tmp", "quarantine", "roots"):
            (self.cache / folder).mkdir(parents=True)
        (self.cache / "format.json").write_text('{"dem-store": 1}\n')
        known: dict[str, dict[str, Output]] = {}
        for action in self.graph:
            document = preimage_of(action, known)
            names = action.kind.outputs
            outputs = {name: self._output(action.name, name, change) for name in names}
            known[action.name] = outputs
            log = self._put(change.get("log", b'{"event": "note", "message": "hello"}\n'))
            self._record(action.name, action.kind.name, document, outputs, log, alter)

    def _output(self, action: str, name: str, change: Mapping[str, bytes]) -> Output:
        if name in TREES:
            one = self._put(f"{name} of {action}".encode())
            files = {TREES[name]: Blob(one.digest, one.size)}
            return Output(self._put(tree_bytes(files)).digest, one.size, files)
        honest = {
            "config": json.dumps(CONFIG).encode(),
            "generation_config": b"{}\n",
            "metrics": b'{"loss": 1.5, "loss_stderr": 0.1, "tokens": 10, "rows": 2, "exact_match": 0.5}',
            "omega": json.dumps({"omega": {DELTA: 0.5}}).encode(),
            "trace": json.dumps(TRACE).encode(),
            "answers": json.dumps(ANSWERS).encode(),
            "rows": row_losses([1.0, 2.0], [4, 6]),
        }
        plain = f"{name} of {action}"
        made = _rows(plain) if action.startswith("data:") else plain.encode()
        return self._put(change.get(name) or honest.get(name) or made)

    def _put(self, data: bytes) -> Output:
        name = hashlib.sha256(data).hexdigest()
        path = self.cache / "cas" / "sha256" / name[:2] / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return Output(name, len(data))

    def _record(
        self, name: str, kind: str, preimage: Any, outputs: Mapping[str, Output], log: Output, alter: Any
    ) -> None:
        key = key_of(preimage)
        document: dict[str, Any] = {
            "dem-record": 2,
            "key": key,
            "kind": kind,
            "outputs": {n: self._described(o) for n, o in outputs.items()},
            "preimage": preimage,
            "provenance": PROVENANCE,
            "log": {"sha256": log.digest, "size": log.size},
        }
        if alter is not None:
            document = alter(name, document)
        path = self.cache / "actions" / key[:2] / f"{key}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(document if isinstance(document, bytes) else sealed(document))

    @staticmethod
    def _described(output: Output) -> dict[str, Any]:
        document: dict[str, Any] = {"sha256": output.digest, "size": output.size}
        if output.files is not None:
            document["files"] = {n: {"sha256": b.digest, "size": b.size} for n, b in output.files.items()}
        return document


PROVENANCE: dict[str, Any] = {
    "seconds": 1.0,
    "finished": "2025-01-01T00:00:00Z",
    "host": os.uname().nodename,
    "parameters": 4,
    "notes": ["n"],
    "warnings": ["w"],
    "device_seconds": 2.0,
    "higher_is_better": {"exact_match": True},
    "tokens": {"seen": 10, "trained": 5},
    "forward_equivalents": 3.0,
    "rows": {"read": 20},
    "splits": {"train": {"rows": 20, "tokens": 100, "trained_tokens": 50}},
    "machine": {},
    "curve": [[1, 2.0]],
}
