"""The step `prepare`: from files to three splits, with every row that is left out counted and said."""

from __future__ import annotations

import json

import pytest
import tokenizers
import transformers
from data_samples import CHATML, Preparer, make_tokenizer, source, write_rows

from dem_build.actions import KINDS
from dem_build.actions.prepare import run as step
from dem_build.actions.prepare.run import examples
from dem_build.errors import DataError, InterruptedBuildError
from dem_build.machine import Machine
from dem_build.step import Context, Inputs

ROWS = [{"prompt": f"question {i} é?", "completion": f' answer\n"{i}", 東京'} for i in range(60)]
SPLITS = ("train", "validation", "test")


@pytest.fixture
def prepare(tmp_path):
    return Preparer(tmp_path)


@pytest.fixture
def data(tmp_path):
    """Writes rows under a new name each time, so that names cannot matter."""
    count = iter(range(100))
    return lambda rows, kind="jsonl": write_rows(tmp_path / f"file-{next(count)}.{kind}", rows)


def everything(prepared):
    return [prepared.bytes(split) for split in SPLITS]


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_every_file_type_gives_identical_bytes(prepare, data, kind):
    share = {"validation": 0.2, "test": 0.2}
    assert everything(prepare(data(ROWS, kind), **share)) == everything(prepare(data(ROWS), **share))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text + "\n",
        lambda text: text + "\n  \n",
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "".join(json.dumps(dict(reversed(json.loads(x).items())), ensure_ascii=False) + "\n"
                             for x in text.splitlines()),
    ],
    ids=["blank line", "blank lines", "no line break", "empty lines", "CRLF", "spelling"],
)  # fmt: skip
@pytest.mark.parametrize("files", [1, 3])
def test_what_says_the_same_gives_identical_bytes(prepare, data, change, files):
    paths = [data(ROWS[i::files]) for i in range(files)]
    before = everything(prepare(*paths, validation=0.2))
    paths[0].write_bytes(change(paths[0].read_text(encoding="utf-8")).encode())
    assert everything(prepare(*paths, validation=0.2)) == before


def test_the_order_in_which_files_are_named_does_not_matter(prepare, data):
    one, other = data(ROWS[:20]), data(ROWS[20:], "csv")
    assert everything(prepare(one, other)) == everything(prepare(other, one))


def test_what_cut_the_text_up_is_recorded(prepare, data):
    versions = prepare(data(ROWS)).provenance["versions"]
    assert versions == {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__}


def test_rows_keep_the_order_of_their_file(prepare, data):
    ids = [row[0] for row in prepare(data(ROWS)).tokens()]
    alone = [prepare(data([row])).tokens()[0][0] for row in ROWS[:5]]
    assert ids[:5] == alone


def test_a_row_more_moves_no_other(prepare, data):
    share = {"validation": 0.2, "test": 0.2}
    some, all_rows = prepare(data(ROWS[1:]), **share), prepare(data(ROWS), **share)
    for split in SPLITS:
        added = [row for row in all_rows.tokens(split) if row not in some.tokens(split)]
        assert [row for row in all_rows.tokens(split) if row not in added] == some.tokens(split)


def test_another_validation_share_leaves_the_test_bytes(prepare, data):
    path = data(ROWS)
    some, more = (prepare(path, validation=share, test=0.2) for share in (0.1, 0.4))
    assert some.bytes("test") == more.bytes("test")
    assert some.bytes("train") != more.bytes("train")


def test_copies_of_a_prompt_are_on_one_side(prepare, data):
    rows = [
        {"prompt": row["prompt"].upper() if i else f" {row['prompt']}", "completion": f"{i}"}
        for row in ROWS
        for i in range(2)
    ]
    done = prepare(data(rows), validation=0.3, test=0.3)
    assert {name: part["rows"] for name, part in done.splits.items()} == {
        name: 2 * part["prompts"] for name, part in done.splits.items()
    }
    assert done.provenance["overlap"] == {"validation": 0, "test": 0}


def test_a_share_that_holds_nothing_out_is_said(prepare, data):
    done = prepare(data(ROWS[:2]), test=1e-6)
    assert done.splits["test"]["rows"] == 0
    assert any("no row fell into test" in warning for warning in done.warnings)


GROUPED = [row | {"group": f"g{i % 12}", "number": i % 12} for i, row in enumerate(ROWS)]


def test_rows_of_a_group_are_on_one_side(prepare, data):
    done = prepare(data(GROUPED), group_by="group", validation=0.3, test=0.3)
    sides = {split: [tuple(ids) for ids, _ in done.tokens(split)] for split in SPLITS}
    assert all(sides.values())
    side_of = {ids: split for split, rows in sides.items() for ids in rows}
    of_row = [side_of[tuple(ids)] for ids, _ in prepare(data(GROUPED)).tokens()]
    assert [of_row[i] for i in range(60)] == [of_row[i % 12] for i in range(60)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_group_is_the_same_in_every_type_of_file(prepare, data, kind):
    share = {"group_by": "number", "validation": 0.3, "test": 0.3}
    assert everything(prepare(data(GROUPED, kind), **share)) == everything(prepare(data(GROUPED), **share))


@pytest.mark.parametrize(
    ("group", "what"),
    [
        ({}, "no column `group` to group by"),
        ({"group": None}, r"column `group` \(group_by\) is null"),
        ({"group": [1]}, r"column `group` \(group_by\) is of type list"),
        ({"group": True}, r"column `group` \(group_by\) is of type bool"),
    ],
)
def test_a_row_without_a_group_is_named_by_its_line(prepare, data, group, what):
    path = data([GROUPED[0], ROWS[1] | group])
    with pytest.raises(DataError, match=what) as caught:
        prepare(path, group_by="group")
    assert caught.value.where == f"{path}:2"


def test_a_prompt_that_is_in_two_groups_is_counted_where_it_is_on_both_sides(prepare, data):
    rows = [{"prompt": "the same", "completion": "x", "group": f"{i}"} for i in range(40)]
    done = prepare(data(rows), group_by="group", validation=0.3, test=0.3)
    assert done.provenance["overlap"] == {n: done.splits[n]["rows"] for n in ("validation", "test")}
    assert done.provenance["overlap"]["test"] > 0


def test_no_share_is_an_empty_file(prepare, data):
    done = prepare(data(ROWS))
    assert done.tokens("validation") == done.tokens("test") == []
    assert len(done.tokens()) == len(ROWS)


def test_rows_over_the_length_are_dropped_counted_and_said(prepare, data):
    rows = [{"prompt": "short", "completion": "x"}, {"prompt": "long", "completion": "x" * 100}] * 3
    done = prepare(data(rows), max_length=50)
    assert (done.rows["read"], done.rows["used"], done.rows["over_max_length"]) == (6, 3, 3)
    assert done.warnings == ["3 rows dropped: over max_length = 50 tokens"]


def test_rows_over_the_length_are_cut_counted_and_said(prepare, data):
    rows = [{"prompt": "short", "completion": "x"}, {"prompt": "long", "completion": "x" * 100}]
    done = prepare(data(rows), max_length=50, on_overflow="truncate")
    assert (done.rows["used"], done.rows["truncated"], done.rows["over_max_length"]) == (2, 1, 0)
    assert max(len(ids) for ids, _ in done.tokens()) == 50
    assert done.warnings == ["1 row cut at max_length = 50 tokens"]


def test_a_completion_that_is_cut_off_is_dropped_and_counted(prepare, data):
    rows = [{"prompt": "p" * 80, "completion": "x"}, {"prompt": "short", "completion": "x"}]
    done = prepare(data(rows), max_length=50, on_overflow="truncate")
    assert (done.rows["used"], done.rows["truncated"], done.rows["completion_cut_off"]) == (1, 0, 1)
    assert done.warnings == ["1 row dropped: prompt alone fills max_length = 50 tokens"]


def test_rows_that_teach_nothing_are_dropped_and_counted(prepare, data):
    rows = [
        {"prompt": "a", "completion": ""},
        {"prompt": "b", "completion": " \n"},
        {"prompt": "", "completion": "c"},
    ]
    done = prepare(data(rows))
    assert (done.rows["used"], done.rows["empty"]) == (1, 2)
    assert done.warnings == ["2 rows dropped: completion, text or every answer is empty"]


def test_every_row_is_counted_once(prepare, data):
    rows = [*ROWS, {"prompt": "a", "completion": ""}, {"prompt": "b" * 200, "completion": "x"}]
    done = prepare(data(rows), validation=0.2, test=0.2, max_samples=20)
    left_out = ("empty", "over_max_length", "completion_cut_off", "beyond_max_samples")
    assert done.rows["read"] == len(rows) == done.rows["used"] + sum(done.rows[name] for name in left_out)
    assert done.rows["used"] == sum(part["rows"] for part in done.splits.values())
    for split in SPLITS:
        assert done.splits[split]["tokens"] == sum(len(ids) for ids, _ in done.tokens(split))
        trained = sum(label != -100 for _, labels in done.tokens(split) for label in labels)
        assert done.splits[split]["trained_tokens"] == trained
        assert done.splits[split]["longest"] == max((len(ids) for ids, _ in done.tokens(split)), default=0)


def test_max_samples_takes_train_rows_alone_whatever_their_order(prepare, data):
    share = {"validation": 0.2, "test": 0.2}
    full, some = prepare(data(ROWS), **share), prepare(data(ROWS), **share, max_samples=10)
    turned = prepare(data(ROWS[::-1]), **share, max_samples=10)
    assert len(some.tokens()) == 10
    assert sorted(some.tokens()) == sorted(turned.tokens())
    assert [row for row in full.tokens() if row in some.tokens()] == some.tokens()
    assert everything(some)[1:] == everything(full)[1:]


def test_max_samples_above_the_rows_changes_nothing(prepare, data):
    assert prepare(data(ROWS), max_samples=60).bytes() == prepare(data(ROWS)).bytes()


def test_a_held_out_file_stays_out_of_train_and_its_overlap_is_said(prepare, data):
    train, held = data(ROWS[:30]), data(ROWS[28:40])
    done = prepare(source(train), source(held, "validation:jsonl"), validation="held.jsonl", test=0.0)
    assert len(done.tokens()) == 30
    assert len(done.tokens("validation")) == 12
    assert done.provenance["overlap"] == {"validation": 2, "test": 0}
    assert done.warnings == [
        "2 rows of validation with a prompt that is in train, too",
        "2 rows of validation nearly repeat rows of train",
    ]


def test_another_held_out_file_leaves_the_train_bytes(prepare, data):
    train = data(ROWS[:30])
    some, more = (
        prepare(
            source(train),
            source(data(ROWS[30:end]), "validation:jsonl"),
            source(data(ROWS[50:]), "test:jsonl"),
        )
        for end in (40, 50)
    )
    assert (some.bytes("train"), some.bytes("test")) == (more.bytes("train"), more.bytes("test"))
    assert some.bytes("validation") != more.bytes("validation")


def test_a_held_out_file_without_a_row_that_says_something_is_refused(prepare, data):
    held = data([{"prompt": "a", "completion": ""}])
    with pytest.raises(DataError, match="of 61 rows, none is left to choose by: 1 row dropped") as caught:
        prepare(source(data(ROWS)), source(held, "validation:jsonl"))
    assert caught.value.where == str(held)


def test_a_probe_has_test_rows_alone(prepare, data):
    done = prepare(source(data(ROWS), "test:jsonl"))
    assert [len(done.tokens(split)) for split in SPLITS] == [0, 0, 60]
    assert prepare(source(data(ROWS), "test:jsonl"), max_samples=7).splits["test"]["rows"] == 7


def test_chat_is_taken_where_the_base_has_a_template(prepare, data, tmp_path):
    template = make_tokenizer(tmp_path / "chat", chat_template=CHATML)
    path = data(ROWS)
    raw, chat = prepare(path), prepare(path, tokenizer=template)
    assert (raw.provenance["chat"], chat.provenance["chat"]) == (False, True)
    assert prepare(path, tokenizer=template, chat=False).bytes() == raw.bytes()
    assert prepare(path, tokenizer=template, chat=True).bytes() == chat.bytes()
    assert chat.bytes() != raw.bytes()


@pytest.mark.parametrize(
    ("prompt", "completion", "template", "token"),
    [
        ("is </s> the end?", "yes", None, "</s>"),
        ("a", "no </s> yet", None, "</s>"),
        ("a", "<s>no", None, "<s>"),
        ("a", "no</s>", None, None),  # a text may end itself …
        ("<s>a", "no", None, None),  # … and begin itself, where the tokenizer would
        ("a", "no</s>", CHATML, "</s>"),  # a turn is ended by the template
        ("<s>a", "no", CHATML, "<s>"),
        ("</S>", "s>", CHATML, None),
    ],
)
def test_a_row_that_spells_a_control_token_is_named(
    prepare, data, tmp_path, prompt, completion, template, token
):
    tokenizer = make_tokenizer(tmp_path / "other", bos=True, chat_template=template)
    path = data([ROWS[0], *[{"prompt": prompt, "completion": completion}] * 2])
    done = prepare(path, tokenizer=tokenizer)
    what = f"2 rows with a control token of the base in the text, first {token} at {path}:2: "
    assert done.warnings == ([what + "where it is written, it is that token and not text"] if token else [])
    assert (done.rows["used"], done.rows["control_tokens"]) == (3, 2 if token else 0)


def test_text_is_never_put_in_a_template(prepare, data, tmp_path):
    template = make_tokenizer(tmp_path / "chat", chat_template=CHATML)
    path = data([{"text": "a"}, {"text": "b"}])
    assert prepare(path, tokenizer=template).bytes() == prepare(path).bytes()


@pytest.mark.parametrize(
    ("rows", "params", "what"),
    [
        (ROWS, {"chat": True}, "chat = true, but the base has no chat template"),
        ([{"text": "a"}], {"chat": True}, "chat = true, but `text` rows have no turns"),
        (ROWS, {"system": "Be brief."}, "a system prompt needs a chat template"),
        (ROWS, {"max_length": 5}, "of 60 rows, none is left to train on: 60 rows dropped: over max_length = 5 tokens"),
        (ROWS[:1], {"test": 1.0}, "of 1 row, none is left to train on: 1 row held out"),
        ([{"prompt": "a", "completion": ""}], {}, "1 row dropped: completion, text or every answer is empty"),
        ([], {}, "the dataset has no rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(prepare, data, rows, params, what):
    with pytest.raises(DataError, match=what) as caught:
        prepare(data(rows), **params)
    assert caught.value.hint


def test_a_bad_row_stops_the_step_at_its_line(prepare, data):
    path = data([*ROWS, {"prompt": "a", "completion": None}])
    with pytest.raises(DataError, match="is null") as caught:
        prepare(path)
    assert caught.value.where == f"{path}:61"


def test_the_first_file_with_rows_gives_the_format(prepare, data, tmp_path):
    empty = tmp_path / "empty.csv"
    empty.touch()
    assert prepare(empty, data(ROWS)).bytes() == prepare(data(ROWS)).bytes()


def test_columns_are_found_under_the_names_given(prepare, data):
    renamed = [{"q": row["prompt"], "a": row["completion"], "n": i} for i, row in enumerate(ROWS)]
    columns = {"prompt": "q", "completion": "a"}
    assert prepare(data(renamed), columns=columns).bytes() == prepare(data(ROWS)).bytes()


def test_a_stop_is_asked_for_between_batches(data, tmp_path):
    for name in ("work", "out"):
        (tmp_path / name).mkdir()
    context = Context(tmp_path / "work", tmp_path / "out", Machine(), stopping=lambda: True)
    inputs = Inputs(
        paths={"base/tokenizer": make_tokenizer(tmp_path / "tokenizer")}, sources=(source(data(ROWS)),)
    )
    params = dict.fromkeys(KINDS["prepare"].params) | {"max_length": 50, "on_overflow": "drop"}
    with pytest.raises(InterruptedBuildError):
        step.run(inputs, params, context)
    assert list((tmp_path / "out").iterdir()) == []


def test_progress_ends_at_the_bytes_that_are_read_several_files_twice(prepare, data):
    paths = data(ROWS), data(ROWS, "csv")
    last = [e for e in prepare(*paths).events if e["event"] == "progress"][-1]
    assert last["done"] == last["total"] == 2 * sum(path.stat().st_size for path in paths)


def test_examples_show_what_is_trained(prepare, data, tmp_path):
    template = make_tokenizer(tmp_path / "chat", chat_template=CHATML)
    done = prepare(data([{"prompt": "2+2?", "completion": "4 é"}, *ROWS]), tokenizer=template)
    first, second = examples(template, done.folder / "out" / "train", range(2))
    assert first.segments == (("[user]\n2+2?</s>\n[assistant]\n", False), ("4 é</s>", True))
    assert (first.tokens, first.trained) == (30, 5)
    assert second.segments[1] == (ROWS[0]["completion"] + "</s>", True)


def test_examples_are_no_more_than_there_are(prepare, data):
    done = prepare(data(ROWS[:2]))
    assert len(examples(prepare.tokenizer, done.folder / "out" / "train", range(10))) == 2
    assert examples(prepare.tokenizer, done.folder / "out" / "test", range(10)) == []
