"""A build with nothing to do, said again by its witness: the same words and status, and never where anything changed.

Real processes. Each change of what a call depends on must send it the long way, which is the only one that decides.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from project import WAY, Calls, dataset, recipe, record
from tiny import make_base, make_data

from dem_build.watch.witness import Witness, look, same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def witness_of(calls: Calls, *arguments: str) -> Witness:
    """Return the witness of a call, brought up to date: what lies there was put back by other tests."""
    calls.settled(*arguments)
    place = calls.home / "hints" / "witnesses-1"
    newest = max(place.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return Witness.from_bytes(newest.read_bytes(), newest.name)


def seen_now(made: Witness) -> Witness:
    looks = {(way, path): look(way, path) for way, path in made.looks}
    return Witness(made.status, made.since, made.until, looks, made.said)


# Plans: every kind of thing that a recipe may name. What is recorded is made up, so that nothing has to be trained.

RICH = """\
name = "rich"
[base]
model = "base"
chat_template = "chat.jinja"
[train]
max_steps = 1
[datasets.add]
path = "data/**/*.jsonl"
format = "prompt-completion"
omega = 0.5
test = "held/test.jsonl"
[datasets.linked]
path = "link/*.jsonl"
omega = 0.25
[probes.chat]
path = "probe.jsonl"
max_loss_increase = 1.0
[vectors.code]
checkpoint = "tuned"
omega = 0.25
[evaluate]
prompts = 0
include_path = "tasks"
tasks = ["words"]
"""
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
TASK = """\
task: words
include: _base
doc_to_text: "{{prompt}}"
doc_to_target: "{{completion}}"
process_docs: !function helpers.process
"""
PLAN = ("plan", "rich.toml", "--check")


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Calls:
    home = tmp_path_factory.mktemp("rich") / "project"
    shutil.copytree(tiny_base, home / "base")
    make_base(home / "tuned", seed=1)
    made = make_data(home / "made")
    for target, name in {
        "data/deep/add": "add",
        "held/test": "upper",
        "linked-1/copy": "copy",
        "linked-2/copy": "copy",
    }.items():
        (home / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / f"{name}.jsonl", home / f"{target}.jsonl")
    (home / "link").symlink_to("linked-1")
    rows = (made / "upper.jsonl").read_text().splitlines(keepends=True)
    (home / "held" / "test.jsonl").write_text("".join(rows[:20]))
    (home / "probe.jsonl").write_text("".join(rows[20:40]))
    tasks = home / "tasks"
    (tasks / "docs").mkdir(parents=True)
    (tasks / "words.yaml").write_text(TASK)
    (tasks / "_base").write_text(
        "dataset_path: json\ndataset_kwargs: {data_files: {test: docs/*.jsonl}}\ntest_split: test\n"
    )
    (tasks / "helpers.py").write_text("def process(docs):\n    return docs\n")
    (tasks / "docs" / "one.jsonl").write_text("".join(rows[40:]))
    (home / "chat.jinja").write_text(CHAT)
    (home / "pyproject.toml").write_text("")
    (home / "rich.toml").write_text(RICH)
    record(home / "rich.toml")
    return Calls(home)


def one(home: Path, pattern: str) -> Path:
    """Return a file of the store, the same at each call."""
    return max((p for p in home.glob(pattern) if p.is_file()), key=lambda p: (p.stat().st_size, p.name))


@contextmanager
def edited(path: Path, text: str = "", replace: str = "") -> Iterator[None]:
    """Append to a file, or replace what it holds, and put it back."""
    before, mode = path.read_bytes(), path.stat().st_mode
    path.chmod(0o644)
    path.write_bytes(replace.encode() if replace else before + text.encode())
    try:
        yield
    finally:
        path.write_bytes(before)
        path.chmod(mode)


@contextmanager
def away(path: Path) -> Iterator[None]:
    """Move a file or folder away, and back."""
    path.rename(path.with_name("away"))
    try:
        yield
    finally:
        path.with_name("away").rename(path)


@contextmanager
def there(path: Path, text: str = "") -> Iterator[None]:
    """Make a file, or a folder where it has no text, that was not there."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text) if text else path.mkdir()
    try:
        yield
    finally:
        path.unlink() if text else path.rmdir()


@contextmanager
def retargeted(link: Path, to: str) -> Iterator[None]:
    was = link.readlink()
    link.unlink()
    link.symlink_to(to)
    try:
        yield
    finally:
        link.unlink()
        link.symlink_to(was)


@contextmanager
def touched(path: Path) -> Iterator[None]:
    path.touch()
    yield


ROW = '{"prompt": "1", "completion": "2"}\n'
CHANGES: dict[str, Callable[[Path], object]] = {
    "a comment in the recipe": lambda h: edited(h / "rich.toml", "# more\n"),
    "a parameter in the recipe": lambda h: edited(
        h / "rich.toml", replace=RICH.replace("max_steps = 1", "max_steps = 2")
    ),
    "a mistake in the recipe": lambda h: edited(h / "rich.toml", "[datasets]"),
    "no recipe": lambda h: away(h / "rich.toml"),
    "no lock": lambda h: away(h / "rich.lock"),
    "a damaged lock": lambda h: edited(h / "rich.lock", replace="{}"),
    "a machine file": lambda h: there(h / "machine.toml", 'cache = "elsewhere"\n'),
    "a nearer project": lambda h: there(h / ".git"),
    "rows of a dataset": lambda h: edited(h / "data" / "deep" / "add.jsonl", ROW),
    "a file of a pattern": lambda h: there(h / "data" / "deep" / "new.jsonl", ROW),
    "a file in a folder further up": lambda h: there(h / "data" / "new.jsonl", ROW),
    "a folder with a file": lambda h: there(h / "data" / "new" / "new.jsonl", ROW),
    "no file of a pattern": lambda h: away(h / "data" / "deep" / "add.jsonl"),
    "a link to other rows": lambda h: retargeted(h / "link", "linked-2"),
    "a link to nothing": lambda h: retargeted(h / "link", "nowhere"),
    "rows behind a link": lambda h: edited(h / "linked-1" / "copy.jsonl", ROW),
    "rows that are held out": lambda h: edited(h / "held" / "test.jsonl", ROW),
    "rows of a probe": lambda h: edited(h / "probe.jsonl", ROW),
    "the base's config": lambda h: edited(h / "base" / "config.json", " "),
    "the base's weights, touched": lambda h: touched(h / "base" / "model.safetensors"),
    "a chat template beside the base": lambda h: there(h / "base" / "chat_template.jinja", CHAT),
    "the recipe's chat template": lambda h: edited(h / "chat.jinja", "{# more #}"),
    "no base": lambda h: away(h / "base"),
    "a vector's config": lambda h: edited(h / "tuned" / "config.json", " "),
    "a vector's index": lambda h: there(h / "tuned" / "model.safetensors.index.json", "{}"),
    "a task": lambda h: edited(h / "tasks" / "words.yaml", "# more\n"),
    "what a task includes": lambda h: edited(h / "tasks" / "_base", "# more\n"),
    "a task's code": lambda h: edited(h / "tasks" / "helpers.py", "import words\n"),
    "a task's data": lambda h: there(h / "tasks" / "docs" / "two.jsonl", ROW),
    "a task of the same name": lambda h: there(h / "tasks" / "twin.yaml", "task: words\n"),
    "no record": lambda h: away(one(h, "cache/actions/*/*.json")),
    "a damaged record": lambda h: edited(one(h, "cache/actions/*/*.json"), " "),
    "no object": lambda h: away(one(h, "cache/cas/*/*/*")),
    "an object cut off": lambda h: edited(one(h, "cache/cas/*/*/*"), replace="x"),
    "an object that grew": lambda h: edited(one(h, "cache/cas/*/*/*"), "x"),
    "no root": lambda h: away(one(h, "cache/roots/*")),
    "no folder of objects": lambda h: away(one(h, "cache/cas/*/*/*").parent),
    "no cache": lambda h: away(h / "cache"),
    "a cache of a newer dem": lambda h: edited(h / "cache" / "format.json", replace='{"dem-store": 99}'),
}


@pytest.fixture(scope="module")
def planned(rich: Calls) -> Witness:
    return witness_of(rich, *PLAN)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_witness_of_a_plan_does_not_hold_after_a_change(rich, planned, change, monkeypatch):
    monkeypatch.chdir(rich.home)
    now = seen_now(planned)
    assert same(now)
    with change(rich.home):
        assert not same(now)


@pytest.mark.parametrize(
    "change", ["a comment in the recipe", "rows of a dataset", "no record", "a machine file"]
)
def test_a_plan_is_made_anew_after_a_change(rich, change):
    before = rich.settled(*PLAN)
    with CHANGES[change](rich.home):
        found = rich.call(*PLAN)
        assert found.way == "long way"
        assert found == rich.truth(*PLAN)
    assert rich.call(*PLAN)[:3] == before[:3]


def test_a_plan_that_finds_something_due_has_no_witness(rich):
    recipe = rich.home / "due.toml"
    recipe.write_text(RICH.replace('"rich"', '"due"').replace("max_steps = 1", "max_steps = 3"))
    for options, status in (((), 0), (("--check",), 4)):
        for _ in range(2):
            assert rich.call("plan", "due.toml", *options)[::3] == (status, "long way")


@pytest.mark.parametrize("options", [("--json",), ("--", "model"), ("--set", "datasets.add.omega=0.5"), ()])
def test_each_call_has_a_witness_of_its_own(rich, options):
    said = rich.settled("plan", "rich.toml", *options)
    assert said == rich.truth("plan", "rich.toml", *options)._replace(way="witness")


@pytest.mark.parametrize(
    "environment",
    [{"DEM_CACHE": "other"}, {"DEM_MACHINE": "none.toml"}, {"COLUMNS": "40"}, {"FORCE_COLOR": "1"}],
    ids=lambda e: next(iter(e)),
)
def test_the_environment_enters(rich, environment):
    rich.settled(*PLAN)
    said = rich.call(*PLAN, **environment)
    assert said.way == "long way"
    other = Calls(rich.home, **environment)
    assert said == other.truth(*PLAN)


def test_a_witness_that_is_damaged_or_gone_costs_time_alone(rich):
    before = rich.settled(*PLAN)
    place = rich.home / "hints" / "witnesses-1"
    for data in (lambda b: b[:-1], lambda b: b[:40] + b"?" + b[41:]):
        for file in place.iterdir():
            file.write_bytes(data(file.read_bytes()))
        assert rich.call(*PLAN) == before._replace(way="long way")
        assert rich.call(*PLAN) == before
    shutil.rmtree(place)
    place.write_text("no folder")
    assert rich.call(*PLAN) == rich.call(*PLAN) == before._replace(way="long way")
    place.unlink()


def test_a_witness_that_took_the_place_of_another_is_none(rich):
    before, other = rich.settled(*PLAN), rich.settled(*PLAN, "--json")
    files = sorted((rich.home / "hints" / "witnesses-1").iterdir())
    whole = [file.read_bytes() for file in files]
    for file, data in zip(files, [*whole[1:], whole[0]], strict=True):
        file.write_bytes(data)
    assert rich.call(*PLAN) == before._replace(way="long way")
    assert rich.call(*PLAN, "--json") == other._replace(way="long way")


def test_other_code_makes_a_plan_anew(rich, tmp_path):
    """An editable checkout is edited, and another branch of it checked out."""
    package = Path(__file__).parents[2] / "dem_build"
    checkout = shutil.copytree(package, tmp_path / "dem_build", ignore=shutil.ignore_patterns("__pycache__"))
    for path in checkout.rglob("*.py"):
        os.utime(path, (1e9, 1e9))
    time.sleep(2.1)  # what has just been written may be other code by now
    calls = Calls(rich.home, PYTHONPATH=str(tmp_path), DEM_HINTS=str(tmp_path / "hints"))
    before = calls.settled(*PLAN)
    with (checkout / "plan.py").open("a") as file:
        file.write("# more\n")
    assert calls.call(*PLAN) == before._replace(way="long way")
    assert calls.call(*PLAN).way == "long way"
    time.sleep(2.1)
    calls.settled(*PLAN)
    (tmp_path / "rich.py").write_text("")  # a module that hides a library
    (tmp_path / "rich.py").unlink()
    assert calls.call(*PLAN).way == "long way"


def test_all_that_the_system_was_asked_for_is_in_the_witness(rich, tmp_path):
    """By the system's own account: strace's."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("there is no strace")
    trace, hints = tmp_path / "trace", tmp_path / "hints"
    hints.mkdir()
    command = [
        strace,
        "-f",
        "-y",
        "-e",
        "trace=%file,getdents64",
        "-o",
        str(trace),
        sys.executable,
        "-P",
        "-c",
        WAY,
        *PLAN,
    ]
    done = subprocess.run(
        command, cwd=rich.home, env=rich.environment | {"DEM_HINTS": str(hints)}, check=False
    )
    if done.returncode != 0:
        pytest.skip("strace may not trace here")
    [file] = (hints / "witnesses-1").iterdir()
    found = Witness.from_bytes(file.read_bytes(), file.name)
    looked = {os.path.normpath(rich.home / os.fsdecode(path)) for _, path in found.looks}
    listed = {os.path.realpath(rich.home / os.fsdecode(path)) for way, path in found.looks if way in "dn"}
    named = {rich.home / m for m in re.findall(r'\((?:AT_FDCWD(?:<[^>]*>)?, )?"([^"]+)"', trace.read_text())}
    asked = {os.path.normpath(path) for path in named}
    entries = set(re.findall(r"getdents64\(\d+<([^>]+)>", trace.read_text()))
    mine = str(rich.home)
    assert {path for path in asked if path.startswith(mine)} - looked <= {mine}
    assert {path for path in entries if path.startswith(mine)} <= listed
    assert len(listed) > 5


# Builds: a real one, whose gate fails.

GATE = """\
[[gates]]
task = "loss:add"
metric = "loss"
max = 0.001
"""
RECIPE = recipe(dataset("add", omega=0.5, test=0.2), "[evaluate]\nprompts = 0\n", GATE, steps=2)
BUILD = ("build", "tiny.toml")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Calls:
    home = tmp_path_factory.mktemp("built") / "project"
    shutil.copytree(tiny_base, home / "base")
    make_data(home / "data")
    (home / "pyproject.toml").write_text("")
    (home / "tiny.toml").write_text(RECIPE)
    calls = Calls(home)
    said = calls.call(*BUILD)
    assert said.status == 3, said
    return calls


def test_a_build_with_nothing_to_do_says_the_same_by_either_way(built):
    quick = built.settled(*BUILD)
    assert quick == built.truth(*BUILD)._replace(way="witness")
    assert quick.status == 3
    assert "gate" in quick.out
    document = built.settled(*BUILD, "--json")
    assert document == built.truth(*BUILD, "--json")._replace(way="witness")
    assert json.loads(document.out)["gates"][0]["passed"] is False


OUT = Path("out/tiny")
PUBLISHED = {
    "no out": lambda h: shutil.rmtree(h / "out"),
    "no model": lambda h: shutil.rmtree(h / OUT / "model"),
    "an edited config": lambda h: (h / OUT / "model/config.json").write_text("{}"),
    "weights cut off": lambda h: os.truncate(h / OUT / "model/model.safetensors", 10),
    "an edited card": lambda h: (h / OUT / "model/README.md").write_text("mine"),
    "a file too many": lambda h: (h / OUT / "model/extra.txt").write_text("mine"),
    "other results": lambda h: (h / OUT / "results.json").write_text("{}"),
    "another summary": lambda h: (h / OUT / "summary.md").write_text("mine"),
    "a report cut off": lambda h: os.truncate(h / OUT / "report.html", 100),
    "no stamp": lambda h: (h / OUT / ".dem.json").unlink(),
    "what a killed build left": lambda h: (h / OUT / ".text-1").write_text("half"),
}


@pytest.fixture(scope="module")
def repeated(built: Calls) -> Witness:
    return witness_of(built, *BUILD)


@pytest.mark.parametrize("change", PUBLISHED.values(), ids=PUBLISHED)
def test_the_witness_of_a_build_does_not_hold_where_what_is_published_is_changed(
    built, repeated, change, monkeypatch
):
    monkeypatch.chdir(built.home)
    with kept(built.home / "out"):
        assert same(seen := seen_now(repeated))
        change(built.home)
        assert not same(seen)


@contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Put a folder back as it was."""
    shutil.copytree(folder, folder.with_name("kept"), symlinks=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_name("kept").rename(folder)


@pytest.mark.parametrize("change", ["no out", "a report cut off"])
def test_what_is_published_is_put_right(built, change):
    before = built.settled(*BUILD)
    files = published(built.home)
    PUBLISHED[change](built.home)
    assert built.call(*BUILD) == before._replace(way="long way")
    assert published(built.home) == files


def test_an_edited_config_is_put_right_and_kept(built):
    before = built.settled(*BUILD)
    files = published(built.home)
    PUBLISHED["an edited config"](built.home)
    edited = (built.home / OUT / "model" / "config.json").read_bytes()
    found = built.call(*BUILD)
    beside = built.home / OUT / "model.kept"
    assert (beside / "config.json").read_bytes() == edited != files["config.json"]
    shutil.rmtree(beside)
    first, told, *rest = found.out.splitlines()
    assert f"{beside} has what lay in " in told
    assert found._replace(out="\n".join([first, *rest, ""])) == before._replace(way="long way")
    assert published(built.home) == files


def published(home: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (home / OUT).rglob("*") if p.is_file() and p.name != ".dem.json"}


def test_a_link_for_out_is_refused(built):
    built.settled(*BUILD)
    with away(built.home / "out"):
        (built.home / "out").symlink_to(built.home / "away")
        found = built.call(*BUILD)
        assert found == built.truth(*BUILD)
        assert found.status == 1
        (built.home / "out").unlink()


def test_the_root_is_used_within_the_hour(built):
    """A collection goes by when a recipe's results were used last: the long way says that, once an hour."""
    built.settled(*BUILD)
    [root] = (built.home / "cache" / "roots").iterdir()
    document = json.loads(root.read_text())
    used = float(document["root"]["built"])
    assert witness_of(built, *BUILD).until == used + 3600
    document["root"]["built"] = used - 3601
    document["dem-root"] = 1
    del document["seal"]
    root.unlink()
    root.write_text(json.dumps(document))
    assert built.call(*BUILD).way == "long way"
    assert json.loads(root.read_text())["root"]["built"] > used
    built.settled(*BUILD)


def test_a_collection_between_two_builds_takes_nothing_that_they_need(built):
    before = built.settled(*BUILD)
    assert built.call("cache", "gc", "--grace", "0s", "--vectors").status == 0
    assert built.settled(*BUILD) == before


def test_several_recipes_have_a_witness_together(built):
    (built.home / "second.toml").write_text(
        RECIPE.replace('"tiny"', '"second"').replace("max = 0.001", "max = 99.0")
    )
    built.call("build", "second.toml")
    both = ("build", "second.toml", "tiny.toml")
    before = built.settled(*both)
    assert before == built.truth(*both)._replace(way="witness")
    assert before.status == 3
    shutil.rmtree(built.home / "out" / "second")
    assert built.call(*both) == before._replace(way="long way")
    assert (built.home / "out" / "second" / "model").is_dir()


def test_a_reader_who_has_gone_is_no_mistake(built):
    before = built.settled(*BUILD)
    assert before.out
    command = [sys.executable, "-P", "-c", WAY, *BUILD]
    with subprocess.Popen(
        command,
        cwd=built.home,
        env=built.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 1
    assert error.strip() == "witness"


def test_a_terminal_is_shown_what_the_long_way_shows(built):
    """With colours, and of the terminal's width."""
    import pty

    def shown(hints: str) -> bytes:
        leader, follower = pty.openpty()
        command = [sys.executable, "-P", "-c", WAY, *BUILD]
        environment = built.environment | {"DEM_HINTS": str(built.home / hints), "TERM": "xterm-256color"}
        environment.pop("COLUMNS")
        environment.pop("NO_COLOR", None)
        with subprocess.Popen(
            command, cwd=built.home, env=environment, stdin=follower, stdout=follower, stderr=subprocess.PIPE
        ) as process:
            os.close(follower)
            data = b""
            while True:
                try:
                    data += os.read(leader, 65536)
                except OSError:
                    break
            ways.append(process.stderr.read().strip())
        os.close(leader)
        return data

    ways: list[bytes] = []
    said = [shown("hints"), shown("hints"), shown("hints"), shown("hints-for-the-terminal")]
    assert ways[-2:] == [b"witness", b"long way"]
    assert len(set(said)) == 1
    assert b"\x1b[" in said[0]
