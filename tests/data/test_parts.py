"""A dataset of many sub-datasets: what is taken of each, in whatever order rows and files come, and its keys."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from data_samples import Preparer, source, write_rows

from dem_build.action import HubFile, SourceFile
from dem_build.data.parts import Parts, Placed, again
from dem_build.data.splits import Splitter
from dem_build.errors import DataError
from dem_build.lock import lock
from dem_build.lock.absent import Absent
from dem_build.lock.parts import nameless, shared
from dem_build.lock.pin import recipe_key
from dem_build.recipe import load_recipe
from dem_build.recipe.schema import DatasetPart
from dem_build.store import Hints

SHARES = {"validation": 0.1, "test": 0.1}


def rows_of(task, count):
    return [{"prompt": f"{task} {i}", "completion": f" {task}{i}", "task": task} for i in range(count)]


def tagged(path, part, subset):
    return source(path, f"{part}/{subset}:{path.suffix[1:]}")


@pytest.fixture
def prepare(tmp_path):
    return Preparer(tmp_path)


@pytest.fixture
def files(tmp_path):
    """Two sub-datasets as files, and one file of three more, told apart by a column."""
    big, small = (
        write_rows(tmp_path / "a.jsonl", rows_of("a", 300)),
        write_rows(tmp_path / "b.jsonl", rows_of("b", 20)),
    )
    mixed = [row for name, count in (("x", 100), ("y", 90), ("z", 4)) for row in rows_of(name, count)]
    random.Random(3).shuffle(mixed)
    return big, small, write_rows(tmp_path / "c.jsonl", mixed)


def told(prepared, split="train"):
    """How many rows a split has of each sub-dataset, by the first letter of each row."""
    found = {}
    for ids, _ in prepared.tokens(split):
        found[ids[0]] = found.get(ids[0], 0) + 1
    return sorted(found.values())


def test_each_sub_dataset_is_capped_whether_a_file_or_a_column_tells_it(prepare, files):
    big, small, mixed = files
    prepared = prepare(
        tagged(big, "p", "1"), tagged(small, "p", "2"), tagged(mixed, "q", "3"), **SHARES,
        parts={"p": {"max_samples": 40}, "q": {"by": "task", "max_samples": 10}},
    )  # fmt: skip
    # Of the two small ones all training rows, of the others as many as they may have; held out, an eighth of that.
    few, ten, also_ten, small_one, most = told(prepared)
    assert (ten, also_ten, most) == (10, 10, 40)
    assert few <= 4
    assert 10 < small_one <= 20
    assert max(told(prepared, "validation")) == 5
    parts = prepared.provenance["parts"]
    assert (parts["p"]["subsets"], parts["q"]["subsets"]) == (2, 3)
    assert sum(part["rows"] for part in parts.values()) == prepared.rows["used"]
    assert prepared.rows["beyond_part"] == 300 + 20 + 194 - prepared.rows["used"]


def test_neither_the_order_of_rows_nor_names_of_parts_reach_a_byte(prepare, files, tmp_path):
    big, small, mixed = files
    rule = {"max_samples": 15, "by": "task"}

    def made(part, *paths, **more):
        found = prepare(*(tagged(p, part, p.stem) for p in paths), parts={part: rule}, **SHARES, **more)
        return [found.bytes(split) for split in ("train", "validation", "test")]

    before = made("one", big, small, mixed)
    assert made("two", mixed, big, small) == before
    assert made("one", big, small, mixed, threads=3) == before
    lines = mixed.read_text().splitlines()
    shuffled = tmp_path / "shuffled.jsonl"
    shuffled.write_text("\n".join(sorted(lines)) + "\n")
    # Rows keep the order of their file; which ones there are does not follow from it.
    other = prepare(
        *(tagged(p, "one", p.stem) for p in (big, small, shuffled)), parts={"one": rule}, **SHARES
    )
    same = prepare(*(tagged(p, "one", p.stem) for p in (big, small, mixed)), parts={"one": rule}, **SHARES)
    assert sorted(other.tokens()) == sorted(same.tokens())


def test_a_sub_dataset_that_is_added_leaves_the_rows_of_the_others(prepare, files):
    big, _, mixed = files
    rule = {"max_samples": 15}
    less = prepare(tagged(big, "p", "1"), parts={"p": rule}, **SHARES)
    more = prepare(tagged(big, "p", "1"), tagged(mixed, "p", "2"), parts={"p": rule}, **SHARES)
    assert [row for row in more.tokens() if row in less.tokens()] == less.tokens()


def test_shares_leave_out_rows_and_repeat_none(prepare, files):
    big, small, _ = files
    parts = {"p": {"share": 3.0}, "q": {"share": 1.0}}
    prepared = prepare(tagged(big, "p", "1"), tagged(small, "q", "2"), parts=parts, **SHARES)
    few, many = told(prepared)
    assert many == 3 * few  # all that the small one has, and three times as many
    assert len({tuple(ids) for ids, _ in prepared.tokens()}) == few + many
    bounded = prepare(tagged(big, "p", "1"), tagged(small, "q", "2"), parts=parts, max_samples=8, **SHARES)
    assert told(bounded) == [2, 6]


def test_what_is_left_out_after_caps_is_left_out_of_every_sub_dataset_alike(prepare, files, tmp_path):
    big = write_rows(tmp_path / "big.jsonl", rows_of("a", 900))
    other = write_rows(tmp_path / "other.jsonl", rows_of("q", 20))
    sources = [tagged(big, "p", "1"), tagged(files[1], "p", "2"), tagged(other, "q", "3")]
    # 20 rows of 900 and all 20 of a small one: half of them, by a share and by the most rows of the dataset.
    shared = prepare(
        *sources, parts={"p": {"max_samples": 20, "share": 1}, "q": {"max_samples": 20, "share": 1}}
    )
    few, more, _ = told(shared)
    assert (few >= 5, few + more) == (True, 20)
    bounded = prepare(*sources[:2], parts={"p": {"max_samples": 20}}, max_samples=20)
    few, more = told(bounded)
    assert (few >= 5, few + more) == (True, 20)


def test_a_file_held_out_whole_has_the_columns_of_the_dataset(prepare, tmp_path):
    own = write_rows(tmp_path / "own.jsonl", [{"q": f"a {i}", "completion": "b"} for i in range(4)])
    plain = write_rows(tmp_path / "plain.jsonl", [{"prompt": f"c {i}", "completion": "d"} for i in range(4)])
    held = source(
        write_rows(tmp_path / "held.jsonl", [{"prompt": "e", "completion": "f"}]), "validation:jsonl"
    )
    # Whichever of the parts comes first in keys, where parts have no order.
    for first, second in (("a", "b"), ("b", "a")):
        parts = {first: {"columns": {"prompt": "q"}}, second: {}}
        prepared = prepare(tagged(own, first, "1"), tagged(plain, second, "2"), held, parts=parts)
        assert prepared.splits["validation"]["rows"] == 1


def test_a_part_that_names_what_only_a_template_writes_is_refused_without_one(prepare, files):
    with pytest.raises(DataError, match="the column of `system` needs a chat template"):
        prepare(
            tagged(files[0], "p", "1"),
            tagged(files[1], "q", "2"),
            parts={"p": {}, "q": {"columns": {"system": "task"}}},
        )


def test_a_part_without_rows_that_has_a_share_is_named(prepare, files, tmp_path):
    empty = write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match="no other part has one") as raised:
        prepare(
            tagged(files[0], "p", "1"), tagged(empty, "q", "2"), parts={"p": {"share": 1}, "q": {"share": 1}}
        )
    assert raised.value.where == str(empty)


def test_columns_of_a_part_are_its_own(prepare, tmp_path, files):
    other = [{"question": f"q {i}", "completion": f" {i}"} for i in range(5)]
    path = write_rows(tmp_path / "other.parquet", other)
    prepared = prepare(
        tagged(files[1], "p", "1"),
        tagged(path, "q", "2"),
        parts={"p": {}, "q": {"columns": {"prompt": "question"}}},
    )
    assert prepared.rows["used"] == 25


def test_a_row_without_the_column_that_tells_sub_datasets_apart_is_named(prepare, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError, match="no column `task` to tell sub-datasets apart by") as raised:
        prepare(tagged(path, "p", "1"), parts={"p": {"by": "task", "max_samples": 1}})
    assert raised.value.where == f"{path}:1"


def test_quotas_are_those_of_sorting_all_rows():
    """Against the plain way: sort each group by its places, and take the first."""
    random_rows = random.Random(7)
    splitter = Splitter(0.2, 0.1)
    rows = [
        Placed(part, subset, splitter.side(place), place)
        for part, subset, count in (("p", "1", 70), ("p", "2", 9), ("q", "1", 40))
        for place in (random_rows.randbytes(32) for _ in range(count))
    ]
    rules = {"p": {"max_samples": 20, "share": 0.5}, "q": {"share": 0.5}}

    def first(found, group, most, place=lambda r: r.place):
        kept = []
        for name in sorted({group(r) for r in found}):
            members = sorted((r for r in found if group(r) == name), key=place)
            kept += members[: most(members[0])]
        return kept

    upper = {"train": 20, "validation": 6, "test": 3}  # 20 · 0.2 / 0.7 and 20 · 0.1 / 0.7, rounded up
    capped = first(
        rows, lambda r: (r.part, r.subset, r.side), lambda r: upper[r.side] if r.part == "p" else None
    )
    trained = {p: sum(r.part == p and r.side == "train" for r in capped) for p in "pq"}
    room = min(trained.values())
    most = {"train": room, "validation": -(-room * 2 // 7), "test": -(-room // 7)}
    expected = first(capped, lambda r: (r.part, r.side), lambda r: most[r.side], lambda r: again(r.place))
    keeps = Parts(rules, splitter).taken(lambda: rows, None).filter()
    assert {r.place for r in rows if keeps(r)} == {r.place for r in expected}


def test_a_file_in_two_parts_is_told_where_the_recipe_names_it(tmp_path):
    (tmp_path / "base").mkdir()
    part = "[[datasets.p.parts]]\n{}\n"
    path = tmp_path / "recipe.toml"
    path.write_text(
        '[base]\nmodel = "base"\n' + part.format('path = "a.jsonl"') + part.format('path = "*.jsonl"')
        + part.format('hub = "org/rows"')
    )  # fmt: skip
    recipe = load_recipe(path)
    files = [source_of(f"{part}/:jsonl", "a") for part in (0, 1)]
    both = [replace(file, path=tmp_path / "a.jsonl") for file in files]
    [told] = shared({"p": both}, lambda name, *said: recipe.problem(recipe_key(recipe, name), *said))
    assert (told.key, told.line) == ("datasets.p.parts[1].path", 6)
    assert recipe_key(recipe, "datasets.p.parts[2]") == "datasets.p.parts[2].hub"


def source_of(tag, content):
    return SourceFile(tag, content * 64, Path(tag))


def hub_file(config, index, content):
    at = HubFile("dataset", "org/prompts", "c" * 40, f"{config}/{index}.parquet")
    return replace(source_of(f"0/{config}:parquet", content), hub=at)


def test_keys_know_no_name_and_no_order_of_parts():
    one, two = (
        DatasetPart(hub="org/prompts", config="*", max_samples=5),
        DatasetPart(path="x.jsonl", by="task"),
    )
    files = [
        hub_file("glue", 0, "a"),
        hub_file("glue", 1, "b"),
        hub_file("cos", 0, "c"),
        source_of("1/:jsonl", "d"),
    ]
    rules, tagged_files = nameless([one, two], files)
    renamed = [replace(f, tag=f.tag.replace("glue", "renamed")) for f in files]
    assert nameless([one, two], renamed) == (rules, tagged_files)
    swap = {"0": "1", "1": "0"}
    swapped = [replace(f, tag=swap[f.tag[0]] + f.tag[1:]) for f in files]
    assert nameless([two, one], swapped) == (rules, tagged_files)
    # A copy under another name is a sub-dataset or a part of its own, whose cap takes nothing from the other's.
    twice = [hub_file("glue", 0, "a"), hub_file("again", 0, "a"), *files[3:]]
    assert len({f.tag for f in nameless([one, two], twice)[1]}) == 3
    assert nameless([one, two], twice) == nameless([one, two], [twice[1], twice[0], *files[3:]])
    copies = [source_of("0/:jsonl", "d"), source_of("1/:jsonl", "d")]
    parts, marked = nameless([two, two.model_copy(update={"path": "y.jsonl"})], copies)
    assert (len(parts), len({f.tag for f in marked})) == (2, 2)
    text = json.dumps([rules, [f.tag for f in tagged_files]])
    assert not any(word in text for word in ("glue", "cos", "org", "x.jsonl"))
    # Which files are one sub-dataset is said: of one configuration two shards, and not two sub-datasets.
    apart = [hub_file("glue", 0, "a"), hub_file("other", 1, "b"), *files[2:]]
    assert nameless([one, two], apart)[1] != tagged_files
    assert {f.tag.partition("/")[0] for f in nameless([one, two], files[:3] + files[3:])[1]} == set(rules)


def test_the_names_of_parts_in_keys_are_these_for_good():
    """Who changes how a part is called prepares every dataset with parts again, and trains its vector."""
    part = DatasetPart(hub="org/prompts", config="*", max_samples=5, share=0.5)
    rules, files = nameless([part], [hub_file("glue", 0, "a"), hub_file("cos", 0, "b")])
    assert rules == {"dbfe45573de038c4": {"max_samples": 5, "share": 0.5}}
    assert [file.tag for file in files] == [
        "dbfe45573de038c4/5adb8c3d42601f14:parquet",
        "dbfe45573de038c4/bd8aff2bc7e7d945:parquet",
    ]


def test_files_of_parts_that_are_not_here_are_those_of_the_lock(tmp_path):
    for name in ("a", "b", "other"):
        write_rows(tmp_path / f"{name}.jsonl", rows_of(name, 3))
    (tmp_path / "base").mkdir()
    text = '[base]\nmodel = "base.gguf"\n[datasets.many]\n'
    text += '[[datasets.many.parts]]\npath = "[ab].jsonl"\nmax_samples = 2\n'
    (tmp_path / "r.toml").write_text(f'{text}[[datasets.many.parts]]\npath = "other.jsonl"\n')
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    recipe = load_recipe(tmp_path / "r.toml")
    made = lock.resolve(lock.locate(recipe), Hints(tmp_path / "hints"))
    document = json.loads(json.dumps(lock.document(made, tmp_path)))
    for name in ("a", "other"):
        (tmp_path / f"{name}.jsonl").unlink()
    known = Absent(document, tmp_path, alone=True)
    located = lock.locate(recipe, known)
    assert lock.resolve(located, Hints(tmp_path / "hints"), document).datasets == made.datasets
    # A pattern that matches something means what it matches; a path of which nothing is here, what the lock has.
    again = lock.resolve(lock.locate(recipe, Absent(document, tmp_path)), Hints(tmp_path / "hints"), document)
    assert [file.tag for file in again.datasets["many"]] == ["0/:jsonl", "1/:jsonl"]
