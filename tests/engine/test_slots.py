"""What keeps a worker to its slot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dem_build import hardware
from dem_build.errors import UsageError
from dem_build.machine import Machine
from dem_build.slots import MEMORY, Slot, slots


@pytest.mark.parametrize("name", MEMORY)
def test_what_the_user_says_of_memory_outranks_what_workers_are_told(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    assert Slot((), 2).environment()[name] == MEMORY[name]
    monkeypatch.setenv(name, "mine")
    assert Slot((), 2).environment()[name] == "mine"


@pytest.mark.parametrize(
    ("there", "each", "sets"),
    [("0,1,2,3", 2, [("0", "1"), ("2", "3")]), ("0,1,2", 2, [("0", "1")]), ("4", 1, [("4",)]), ("", 2, [()])],
)
def test_a_slot_has_as_many_gpus_as_an_action_uses(monkeypatch, there, each, sets):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
    assert [slot.gpus for slot in slots(Machine(gpus_per_action=each))] == sets


def test_fewer_gpus_than_an_action_is_to_use_are_refused_where_it_would_run(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UsageError, match="gpus_per_action = 2, and this machine has 1"):
        slots(Machine(gpus_per_action=2))
    assert [slot.gpus for slot in slots(Machine(gpus_per_action=2, engine="slurm"))] == [("0",)]


def test_processes_that_would_share_a_gpu_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(UsageError, match="processes_per_action = 2 is for a machine without GPUs"):
        slots(Machine(processes_per_action=2))


def test_a_slot_without_gpus_hides_them_all():
    told = Slot((), 3).environment()
    assert told["CUDA_VISIBLE_DEVICES"] == ""
    assert told["OMP_NUM_THREADS"] == "3"


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Write a linker's cache that names libraries, each of an ELF header; return where they are."""
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    head = bytearray(Path(sys.executable).read_bytes()[:20])

    def write(*names, processor=None):
        head[18:20] = processor or head[18:20]
        paths = [tmp_path / name for name in names]
        for path in paths:
            path.write_bytes(head)
        found = (tmp_path / "gone/libtcmalloc_minimal.so.4", *paths)
        (tmp_path / "cache").write_bytes(
            b"glibc-ld.so.cache1.1\0" + b"".join(b"%b\0" % str(p).encode() for p in found)
        )
        monkeypatch.setattr(hardware, "LIBRARIES", tmp_path / "cache")
        monkeypatch.setattr(hardware, "_starts_with", lambda _: True)
        return paths

    return write


@pytest.mark.skipif(sys.platform != "linux", reason="no other system has ELF and LD_PRELOAD")
def test_workers_on_a_cpu_are_given_tcmalloc_where_the_system_has_one(known, monkeypatch):
    _, small = known("libtcmalloc.so.4", "libtcmalloc_minimal.so.4")
    assert Slot((), 2).allocation()["LD_PRELOAD"] == str(small)
    assert Slot(("0",), 2).allocation() == {}
    monkeypatch.setenv("LD_PRELOAD", "")  # whatever a user says of it
    assert Slot((), 2).allocation() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_a_library_of_other_programs_or_of_another_name_is_none(known, monkeypatch, tmp_path):
    known("libtcmalloc_minimal_debug.so.4", "libtcmalloc.so.45")
    assert Slot((), 2).allocation() == {}
    known("libtcmalloc.so.4", processor=b"\xff\xff")
    assert Slot((), 2).allocation() == {}
    monkeypatch.setattr(hardware, "LIBRARIES", tmp_path / "none")
    assert Slot((), 2).allocation() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_a_library_that_python_does_not_start_with_is_none(known, monkeypatch, tmp_path):
    """Else no worker would, and nothing be trained."""
    starts = hardware._starts_with
    [library] = known("libtcmalloc.so.4")
    monkeypatch.setattr(hardware, "_starts_with", starts)
    assert Slot((), 2).allocation() == {}, "a head without a body"
    mapped = (line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
    real = next(name for name in mapped if "/libm.so" in name or "/libm-" in name)
    library.write_bytes(Path(real).read_bytes())
    starts.cache_clear()
    assert Slot((), 2).allocation()["LD_PRELOAD"] == str(library)
    program = tmp_path / "python"
    program.write_bytes(Path(sys.executable).read_bytes()[:20] + b"no program")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    starts.cache_clear()
    assert Slot((), 2).allocation() == {}
    starts.cache_clear()
