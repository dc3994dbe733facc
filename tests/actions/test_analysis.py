"""How vectors lie to each other, against numpy over whole vectors."""

from __future__ import annotations

import json
from functools import cache
from itertools import combinations
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from tiny import make_base
from weight_samples import DIGEST, import_base, make_context, random_vector, store_vector

from dem_build.action import Input
from dem_build.actions.analysis import run as analysis
from dem_build.checkpoint.layers import kind_of, layer_of
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import CheckpointError, InterruptedBuildError
from dem_build.step import Inputs, StoredFile


@cache
def base() -> Path:
    home = Path(mkdtemp(prefix="dem-analysis-"))
    return import_base(make_base(home / "base", vocab=40_000), home / "imported")


@cache
def vectors() -> tuple[dict[str, np.ndarray], ...]:
    """Three vectors with something in common, each with zeros of its own."""
    common, *own = (random_vector(base(), seed) for seed in range(4))
    rng = np.random.default_rng(9)
    return tuple(
        {n: (common[n] + t) * (rng.random(t.shape) < 0.8) for n, t in vector.items()} for vector in own
    )


def analyse(folder: Path, given=None, threads=2, digest=DIGEST, stopping=lambda: False) -> dict:
    given = vectors() if given is None else given
    context = make_context(folder, threads, stopping)
    terms = []
    for i, vector in enumerate(given):
        terms.append(
            Input(
                "delta",
                StoredFile(store_vector(folder / f"{i}", vector, "float32", digest), f"{i}" * 64),
                None,
            )
        )
    inputs = Inputs({"base/weights": base() / "weights"}, {"base/weights": DIGEST}, tuple(terms))
    analysis.run(inputs, {}, context)
    return json.loads((context.out / "tables").read_text())


def flat(vector: dict[str, np.ndarray], wanted=lambda _: True) -> np.ndarray:
    return np.concatenate([t.ravel() for n, t in vector.items() if wanted(n)]).astype(np.float64)


def theta() -> dict[str, np.ndarray]:
    with open_checkpoint(base() / "weights") as weights:
        return {name: weights.read(name) for name in weights.tensors}


def check(found: dict, rows: list[np.ndarray], base_row: np.ndarray) -> None:
    """Compare one part of the tables with numpy over the whole rows."""
    mean = sum(rows) / len(rows)
    centred = [row - mean for row in rows]
    norm = np.linalg.norm
    assert found["elements"] == len(base_row)
    np.testing.assert_allclose(found["base_norm"], norm(base_row))
    np.testing.assert_allclose(found["norms"], [norm(r) for r in rows])
    np.testing.assert_allclose(found["relative_norms"], [norm(r) / norm(base_row) for r in rows])
    np.testing.assert_allclose(found["shared"], norm(mean) ** 2 / np.mean([norm(r) ** 2 for r in rows]))
    for i, j in combinations(range(len(rows)), 2):
        both = (rows[i] != 0) & (rows[j] != 0)
        conflict = (np.sign(rows[i]) != np.sign(rows[j]))[both].mean()
        np.testing.assert_allclose(found["cosines"][i][j], rows[i] @ rows[j] / norm(rows[i]) / norm(rows[j]))
        angle = centred[i] @ centred[j] / norm(centred[i]) / norm(centred[j])
        np.testing.assert_allclose(found["centred_cosines"][i][j], angle, atol=1e-9)
        assert found["sign_conflicts"][i][j] == found["sign_conflicts"][j][i] == pytest.approx(conflict)
    signs = np.sign(rows)
    several = (signs != 0).sum(axis=0) >= 2
    torn = (signs > 0).any(axis=0) & (signs < 0).any(axis=0)
    assert found["sign_conflict"] == pytest.approx(torn.sum() / several.sum())


def test_all_elements_together_are_as_numpy_has_them(tmp_path):
    check(analyse(tmp_path)["whole"], [flat(v) for v in vectors()], flat(theta()))


def test_each_layer_is_as_numpy_has_it(tmp_path):
    found = analyse(tmp_path)
    assert found["layers"] == ["embeddings", "0", "1", "final"]
    for layer, part in zip(found["layers"], found["by_layer"], strict=True):

        def inside(name: str, layer=layer) -> bool:
            return layer_of(name) == layer

        check(part, [flat(v, inside) for v in vectors()], flat(theta(), inside))


def test_distances_are_those_of_each_layers_modules(tmp_path):
    found = analyse(tmp_path)
    assert {"embeddings", "norms", "q_proj", "v_proj", "up_proj", "down_proj"} <= set(found["kinds"])
    for v, vector in enumerate(vectors()):
        for i, layer in enumerate(found["layers"]):
            for k, kind in enumerate(found["kinds"]):
                parts = [t for n, t in vector.items() if (layer_of(n), kind_of(n)) == (layer, kind)]
                length = np.sqrt(sum((t.astype(np.float64) ** 2).sum() for t in parts)) if parts else None
                assert found["distances"][v][i][k] == (length if length is None else pytest.approx(length))


def test_threads_reach_no_byte(tmp_path):
    one, three = tmp_path / "one", tmp_path / "three"
    analyse(one, threads=1)
    analyse(three, threads=3)
    assert (one / "out" / "tables").read_bytes() == (three / "out" / "tables").read_bytes()


def test_equal_vectors_share_all_and_leave_nothing_to_compare(tmp_path):
    one = vectors()[0]
    whole = analyse(tmp_path, [one, one])["whole"]
    assert whole["shared"] == pytest.approx(1.0)
    assert whole["cosines"][0][1] == pytest.approx(1.0)
    assert whole["centred_cosines"] == [[None, None], [None, None]]
    assert whole["sign_conflict"] == 0


def test_a_vector_of_zeros_has_no_angle(tmp_path):
    zeros = {name: np.zeros_like(t) for name, t in vectors()[0].items()}
    whole = analyse(tmp_path, [vectors()[0], zeros])["whole"]
    assert whole["norms"][1] == 0
    assert whole["cosines"] == [[pytest.approx(1.0), None], [None, None]]
    assert whole["sign_conflicts"][0][1] is None
    assert whole["sign_conflict"] is None


def test_a_vector_of_another_base_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="was made for the base"):
        analyse(tmp_path, digest="c" * 64)


def test_a_user_can_stop_it(tmp_path):
    with pytest.raises(InterruptedBuildError):
        analyse(tmp_path, stopping=lambda: True)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        ("model.embed_tokens.weight", "embeddings"),
        ("lm_head.weight", "embeddings"),
        ("model.layers.3.self_attn.q_proj.bias", "q_proj"),
        ("model.layers.3.self_attn.q_norm.weight", "norms"),
        ("transformer.h.0.ln_1.weight", "norms"),
        ("transformer.h.0.attn.c_attn.weight", "c_attn"),
        ("model.layers.0.mlp.experts.gate_up_proj", "gate_up_proj"),
        ("model.norm.weight", "norms"),
    ],
)
def test_a_tensors_name_says_its_kind(tensor, kind):
    assert kind_of(tensor) == kind
