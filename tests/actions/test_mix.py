"""Mixtures of datasets: how many tokens, whose, which rows, and that names and order reach no byte."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from weight_samples import make_context

from dem_build.actions.mix import run as mix
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.data.budget import Length, Size, mixture_tokens, token_shares
from dem_build.digest import of_bytes
from dem_build.errors import DataError
from dem_build.step import Group, Inputs

EPOCH = {"epochs": 1.0}


@pytest.fixture
def split(tmp_path):
    """Write rows of some length: the token is the dataset's, so that its rows are known again."""

    def write(token: int, count: int, length: int, prompts: str = "p") -> object:
        path = tmp_path / f"{token}-{count}-{length}-{prompts}"
        with RowsWriter(path.with_suffix(".spool")) as writer:
            for i in range(count):
                row = np.full(length, token, np.int32)
                writer.append(row, row, bytes.fromhex(of_bytes(f"{prompts} {token} {i}".encode())))
            writer.save(path)
        return path

    return write


def part(name: str, train, validation=None, **params) -> Group:
    paths = {"data/train": train} | ({"data/validation": validation} if validation else {})
    return Group(name, params, paths, {tag: of_bytes(path.read_bytes()) for tag, path in paths.items()})


def run(folder, groups, **params):
    context = make_context(folder, threads=1)
    told = mix.run(Inputs(groups=tuple(groups)), params, context)
    rows = TokenRows.open(context.out / "train")
    counts = Counter(int(rows[i][0][0]) for i in range(len(rows)))
    return SimpleNamespace(rows=rows, counts=counts, told=told, out=context.out)


def prompts(rows: TokenRows, token: int) -> Counter[bytes]:
    return Counter(rows.prompts[i].tobytes() for i in range(len(rows)) if rows[i][0][0] == token)


def test_the_budget_is_what_the_trainings_read_together(tmp_path, split):
    """20 rows of 10 for 3 epochs, and 8 rows of 30 for 2 steps of 4 sequences."""
    groups = [part("a", split(1, 20, 10), epochs=3.0), part("b", split(2, 8, 30), sequences=8)]
    made = run(tmp_path / "mix", groups)
    assert made.told["planned_tokens"] == made.told["compared_tokens"] == 600 + 240
    assert made.rows.tokens == pytest.approx(840, abs=20)
    assert made.told["splits"]["train"] == {
        "rows": len(made.rows),
        "tokens": made.rows.tokens,
        "trained_tokens": made.rows.tokens,
        "prompts": 28,
        "longest": 30,
    }


def test_natural_shares_are_the_tokens_of_the_train_splits(tmp_path, split):
    made = run(tmp_path / "mix", [part("a", split(1, 30, 10), **EPOCH), part("b", split(2, 10, 10), **EPOCH)])
    assert made.counts == {1: 30, 2: 10}


@pytest.mark.parametrize(
    ("shares", "wanted"), [((0.5, 0.5), (200, 200)), ((3.0, 1.0), (300, 100)), ((1.0, 0.0), (400, 0))]
)
def test_given_shares_are_shares_of_tokens(tmp_path, split, shares, wanted):
    splits = [split(1, 30, 10), split(2, 5, 20)]
    groups = [part(n, s, share=w, **EPOCH) for n, s, w in zip("ab", splits, shares, strict=True)]
    made = run(tmp_path / "mix", groups)
    assert made.counts[1] * 10 == wanted[0]
    assert made.counts[2] * 20 == wanted[1]


def test_whole_passes_come_first_and_the_rest_has_no_row_twice(tmp_path, split):
    """25 rows at 3.4 passes: each row three times, and ten of them once more."""
    made = run(tmp_path / "mix", [part("a", split(1, 25, 10), epochs=3.4)])
    assert Counter(prompts(made.rows, 1).values()) == {3: 15, 4: 10}


def test_a_longer_sample_holds_a_shorter_one():
    lengths = np.random.default_rng(0).integers(5, 50, 200)
    short, long = (set(mix.drawn(lengths, tokens).tolist()) for tokens in (900, 2000))
    assert short < long


def test_a_draw_goes_on_where_another_ended():
    lengths = np.random.default_rng(0).integers(5, 50, 200)
    for begin, end in ((900, 2000), (5000, 14000), (900, 900)):
        both = np.concatenate([mix.drawn(lengths, begin), mix.drawn(lengths, end, begin)])
        assert Counter(both.tolist()) == Counter(mix.drawn(lengths, end).tolist())


def test_datasets_of_the_same_rows_give_each_of_them_as_often_as_one_would(tmp_path, split):
    """Twice 1.6 passes: each row three times, and a fifth of them once more; a third dataset changes nothing of it."""
    rows = split(1, 25, 10)
    groups = [
        part("slow", rows, epochs=1.6),
        part("b", split(2, 25, 10), epochs=1.6),
        part("fast", rows, epochs=1.6),
    ]
    made = run(tmp_path / "mix", groups)
    assert Counter(prompts(made.rows, 1).values()) == {3: 20, 4: 5}
    assert [entry["rows"] for entry in made.told["parts"]] == [40, 40, 40]
    alone = run(tmp_path / "alone", [part("b", split(2, 25, 10), epochs=1.6)])
    assert prompts(made.rows, 2) == prompts(alone.rows, 2)


@pytest.mark.parametrize("tokens", [0.0, 7.0, 1234.5, 99999.0])
def test_what_is_drawn_misses_by_half_a_row_at_most(tokens):
    lengths = np.random.default_rng(1).integers(5, 50, 200)
    assert abs(int(lengths[mix.drawn(lengths, tokens)].sum()) - tokens) <= 25


def test_a_length_of_its_own_is_in_epochs_of_all_rows_or_in_sequences(tmp_path, split):
    groups = [part("a", split(1, 30, 10)), part("b", split(2, 10, 30))]
    epochs = run(tmp_path / "epochs", groups, epochs=2.0)
    assert (epochs.counts, epochs.told["compared_tokens"]) == ({1: 60, 2: 20}, None)
    sequences = run(tmp_path / "sequences", groups, sequences=20)
    assert sequences.counts == {1: 15, 2: 5}
    assert run(tmp_path / "packed", groups, sequences=4, pack=60).told["planned_tokens"] == 240


def test_names_reach_no_byte(tmp_path, split):
    splits = [split(1, 20, 10), split(2, 8, 30)]
    made = [
        run(tmp_path / names, [part(n, s, share=0.5, epochs=1.5) for n, s in zip(names, splits, strict=True)])
        for names in ("ab", "xy")
    ]
    for name in ("train", "validation"):
        assert len({(m.out / name).read_bytes() for m in made}) == 1
    assert made[0].told == made[1].told


def test_validation_rows_whose_prompt_any_dataset_trains_on_are_left_out(tmp_path, split):
    groups = [
        part("a", split(1, 20, 10), split(2, 6, 30, "held"), **EPOCH),
        part("b", split(2, 8, 30), split(1, 4, 10), **EPOCH),  # these are rows that `a` trains on
    ]
    made = run(tmp_path / "mix", groups)
    assert made.told["splits"]["validation"]["rows"] == 6
    assert len(TokenRows.open(made.out / "validation")) == 6


def test_a_mixture_without_room_for_a_row_is_refused(tmp_path, split):
    with pytest.raises(DataError, match="room for no row"):
        run(tmp_path / "mix", [part("a", split(1, 2, 50), epochs=0.1)])


def test_a_share_too_small_for_a_row_is_said(tmp_path, split):
    groups = [
        part("a", split(1, 20, 10), share=1.0, **EPOCH),
        part("b", split(2, 8, 30), share=0.001, **EPOCH),
    ]
    run(tmp_path / "mix", groups)
    [events] = (tmp_path / "mix").rglob("events.jsonl")
    assert "the share of b comes to no row" in events.read_text()


def test_shares_sum_to_one_and_the_budget_of_steps_is_in_rows_of_the_mixture():
    sizes = [Size(100, 1000), Size(10, 1000)]
    shares = token_shares(sizes, [None, None])
    assert shares == [0.5, 0.5]
    # Half the tokens in rows of 10, half in rows of 100: 11 rows hold 200 tokens.
    assert mixture_tokens(sizes, shares, Length(sequences=11)) == pytest.approx(200)
