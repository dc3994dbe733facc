"""A small graph, records of its actions and outcomes of a build, made by hand to render."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace

import numpy as np
from safetensors.numpy import save

from dem_build import digest
from dem_build.action import MODEL_PARTS, Action, Edge, Evaluation, Input, key_of
from dem_build.actions import KINDS
from dem_build.digest import Output
from dem_build.engine.outcome import Done, Outcome, Result
from dem_build.graph import Graph
from dem_build.plan import History, Plan, make_plan, preimage_of
from dem_build.store import Record

TRAIN = {
    "method": "full", "optim": "adamw_torch_fused", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8,
    "learning_rate": 2e-5, "num_train_epochs": 1.0, "max_steps": None, "global_batch_size": 32, "bf16": True,
    "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "weight_decay": 0.0, "max_grad_norm": 1.0,
    "vector_dtype": "bfloat16", "seed": 42,
}  # fmt: skip
PREPARE = {"format": "text", "max_length": 64, "on_overflow": "drop", "validation": 0.05, "test": 0.05}
TASK = {"task": "arc_easy", "apply_chat_template": True, "dtype": "bfloat16", "lm_eval": "0.4.13"}
LOSS = {"loss": 2.5, "loss_stderr": 0.02, "tokens": 1234, "rows": 40}
ACC = {"acc": 0.25, "acc_stderr": 0.03, "samples": 200}
DEFAULTS = {
    ("base", "loss:math"): LOSS,
    ("composed", "loss:math"): LOSS | {"loss": 2.0},
    ("base", "arc_easy"): ACC,
    ("composed", "arc_easy"): ACC | {"acc": 0.26},
}


def make_graph(names=("math",), rate=2e-5, omega=0.5, models=("composed", "base")):
    """A base, a vector a dataset, the model, and the evaluations of each model."""
    model_of = {"composed": "model"}
    taken = {n: Input("delta", Edge(f"vector:{n}", "delta"), omega) for n in names}
    actions = [Action("base", KINDS["import"], {"source": "directory", "dtype": None})]
    for n in names:
        tokenizer = Input("base/tokenizer", Edge("base", "tokenizer"))
        actions.append(Action(f"data:{n}", KINDS["prepare"], PREPARE | {"system": n}, (tokenizer,)))
        takes = (
            Input("base/weights", Edge("base", "weights")),
            Input("data/train", Edge(f"data:{n}", "train")),
        )
        actions.append(Action(f"vector:{n}", KINDS["finetune"], TRAIN | {"learning_rate": rate}, takes))
    bases = tuple(Input(f"base/{p}", Edge("base", p)) for p in MODEL_PARTS)
    actions.append(
        Action(
            "model", KINDS["compose"], {"method": "dem", "dtype": "bfloat16"}, bases + tuple(taken.values())
        )
    )
    for model in models:
        weights = Input("model/weights", Edge(model_of.get(model, "base"), "weights"))
        for n in names:
            test = Input("data/rows", Edge(f"data:{n}", "test"))
            about = Evaluation(model, f"loss:{n}")
            actions.append(
                Action(
                    f"loss:{model}:{n}",
                    KINDS["loss"],
                    {"dtype": "bfloat16"},
                    (weights, test),
                    evaluation=about,
                )
            )
        about = Evaluation(model, "arc_easy")
        actions.append(Action(f"eval:{model}:arc_easy", KINDS["task"], TASK, (weights,), evaluation=about))
    return Graph(
        {a.name: a for a in actions}, {"composed": "model", "base": "base"}, dict.fromkeys(names, omega)
    )


def with_mixture(graph, **length):
    """The graph, and a mixture of its dataset `math` with its model: as long as that one's training, or `length`."""
    weights = Input("base/weights", Edge("base", "weights"))
    rows = Input("data/train", Edge("data:math", "train"), group="math")
    own = {} if length else {"epochs": 1.0, "sequences": None, "pack": None}
    delta = Input("delta", Edge("vector:mix", "delta"), 1.0)
    more = [
        Action("data:mix", KINDS["mix"], length, (rows,), groups={"math": own}),
        Action(
            "vector:mix", KINDS["finetune"], TRAIN, (weights, Input("data/train", Edge("data:mix", "train")))
        ),
        Action("model:mix", KINDS["compose"], {"method": "dem", "dtype": "bfloat16"}, (weights, delta)),
    ]
    return replace(
        graph, actions=dict(graph.actions) | {a.name: a for a in more}, baselines={"mix": "mixing"}
    )


def row_losses(nll, tokens=None):
    """The bytes of the losses of some rows, one token each unless said otherwise."""
    counted = np.array(tokens or [1] * len(nll), np.int32)
    return save({"nll": np.array(nll, np.float32), "tokens": counted})


@dataclass
class Made:
    """Records and the bytes of their outputs, in memory."""

    records: dict[str, Record] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    metrics: dict = field(default_factory=lambda: dict(DEFAULTS))
    provenance: dict = field(default_factory=dict)
    rows: dict = field(default_factory=dict)

    def lookup(self, key):
        return self.records.get(key)

    peek = lookup

    def expect(self, keys):
        """All of them are here."""

    def read(self, output):
        return self.objects[output.digest]

    def put(self, data):
        self.objects[digest.of_bytes(data)] = data
        return Output(digest.of_bytes(data), len(data))

    def make(self, action, known):
        """Record an action whose outputs follow from its key."""
        document = preimage_of(action, known)
        key = key_of(document)
        outputs = {n: self.put(f"{n} of {key}".encode()) for n in action.kind.outputs}
        if action.evaluation is not None:
            about = (action.evaluation.model, action.evaluation.task)
            outputs["metrics"] = self.put(self._document(self.metrics.get(about, LOSS)))
            if "rows" in outputs:
                outputs["rows"] = self.put(self.rows.get(about, row_losses([2.5])))
        record = Record(key, action.kind.name, document, outputs, self.provenance.get(action.name, {}))
        self.records[key], self.keys[action.name] = record, key
        return record

    def build(self, graph):
        """Record all actions; return name → record."""
        made = {}
        for action in graph:
            made[action.name] = self.make(action, {n: r.outputs for n, r in made.items()})
        return made

    def plan(self, graph) -> Plan:
        return make_plan(graph, self, History(self.keys))

    @staticmethod
    def _document(metrics):
        return metrics if isinstance(metrics, bytes) else json.dumps(metrics).encode()


def outcome_of(graph, records, status=None, **changed):
    """Return an outcome where all was cached, but for the names in `status` and the results in `changed`."""
    status = status or {}
    results = {
        a.name: Result(
            a,
            status.get(a.name, Done.HIT),
            12.5 if status.get(a.name) is Done.RAN else 0.0,
            key=records[a.name].key if a.name in records else None,
            record=records.get(a.name),
        )
        for a in graph
    }
    return Outcome(results | {r.action.name: r for r in changed.values()})


LLAMA = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
    "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


ROWS = {"splits": {"train": {"rows": 100, "tokens": 5000, "trained_tokens": 1000}}}


class MadeWithConfig(Made):
    """Records in memory, with the base's config among their objects."""

    def make(self, action, known):
        record = super().make(action, known)
        if action.name == "base":
            config = json.dumps(LLAMA).encode()
            self.objects[digest.of_bytes(b"config")] = config
            record.outputs["config"] = Output(digest.of_bytes(b"config"), len(config))
        return record

    def read_bytes(self, output):
        return self.read(output)


def known(graph, **vector):
    """A store where all of `graph` is recorded, and the vector was trained at 50 tokens a second on this host."""
    trained = {
        "host": os.uname().nodename,
        "device_seconds": 100.0,
        "tokens": {"seen": 5000},
        "finished": "2026",
    }
    store = MadeWithConfig(provenance={"data:math": ROWS, "vector:math": trained | vector})
    store.build(graph)
    return store


class Reading:
    """What estimates read of a store, counted."""

    def __init__(self, made):
        self.made, self.asked = made, 0
        self.records = self.objects = self  # as a store has them

    def all(self, _known=()):
        self.asked += 1
        return iter(self.made.records.values())

    def read_bytes(self, output):
        self.asked += 1
        return self.made.read_bytes(output)
