"""What each reader is given: documents that are nearly right, as strategies of hypothesis. For `hostile_targets.py`."""

from __future__ import annotations

import io
import json
from typing import Any

import hostile_examples as given
from forged import ANSWERS, CONFIG, DELTA, PROVENANCE, RECIPE, TEMPLATE, TRACE, row_losses
from hostile_texts import HOSTILE_JSON, PYTHON, TEMPLATES
from hypothesis import strategies as st

spoiled_json = lambda document: given.spoiled(given.mutated(document).map(_dumped))  # noqa: E731


def _dumped(document: Any) -> bytes:
    try:
        return json.dumps(document).encode()
    except (ValueError, RecursionError):
        return b"[" * 100_000


json_junk = st.sampled_from(HOSTILE_JSON)

recipes = given.spoiled(given.mutated(RECIPE).map(given.toml_bytes))
MACHINE = {"cache": "cache", "jobs": 1, "micro_batch": 8, "report_to": [], "checkpoint_seconds": 1.0}
LOCK_HUB = {
    "hub": {
        "dataset": "a/b",
        "revision": "main",
        "config": None,
        "splits": {"train": "train"},
        "commit": "0" * 40,
        "files": [{"tag": "jsonl", "path": "data.jsonl", "sha256": "0" * 64}],
    },
    "files": [],
}
LOCK = {
    "dem_lock": 1,
    "base": {
        "source": "directory",
        "files": [{"tag": "config.json", "path": "base/config.json", "sha256": "0" * 64}],
    },
    "datasets": {
        "add": {"files": [{"tag": "jsonl", "path": "data/add.jsonl", "sha256": "0" * 64}]},
        "copy": LOCK_HUB,
    },
    "vectors": {"v": {"files": []}},
    "tasks": {
        "sums": {"lm_eval": "0.4.13", "local": True, "files": [], "dataset": "a/b", "dataset_revision": "c"}
    },
}

_keys = st.sampled_from(
    [
        "name",
        "base.model",
        "train.max_steps",
        "datasets.add.path",
        "datasets.add.train.seed",
        "gates.0.min",
        "gates.-1.min",
        "gates.99999999999999999999.min",
        "evaluate.tasks.0.limit",
        "",
        ".",
        '"a"."b"',
        "a." * 3000 + "b",
        "base",
        "tune.bounds",
        "compose.dtype",
        "base.system",
        '"\\u0000"',
        "datasets.é.path",
        "gates.².min",
        "gates.٣.min",
        "--help",
    ]
)
_set_values = st.one_of(
    st.sampled_from(
        [
            *given.ODD_TEXTS,
            "[" * 5000,
            "9" * 5000,
            "{",
            "{a=1",
            "[1,2",
            '"',
            "1e400",
            "\udcff",
            "1\nx = 2",
            "# x",
        ]
    ),
    st.text(max_size=20),
    given.junk.map(lambda v: given._toml(v) if v is not None else "null"),
)
overrides = st.lists(st.builds(lambda k, v: f"{k}={v}", _keys, _set_values), min_size=1, max_size=3)

ACTIONS = (
    "base",
    "data:add",
    "vector:add",
    "vector:copy",
    "tune",
    "model",
    "loss:composed:add",
    "eval:base:sums",
)
_blob = {"sha256": "0" * 64, "size": 3}
_places = st.one_of(
    st.tuples(st.just("provenance"), given.mutated(PROVENANCE)),
    st.tuples(
        st.just("outputs"), given.mutated({"weights": _blob, "tokenizer": _blob | {"files": {"../x": _blob}}})
    ),
    st.tuples(
        st.sampled_from(["kind", "key", "preimage", "log", "dem-record", "outputs", "provenance", "more"]),
        given.junk,
    ),
)
records = st.tuples(st.sampled_from(ACTIONS), st.one_of(_places, _places, json_junk))

METRICS = {"loss": 1.5, "loss_stderr": 0.1, "tokens": 10, "rows": 2, "exact_match": 0.5}
EVENT = {
    "event": "progress",
    "time": 1.0,
    "done": 1,
    "total": 5,
    "unit": "steps",
    "loss": 1.0,
    "tokens_per_second": 5.0,
}


@st.composite
def rows_files(draw: st.DrawFn) -> bytes:
    import numpy as np
    from safetensors.numpy import save

    numbers = st.sampled_from([0, 1, 2, 3, -1, 2**31 - 1, 2**40, -(2**62), 2**63 - 1])
    parts = {
        "input_ids": np.array(draw(st.lists(st.integers(-3, 99), max_size=4)), np.int32),
        "labels": np.array(draw(st.lists(st.integers(-100, 99), max_size=4)), np.int32),
        "offsets": np.array(draw(st.lists(numbers, max_size=4)), np.int64),
        "prompts": np.zeros((draw(st.integers(0, 3)), 16), np.uint8),
    }
    kept = draw(st.sets(st.sampled_from(sorted(parts)), min_size=2))
    odd = draw(st.sampled_from(["", "", "offsets", "input_ids", "labels"]))
    made = {n: (v.astype(np.float32) if n == odd else v) for n, v in parts.items() if n in kept}
    return draw(given.spoiled(st.just(save(made))))


ODD_ROWS = [
    row_losses(nll, tokens)
    for nll in ([], [1.0], [float("nan"), 1.0], [float("inf"), -float("inf")], [3e38, -3e38], [0.0, 0.0])
    for tokens in ([], [1], [0, 0], [-1, 1], [2**31 - 1, 2**31 - 1])
]
contents = st.one_of(
    st.builds(lambda d: {"metrics": d}, spoiled_json(METRICS)),
    st.builds(
        lambda n, v: {"metrics": _dumped({n: v})},
        st.sampled_from(given.ODD_TEXTS),
        st.sampled_from(given.NUMBERS),
    ),
    st.builds(lambda d: {"trace": d}, spoiled_json(TRACE)),
    st.builds(lambda d: {"answers": d}, spoiled_json(ANSWERS)),
    st.builds(
        lambda t: {
            "answers": _dumped({"answers": [{"asked": t, "reference": t, "answer": t, "ended": False}]})
        },
        st.sampled_from(given.ODD_TEXTS),
    ),
    st.builds(lambda d: {"rows": d}, st.sampled_from(ODD_ROWS) | st.binary(max_size=64)),
    st.builds(lambda d: {"omega": d}, spoiled_json({"omega": {DELTA: 0.5}})),
    st.builds(lambda d: {"log": d}, spoiled_json(EVENT)),
    st.builds(
        lambda d: {"log": d.encode()},
        st.sampled_from(given.ODD_TEXTS).map(lambda t: json.dumps({"event": "note", "message": t})),
    ),
    st.builds(
        lambda k, d: {k: d},
        st.sampled_from(["metrics", "trace", "omega", "answers", "log", "config", "generation_config"]),
        json_junk,
    ),
)
HOLDER = {
    "dem-lease": 1,
    "dem-uses": 1,
    "host": "h",
    "boot_id": "b",
    "pid_namespace": "p",
    "pid": 1,
    "start_time": 1,
    "nonce": "n",
    "since": 1.0,
}
ROOT = {
    "dem-root": 1,
    "recipe_id": "0" * 32,
    "root": {
        "recipe": "x.toml",
        "host": "h",
        "built": 1.0,
        "actions": {"base": "0" * 64},
        "wanted": ["1" * 64],
        "dropped": {"2" * 64: 1.0},
    },
}
_left = {
    "root": ROOT,
    "lease": HOLDER,
    "running": HOLDER,
    "format": {"dem-store": 1},
    "hints": HOLDER,
    "gc": HOLDER,
    "trash": HOLDER,
    "stamp": {"recipe": "tiny.toml", "model_digest": "0" * 64, "files": {"config.json": [1, 2]}},
}
leftovers = st.sampled_from(sorted(_left)).flatmap(
    lambda name: st.tuples(st.just(name), st.one_of(spoiled_json(_left[name]), json_junk))
)

HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]},
}


def _with_length(text: bytes, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(24)


tensors = st.one_of(
    given.spoiled(given.mutated(HEADER).map(_dumped).map(_with_length)),
    st.builds(
        _with_length, given.mutated(HEADER).map(_dumped), st.sampled_from([0, 1, 7, 2**31, 2**63, 2**64 - 1])
    ),
    st.binary(max_size=64),
    json_junk.map(_with_length),
)
WIDE = [10**3000] * 3000
SAFETENSORS = (
    _with_length(_dumped({"a": {"dtype": "F32", "shape": WIDE, "data_offsets": [0, 0]}})),
    _with_length(_dumped({"a": {"dtype": "F32", "shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}})),
    _with_length(b'{"a": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}, "a": {}}'),
    _with_length(_dumped({"\ud800\x1b[2J": {"dtype": "F32", "shape": "x", "data_offsets": [0, 24]}})),
)


PAIR = {"prompt": "a", "completion": "b"}
CHAT = {
    "messages": [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "a",
            "weight": 1,
            "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
        },
    ],
    "tools": [{"name": "f"}],
}
SHARE = {
    "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
    "system": "s",
    "tools": "[]",
}
_row = st.sampled_from([PAIR, CHAT, SHARE, {"text": "t"}]).flatmap(given.mutated)


@st.composite
def parquet_files(draw: st.DrawFn) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    times = pa.array([2**62, -(2**62)], pa.int64())
    columns = [
        pa.array(["a", "b"]),
        pa.array([b"\xff\xfe", b"a"]),
        pa.array([1, None]),
        pa.array([[1], []]),
        times.cast(pa.timestamp("us")),
        times.cast(pa.duration("us")),
        pa.array([b"\xff", b"\xfe"]).view(pa.binary()),
        pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"\xff"]).buffers()),
        pa.array([{"role": "user"}, None]),
    ]
    names = draw(
        st.lists(
            st.sampled_from(["prompt", "completion", "text", "messages", "\x1b[2J", ""]),
            min_size=1,
            max_size=3,
        )
    )
    sink = io.BytesIO()
    pq.write_table(pa.table([draw(st.sampled_from(columns)) for _ in names], names=names), sink)
    return draw(given.spoiled(st.just(sink.getvalue())))


_lines = st.lists(st.one_of(_row.map(_dumped), json_junk), min_size=1, max_size=3)
data_files = st.one_of(
    st.tuples(st.just("jsonl"), given.spoiled(_lines.map(b"\n".join))),
    st.tuples(st.just("json"), given.spoiled(_lines.map(lambda rows: b"[" + b",".join(rows) + b"]"))),
    st.tuples(
        st.just("csv"),
        given.spoiled(
            st.lists(st.sampled_from(given.ODD_TEXTS), max_size=6).map(
                lambda cells: (
                    "prompt,completion\n"
                    + "\n".join(",".join(cells[i : i + 2]) for i in range(0, len(cells), 2))
                ).encode()
            )
        ),
    ),
    st.tuples(st.just("csv"), st.binary(max_size=60)),
    st.tuples(st.just("parquet"), parquet_files()),
    st.tuples(st.sampled_from(["jsonl", "json", "csv", "parquet"]), json_junk),
)
_task_document: dict[str, Any] = {
    "task": "sums",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}, "data_dir": "."},
    "include": [],
    "test_split": "test",
    "metric_list": [{"metric": "acc"}],
    "group": None,
}


def _task_yaml(document: Any) -> bytes:
    """A JSON document is a YAML document; the tag of a function is put before its text."""
    return _dumped(document).replace(b'"!function ', b'!function "')


_task_values = st.one_of(given.junk, st.sampled_from(given.ODD_TEXTS).map(lambda t: f"!function {t}.f"))
task_files = given.spoiled(given.mutated(_task_document, values=_task_values).map(_task_yaml))
_pieces = st.sampled_from(
    [
        *TEMPLATES[7:],
        TEMPLATE,
        "{{ bos_token }}",
        "{% if tools %}",
        "{% endif %}",
        "{% for m in messages %}",
        "{% endfor %}",
    ]
)
templates = st.one_of(
    st.lists(_pieces, max_size=4).map("".join),
    given.spoiled(st.just(TEMPLATE.encode())).map(lambda b: b.decode(errors="replace")),
)

events = given.spoiled(
    st.lists(given.mutated(EVENT).map(_dumped), max_size=4).map(lambda e: b"\n".join(e) + b"\n")
)
ADAPTER = {"peft_type": "LORA", "r": 8, "target_modules": ["q"], "init_lora_weights": True, "lora_alpha": 8}
model_files = st.one_of(
    st.tuples(st.just("config.json"), st.one_of(spoiled_json(CONFIG), json_junk)),
    st.tuples(st.just("adapter_config.json"), st.one_of(spoiled_json(ADAPTER), json_junk)),
)
index_files = st.one_of(
    spoiled_json({"weight_map": {"w": "model.safetensors", "v": "other.safetensors"}}), json_junk
)


machines = given.spoiled(given.mutated(MACHINE).map(given.toml_bytes))
locks = st.one_of(spoiled_json(LOCK), json_junk)
python_files = given.spoiled(st.sampled_from(PYTHON))
