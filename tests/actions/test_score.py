"""Scores of new rows: derivatives against autograd and a step that is taken, errors over rows, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tune_samples import base, dataset, elsewhere, model, probe, skill, write_rows
from weight_samples import DIGEST, make_context

from dem_build.actions.score import run as scoring
from dem_build.actions.score.gradients import Along, Signs, add_gradient
from dem_build.actions.score.read import RowSlopes, SkillRows, foretold, parse_scores
from dem_build.actions.score.spec import NEW
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.data.tokenise import MASKED
from dem_build.digest import of_bytes
from dem_build.errors import EvaluationError, StoreError
from dem_build.model.likelihood import row_nll
from dem_build.step import Group, Inputs


def new_rows(path):
    return Group(NEW, {}, {"data/train": path}, {"data/train": of_bytes(path.read_bytes())})


def score(folder, new, *groups, context=None, **params):
    """Score new rows at the base."""
    context = context or make_context(folder, threads=1)
    paths = {f"{of}/{part}": base() / part for of in ("model", "origin") for part in ("weights", "config")}
    inputs = Inputs(paths, groups=(*groups, new_rows(new)))
    told = scoring.run(inputs, {"max_samples": 8, "sample": 16} | params, context)
    data = (context.out / "scores").read_bytes()
    return SimpleNamespace(scores=parse_scores(data, "here"), document=json.loads(data), told=told)


def gradient_by_hand(rows, chosen):
    """The gradient of the loss per token in float64, by parameter, and the model."""
    exact = model().double()
    nll, counts = row_nll(exact, [rows[i] for i in chosen])
    (nll.sum() / sum(counts)).backward()
    return {n: p.grad.clone() for n, p in exact.named_parameters()}


def test_slopes_are_those_of_autograd_in_float64(tmp_path):
    found = score(tmp_path, skill("leap").train, dataset("up"), dataset("down"), probe(None))
    new = TokenRows.open(skill("leap").train)
    ordered = np.argsort(new.prompt_numbers, kind="stable").tolist()[:24]
    gradient = gradient_by_hand(new, ordered[8:])
    assert found.scores.used == 16
    assert found.scores.gradient == pytest.approx(
        math.sqrt(sum(float(g.square().sum()) for g in gradient.values())), rel=1e-5
    )
    splits = {
        of_bytes(p.read_bytes()): TokenRows.open(p)
        for p in (skill("up").validation, skill("down").validation, elsewhere())
    }
    assert {s.rows for s in found.scores.skills} == set(splits)
    measured = [(splits[s["rows"]], s["indices"], s) for s in found.document["skills"]]
    for rows, indices, of in [*measured, (new, ordered[:8], found.document["new"])]:
        assert len(indices) == len(of["nll"]) == 8
        for index, tokens, *slopes in zip(
            indices, of["tokens"], of["slopes"], of["plain_slopes"], strict=True
        ):
            own = gradient_by_hand(rows, [index])
            signed, plain = (
                tokens * sum(float((own[n] * along(gradient[n])).sum()) for n in gradient)
                for along in (torch.sign, torch.nn.Identity())
            )
            # float32 knows the sign of what is nearly 0 less well.
            assert slopes == [pytest.approx(signed, rel=2e-3), pytest.approx(plain, rel=1e-4, abs=1e-5)]


@pytest.mark.parametrize(("way", "size"), [(dict, 1e-3), (Signs, 1e-5)])
def test_a_small_step_against_the_gradient_changes_losses_as_foretold(way, size):
    """Plain SGD, and SGD of signs: the change of a loss is minus the step times the slope, up to the step's square."""
    new, rows = TokenRows.open(skill("up").train), TokenRows.open(skill("down").validation)
    moved = model()
    tokens = add_gradient(moved, new, range(len(new)), 8)
    gradient = way({n: p.grad.div(tokens) for n, p in moved.named_parameters()})
    moved.zero_grad(set_to_none=True)
    with Along(moved, [gradient]) as along:
        found = along.measure(rows, [range(len(rows))])
        own = along.measure(new, [range(len(new))])
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter.sub_(gradient.get(name), alpha=size)
        after, own_after = along.measure(rows, [range(len(rows))]), along.measure(new, [range(len(new))])
    assert all(p.grad is None for p in moved.parameters())
    assert own.slopes[0, 0] > 0 > own_after.nll[0] - own.nll[0]  # a step against its own gradient helps it
    for before, later in ((found, after), (own, own_after)):
        assert later.nll[0] - before.nll[0] == pytest.approx(-size * before.slopes[0, 0], rel=0.05, abs=2e-3)


def test_layers_that_are_computed_again_give_the_same(tmp_path):
    once = score(tmp_path / "once", skill("leap").train, dataset("up"))
    context = make_context(tmp_path / "again", threads=1)
    context.machine = context.machine.model_copy(update={"gradient_checkpointing": True})
    again = score(tmp_path, skill("leap").train, dataset("up"), context=context)
    assert again.scores.skills[0].slopes == once.scores.skills[0].slopes


def test_layers_that_are_computed_again_drop_nothing_out(tmp_path, monkeypatch):
    """Layers of some models drop out by themselves, and their stacks leave whole layers out."""
    from transformers import OPTConfig, OPTForCausalLM

    shape = {"vocab_size": 64, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24}
    shape |= {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    torch.manual_seed(0)
    opt = OPTForCausalLM(OPTConfig(**shape, dropout=0.5, layerdrop=0.5)).eval()
    monkeypatch.setattr(scoring, "load_model", lambda *_, **__: opt)
    ids, found = torch.arange(4, 20)[None], []
    for again in (False, True):
        context = make_context(tmp_path / str(again), threads=1)
        context.machine = context.machine.model_copy(update={"gradient_checkpointing": again})
        loaded = scoring._loaded(
            Inputs({"origin/weights": tmp_path, "origin/config": tmp_path}), "origin", context
        )
        loaded(ids, use_cache=False).logits.square().sum().backward()
        found.append([p.grad.clone() for p in loaded.parameters()])
        loaded.zero_grad()
    assert all(torch.equal(once, other) for once, other in zip(*found, strict=True))


def test_names_and_order_of_skills_reach_no_byte(tmp_path):
    one = score(tmp_path / "one", skill("leap").train, dataset("up"), dataset("down"))
    other = score(
        tmp_path / "other", skill("leap").train, dataset("down", label="b"), dataset("up", label="z")
    )
    assert one.document == other.document


def test_rows_whose_prompts_the_new_rows_have_are_left_out(tmp_path):
    """A vector that learns them by heart would seem to help."""
    found = score(tmp_path, skill("up").validation, dataset("up"), dataset("down"))
    assert [s.rows for s in found.scores.skills] == [of_bytes(skill("down").validation.read_bytes())]


def test_a_file_of_one_row_has_a_gradient_and_no_row_to_spare(tmp_path):
    found = score(tmp_path, write_rows(tmp_path / "new", "leap", seed=3, count=1), dataset("up"))
    assert found.scores.own is None
    assert (found.scores.count, found.scores.used) == (1, 1)
    assert foretold(found.scores, found.scores.skills) == (None, (None,))


def test_new_rows_of_which_nothing_counts_are_refused(tmp_path):
    ids = np.arange(40, 50, dtype=np.int32)
    with RowsWriter(tmp_path / "spool") as writer:
        writer.append(ids, np.full_like(ids, MASKED), bytes(32))
        writer.save(tmp_path / "new")
    with pytest.raises(EvaluationError, match="no token of the new rows counts"):
        score(tmp_path, tmp_path / "new", dataset("up"))


def test_what_is_not_finite_is_refused(tmp_path, monkeypatch):
    whole = scoring.load_model

    def broken(*given, **more):
        made = whole(*given, **more)
        with torch.no_grad():
            next(made.parameters())[60] = math.inf
        return made

    monkeypatch.setattr(scoring, "load_model", broken)
    with pytest.raises(EvaluationError, match="not finite"):
        score(tmp_path, skill("leap").train, dataset("up"))


def test_an_error_is_over_rows_by_hand():
    of = RowSlopes([2.0, 3.0, 7.0], [1, 2, 4], [0.1, 0.5, 0.2])
    ratio = 0.8 / 7
    residuals = np.array([0.1, 0.5, 0.2]) - ratio * np.array([1, 2, 4])
    assert of.slope == pytest.approx(ratio)
    assert of.slope_stderr == pytest.approx(math.sqrt(3 / 2 * (residuals**2).sum()) / 7)
    assert of.loss == pytest.approx(12 / 7)


def test_an_error_is_over_prompts_where_rows_share_them(tmp_path):
    of = RowSlopes([2.0, 3.0, 7.0], [1, 2, 4], [0.1, 0.5, 0.2], prompts=[3, 0, 3])
    residuals = np.array([0.3, 0.5]) - 0.8 / 7 * np.array([5, 2])
    assert of.slope_stderr == pytest.approx(math.sqrt(2 * (residuals**2).sum()) / 7)
    with RowsWriter(tmp_path / "spool") as writer:
        for i in range(9):
            ids = np.arange(40 + i, 50 + i, dtype=np.int32)
            writer.append(ids, ids, bytes([i // 2]) * 32)
        writer.save(tmp_path / "rows")
    twice = Group("up", {}, {"data/validation": tmp_path / "rows"}, {"data/validation": DIGEST})
    found = score(tmp_path, skill("leap").train, twice, dataset("down"))
    shared, apart = sorted(found.scores.skills, key=lambda s: s.prompts is None)
    assert shared.prompts == [0, 0, 1, 1, 2, 2, 3, 3]
    assert apart.prompts is None


def skill_of(slopes, *, nll=(2.0, 2.0), origin=(4.0, 4.0), rows="a" * 64):
    return SkillRows(nll, (1, 1), slopes, rows, (0, 1), 0, origin)


def test_changes_are_in_the_ratio_of_slopes_to_the_new_rows_own_fall(tmp_path):
    """Vectors halved their losses, so that of the new rows, 3, falls by 1.5; ratios of slopes are ratios of changes."""
    scores = score(tmp_path, skill("leap").train, dataset("up")).scores
    own = RowSlopes((3.0, 3.0), (1, 1), (1.0, 1.02))
    helped, hurt = skill_of((0.1, 0.102)), skill_of((-0.4, -0.6))
    given = replace(scores, own=own, skills=(helped, hurt))
    down, (one, other) = foretold(given, [helped])
    assert down.change == pytest.approx(-1.5)
    assert one.change == pytest.approx(-1.5 * 0.101 / 1.01)
    assert one.sure
    assert other.change == pytest.approx(1.5 * 0.5 / 1.01)
    # stderr of -0.5 is 0.1, that of 1.01 is 0.01.
    assert other.stderr == pytest.approx(1.5 * math.hypot(0.1 / 1.01, 0.5 * 0.01 / 1.01**2))
    unlike = replace(given, own=RowSlopes((3.0, 3.0), (1, 1), (1.0, -0.9)))
    assert foretold(unlike, [helped]) == (None, (None, None))
    assert foretold(given, [skill_of((0.1, 0.1), origin=(1.0, 1.0))]) == (None, (None, None))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"new": {"nll": [1.0], "tokens": [], "slopes": []}}'])
def test_scores_of_another_shape_are_refused(data):
    with pytest.raises(StoreError, match="cannot be read"):
        parse_scores(data, "record 0")
