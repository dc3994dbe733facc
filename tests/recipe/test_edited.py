"""A recipe's text with a table more or less, or other ω: every other byte stays where it was."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from growth import assert_linear, calls_of

from dem_build.errors import UsageError
from dem_build.recipe.edited import table_text, with_omegas, with_table, without_table

ROOT = Path(__file__).parents[2]
DEMO = (ROOT / "recipes/demo/assistant.toml").read_text()


def added(text: str, new: str, section: str = "datasets", **table: object) -> str:
    """What is new of a text, which must be one run of lines."""
    told = with_table(text, section, new, table)
    before, after = text.splitlines(), told.splitlines()
    many = len(after) - len(before)
    at = next(n for n in range(len(before) + 1) if after[:n] + after[n + many :] == before)
    # Of equal blank lines around it any may be the new one: it begins with its header here.
    at += not after[at]
    return "\n".join(after[at : at + many]).rstrip()


def test_a_dataset_comes_below_the_last_one_and_above_what_is_said_of_the_next_table() -> None:
    told = with_table(DEMO, "datasets", "reverse", {"path": "data/reverse.jsonl", "omega": 0.7})
    block = '[datasets.reverse]\npath = "data/reverse.jsonl"\nomega = 0.7\n'
    assert f"omega = 0.7\n\n{block}\n# A third skill: remove" in told
    assert told.replace(f"{block}\n", "", 1) == DEMO


def test_a_section_that_is_not_there_begins_below_the_datasets() -> None:
    assert "omega = 0.7\n\n[vectors.code]\n" in with_table(DEMO, "vectors", "code", {"checkpoint": "a/b"})
    assert added('[base]\nmodel = "b"\n\n# of it\n[evaluate]\n', "a", path="x") == '[datasets.a]\npath = "x"'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", '[datasets.a]\npath = "x"\n'),
        ('[base]\nmodel = "b"', '[base]\nmodel = "b"\n\n[datasets.a]\npath = "x"\n'),
        # A key that somebody put aside is of the table above; what stands right above a header is of that.
        (
            '[datasets.b]\npath = "y"\n# omega = 1\n\n[evaluate]\n',
            '[datasets.b]\npath = "y"\n# omega = 1\n\n[datasets.a]\npath = "x"\n\n[evaluate]\n',
        ),
        (
            '[datasets.b]\npath = "y"\n# it\n[evaluate]\n',
            '[datasets.b]\npath = "y"\n\n[datasets.a]\npath = "x"\n\n# it\n[evaluate]\n',
        ),
        # Keys without a header stand above all headers, and below a header they would be of its table.
        (
            'datasets.b.path = "y"\nname = "n"\n[base]\nmodel = "m"\n',
            'datasets.b.path = "y"\nname = "n"\n\n[datasets.a]\npath = "x"\n\n[base]\nmodel = "m"\n',
        ),
        (
            '[datasets]\nb.path = "y"  # [c]\n[base]\nmodel = """\n[datasets.q]\n"""\n',
            '[datasets]\nb.path = "y"  # [c]\n\n[datasets.a]\npath = "x"\n\n[base]\nmodel = """\n[datasets.q]\n"""\n',
        ),
    ],
)
def test_a_table_is_added_to_every_form_of_a_file(text: str, told: str) -> None:
    assert with_table(text, "datasets", "a", {"path": "x"}) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # Between two tables one of two blank lines goes; comments around them stay, those in it go with it.
        (
            '# head\n[datasets.a]  # tail\npath = "x"  # it\n# in it\nomega = 1\n\n# of b\n[datasets.b]\npath = "y"\n',
            '# head\n\n# of b\n[datasets.b]\npath = "y"\n',
        ),
        ('[base]\nmodel = "m"\n\n[datasets.a]\npath = "x"\n', '[base]\nmodel = "m"\n'),
        ('[datasets.a]\npath = "x"\n\n[datasets.a.train]\nseed = 1\n\n[base]\n', "[base]\n"),
        (
            '[datasets.a]\npath = "x"\n[base]\nmodel = "m"\n[datasets.a.train]\nseed = 1\n',
            '[base]\nmodel = "m"\n',
        ),
        ('[datasets]\na = { path = "x" }\nb = { path = "y" }\n', '[datasets]\nb = { path = "y" }\n'),
        ('[datasets]\na.path = """\n[b]\n"""\na.omega = 1\n\n[base]\n', "[datasets]\n\n[base]\n"),
        ('datasets.a.path = "x"\nname = "n"\n', 'name = "n"\n'),
        ('[datasets.a]\npath = "x"', ""),
    ],
)
def test_a_table_is_taken_out_of_every_form_of_a_file(text: str, told: str) -> None:
    assert without_table(text, "datasets", "a") == told


def test_what_is_added_and_taken_out_again_was_never_there() -> None:
    for section, table in (
        ("datasets", {"path": "x"}),
        ("vectors", {"adapter": "x"}),
        ("probes", {"hub": "a/b"}),
    ):
        assert without_table(with_table(DEMO, section, "new", table), section, "new") == DEMO


def test_no_line_of_any_recipe_is_lost_or_moved() -> None:
    """Every recipe that is TOML, with a table more and without each that it has: what is not of the table stays."""
    tried = 0
    for path in sorted(ROOT.glob("recipes/*/*.toml")) + sorted(ROOT.glob("tests/recipes/*/recipe.toml")):
        try:
            text = path.read_text(encoding="utf-8")
            data = tomllib.loads(text)
            told = with_table(text, "datasets", "new", {"path": "x"})
        except (ValueError, UsageError):
            continue
        assert without_table(told, "datasets", "new").rstrip("\n") == text.rstrip("\n"), path
        tables = data.get("datasets")
        for name in tables if isinstance(tables, dict) else ():
            left = without_table(text, "datasets", name).splitlines()
            lines = iter(text.splitlines())
            assert all(line in lines for line in left), (path, name)  # in their order
            before = f"\n{text}".find(f"\n[datasets.{name}]")
            assert before < 0 or "\n".join(left).startswith(text[:before].rstrip("\n")), (path, name)
            tried += 1
    assert tried > 50


def test_a_form_that_no_line_can_be_added_to_or_cut_out_of_is_left_to_the_user() -> None:
    text = 'datasets = { a = { path = "x" }, b = { path = "y" } }\n'
    with pytest.raises(UsageError) as told:
        without_table(text, "datasets", "a")
    assert told.value.what == "`datasets.a` (line 1) is written in a form that dem does not edit"
    with pytest.raises(UsageError) as told:
        with_table(text, "datasets", "c", {"path": "z"})
    assert told.value.hint == 'write it there by hand:\n[datasets.c]\npath = "z"'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # What stands there is replaced, with blanks and comments around it as they were.
        (
            '[datasets.a]\nomega=1   # it\npath = "x"\n',
            '[datasets.a]\nomega=0.25   # it\npath = "x"\n',
        ),
        ('[datasets.a]\npath = "x"\nomega = "tune"', '[datasets.a]\npath = "x"\nomega = 0.25'),
        ('[datasets]\na.omega = 1 # it\na.path = "x"\n', '[datasets]\na.omega = 0.25 # it\na.path = "x"\n'),
        ('datasets."a" . omega = 1\n', 'datasets."a" . omega = 0.25\n'),
        # What does not stand there comes below the table's own keys, above tables in it and what was put aside.
        (
            '[datasets.a]\npath = "x"  # it\n# seed = 1\n\n[datasets.a.train]\nseed = 1\n',
            '[datasets.a]\npath = "x"  # it\nomega = 0.25\n# seed = 1\n\n[datasets.a.train]\nseed = 1\n',
        ),
        ('[datasets.a]\npath = "x"', '[datasets.a]\npath = "x"\nomega = 0.25\n'),
        (
            '[datasets.a]\npath = """\nomega = 1\n"""\n[base]\n',
            '[datasets.a]\npath = """\nomega = 1\n"""\nomega = 0.25\n[base]\n',
        ),
        # The same number stays as it is written.
        ("[datasets.a]\nomega = 2.5e-1\n", "[datasets.a]\nomega = 2.5e-1\n"),
    ],
)
def test_omega_is_changed_in_every_form_of_a_table(text: str, told: str) -> None:
    assert with_omegas(text, {("datasets", "a"): 0.25}) == told


def test_several_omega_are_changed_and_an_inline_table_is_left_to_the_user() -> None:
    both = {("datasets", "chat"): 0.1, ("datasets", "family"): 1e-07}
    told = tomllib.loads(with_omegas(DEMO, both))["datasets"]
    assert (told["chat"]["omega"], told["family"]["omega"]) == (0.1, 1e-07)
    for text in ('[datasets]\na = { path = "x" }\n', 'datasets.a.path = "x"\n'):
        with pytest.raises(UsageError, match=r"`datasets.a` \(line [12]\) is written in a form") as error:
            with_omegas(text, {("datasets", "a"): 0.5})
        assert error.value.hint == "write it there by hand: omega = 0.5"


def test_values_are_written_as_toml_reads_them() -> None:
    table = {
        "text": 'a "b" \\ \n \x7f ω',
        "columns": {"prompt": "the question", "a b": "c.d"},
        "numbers": [1, -2.5, 1e-300, 2**60],
        "truth": True,
        "of two": [{"a": []}],
    }
    assert tomllib.loads(table_text(("datasets", "a"), table)) == {"datasets": {"a": table}}


def test_omega_of_many_vectors_are_written_in_one_pass():
    def calls(vectors):
        tables = [f'[datasets.d{i}]\npath = "d{i}.jsonl"\nomega = 0.5\n\n' for i in range(vectors)]
        omegas = {("datasets", f"d{i}"): 0.25 for i in range(vectors)}
        found = []
        counted = calls_of(lambda: found.append(with_omegas("".join(tables), omegas)))
        assert found == ["".join(tables).replace("0.5", "0.25")]
        return counted

    assert_linear(calls, (10, 30, 90))
