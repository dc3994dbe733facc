"""A map of rows: who lies beside whom, and what it depends on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tune_samples import DIGEST, base, dataset, model, skill
from weight_samples import make_context

from dem_build.actions.tsne import run as tsne
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.digest import of_bytes
from dem_build.machine import Machine
from dem_build.step import Group, Inputs


def draw(folder, groups, *, batch=8, **params):
    context = make_context(folder, threads=1)
    context.machine = Machine(eval_batch_size=batch)
    paths = {f"model/{part}": base() / part for part in ("weights", "config")}
    inputs = Inputs(paths, dict.fromkeys(paths, DIGEST), groups=tuple(groups))
    told = tsne.run(inputs, {"max_samples": 16, "dtype": "float32"} | params, context)
    return json.loads((context.out / "map").read_text())["rows"], told, context


def split(name: str) -> Group:
    digest = dataset(name).digests["data/validation"]
    return Group(name, {}, {"data/validation": skill(name).validation}, {"data/validation": digest})


def narrow(folder: Path, first: int) -> Group:
    """Sixteen rows of a few tokens that lie beside each other."""
    path, rng = folder / f"rows-{first}", np.random.default_rng(first)
    with RowsWriter(path.with_suffix(".spool")) as writer:
        for i in range(16):
            ids = rng.integers(first, first + 4, 12).astype(np.int32)
            writer.append(ids, ids, bytes.fromhex(of_bytes(f"{first} {i}".encode())))
        writer.save(path)
    return Group(f"{first}", {}, {"data/validation": path}, {"data/validation": of_bytes(path.read_bytes())})


def test_rows_that_are_alike_to_the_base_lie_together(tmp_path):
    groups = [narrow(tmp_path, 40), narrow(tmp_path, 150)]
    rows, told, _ = draw(tmp_path / "map", groups)
    assert told["rows"] == 32
    places = np.concatenate([rows[g.digests["data/validation"]] for g in groups])
    distances = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9 * np.eye(32)
    nearest = distances.argmin(axis=1) < 16
    assert (nearest == (np.arange(32) < 16)).all()


def test_order_of_datasets_reaches_no_byte(tmp_path):
    groups = [split("up"), split("down")]
    one, other = draw(tmp_path / "one", groups), draw(tmp_path / "other", groups[::-1])
    assert (one[2].out / "map").read_bytes() == (other[2].out / "map").read_bytes()


def test_padding_moves_no_hidden_state(tmp_path):
    alone, together = (tsne_states(tmp_path / str(size), size) for size in (1, 8))
    np.testing.assert_allclose(alone, together, atol=1e-5)


def tsne_states(folder, size: int) -> np.ndarray:
    context = make_context(folder, threads=1)
    context.machine = Machine(eval_batch_size=size)
    rows = TokenRows.open(skill("up").validation)
    return tsne._states(model(), [rows[i] for i in range(len(rows))], "float32", context)


def test_no_more_rows_than_asked_for(tmp_path):
    rows, _, _ = draw(tmp_path, [split("up"), split("down")], max_samples=5)
    assert [len(part) for part in rows.values()] == [5, 5]


def test_too_few_rows_for_a_map_are_said(tmp_path):
    rows, _, context = draw(tmp_path, [split("up")], max_samples=3)
    assert list(rows.values()) == [[[0.0, 0.0]] * 3]
    assert "too few" in (context.work / "events.jsonl").read_text()
