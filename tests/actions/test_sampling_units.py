"""Rows of one prompt are one unit: of standard errors, of the blocks that a search resamples, and of its intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.special import stdtrit
from tune_samples import base, dataset, run_tune
from weight_samples import make_context

from dem_build.actions.loss import run as loss
from dem_build.actions.loss.read import PairedRows, RowLosses, read_rows
from dem_build.actions.score.run import _dealt
from dem_build.actions.tune.judges import BLOCKS, deal, judges
from dem_build.actions.tune.read import SENTENCES, _findings
from dem_build.data.arrays import RowsWriter, TokenRows, trained_prompts
from dem_build.digest import of_bytes
from dem_build.report.comparison import has_few_rows
from dem_build.report.results import Results
from dem_build.search import Objective, Sample, SearchProblem, intervals, search
from dem_build.search.problem import ratio_stderr
from dem_build.stats import by_prompt, stderr_of_ratio
from dem_build.step import Group, Inputs

PROMPTS = 48
PEAK = 0.7


def sampled(rng):
    """Rows of prompts that are hard or easy together: one to six of each; tokens, losses and prompts, [rows]."""
    of = np.repeat(np.arange(PROMPTS), rng.integers(1, 7, PROMPTS))
    tokens = rng.integers(5, 40, len(of))
    hard = 0.5 * rng.standard_normal(PROMPTS)
    per_token = 2 + hard[of] + 0.3 * rng.standard_normal(len(of))
    return SimpleNamespace(of=of, tokens=tokens, nll=tokens * per_token)


@pytest.fixture(scope="module")
def draws():
    return [sampled(np.random.default_rng(seed)) for seed in range(1000)]


def true_error(draws):
    return np.std([d.nll.sum() / d.tokens.sum() for d in draws])


def root_mean_square(errors):
    return math.sqrt(np.mean(np.square(errors)))


def test_two_answers_to_each_of_two_questions_by_hand():
    # 4 nats of the first question and 8 of the second, two tokens each: 3 a token, and 2 nats off on either side.
    assert stderr_of_ratio([1, 3, 2, 6], [1, 1, 1, 1], "aabb") == pytest.approx(math.sqrt(2 / 1 * 8) / 4)
    assert by_prompt([1, 2, 3, 6], "abab") == [4, 8]
    assert stderr_of_ratio([1, 3], [1, 1], "aa") is None


def test_the_error_that_is_told_is_that_of_drawing_other_prompts(draws):
    true = true_error(draws)
    told = [stderr_of_ratio(d.nll.tolist(), d.tokens.tolist(), d.of.tolist()) for d in draws]
    assert root_mean_square(told) == pytest.approx(true, rel=0.07)
    assert root_mean_square([stderr_of_ratio(d.nll, d.tokens) for d in draws]) < 0.7 * true


def test_the_error_over_blocks_is_that_of_drawing_other_prompts(draws):
    def over_blocks(draw, prompts):
        blocks = deal(range(len(draw.of)), prompts)
        sums = [[[of[list(block)].sum() for block in blocks]] for of in (draw.nll, draw.tokens)]
        return ratio_stderr(*np.array(sums))[0]

    true = true_error(draws)
    assert root_mean_square([over_blocks(d, d.of.tolist()) for d in draws]) == pytest.approx(true, rel=0.1)
    assert root_mean_square([over_blocks(d, range(len(d.of))) for d in draws]) < 0.7 * true


def test_where_each_row_has_its_own_prompt_an_error_is_to_the_last_bit_that_over_rows(draws):
    for draw in draws[:50]:
        rows, tokens, nll = len(draw.of), draw.tokens.tolist(), draw.nll.tolist()
        ratio = math.fsum(nll) / sum(tokens)
        residuals = [of - ratio * count for of, count in zip(nll, tokens, strict=True)]
        by_hand = math.sqrt(rows / (rows - 1) * math.fsum(r * r for r in residuals)) / sum(tokens)
        apart = np.random.default_rng(0).permutation(rows).tolist()
        assert stderr_of_ratio(nll, tokens, apart) == stderr_of_ratio(nll, tokens) == by_hand


def problem(rng):
    """Rows whose losses are least at an ω each, those of one prompt at ones that are alike, about PEAK."""
    of = np.repeat(np.arange(24), rng.integers(1, 9, 24))
    peaks = PEAK + 0.3 * rng.standard_normal(24)[of] + 0.15 * rng.standard_normal(len(of))
    tokens = rng.integers(10, 40, len(of)).astype(float)
    blocks = [list(block) for block in deal(range(len(of)), of.tolist())]

    def summed(values):
        return np.array([[values[block].sum() for block in blocks]])

    def measure(omega, *, slopes):
        away = omega[0] - peaks
        found = summed(tokens * away)[:, :, None] if slopes else None
        return Sample(np.array(omega, float), summed(tokens * (1 + 0.5 * away**2)), found)

    one = np.ones(1)
    objective = Objective("mean", one, one, one, np.full(1, np.inf))
    lowest = float(peaks @ tokens / tokens.sum())
    return SearchProblem(objective, summed(tokens), 0 * one, 1.5 * one, measure), lowest


def test_the_interval_of_an_omega_is_as_wide_as_other_prompts_would_move_it():
    true = np.std([problem(np.random.default_rng(seed))[1] for seed in range(1000)])
    told = []
    for seed in range(6):
        asked, lowest = problem(np.random.default_rng(seed))
        found = search("gradient", asked, [asked.measure(np.array([at]), slopes=False) for at in (0.0, 1.0)])
        assert found.best.omega[0] == pytest.approx(lowest, abs=0.02)
        between = intervals(asked, found, None)
        told.append((between.high[0] - between.low[0]) / (2 * stdtrit(BLOCKS - 1, 0.975)))
    assert np.mean(told) == pytest.approx(true, rel=0.15)


def test_no_prompt_is_in_two_blocks_and_blocks_are_of_about_as_many_rows(draws):
    for draw in draws[:20]:
        blocks = deal(range(len(draw.of)), draw.of.tolist())
        assert sorted(row for block in blocks for row in block) == [*range(len(draw.of))]
        held = [{*draw.of[list(block)].tolist()} for block in blocks]
        assert sum(map(len, held)) == len(set().union(*held))
        sizes = [*map(len, blocks)]
        assert max(sizes) - min(sizes) <= np.bincount(draw.of).max()


def test_rows_of_a_prompt_each_are_dealt_one_by_one():
    rows = np.random.default_rng(0).permutation(100).tolist()
    prompts = [row + 7 for row in rows]
    assert deal(rows, prompts) == tuple(tuple(rows[i::BLOCKS]) for i in range(BLOCKS))


def test_fewer_prompts_than_blocks_leave_the_last_ones_empty():
    assert deal([3, 1, 2], [9, 5, 9]) == ((3, 2), (1,), *[()] * (BLOCKS - 2))


def write_answers(path, prompts):
    """Write a row for each of some numbers, those of one number with one prompt."""
    rng = np.random.default_rng(1)
    with RowsWriter(path.with_suffix(".spool")) as writer:
        for prompt in prompts:
            ids = rng.integers(40, 90, int(rng.integers(4, 9))).astype(np.int32)
            writer.append(ids, ids, bytes.fromhex(of_bytes(f"{prompt}".encode())))
        writer.save(path)
    return path


def test_a_judge_holds_prompts_together(tmp_path):
    rows = write_answers(tmp_path / "rows", [i % 40 for i in range(100)])
    group = Group("up", {}, {"data/validation": rows}, {"data/validation": "d" * 64})
    [judge] = judges({"up": group}, {"up": "data/validation"}, trained_prompts([]), 64)
    numbers = judge.rows.prompt_numbers
    held = [{int(numbers[i]) for i in block} for block in judge.blocks]
    assert (judge.used, sum(map(len, held)), len(set().union(*held))) == (64, judge.prompts, judge.prompts)
    assert judge.prompts < 40


def test_few_prompts_are_said_however_many_rows_they_have(tmp_path):
    rows = write_answers(tmp_path / "rows", [i % 3 for i in range(20)])
    up = dataset("up")
    tuned = run_tune(tmp_path, [Group("up", up.params, up.paths | {"data/validation": rows}, up.digests)])
    [told] = [finding for finding in tuned.trace["findings"] if finding["what"] == "few_rows"]
    assert (told["used"], told["prompts"]) == (20, 3)
    assert "only 20, of 3 prompts" in SENTENCES["few_rows"]("up", told)


def test_a_search_whose_rows_are_of_one_prompt_says_so_for_its_reader(tmp_path):
    rows, up = write_answers(tmp_path / "rows", [0] * 6), dataset("up")
    tuned = run_tune(tmp_path, [Group("up", up.params, up.paths | {"data/validation": rows}, up.digests)])
    [told] = [finding for finding in _findings(tuned.trace) if "one" in finding["what"]]
    assert (told["what"], told["used"], told["prompts"]) == ("one_prompt", 6, 1)


def evaluated(folder, prompts):
    rows = write_answers(folder / "rows", prompts)
    context = make_context(folder, threads=1)
    paths = {"model/weights": base() / "weights", "model/config": base() / "config", "data/rows": rows}
    loss.run(Inputs(paths, {"model/weights": "w", "model/config": "c"}), {"dtype": "float32"}, context)
    out = context.out
    return json.loads((out / "metrics").read_bytes()), (out / "rows").read_bytes(), load_file(out / "rows")


def test_a_loss_says_which_rows_are_of_one_prompt_and_its_error_is_over_prompts(tmp_path):
    prompts = [0, 1, 0, 2, 1, 1]
    metrics, data, stored = evaluated(tmp_path, prompts)
    nll, tokens = (np.bincount(prompts, stored[name]) for name in ("nll", "tokens"))
    apart = nll - metrics["loss"] * tokens
    assert (metrics["rows"], metrics["prompts"]) == (6, 3)
    assert metrics["loss_stderr"] == pytest.approx(math.sqrt(3 / 2 * (apart**2).sum()) / tokens.sum())
    rows = read_rows(data)
    other = read_rows(data)
    assert len({*zip(rows.prompts, prompts, strict=True)}) == 3
    other.nll[0] += 1.0
    told = PairedRows({"base": {"loss:up": rows}, "sum": {"loss:up": other}}).stderr("loss:up", "base", "sum")
    moved = np.array([1.0, 0, 0]) - tokens / tokens.sum()
    assert told == pytest.approx(math.sqrt(3 / 2 * (moved**2).sum()) / tokens.sum(), rel=1e-6)
    assert has_few_rows(Results({"sum": {"loss:up": metrics | {"rows": 20}}}), "sum", "loss:up")


def test_losses_whose_prompts_come_in_another_order_are_not_paired():
    def told(ours, theirs):
        rows = {
            "base": RowLosses([1.0, 2.0, 3.0], [1, 1, 1], ours),
            "sum": RowLosses([1, 1, 1], [1, 1, 1], theirs),
        }
        return PairedRows({model: {"loss:up": of} for model, of in rows.items()}).stderr(
            "loss:up", "base", "sum"
        )

    # 1 nat of the first question, of two tokens, and 2 of the other, of one: 1 a token, and 1 nat off on either side.
    paired = pytest.approx(math.sqrt(2 / 1 * 2) / 3)
    assert told([7, 7, 9], [7, 7, 9]) == told([7, 7, 9], None) == told(None, [7, 7, 9]) == paired
    assert told([7, 7, 9], [7, 9, 7]) is None


def test_tables_of_recipes_count_prompts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "recipes"))
    import measured

    metrics, data, _ = evaluated(tmp_path, [0, 1, 0, 2, 1, 1])
    verdict = SimpleNamespace(record=SimpleNamespace(outputs={"rows": data}))
    store = SimpleNamespace(objects=SimpleNamespace(read_bytes=lambda output: output))
    session = SimpleNamespace(plan=SimpleNamespace(verdicts={"loss:base:up": verdict}), store=store)
    assert measured.ratio(*measured.rows(session, "base", "up")) == pytest.approx(
        (metrics["loss"], metrics["loss_stderr"])
    )


def test_a_loss_on_rows_of_a_prompt_each_says_nothing_of_prompts(tmp_path):
    metrics, data, stored = evaluated(tmp_path, range(6))
    assert {*metrics} == {"loss", "tokens", "rows", "loss_stderr"}
    assert {*stored} == {"nll", "tokens"}
    assert read_rows(data).prompts is None
    assert metrics["loss_stderr"] == stderr_of_ratio(stored["nll"].tolist(), stored["tokens"].tolist())


def test_new_rows_of_one_prompt_are_on_one_side_of_the_gradient(tmp_path):
    rows = TokenRows.open(write_answers(tmp_path / "rows", [i // 4 for i in range(20)]))
    of_gradient, apart = _dealt(rows, 100)
    numbers = rows.prompt_numbers
    assert (len(of_gradient), len(apart)) == (16, 4)
    assert not {*numbers[of_gradient].tolist()} & {*numbers[apart].tolist()}


@pytest.mark.parametrize(("prompts", "apart"), [([0] * 5 + [1] * 5, 5), ([0] * 9, 0), ([*range(9)], 3)])
def test_new_rows_that_the_gradient_is_not_of_are_about_a_third(tmp_path, prompts, apart):
    rows = TokenRows.open(write_answers(tmp_path / "rows", prompts))
    assert len(_dealt(rows, 100)[1]) == apart
