"""Pushes and pulls 135M parameters and four vectors as whole processes, to and from S3 on this host; DVC beside it.

python bench/remote.py [--dvc PATH/TO/dvc] [--rounds N]

The server is moto's, in memory: both wait for it. DVC, which needs dvc-s3, has the same files: those that dem has
in its cache. Cold means that the other side has nothing: the bucket is empty, or the cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from contest import Memory, contest, table, timed
from weights import SMOL, project, record_vectors

from dem_build.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Command = tuple[list[str], Path]
    """What is run, and where."""

OMEGAS = [0.25, 0.5, 0.3, 0.4]
DEM = [sys.executable, "-m", "dem_build"]
LARGE = 1 << 24
BUCKET = "bench"


@contextmanager
def server() -> Iterator[str]:
    """Run moto's server; yield its URL."""
    port = 5600 + os.getpid() % 300
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                asked(url, f"{BUCKET}", "PUT")
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def asked(url: str, name: str, method: str) -> bytes:
    """Ask the server for something, without a signature."""
    request = urllib.request.Request(f"{url}/{name}", method=method)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return bytes(reply.read())


def emptied(url: str) -> None:
    """Empty the server, and make the bucket anew."""
    asked(url, "moto-api/reset", "POST")
    asked(url, BUCKET, "PUT")


def dvc_project(folder: Path, dvc: str, url: str, files: list[Path]) -> None:
    """Make a project of DVC with some files and the server as its remote."""
    (folder / "data").mkdir(parents=True)
    for file in files:
        shutil.copyfile(file, folder / "data" / file.name)
    remote = ["remote", "add", "-q", "-d", "moto", f"s3://{BUCKET}/dvc"]
    for command in (
        ["git", "init", "-q"],
        [dvc, "init", "-q"],
        [dvc, *remote],
        [dvc, "remote", "modify", "-q", "moto", "endpointurl", url],
        [dvc, "add", "-q", "data"],
    ):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def peak(command: list[str], folder: Path) -> int:
    """Return the bytes of memory that a command holds at most, without what is mapped from files."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, text=True)
    memory = Memory(process)
    memory.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return memory.peak


def main() -> None:
    """Prepare, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dvc", help="the dvc to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= keys | {"DVC_NO_ANALYTICS": "1"}
    with tempfile.TemporaryDirectory(prefix="bench-remote-") as folder, server() as url:
        run(Path(folder), url, options)


def run(home: Path, url: str, options: argparse.Namespace) -> None:
    """Do all of it in a folder."""
    os.environ["DEM_HINTS"] = str(home / "hints")
    recipe = project(home, SMOL, OMEGAS)
    datasets = [f"data:d{i}" for i in range(len(OMEGAS))]
    timed([*DEM, "build", str(recipe), "--", "base", *datasets])
    record_vectors(recipe, SMOL)
    remote = (
        f'[[remotes]]\nurl = "s3://{BUCKET}/dem"\nread = ["trusted"]\nwrite = "trusted"\nendpoint = "{url}"\n'
    )
    (home / "machine.toml").write_text(remote)
    held = Store.open(home / "cache").objects
    files = [held.path(blob.digest) for blob in held.all() if blob.size >= LARGE]
    print(f"{len(files)} files of {sum(f.stat().st_size for f in files) / 1e6:,.0f} MB")

    pulled = home / "pulled"
    push = [*DEM, "cache", "push", str(recipe)]
    pull = [*DEM, "cache", "pull", str(recipe), "--cache", str(pulled)]
    pairs: dict[str, dict[str, Command]] = {
        "push": {"dem cache push": (push, home)},
        "pull": {"dem cache pull": (pull, home)},
    }
    if options.dvc:
        dvc_project(home / "dvc", options.dvc, url, files)
        pairs["push"]["dvc push"] = ([options.dvc, "push", "-q"], home / "dvc")
        pairs["pull"]["dvc pull"] = ([options.dvc, "pull", "-q"], home / "dvc")

    def empty_bucket() -> None:
        emptied(url)
        timed([*DEM, "cache", "remote", "init"], home)

    def empty_caches() -> None:
        for place in (pulled, home / "dvc" / ".dvc" / "cache", home / "dvc" / "data"):
            shutil.rmtree(place, ignore_errors=True)

    def all_done(what: str) -> None:
        for call in pairs[what].values():
            timed(*call)

    for what, empty in (("push", empty_bucket), ("pull", empty_caches)):
        print(f"\n## {what}, cold")
        compared(pairs[what], empty, options.rounds)
        empty()
        print(f"\n## {what}, cold: memory without what is mapped from files")
        for name, call in pairs[what].items():
            print(f"{name}: {peak(*call) / 1e6:.0f} MB")
        print(f"\n## {what}, nothing to do")
        all_done(what)
        compared(pairs[what], lambda: None, options.rounds)


def compared(calls: Mapping[str, Command], prepare: Callable[[], None], rounds: int) -> None:
    """Print a table of commands that do the same, each of which finds what `prepare` leaves."""

    def prepared(call: Command) -> Callable[[int], tuple[float, float]]:
        def once(_: int) -> tuple[float, float]:
            prepare()
            return timed(*call)

        return once

    print(table(contest({name: prepared(call) for name, call in calls.items()}, rounds), 3), flush=True)


if __name__ == "__main__":
    main()
