"""Two machines, a bucket of moto's that they share, and the proxy between: the people of `remotes.py`.

One machine has everything; the other has a recipe, its lock and the machine file, and with `files` what the recipe
names as well. What the bucket holds is read and put back past the proxy and without `dem`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import light
from bucket_servers import credentials, made_bucket
from faulty import faulty
from light_trials import lay_out
from survey import contents, survey
from workshop import Called

from dem_build.store.records import parse_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BUILD = ("build", "tiny.toml", "--json")
PUSH = ("cache", "push", "tiny.toml")
RECORD = re.compile(
    r"trusted/(actions/[0-9a-f]{2}/([0-9a-f]{64})|candidates/([0-9a-f]{64})/[0-9a-f]{64})\.json"
)
OBJECT = "trusted/cas/sha256/"
MARKER = "dem-remote.json"
HEAD = '[base]\nmodel = "base"\n[train]\nmax_steps = 2\n[compose]\ndtype = "bfloat16"\n'
DATASET = '[datasets.{name}]\npath = "data/{name}.jsonl"\nomega = {omega}\n'
HASTY = "hasty"


def recipe(**omegas: float) -> str:
    """The recipe of some datasets."""
    return 'name = "tiny"\n' + HEAD + "".join(DATASET.format(name=n, omega=o) for n, o in omegas.items())


BOTH, REWEIGHTED, ONE = recipe(add=0.5, copy=0.25), recipe(add=0.75, copy=0.25), recipe(add=0.5)


@dataclass(frozen=True)
class Ended:
    """A call, and how many seconds it took."""

    called: Called
    seconds: float


class Pair:
    """Two machines, their bucket and their proxy.

    Args:
        folder: Where they are.
        server: The endpoint of moto.
        number: Tells their bucket from others'.
        like: Another pair, whose first machine has built already what theirs has.

    Attributes:
        proxy: What stands between them and the bucket; nothing else does.
        pushed: What is in the bucket after a push, name → bytes.
    """

    def __init__(self, folder: Path, server: str, number: int, like: Pair | None = None) -> None:
        self._within = ExitStack()
        self._folder = folder
        folder.mkdir(parents=True)
        self._url = made_bucket(server, f"team-{number}")
        self._bucket = f"team-{number}"
        keys = credentials()
        self._s3: Any = boto3.client(
            "s3",
            endpoint_url=server,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            region_name=keys["AWS_REGION"],
        )
        self.proxy = self._within.enter_context(faulty(server))
        self._builders: dict[str, light.Builder] = {}
        self._bytes: dict[str, bytes] = {}  # by what the server says of their content
        self._models: dict[tuple[str, str], Mapping[str, str]] = {}
        self._variables = keys | {"AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": "none"}
        self.pushed: dict[str, bytes] = {}
        if like is not None:
            shutil.copytree(like._alone(BOTH, ""), self._alone(BOTH, ""), symlinks=True)
            self._models[BOTH, ""] = like._models[BOTH, ""]
        self.begin()

    def close(self) -> None:
        for builder in self._builders.values():
            builder.close()
        self._within.close()

    def begin(self, *init: str) -> None:
        """Make a remote of the empty bucket, and push there what the first machine has built."""
        self.proxy.forget()
        self.put_back({})
        home = self.first("one", BOTH)
        self._must(home, "cache", "remote", "init", *init)
        self.empty = self.held()
        self._must(home, *PUSH)
        self.pushed = self.held()
        assert not (wrong := self.survey()), wrong

    def _must(self, home: Path, *arguments: str) -> None:
        ended = self.call(home, *arguments)
        assert ended.called.status == 0, ended.called.brief

    # Machines.

    def first(self, name: str, text: str, *, built: bool = True, luck: str = "") -> Path:
        """The machine that has everything; `built` by itself, unless it is not, before the bucket was there.

        Args:
            name: Of its folder.
            text: Its recipe.
            built: Whether its cache has what the recipe makes.
            luck: What its trainings come to depends on it.
        """
        home = self._folder / name
        shutil.rmtree(home, ignore_errors=True)
        if built:
            self.right(text, luck)
            shutil.copytree(self._alone(text, luck), home, symlinks=True)
        else:
            lay_out(home)
            (home / "tiny.toml").write_text(text)
        self._connect(home)
        return home

    def second(self, text: str, *, files: bool = False, name: str = "two") -> Path:
        """The machine that has recipe, lock and machine file alone, or files too."""
        self.right(text)
        home = self._folder / name
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        if files:
            home.rmdir()
            lay_out(home)
        alone = self._alone(text, "")
        for file in ("tiny.toml", "tiny.lock"):
            shutil.copy(alone / file, home / file)
        self._connect(home)
        return home

    def _connect(self, home: Path) -> None:
        lines = f'url = "{self._url}"\nendpoint = "{self.proxy.endpoint}"\nread = ["trusted"]\nwrite = "trusted"\n'
        (home / "machine.toml").write_text(f"[[remotes]]\n{lines}")

    def _alone(self, text: str, luck: str) -> Path:
        return self._folder / f"alone-{hashlib.sha256((text + luck).encode()).hexdigest()[:8]}"

    def right(self, text: str, luck: str = "") -> Mapping[str, str]:
        """The model that a build alone makes of a recipe, which no remote was near."""
        if (text, luck) not in self._models:
            home = self._alone(text, luck)
            lay_out(home)
            (home / "tiny.toml").write_text(text)
            ended = self.call(home, *BUILD, luck=luck)
            assert ended.called.status == 0, ended.called.brief
            self._models[text, luck] = self.model(home)
        return self._models[text, luck]

    def model(self, home: Path) -> Mapping[str, str]:
        """The digests of what a machine has published."""
        return contents(home / "out" / "tiny" / "model")

    def call(self, home: Path, *arguments: str, luck: str = "", builder: str = "") -> Ended:
        """Call `dem` on a machine; several at once need a `builder` each, and `hasty` ones wait a tenth as long."""
        begun = time.monotonic()
        if builder not in self._builders:
            script = ("hasty.py",) if builder == HASTY else ("light.py",)
            self._builders[builder] = light.Builder(script=script)
        variables = self._variables | {"DEM_TORTURE_LUCK": luck}
        status = self._builders[builder].call(home, arguments, variables=variables)
        printed = (Path(f"{home}{suffix}").read_text(errors="replace") for suffix in (".out", ".err"))
        return Ended(Called(status, *printed), time.monotonic() - begun)

    def kill(self) -> None:
        """End the call that goes on, at once."""
        if (child := self._builders[""].child()) is not None:
            os.kill(child, signal.SIGKILL)

    def sound(self, home: Path) -> list[str]:
        """What is wrong with a machine's own cache, read without `dem`."""
        return [f"in its cache: {what}" for what in survey(home / "cache").wrong]

    # The bucket.

    def listed(self) -> dict[str, str]:
        """Name → what the server says of the content."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", ())}

    def held(self) -> dict[str, bytes]:
        """Everything that is there."""
        return dict(self._held())

    def _held(self) -> Iterator[tuple[str, bytes]]:
        for name, tag in self.listed().items():
            if tag not in self._bytes:
                self._bytes[tag] = self._s3.get_object(Bucket=self._bucket, Key=name)["Body"].read()
            yield name, self._bytes[tag]

    def put_back(self, held: Mapping[str, bytes]) -> None:
        """Let the bucket hold this and nothing else."""
        there = self.held()
        for name in there.keys() - held.keys():
            self._s3.delete_object(Bucket=self._bucket, Key=name)
        for name, data in held.items():
            if there.get(name) != data:
                self._s3.put_object(Bucket=self._bucket, Key=name, Body=data)

    def survey(self, spoiled: Sequence[str] = ()) -> list[str]:
        """What is wrong in the bucket: a record that is none, or that lacks an object, or one of other bytes.

        Args:
            spoiled: Names that were spoiled on purpose.
        """
        held, wrong = self.held(), []
        for name, data in held.items():
            if not (found := RECORD.fullmatch(name)) or name in spoiled:
                continue
            try:
                record = parse_record(data, found[2] or found[3])
            except ValueError as error:
                wrong.append(f"{name} is no record: {error}")
                continue
            assert record is not None
            for blob in (*record.blobs(), *([record.log] if record.log else [])):
                at = f"{OBJECT}{blob.digest[:2]}/{blob.digest}"
                if at not in spoiled and hashlib.sha256(held.get(at, b"none")).hexdigest() != blob.digest:
                    state = "with other bytes" if at in held else "which is not there"
                    wrong.append(f"{name} names {blob.digest[:12]}, {state}")
        return [f"in the bucket: {what}" for what in wrong]


def keys_in(held: Mapping[str, bytes]) -> set[str]:
    """The keys that are recorded in a bucket."""
    return {found[2] or found[3] for name in held if (found := RECORD.fullmatch(name))}


def objects_in(held: Mapping[str, bytes]) -> list[str]:
    """The names of objects in a bucket."""
    return sorted(name for name in held if name.startswith(OBJECT))


def records_in(held: Mapping[str, bytes]) -> list[str]:
    """The names of records in a bucket."""
    return sorted(name for name in held if RECORD.fullmatch(name))
