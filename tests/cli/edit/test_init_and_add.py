"""`dem init`, `dem add` and `dem remove`: what is written, what is refused, and what is said."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from hub_server import HubServer, serving
from project import Project, of_hub
from store_samples import make_record

from dem_build.cli.app import run
from dem_build.cli.edit import changes
from dem_build.errors import UsageError
from dem_build.recipe import load_recipe, toml
from dem_build.session.session import root_id
from dem_build.store import Store, files

if TYPE_CHECKING:
    from collections.abc import Iterator

RECIPE = """\
# mine
[base]
model = "base.gguf"   # a stub: nothing here reads it

[datasets.add]
path = "add.jsonl"

# what is measured
[evaluate]
"""

COLUMNS = ("--set", "columns.prompt=question", "--set", "columns.completion=answer")


def rows(*columns: str, count: int = 3) -> str:
    return "".join(json.dumps({name: f"{name} {n}" for name in columns}) + "\n" for n in range(count))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEM_CACHE", raising=False)
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    (tmp_path / "add.jsonl").write_text(rows("prompt", "completion"))
    (tmp_path / "asked.jsonl").write_text(rows("question", "answer", "id"))
    (tmp_path / "mine.toml").write_text(RECIPE)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    return tmp_path


def written() -> str:
    return Path("mine.toml").read_text()


def test_a_dataset_is_looked_at_and_added(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["add", "asked", "asked.jsonl", "--omega", "0.5", *COLUMNS]) == 0
    columns = 'columns = { prompt = "question", completion = "answer" }'
    table = f'[datasets.asked]\npath = "asked.jsonl"\n{columns}\nomega = 0.5\n'
    assert written() == RECIPE.replace("# what", f"{table}\n# what")
    out = capsys.readouterr().out.splitlines()
    assert out[:3] == ["mine.toml: changed", "@@ line 8", "+ [datasets.asked]"]
    assert out[-2:] == [
        "saw  asked.jsonl: prompt-completion (`question`, `answer`; not read: `id`); 3 rows, 189 B",
        "next dem data mine.toml asked",
    ]


def test_what_is_new_is_shown_from_its_header_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Its last lines are those of the table above, and a plain comparison of lines would take these for new."""
    assert run(["add", "two", "asked.jsonl", "--omega", "1", *COLUMNS]) == 0
    assert run(["add", "three", "asked.jsonl", "--omega", "1", *COLUMNS]) == 0
    assert run(["remove", "two"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line[:1] in {"@", "+", "-"}]
    columns = 'columns = { prompt = "question", completion = "answer" }'
    table = ['path = "asked.jsonl"', columns, "omega = 1"]
    assert shown == [
        *("@@ line 8", "+ [datasets.two]", *(f"+ {line}" for line in table), "+"),
        *("@@ line 13", "+ [datasets.three]", *(f"+ {line}" for line in table), "+"),
        *("@@ line 8", "- [datasets.two]", *(f"- {line}" for line in table), "-"),
    ]


def test_a_dry_run_shows_the_change_and_makes_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["add", "two", "asked.jsonl", "--dry-run", "--as", "probe", *COLUMNS]) == 0
    assert run(["remove", "add", "--dry-run"]) == 0
    assert run(["init", "new.toml", "--base", "base.gguf", "--dry-run"]) == 0
    assert not Path("new.toml").exists()
    out = capsys.readouterr().out.splitlines()
    assert written() == RECIPE
    assert out.count("mine.toml: not changed, as asked") == 2
    assert {"+ [probes.two]", '- path = "add.jsonl"'} <= {*out}
    assert not [line for line in out if line.startswith("next")]  # of what is not there


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["asked", "asked.jsonl"], "--set columns.prompt=question --set columns.completion=answer"),
        (["add", "add.jsonl"], "dem remove mine.toml add"),
        (["a b", "add.jsonl"], "a name is made of letters"),
        (["new", "ad.jsonl"], "holds add.jsonl"),
        (["new", "org/name"], "hub:org/name"),
        (["new", "hub:name"], "hub:ORG/NAME"),
        (["base", "add.jsonl"], "`base` names a model of every build"),
        (["new", "add.jsonl", "--omega", "lots"], 'must be a number or "tune", not "lots"'),
        (["new", "add.jsonl", "--set", "max_sampels=3"], "did you mean `max_samples`?"),
        (["new", "add.jsonl", "--set", "format"], "must be KEY=VALUE"),
        (["new"], "dem add RECIPE NAME PATH|hub:ID"),
        (["new", "base.gguf"], "is of no type that dem reads"),
        (["other.toml", "new", "add.jsonl"], "there is no such recipe"),
    ],
)
def test_what_would_not_check_is_not_written(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["add", *words]) == 2
    assert told in capsys.readouterr().err
    assert written() == RECIPE
    assert not list(Path.cwd().glob(".mine*"))


def test_a_row_that_is_none_is_found_before_a_build_finds_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("odd.jsonl").write_text(rows("prompt", "completion") + '{"prompt": "x", "completion": 7}\n')
    assert run(["add", "odd", "odd.jsonl"]) == 2
    assert "odd.jsonl:4: column `completion` (completion) is of type int" in capsys.readouterr().err


def test_a_folder_is_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    model, adapter, data = Path("model"), Path("adapter"), Path("data")
    for folder in (model, adapter, data):
        folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "model.safetensors").write_bytes(b"weights")
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    for name in ("a", "b"):
        (data / f"{name}.jsonl").write_text(rows("text"))
    assert [run(["add", name, name]) for name in ("model", "adapter", "data")] == [0, 0, 0]
    recipe = load_recipe(Path("mine.toml"))
    assert (recipe.vectors["model"].checkpoint, recipe.vectors["adapter"].adapter) == ("model", "adapter")
    assert recipe.datasets["data"].path == "data/*.jsonl"
    assert "saw  data/*.jsonl: text (`text`); 6 rows, 2 files, 114 B" in capsys.readouterr().out
    (data / "c.csv").write_text("text\nx\n")
    assert run(["add", "more", "data"]) == 2
    assert "name one: data/*." in capsys.readouterr().err


def test_what_the_user_says_it_is_counts(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tuned").mkdir()
    Path("tuned/config.json").write_text("{}")
    assert run(["add", "two", "tuned", "--as", "adapter"]) == 2
    assert "is a whole model, not an adapter" in capsys.readouterr().err


def test_paths_start_from_the_recipe_wherever_the_user_is(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("below").mkdir()
    monkeypatch.chdir("below")
    assert run(["add", "../mine.toml", "two", "../add.jsonl", "--set", "test=0"]) == 0
    assert load_recipe(Path("../mine.toml")).datasets["two"].path == "add.jsonl"


def test_of_several_recipes_one_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.toml").write_text(RECIPE)
    assert run(["remove", "add"]) == 2
    assert "several recipes here: mine.toml, other.toml" in capsys.readouterr().err
    assert run(["remove", "other.toml", "add"]) == 0
    assert Path("other.toml").read_text() == RECIPE.replace('[datasets.add]\npath = "add.jsonl"\n\n', "")


def test_words_that_are_no_single_name_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["remove", "add", "mine.toml"]) == 2
    assert "one name is needed, not `add`, `mine.toml`" in capsys.readouterr().err


def test_what_others_name_stays_and_a_typo_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = RECIPE + '\n[[gates]]\ntask = "loss:add"\nmetric = "loss"\nmax = 2\n'
    Path("mine.toml").write_text(text)
    assert run(["remove", "ad"]) == 2
    assert "did you mean `add`?" in capsys.readouterr().err
    assert run(["remove", "add"]) == 2
    err = capsys.readouterr().err
    assert "mine.toml: left as it was" in err
    assert (
        "mine.toml:12: error: gates[0].task: nothing evaluates `loss:add`" in err
    )  # its line as it stands there
    assert written() == text


def test_marks_ends_of_lines_modes_and_links_are_kept() -> None:
    raw = b"\xef\xbb\xbf" + RECIPE.replace("\n", "\r\n").encode()
    there = Path("there")
    there.mkdir()
    (there / "mine.toml").write_bytes(raw)
    (there / "mine.toml").chmod(0o600)
    Path("mine.toml").unlink()
    Path("mine.toml").symlink_to(there / "mine.toml")
    assert run(["add", "two", "add.jsonl"]) == 0
    assert Path("mine.toml").is_symlink()
    assert stat.S_IMODE((there / "mine.toml").stat().st_mode) == 0o600
    new = b'[datasets.two]\r\npath = "add.jsonl"\r\n\r\n'
    assert (there / "mine.toml").read_bytes() == raw.replace(b"# what", new + b"# what")


def test_where_lines_end_in_both_ways_each_keeps_its_end() -> None:
    raw = b'[base]\r\nmodel = "base.gguf"\n\n[datasets.add]\r\npath = "add.jsonl"\n# omega = 1\r\n\r\n[evaluate]\r\n'
    Path("mine.toml").write_bytes(raw)
    assert run(["add", "two", "add.jsonl"]) == 0
    new = b'\n[datasets.two]\npath = "add.jsonl"\n'
    assert Path("mine.toml").read_bytes() == raw.replace(b"= 1\r\n", b"= 1\r\n" + new)
    assert run(["remove", "two"]) == 0
    assert Path("mine.toml").read_bytes() == raw.replace(b"\r\n\r\n", b"\r\n\n")
    last = raw + b'\r\n\n[probes.two]\npath = "add.jsonl"\n'
    Path("mine.toml").write_bytes(last)
    assert run(["remove", "two"]) == 0
    assert Path("mine.toml").read_bytes() == raw


def test_a_path_that_no_recipe_can_hold_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    odd = "odd\udcff.jsonl"  # a name of bytes that are no UTF-8
    Path(odd).write_text(rows("prompt", "completion"))
    assert run(["add", "two", odd]) == 2
    assert "is not UTF-8, as a recipe is" in capsys.readouterr().err
    assert written() == RECIPE


def test_a_path_leads_through_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "deep/er/home"
    deep.mkdir(parents=True)
    for name in ("mine.toml", "base.gguf"):
        (deep / name).write_bytes((tmp_path / name).read_bytes().replace(b"add.jsonl", b"../../../add.jsonl"))
    Path("link").symlink_to(deep.parent)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir("below")
    assert run(["add", str(tmp_path / "link/home/mine.toml"), "two", "../add.jsonl"]) == 0
    assert load_recipe(deep / "mine.toml").datasets["two"].path == "../../../add.jsonl"


def test_what_somebody_else_wrote_meanwhile_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = changes.checked

    def meanwhile(*arguments: object) -> object:
        Path("mine.toml").write_text(RECIPE + "# theirs\n")
        return real(*arguments)

    monkeypatch.setattr(changes, "checked", meanwhile)
    assert run(["add", "two", "add.jsonl"]) == 2
    assert "changed by somebody else" in capsys.readouterr().err
    assert written() == RECIPE + "# theirs\n"


def test_a_recipe_is_begun_of_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", "new/", "--base", "base.gguf", "--data", "add.jsonl", "--data", "b=add.jsonl"]) == 0
    assert "next dem plan new/recipe.toml" in capsys.readouterr().out
    recipe = load_recipe(Path("new/recipe.toml"))
    assert (recipe.base.model, {n: d.path for n, d in recipe.datasets.items()}) == (
        "../base.gguf",
        {"add": "../add.jsonl", "b": "../add.jsonl"},
    )
    assert run(["check", "new/recipe.toml"]) == 0
    assert run(["init", "new/", "--base", "base.gguf"]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["away/x.toml"], "a base is needed"),
        (["away/x.toml", "--base", "bas.gguf"], "no such folder or file"),
        (["away/x.toml", "--base", "base.gguf", "--data", "none.jsonl"], "no file matches"),
        (
            ["away/x.toml", "--base", "base.gguf", "--data", "asked.jsonl"],
            "`question`, `answer` are what is meant",
        ),
        (
            ["away/x.toml", "--base", "base.gguf", "--data", "add.jsonl", "--data", "add=asked.jsonl"],
            "two datasets would be called 'add'",
        ),
        (["away"], "away.toml, or a folder: away/"),
    ],
)
def test_of_what_is_not_there_no_recipe_is_begun(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init", *words]) == 2
    assert told in capsys.readouterr().err
    assert not Path("away").exists()


@pytest.mark.parametrize(
    ("columns", "words", "told"),
    [
        (
            ("question", "answer"),
            ["--set", "columns.prompt=question"],
            "--set columns.completion=answer",
        ),
        (("question", "answer"), ["--set", "columns=question"], "must be a table"),
        (
            ("prompt", "chosen", "rejected"),
            [],
            "no training on preferences (DPO); if",
        ),
    ],
)
def test_columns_that_no_format_has_are_led_to_one(
    columns: tuple[str, ...], words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("odd.jsonl").write_text(rows(*columns, count=3))
    assert run(["add", "odd", "odd.jsonl", *words]) != 0
    assert told in capsys.readouterr().err


def test_a_user_who_says_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(
        ["base.gguf", "none.jsonl", "asked.jsonl", "add.jsonl", "my sums", "add.jsonl", "sums", ""]
    )
    monkeypatch.setattr("click.prompt", lambda *_, **__: next(answers))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert run(["init", "new.toml"]) == 0
    assert {n: d.path for n, d in load_recipe(Path("new.toml")).datasets.items()} == {"sums": "add.jsonl"}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving() as server:
        server.commit("datasets", "org/math", {"train.jsonl": rows("prompt", "completion", count=5).encode()})
        yield server


def test_a_dataset_on_a_hub_is_asked_for_and_looked_at(home: Path, hub: HubServer) -> None:
    project = of_hub(Project(home), hub, RECIPE)
    (home / "mine.toml").unlink()
    done = project.call("add", "tiny.toml", "math", "hub:org/math", "--set", "max_samples=4")
    assert '+ hub = "org/math"\n+ max_samples = 4\n' in done.stdout
    assert (
        "saw  hub:org/math: prompt-completion (`prompt`, `completion`); 1 file, 265 B, split train"
        in done.stdout
    )
    err = project.call("add", "tiny.toml", "more", "hub:org/maths", status=2).stderr
    assert "no dataset 'org/maths'" in err
    assert "--as checkpoint" in err


def test_where_no_hub_is_to_be_asked_a_dataset_is_added_unseen(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["add", "far", "hub:org/maths@v1", "--offline"]) == 0
    recipe = load_recipe(Path("mine.toml"))
    assert (recipe.datasets["far"].hub, recipe.datasets["far"].revision) == ("org/maths", "v1")
    assert "saw  hub:org/maths: not looked at, as asked" in capsys.readouterr().out


def test_what_stays_in_the_cache_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(home / "cache")
    record = store.records.publish(make_record(store))
    actions = {"vector:add": record.key, "data:add": "0" * 64}
    store.roots.write(root_id(home / "mine.toml"), {"recipe": str(home / "mine.toml"), "actions": actions})
    assert run(["remove", "add"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("kept")]
    assert line.startswith("kept vector:add (11 B); the same table would find it again")


def test_what_somebody_writes_while_a_recipe_is_read_is_not_written_over(tmp_path, monkeypatch):
    """A text of before and the bytes of after would pass for one file that nobody has changed."""
    path = tmp_path / "r.toml"
    path.write_text('[base]\nmodel = "base"\n')
    parse = toml.parse

    def slow(*given):
        path.write_text('[base]\nmodel = "another"\n')
        return parse(*given)

    monkeypatch.setattr(toml, "parse", slow)
    draft = changes.opened(str(path))
    with pytest.raises(UsageError, match="changed by somebody else"):
        changes.replace_text(draft, draft.text + "# edited\n")
    assert path.read_text() == '[base]\nmodel = "another"\n'


def test_two_edits_at_once_lose_neither(tmp_path, monkeypatch):
    path = tmp_path / "r.toml"
    path.write_text("# 0\n")
    first, second = changes.opened(str(path)), changes.opened(str(path))
    overwrite, refused = files.swap_in, []

    def other():
        try:
            changes.replace_text(second, second.text + "# second\n")
        except UsageError as error:
            refused.append(str(error))

    thread = Thread(target=other)

    def slow(*given):
        if not thread.ident:  # the other one comes after the first has looked, and before it has written
            thread.start()
            thread.join(0.3)
        overwrite(*given)

    monkeypatch.setattr(files, "swap_in", slow)
    changes.replace_text(first, first.text + "# first\n")
    thread.join()
    assert path.read_text() == "# 0\n# first\n"
    assert "changed by somebody else" in refused[0]
