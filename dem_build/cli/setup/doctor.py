"""`dem doctor`: what dem stands on here, each thing tried and not believed, and how to mend what is wrong."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich.text import Text

from dem_build import __version__
from dem_build.errors import DemError, RecipeError
from dem_build.hardware import allocator, gigabytes, gpus, room
from dem_build.host import host_folder
from dem_build.machine import Machine
from dem_build.recipe.machine_file import cache_folder, load_machine, remotes_of, work_folder
from dem_build.report.quantities import size
from dem_build.report.text import clean
from dem_build.store.filesystem import abilities
from dem_build.store.local import open_layout
from dem_build.view.text import make_console, write_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dem_build.machine import Remote
    from dem_build.session.session import Call

PACKAGE = "dem-build"
TORCH_SECONDS = 180.0
HUB_SECONDS = 5.0
LITTLE_DISK = 10e9
"""Free bytes below which a disk is little: the demo takes as many."""
LITTLE_MEMORY = 6e9
"""Bytes of memory below which the demo does not fit."""
TORCH = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "version": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip, "threads": torch.get_num_threads(),
    "gpus": [[g.name, g.total_memory] for g in gpus], "sum": float(torch.ones(8).sum()),
    "bf16": bool(gpus) and torch.cuda.is_bf16_supported(),
}))
"""  # noqa: E501  a program
MARKS = {"good": ("✓", "green"), "note": ("•", "yellow"), "bad": ("✗", "bold red")}


class Diagnosis(NamedTuple):
    """What was found of one thing.

    Attributes:
        state: `good`; `note`, with which dem works; `bad`, with which a build fails.
        remedy: How to mend it; empty where nothing is wrong.
    """

    name: str
    state: Literal["good", "note", "bad"]
    what: str
    remedy: str = ""


def doctor(call: Call) -> int:
    """Try all that dem stands on, and say it line by line; 1 where a build would fail of it."""
    found: list[Diagnosis] = []
    console = make_console()
    for finding in _findings(call):
        found.append(finding)
        if not call.as_json:
            mark, style = MARKS[finding.state]
            console.print(
                Text.assemble((f"{mark} ", style), f"{finding.name:<9} {clean(finding.what)}"), soft_wrap=True
            )
            if finding.remedy:
                console.print(Text(f"            {clean(finding.remedy)}", "cyan"), soft_wrap=True)
    if call.as_json:
        write_json([finding._asdict() for finding in found])
    return 1 if any(finding.state == "bad" for finding in found) else 0


def _findings(call: Call) -> Iterator[Diagnosis]:
    yield _of_python()
    yield of_packages()
    yield of_torch(sys.executable, gpus())
    yield _of_memory()
    if sys.platform == "linux" and not gpus():
        yield of_allocator()
    try:
        machine, path = load_machine(call.machine, Path.cwd() / "recipe.toml")
        remotes = remotes_of(machine, path)
    except RecipeError as error:
        told = [f"{problem}" for problem in error.problems]
        yield Diagnosis("machine", "bad", "; ".join(told), "docs/recipe.md has every key of a machine file")
        machine, path, remotes = Machine(), None, ()
    else:
        yield Diagnosis("machine", "good", f"{path}" if path else "no machine file: defaults")
    cache = cache_folder(call.cache, machine, path, Path.cwd() / "recipe.toml")
    yield from of_folder("cache", cache, "--cache DIR or DEM_CACHE names another folder")
    yield _of_store(cache)
    if (work := work_folder(machine, path)) is not None:
        yield from of_folder("work", work, "`work` of the machine file names another folder")
    if (host := host_folder()) is None:
        yield Diagnosis(
            "hints", "note", "there is no home folder: files are hashed anew each time", "set DEM_HINTS"
        )
    else:
        yield from of_folder("hints", Path(host), "DEM_HINTS names another folder")
    offline = call.offline or bool(os.environ.get("HF_HUB_OFFLINE"))
    if offline:
        yield Diagnosis("hub", "good", "not asked: offline")
    else:
        yield of_hub(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    for remote in remotes:
        yield (
            Diagnosis("remote", "good", f"{remote.url}: not asked: offline")
            if call.offline
            else of_remote(remote)
        )
    if not remotes:
        yield Diagnosis("remote", "good", "none is named")


def _of_python() -> Diagnosis:
    where = Path(__file__).parents[2]
    what = f"{platform.python_version()} on {platform.system()} {platform.machine()}; dem {__version__} in {where}"
    if platform.system() in {"Linux", "Darwin"}:
        return Diagnosis("python", "good", what)
    return Diagnosis("python", "bad", what, "dem runs on Linux and macOS; on Windows, in WSL")


def of_packages(name: str = PACKAGE) -> Diagnosis:
    """Whether what a package asks for is installed, in versions that it takes; and which of its extras are."""
    from packaging.requirements import Requirement  # noqa: PLC0415  only here

    try:
        asked = [Requirement(text) for text in metadata.requires(name) or ()]
    except metadata.PackageNotFoundError:
        remedy = "pip install -e . in its repository"
        return Diagnosis("packages", "note", f"{name} is not installed, but run from its folder", remedy)
    wrong: dict[str, str] = {}  # what was asked for, and the version that is there
    extras: dict[str, bool] = {}
    own = 0
    for requirement in asked:
        extra = next(
            (e for e in metadata.metadata(name).get_all("Provides-Extra") or () if _is_of(requirement, e)), ""
        )
        if not extra and requirement.marker and not requirement.marker.evaluate():
            continue  # of another Python or system
        there = _installed(requirement.name)
        fits = there is not None and requirement.specifier.contains(there, prereleases=True)
        own += not extra
        if extra:
            extras[extra] = extras.get(extra, True) and fits
        elif not fits:
            wrong[f"{requirement.name}{requirement.specifier}"] = there or "missing"
    here = [extra for extra, fits in sorted(extras.items()) if fits]
    told = f"; extras: {', '.join(here) or 'none'}"
    if wrong:
        they = ", ".join(f"{asked} ({there})" for asked, there in wrong.items())
        return Diagnosis("packages", "bad", f"not as asked: {they}{told}", _install(wrong))
    return Diagnosis("packages", "good", f"{own} as asked{told}")


def _install(packages: Iterable[str]) -> str:
    """How this Python gets packages: environments of uv have no pip."""
    they = shlex.join(packages)
    if find_spec("pip"):
        return f"{sys.executable} -m pip install {they}"
    return f"uv pip install --python {sys.executable} {they}"


def _is_of(requirement: object, extra: str) -> bool:
    marker = getattr(requirement, "marker", None)
    return marker is not None and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": extra})


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def of_torch(python: str, devices: Sequence[str]) -> Diagnosis:
    """What torch says of itself, in a process of its own: one that is broken may end its process."""
    began = time.monotonic()
    try:
        done = subprocess.run(  # noqa: S603  our own words
            [python, "-c", TORCH], capture_output=True, text=True, timeout=TORCH_SECONDS, check=False
        )
        said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        return Diagnosis("torch", "bad", f"does not answer: {error}", "pip install --force-reinstall torch")
    if said is None:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        return Diagnosis("torch", "bad", f"cannot be imported: {last}", "pip install --force-reinstall torch")
    seconds = time.monotonic() - began
    head = f"{said['version']}, imported in {seconds:.1f} s"
    if said["gpus"]:
        told = ", ".join(f"{name} ({gigabytes(octets)})" for name, octets in said["gpus"])
        if said["bf16"]:
            return Diagnosis("torch", "good", f"{head}; {told}")
        return Diagnosis("torch", "note", f"{head}; {told}, without bfloat16", "bf16 = false in [train]")
    if devices:
        remedy = "install a torch for the GPU's driver: https://pytorch.org/get-started/locally"
        return Diagnosis("torch", "bad", f"{head}; it sees none of {len(devices)} GPUs", remedy)
    return Diagnosis("torch", "good", f"{head}; CPU, {said['threads']} threads")


def _of_memory() -> Diagnosis:
    found = room([])
    if found is None:
        return Diagnosis(
            "memory", "note", "how much there is cannot be told", "plans then refuse nothing for it"
        )
    free = "" if found.free is None else f", {gigabytes(found.free)} free"
    what = f"{gigabytes(found.total)} of {found.place}{free}"
    if found.total < LITTLE_MEMORY:
        return Diagnosis(
            "memory", "note", what, 'method = "lora" in [train] needs the least; `dem plan` says how much'
        )
    return Diagnosis("memory", "good", what)


def of_allocator() -> Diagnosis:
    """What gives out the memory of trainings on a CPU: workers are given tcmalloc where there is one."""
    if (preloaded := os.environ.get("LD_PRELOAD")) is not None:
        return Diagnosis("allocator", "good", f"LD_PRELOAD is `{preloaded}`, and workers keep it")
    if (found := allocator()) is not None:
        return Diagnosis("allocator", "good", f"workers are given {found}")
    what = "none but the C library's: with tcmalloc trainings on a CPU take less time (docs/benchmarks.md)"
    return Diagnosis(
        "allocator", "note", what, "apt-get install libtcmalloc-minimal4, or your system's gperftools"
    )


def of_folder(name: str, folder: Path, other: str) -> Iterator[Diagnosis]:
    """Whether a folder can be written, how much is free there, and what its file system can.

    Args:
        name: What the folder is.
        folder: The folder; it need not be there, and is not made.
        other: How to name another one.
    """
    # Path.exists raises for what lies in a folder that this user may not enter.
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))  # noqa: PTH110
    try:
        if not there.is_dir():
            raise NotADirectoryError(20, "is no folder", str(there))
        can = abilities(there)
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Diagnosis(
            name, "bad", f"{folder} cannot be written: {error.strerror}", f"mend its permissions; {other}"
        )
        return
    what = f"{folder}, {size(free)} free"
    if free < LITTLE_DISK and name != "hints":
        yield Diagnosis(name, "note", what, f"`dem cache gc` makes room; {other}")
    else:
        yield Diagnosis(name, "good", what)
    if name != "cache":
        return
    if not can.links:
        yield Diagnosis("links", "bad", "no hard links: records cannot be written", other)
    lacks = (
        [] if can.locks else [Diagnosis("locks", "note", "no flock: two builds may do one work twice", other)]
    )
    yield from lacks
    can_do = [word for word, does in zip(("hard links", "flock", "reflinks"), can, strict=True) if does]
    told = (
        ""
        if can.shares
        else "; no reflinks, so that copies take time and room (XFS and Btrfs on Linux have them)"
    )
    yield Diagnosis("disk", "good", f"{', '.join(can_do)}{told}")


def _of_store(cache: Path) -> Diagnosis:
    if not os.path.exists(cache / "format.json"):  # noqa: PTH110  as above
        return Diagnosis("store", "good", "there is none yet: the first build makes it")
    try:
        layout = open_layout(cache, make=False)
    except DemError as error:
        return Diagnosis("store", "bad", error.located, error.hint or "--cache names another one")
    return Diagnosis(
        "store", "good", f"{layout.root} is one that this dem reads; `dem cache verify` reads all of it"
    )


def of_hub(endpoint: str) -> Diagnosis:
    """Whether a hub answers, and whether there is a token for it."""
    from urllib.request import Request, urlopen  # noqa: PLC0415  only here

    from huggingface_hub import get_token  # noqa: PLC0415  as above

    remedy = "what a lock pins and is here needs no hub; else mend the network, HTTPS_PROXY or HF_ENDPOINT"
    try:
        asked = Request(f"{endpoint.rstrip('/')}/api/models?limit=1", headers={"User-Agent": "dem-doctor"})  # noqa: S310
        with urlopen(asked, timeout=HUB_SECONDS) as answer:  # noqa: S310  the address that the hub's client asks
            status = answer.status
    except (OSError, ValueError) as error:
        return Diagnosis(
            "hub", "note", f"{endpoint} does not answer: {getattr(error, 'reason', error)}", remedy
        )
    token = "a token" if get_token() else "no token: gated models need one (`hf auth login`)"
    return Diagnosis("hub", "good", f"{endpoint} answers ({status}); {token}")


def of_remote(remote: Remote) -> Diagnosis:
    """Whether a remote does what it must; in the namespace that is written, by doing it."""
    from dem_build.store.remote.address import open_bucket  # noqa: PLC0415  where there is one
    from dem_build.store.remote.probe import probe, read_marker  # noqa: PLC0415  as above

    try:
        bucket = open_bucket(remote.url, remote.endpoint)
        marker = read_marker(bucket)
        found = probe(bucket, remote.write) if remote.write else None
    except DemError as error:
        remedy = error.hint or "`dem cache remote probe` says more; docs/shared-store.md how it is set up"
        return Diagnosis("remote", "bad", f"{remote.url}: {error.what}", remedy)
    if marker is None:
        return Diagnosis(
            "remote", "note", f"{remote.url} answers, and is no remote yet", "dem cache remote init"
        )
    if found and marker.create == "conditional" != found.create:
        remedy = "delete dem-remote.json at its root, then `dem cache remote init`"
        return Diagnosis(
            "remote", "bad", f"{remote.url}: creations are not conditional, as its root says", remedy
        )
    does = f"is read, and written in {remote.write}" if found else "is read"
    return Diagnosis("remote", "good", f"{remote.url} {does}; records: {marker.create}")
