"""Large data: cut up by several processes, in memory that does not grow with them."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import data_samples
import pytest
from data_samples import CHATML, Preparer, make_tokenizer, write_rows

from dem_build.actions.prepare import parallel as rows
from dem_build.actions.prepare import run as step
from dem_build.actions.prepare.parallel import processes_for
from dem_build.errors import DataError

ROWS = [{"prompt": f"question {i} é?", "completion": f" answer {i}"} for i in range(200)]
SPLITS = ("train", "validation", "test")


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """Runs `prepare` with many small batches."""
    monkeypatch.setattr(step, "BATCH_ROWS", 8)
    preparer = Preparer(tmp_path)
    preparer.tokenizer = make_tokenizer(tmp_path / "chat", chat_template=CHATML)
    return preparer


@pytest.fixture
def in_processes(monkeypatch):
    monkeypatch.setattr(rows, "BYTES_A_PROCESS", 1)
    monkeypatch.setattr(rows, "MOST_PROCESSES", 2)


def test_small_data_are_cut_up_here_and_large_ones_by_as_many_processes_as_there_are_threads():
    mib = 2**20
    assert [processes_for(5, size * mib) for size in (0, 100, 130, 200, 10_000)] == [1, 1, 2, 3, 4]
    assert processes_for(64, 10_000 * mib) == 8
    assert processes_for(1, 10_000 * mib) == processes_for(2, 10_000 * mib) == 1


def test_two_processes_make_the_bytes_that_one_makes(prepare, tmp_path, request):
    path = write_rows(tmp_path / "rows.jsonl", ROWS)
    share = {"validation": 0.2, "test": 0.2}
    alone = prepare(path, **share)
    request.getfixturevalue("in_processes")
    together = prepare(path, threads=3, **share)
    assert [together.bytes(s) for s in SPLITS] == [alone.bytes(s) for s in SPLITS]
    assert together.provenance == alone.provenance
    assert together.events[-2]["done"] == together.events[-2]["total"] == path.stat().st_size
    assert multiprocessing.active_children() == []


def test_progress_covers_every_time_that_the_files_are_read(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(step, "BATCH_ROWS", 8)
    paths = [write_rows(tmp_path / f"{n}.jsonl", ROWS[n::2]) for n in range(2)]
    done = prepare(*paths, max_samples=50, validation=0.1)
    told = [event for event in done.events if event["event"] == "progress"]
    size = sum(path.stat().st_size for path in paths)
    assert {event["total"] for event in told} == {3 * size}
    fractions = [event["done"] / event["total"] for event in told]
    assert fractions == sorted(fractions)
    assert fractions[0] < 1 / 3
    assert fractions[-1] > 0.95  # the last rows may be beyond max_samples


@pytest.mark.usefixtures("in_processes")
def test_a_row_that_a_process_refuses_is_named_by_its_line(prepare, tmp_path):
    strict = "{% if 'bad' in messages[0].content %}{{ raise_exception('no') }}{% endif %}" + CHATML
    tokenizer = make_tokenizer(tmp_path / "strict", chat_template=strict)
    path = write_rows(tmp_path / "rows.jsonl", [*ROWS[:50], {"prompt": "bad", "completion": "x"}, *ROWS[50:]])
    with pytest.raises(DataError, match="refuses the turns") as caught:
        prepare(path, tokenizer=tokenizer, threads=3)
    assert caught.value.where == f"{path}:51"
    assert multiprocessing.active_children() == []


BOUNDED = """\
import re, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from data_samples import Preparer, write_rows
from dem_build.actions.prepare import run as step

step.BATCH_CHARACTERS = 2**14
folder = Path(sys.argv[2])
text = "the quick brown fox jumps over the lazy dog " * 25
few, many = (write_rows(folder / f"{n}.jsonl", [{"text": f"{i} {text}"} for i in range(n)]) for n in (50, 6000))
prepare = Preparer(folder)
prepare(few, max_length=2000, validation=0.1)
used = int(re.search(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + int(sys.argv[3]), -1))
done = prepare(many, max_length=2000, validation=0.1)
print((done.folder / "out" / "train").stat().st_size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and limits what Linux limits")
def test_memory_does_not_grow_with_the_data(tmp_path):
    """What is written is twice the memory that the second of two runs may take on top of the first's."""
    allowed = 20 * 2**20
    arguments = [str(Path(data_samples.__file__).parent), str(tmp_path), str(allowed)]
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-600:]
    assert int(done.stdout) > 2 * allowed
