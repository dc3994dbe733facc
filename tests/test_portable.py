"""What Linux alone has is asked for before it is called, so that dem runs on macOS too."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1] / "dem_build"

# What macOS has not by the documentation of Python 3.13 ("Availability").
LINUX_ALONE = frozenset(
    {
        *(
            "fdatasync",
            "posix_fallocate",
            "posix_fadvise",
            "copy_file_range",
            "splice",
            "memfd_create",
            "eventfd",
        ),
        *("sched_getaffinity", "sched_setaffinity", "getrandom", "pidfd_open", "setns", "unshare", "waitid"),
        *("getxattr", "setxattr", "listxattr", "removexattr", "getresuid", "getresgid", "prlimit", "epoll"),
        *("O_DIRECT", "O_NOATIME", "O_PATH", "O_TMPFILE", "O_LARGEFILE", "O_RSYNC", "RLIMIT_MSGQUEUE"),
        *("sigtimedwait", "sigwaitinfo", "SIGPWR", "SIGRTMIN", "SIGRTMAX", "SIGSTKFLT"),
        *("MAP_POPULATE", "MADV_HUGEPAGE", "MADV_POPULATE_READ", "MADV_DONTFORK", "CLOCK_BOOTTIME"),
        *("F_SETPIPE_SZ", "F_ADD_SEALS", "F_OFD_SETLK", "plock"),
    }
)


def unguarded(tree: ast.Module) -> set[str]:
    """Attributes of modules that Linux alone has, in a function or module that does not name them as a text too."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in LINUX_ALONE and isinstance(node.value, ast.Name):
            scope: ast.AST = node
            while not isinstance(scope, ast.FunctionDef | ast.Module):
                scope = parents[scope]
            texts = {each.value for each in ast.walk(scope) if isinstance(each, ast.Constant)}
            if node.attr not in texts:  # as in `hasattr(os, "sched_getaffinity")`
                found.add(node.attr)
    return found


def test_the_rule_finds_a_call_and_passes_one_that_is_asked_for() -> None:
    assert unguarded(ast.parse("def f(d):\n    os.fdatasync(d)")) == {"fdatasync"}
    assert (
        unguarded(ast.parse("def f(d):\n    if hasattr(os, 'fdatasync'):\n        os.fdatasync(d)")) == set()
    )


def test_nothing_of_linux_alone_is_called_unasked() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    named = {path: text for path, text in texts.items() if any(name in text for name in LINUX_ALONE)}
    assert len(named) >= 3
    found = {path: unguarded(ast.parse(text)) for path, text in named.items()}
    assert {path.name: names for path, names in found.items() if names} == {}


def test_a_machine_without_any_of_it_loads_dem_and_writes_files(tmp_path: Path) -> None:
    """In a process of its own, from whose modules all of it is taken before dem is loaded."""
    code = f"""
import fcntl, mmap, os, resource, select, signal, sys, time
for module in (fcntl, mmap, os, resource, select, signal, time):
    for name in {sorted(LINUX_ALONE)!r}:
        if hasattr(module, name):
            delattr(module, name)
from pathlib import Path
import numpy as np
from dem_build import cli, hardware
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.writer import weights_writer
from dem_build.engine import pool
from dem_build.store import files, filesystem, leases
folder = Path({str(tmp_path)!r})
(folder / "a").write_bytes(b"x" * (1 << 21))
files.copy(folder / "a", folder / "b")
assert (folder / "b").read_bytes() == (folder / "a").read_bytes()
assert filesystem.abilities(folder).links
assert hardware.room([]) is not None
assert files._DIRECT == 0
with weights_writer(folder / "w", [TensorSpec("w", "F32", (4,))]) as writer:
    writer.write("w", 0, np.zeros(4, np.float32))
assert (folder / "w").exists()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
