"""A watch hears whatever way a call looks at files, and does not let a call that does more pass for one that looks."""

from __future__ import annotations

import glob
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dem_build.watch import witness
from dem_build.watch.watch import DEAF, Watch, disavow, vouch
from dem_build.watch.witness import Witness, look

CALL = "0" * 32


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a file, a link to it, a link to a folder, and room for what is not there."""
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    monkeypatch.setattr("dem_build.watch.watch.DEAF", frozenset())  # other tests have loaded them
    folder = tmp_path / "here"
    (folder / "data").mkdir(parents=True)
    (folder / "other").mkdir()
    (folder / "data" / "a.jsonl").write_text("{}")
    (folder / "other" / "a.jsonl").write_text("{}")
    (folder / "link").symlink_to(folder / "data")
    (folder / "file").symlink_to(folder / "data" / "a.jsonl")
    return folder


def watched(action, folder: Path, status: int = 0) -> tuple[Watch, Witness | None]:
    """Do something as a call would; return its watch, and the witness that it left."""
    with Watch(CALL) as watch:
        vouch(math.inf)
        action(folder)
    watch.keep(status)
    place = witness.folder()
    assert place is not None
    file = Path(place) / CALL
    return watch, Witness.from_bytes(file.read_bytes(), CALL) if file.exists() else None


def ours(found: Witness | None, folder: Path) -> Witness:
    """Return a witness of what lies in a folder alone: pytest changes others meanwhile."""
    assert found is not None
    inside = {k: v for k, v in found.looks.items() if k[1].startswith(os.fsencode(folder))}
    return Witness(found.status, found.since, found.until, inside, found.said)


def change(folder: Path) -> None:
    (folder / "data" / "a.jsonl").write_text('{"other": 1}')


def same_size(folder: Path) -> None:
    (folder / "data" / "a.jsonl").write_text("[]")


def remove(folder: Path) -> None:
    (folder / "data" / "a.jsonl").unlink()


def add(folder: Path) -> None:
    (folder / "data" / "b.jsonl").write_text("{}")


def make_missing(folder: Path) -> None:
    (folder / "machine.toml").write_text("")


def retarget(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to(folder / "other")


def retarget_file(folder: Path) -> None:
    (folder / "file").unlink()
    (folder / "file").symlink_to(folder / "other" / "a.jsonl")


def swap_folder(folder: Path) -> None:
    (folder / "data").rename(folder / "was")
    shutil.copytree(folder / "was", folder / "data", copy_function=shutil.copy2)


A = "data/a.jsonl"
READS = {
    "read_text": lambda f: (f / A).read_text(),
    "open": lambda f: open(f / A, "rb").close(),  # noqa: PTH123
    "os.open": lambda f: os.close(os.open(f / A, os.O_RDONLY)),
    "through a link": lambda f: (f / "link" / "a.jsonl").read_text(),
}
STATS = {
    "is_file": lambda f: (f / A).is_file(),
    "exists": lambda f: (f / A).exists(),
    "stat": lambda f: (f / A).stat(),
    "lstat": lambda f: (f / A).lstat(),
    "os.path.getsize": lambda f: os.path.getsize(f / A),  # noqa: PTH202
    "os.path.isfile": lambda f: os.path.isfile(f / A),  # noqa: PTH113
    "bytes": lambda f: os.stat(os.fsencode(f / A)),  # noqa: PTH116
}
LISTS = {
    "iterdir": lambda f: list((f / "data").iterdir()),
    "Path.glob": lambda f: list(f.glob("data/*.jsonl")),
    "Path.rglob": lambda f: list(f.rglob("*.jsonl")),
    "glob": lambda f: glob.glob("data/*.jsonl", root_dir=f),  # noqa: PTH207
    "os.listdir": lambda f: os.listdir(f / "data"),  # noqa: PTH208
    "os.walk": lambda f: list(os.walk(f)),
    "through a link": lambda f: list((f / "link").iterdir()),
}
CHANGES = [
    *(
        (f"{name}, {how.__name__}", look, how)
        for name, look in READS.items()
        for how in (change, same_size, remove)
    ),
    *((f"{name}, {how.__name__}", look, how) for name, look in STATS.items() for how in (change, remove)),
    *((f"{name}, {how.__name__}", look, how) for name, look in LISTS.items() for how in (add, remove)),
    ("an absent file, made", lambda f: (f / "machine.toml").is_file(), make_missing),
    ("an absent file that is opened, made", lambda f: (f / "machine.toml").exists() or None, make_missing),
    ("a linked folder, retargeted", READS["through a link"], retarget),
    ("a linked folder that is listed, retargeted", LISTS["through a link"], retarget),
    ("a linked file, retargeted", lambda f: (f / "file").read_text(), retarget_file),
    ("a link that is resolved, retargeted", lambda f: (f / "link").resolve(), retarget),
    ("a link in a listed folder, retargeted", lambda f: list(f.glob("*/")), retarget),
    ("a folder, another one in its place", lambda f: (f / "data").is_dir(), swap_folder),
    ("a folder, removed", lambda f: (f / "data").is_dir(), lambda f: shutil.rmtree(f / "data")),
    ("a file that may be read, and no more", READS["read_text"], lambda f: (f / A).chmod(0)),
    ("a folder that may be listed, and no more", LISTS["iterdir"], lambda f: (f / "data").chmod(0)),
]


@pytest.mark.parametrize(("looked", "how"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_what_a_call_looked_at_is_not_the_same_after_a_change(here, looked, how):
    watch, found = watched(looked, here)
    mine = ours(found, here)
    assert not watch.doubt
    assert mine.looks
    assert witness.same(mine)
    how(here)
    try:
        assert not witness.same(mine)
    finally:
        (here / "data").chmod(0o755) if (here / "data").exists() else None


@pytest.mark.parametrize("place", ["/dev/shm", "/proc/self/cwd"])
def test_a_file_in_an_odd_place_is_a_file(here, place, monkeypatch):
    monkeypatch.chdir(here)
    path = Path(place) / f"dem-watch-{os.getpid()}"
    try:
        path.write_text("{}")
    except OSError:
        pytest.skip("there is no such place")
    _, found = watched(lambda _: path.read_text(), here)
    mine = Witness(0, 0.0, math.inf, {k: v for k, v in found.looks.items() if k[1] == os.fsencode(path)}, [])
    assert mine.looks
    assert witness.same(mine)
    path.write_text("[]")
    assert not witness.same(mine)
    path.unlink()


def test_a_file_that_is_called_as_compiled_code_is_a_file(here):
    file = here / "data" / "recipe.pyc"
    file.write_text("{}")
    _, found = watched(lambda _: file.read_text(), here)
    mine = ours(found, here)
    file.write_text("[]")
    assert not witness.same(mine)


def test_what_is_beside_it_may_change(here):
    _, found = watched(lambda f: ((f / A).read_text(), (f / "data").is_dir()), here)
    add(here)
    make_missing(here)
    assert witness.same(ours(found, here))


def test_a_young_file_is_compared_by_its_bytes(here):
    """A change within the grain of the clock leaves the times as they are; this one sets them back."""
    file = here / A
    before = file.stat()
    _, found = watched(READS["read_text"], here)
    with file.open("r+") as opened:
        opened.write("[]")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    mine = ours(found, here)
    [(way, path)] = mine.looks
    assert way == witness.CONTENT
    stat, _, digest = mine.looks[way, path].rpartition(b" ")
    assert digest[-32:] != look(way, path)[-32:]
    assert stat[:8] == look(way, path)[:8]


def test_a_young_folder_is_compared_by_its_names(here):
    _, found = watched(LISTS["iterdir"], here)
    [way] = {way for way, _ in ours(found, here).looks}
    assert way == witness.NAMES
    path = os.fsencode(here / "data")
    before = look(way, path)
    add(here)
    assert look(way, path)[-32:] != before[-32:]


def test_a_large_young_file_leaves_no_witness(here):
    (here / A).write_bytes(b" " * witness.MOST_READ)
    watch, found = watched(READS["read_text"], here)
    assert found is None
    assert "young" in watch.doubt


def test_an_old_file_is_compared_by_its_times(here):
    time.sleep(2.05)
    _, found = watched(READS["read_text"], here)
    assert {way for way, _ in ours(found, here).looks} == {witness.FILE}


DEEDS = {
    "writes a file": lambda f: (f / "new").write_text(""),
    "writes into a file": lambda f: (f / A).write_text("[]"),
    "writes into a file what was in it": lambda f: (f / A).write_text("{}"),
    "appends to a file": lambda f: os.close(os.open(f / A, os.O_WRONLY | os.O_APPEND)) or change(f),
    "makes a folder": lambda f: (f / "new").mkdir(),
    "removes a file": lambda f: (f / A).unlink(),
    "removes a folder": lambda f: shutil.rmtree(f / "other"),
    "renames": lambda f: (f / A).rename(f / "new"),
    "links": lambda f: (f / "new").symlink_to(f / A),
    "links hard": lambda f: (f / "new").hardlink_to(f / A),
    "touches": lambda f: os.utime(f / A),
    "touches a file that is open": lambda f: _touched(f / A, os.O_RDONLY),
    "changes permissions": lambda f: (f / A).chmod(0o600),
    "copies": lambda f: shutil.copytree(f / "data", f / "new"),
    "starts a process": lambda _: subprocess.run(["true"], check=True),
    "starts a shell": lambda _: os.system("true"),
    "asks for an address": lambda _: socket.getaddrinfo("127.0.0.1", 80),
    "looks twice and sees two things": lambda f: ((f / A).stat(), _outside(f), (f / A).stat()),
}


def _touched(path: Path, flags: int) -> None:
    """Set the time of an open file, as a heartbeat does."""
    descriptor = os.open(path, flags)
    os.utime(descriptor)
    os.close(descriptor)


def _outside(folder: Path) -> None:
    """Change a file as another process would, unheard."""
    from dem_build.watch import watch

    current, watch._current = watch._current, None
    change(folder)
    watch._current = current


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_a_call_that_does_something_leaves_no_witness(here, deed):
    watch, found = watched(deed, here)
    assert found is None
    assert watch.doubt


@pytest.mark.parametrize(
    "deed",
    [
        lambda f: (f / "data").mkdir(exist_ok=True),
        lambda f: ((f / "note").write_text("me"), (f / "note").unlink()),
        lambda f: (_touched(f / "note", os.O_RDWR | os.O_CREAT), (f / "note").unlink()),
        lambda f: os.close(os.open(f / A, os.O_RDWR | os.O_CREAT)),
        lambda _: os.kill(os.getpid(), 0),
        lambda _: Path("/proc/self/stat").read_text(),
    ],
    ids=[
        "a folder that is there",
        "a note that is gone again",
        "a note of one who lives, that is gone again",
        "opened to be written, and not",
        "who lives",
        "proc",
    ],
)
def test_a_call_that_leaves_nothing_behind_may_leave_a_witness(here, deed):
    watch, found = watched(deed, here)
    assert not watch.doubt
    assert found is not None


@pytest.mark.parametrize("status", [1, 2, 4, 130])
def test_a_call_that_does_not_end_well_leaves_no_witness(here, status):
    assert watched(READS["open"], here, status)[1] is None


def test_a_failed_gate_is_said_again(here):
    found = watched(READS["open"], here, 3)[1]
    assert found is not None
    assert found.status == 3


def test_a_call_that_nobody_vouches_for_leaves_no_witness(here):
    with Watch(CALL) as watch:
        (here / A).read_text()
    watch.keep(0)
    assert not (Path(witness.folder()) / CALL).exists()


def test_of_several_that_vouch_the_earliest_end_counts(here):
    def action(_: Path) -> None:
        vouch(5e9)
        vouch(6e9)

    assert watched(action, here)[1].until == 5e9


def test_what_a_call_does_after_it_was_disavowed_is_not_heard(here):
    stat = os.stat

    def action(folder: Path) -> None:
        disavow("something is due")
        assert os.stat is stat
        (folder / A).read_text()

    watch, found = watched(action, here)
    assert found is None
    assert watch.doubt == "something is due"


def test_a_library_that_opens_files_itself_leaves_no_witness(here, monkeypatch):
    monkeypatch.setattr("dem_build.watch.watch.DEAF", DEAF)
    monkeypatch.setitem(sys.modules, "pyarrow", sys)
    watch, found = watched(READS["open"], here)
    assert found is None
    assert "pyarrow" in watch.doubt


def test_code_that_has_just_changed_leaves_no_witness(here, monkeypatch):
    (here / "young.py").write_text("")
    monkeypatch.syspath_prepend(here)
    import young

    assert young
    watch, found = watched(READS["open"], here)
    del sys.modules["young"]
    assert found is None
    assert "young.py" in watch.doubt


def test_what_was_said_is_kept_in_its_order_and_shown(here, capsys):
    def say(_: Path) -> None:
        sys.stdout.write("one\n")
        sys.stdout.write("more\n")
        sys.stderr.write("two ω\n")
        sys.stdout.write("three")

    found = watched(say, here)[1]
    assert found.said == [(1, b"one\nmore\n"), (2, "two ω\n".encode()), (1, b"three")]
    assert capsys.readouterr() == ("one\nmore\nthree", "two ω\n")


def test_nothing_is_heard_before_and_after(here):
    stat, lstat = os.stat, os.lstat
    out = sys.stdout
    with Watch(CALL) as watch:
        assert os.stat is not stat
        assert {os.stat, os.lstat} & os.supports_dir_fd
        assert os.stat in os.supports_follow_symlinks
        (here / "new").mkdir()  # doubt ends it early
        assert os.stat is stat
        assert sys.stdout is not out
    assert (os.stat, os.lstat, sys.stdout) == (stat, lstat, out)
    assert watch.doubt


@pytest.mark.usefixtures("here")
def test_a_call_of_another_kind_is_not_watched():
    stat = os.stat
    with Watch(None) as watch:
        assert os.stat is stat
    watch.keep(0)
    assert not Path(witness.folder()).exists()


def test_old_witnesses_make_room(here):
    place = Path(witness.folder())
    place.mkdir(parents=True)
    for number in range(80):
        (place / f"{number}").write_text("")
        os.utime(place / f"{number}", (number, number))
    watched(READS["open"], here)
    kept = {path.name for path in place.iterdir()}
    assert CALL in kept
    assert len(kept) == 64
    assert {"79", "40"} < kept
    assert "3" not in kept


def test_where_no_witness_can_be_written_there_is_none(here, monkeypatch):
    monkeypatch.setenv("DEM_HINTS", "/dev/null")
    with Watch(CALL) as watch:
        vouch(math.inf)
        (here / A).read_text()
    watch.keep(0)
    assert not watch.doubt


names = st.binary(min_size=1, max_size=20).map(lambda b: b.replace(b"\0", b"?"))
witnesses = st.builds(
    Witness,
    st.sampled_from([0, 3]),
    st.floats(0, 1e12),
    st.floats(0, 1e12) | st.just(math.inf),
    st.dictionaries(
        st.tuples(st.sampled_from("slfcdn"), names), names.map(bytes.hex).map(str.encode), max_size=4
    ),
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=30)), max_size=4),
)


@given(witnesses)
def test_a_witness_is_read_as_it_was_written(made):
    assert vars(Witness.from_bytes(made.to_bytes(CALL), CALL)) == vars(made)


@given(witnesses, st.data())
def test_no_changed_byte_goes_unnoticed(made, data):
    whole = bytearray(made.to_bytes(CALL))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ValueError, match="damaged"):
        Witness.from_bytes(bytes(whole), CALL)


@given(witnesses, st.data())
def test_no_cut_goes_unnoticed(made, data):
    whole = made.to_bytes(CALL)
    with pytest.raises(ValueError, match="damaged"):
        Witness.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))], CALL)


def test_the_witness_of_another_call_is_none():
    with pytest.raises(ValueError, match="another call"):
        Witness.from_bytes(Witness(0, 0.0, 1.0, {}, []).to_bytes(CALL), "1" * 32)


@pytest.mark.parametrize(("since", "until"), [(0.0, 1.0), (4e9, 5e9)], ids=["over", "the clock was set back"])
def test_a_witness_has_its_time(since, until):
    assert not witness.same(Witness(0, since, until, {}, []))
    assert witness.same(Witness(0, 0.0, math.inf, {}, []))


def circumstances(*arguments: str) -> str | None:
    return witness.circumstances(arguments or ["build", "recipe.toml"])


def test_other_circumstances_are_another_call(tmp_path, monkeypatch):
    first = circumstances()
    assert first
    assert circumstances() == first
    others = {circumstances("build", "other.toml"), circumstances("plan", "recipe.toml")}
    others.add(circumstances("build", "recipe.toml", "--json"))
    for name, value in {"DEM_CACHE": "/c", "COLUMNS": "40", "NO_COLOR": "1", "NEVER_HEARD_OF": ""}.items():
        monkeypatch.setenv(name, value)
        others.add(circumstances())
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(tmp_path)
    others.add(circumstances())
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    others.add(circumstances())
    monkeypatch.undo()
    assert len(others) == 9
    assert first not in others
    assert circumstances() == first
    monkeypatch.setenv("OLDPWD", "/elsewhere")
    assert circumstances() == first


@pytest.mark.parametrize("arguments", [[], ["show", "recipe.toml"], ["lock", "recipe.toml"], ["--version"]])
def test_other_commands_have_no_witness(arguments):
    assert witness.circumstances(arguments) is None
