"""Two builds in memory to compare: records whose rows and documents are said row by row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import fmean, stdev

import numpy as np
from build_samples import Made, make_graph, row_losses
from safetensors.numpy import save

from dem_build.compare import Side
from dem_build.report.inputs import BuildRecords


def token_rows(rows):
    """The bytes of prepared rows: of (prompt, answer) a row each, an answer is the tokens that count."""
    labels = [[-100, *map(ord, answer)] for _, answer in rows]
    flat = np.array([label for row in labels for label in row], np.int32)
    offsets = np.cumsum([0, *map(len, labels)]).astype(np.int64)
    prompts = b"".join(sha256(prompt.encode()).digest()[:16] for prompt, _ in rows)
    return save(
        {
            "input_ids": np.maximum(flat, 0),
            "labels": flat,
            "offsets": offsets,
            "prompts": np.frombuffer(prompts, np.uint8).reshape(-1, 16),
        }
    )


def samples(documents, *, hashed=True, filtered="none"):
    """The bytes of what a task recorded: of (text, metrics) a document each."""
    lines = []
    for place, (text, metrics) in enumerate(documents):
        sample = {
            "doc_id": place, "doc": {"q": text}, "target": text[::-1], "prompt": f"Q: {text}", "filter": filtered,
            "responses": [""], "metrics": metrics,
        }  # fmt: skip
        hashes = {"doc_hash": text, "prompt_hash": text, "target_hash": text[::-1]}
        lines.append(json.dumps(sample | hashes if hashed else sample) + "\n")
    return "".join(lines).encode()


def scored(documents, metric="acc"):
    """The metrics that lm-eval makes of documents: a mean."""
    values = [float(m[metric]) for _, m in documents]
    return {
        metric: fmean(values),
        f"{metric}_stderr": stdev(values) / len(values) ** 0.5,
        "samples": len(values),
    }


@dataclass
class Recorded(Made):
    """Records in memory, of a dataset's test rows and a task's documents as they are said.

    Attributes:
        tests: Dataset → its (prompt, answer) rows.
        losses: (model, dataset) → the loss of each row.
        tasks: (model, task) → its (text, metrics) documents.
        hashed: Whether documents have lm-eval's hashes.
    """

    tests: dict = field(default_factory=dict)
    losses: dict = field(default_factory=dict)
    tasks: dict = field(default_factory=dict)
    hashed: bool = True

    def make(self, action, known):
        record = super().make(action, known)
        if action.name.startswith("data:") and (rows := self.tests.get(action.name[5:])) is not None:
            record.outputs["test"] = self.put(token_rows(rows))
        about = action.evaluation
        if about is not None and about.task.startswith("loss:"):
            self._lose(record, about.model, about.task[5:])
        elif about is not None and (documents := self.tasks.get((about.model, about.task))) is not None:
            record.outputs["samples"] = self.put(samples(documents, hashed=self.hashed))
            record.outputs["metrics"] = self.put(json.dumps(scored(documents)).encode())
        return record

    def _lose(self, record, model, dataset):
        nll = self.losses.get((model, dataset))
        if nll is not None:
            tokens = [len(answer) for _, answer in self.tests[dataset]]
            metrics = {"loss": sum(nll) / sum(tokens), "loss_stderr": 0.1, "rows": len(nll)}
            record.outputs["rows"] = self.put(row_losses(nll, tokens))
            record.outputs["metrics"] = self.put(json.dumps(metrics).encode())


def side(graph=None, made=None, name="side", only=None, **more):
    """A side of a graph; `only` are the names of what is recorded, all of it if not said."""
    graph, made = graph or make_graph(), made or Recorded()
    records = made.build(graph)
    kept = {n: r for n, r in records.items() if only is None or n in only}
    return Side.of_build(name, BuildRecords(graph, kept, made.read), **more)
