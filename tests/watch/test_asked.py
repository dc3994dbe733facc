"""What a call asks of an object store is in its witness, and whatever else it does there leaves none."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from dem_build.errors import RemoteError
from dem_build.store.remote.address import open_bucket
from dem_build.store.remote.bucket import Bucket
from dem_build.watch import witness
from dem_build.watch.heard import open_heard
from dem_build.watch.watch import Watch, vouch
from dem_build.watch.witness import ASKED, Witness, same

pytestmark = pytest.mark.usefixtures("store_credentials")
CALL = "0" * 32


@pytest.fixture
def bucket(moto, tmp_path, monkeypatch) -> Bucket:
    monkeypatch.setenv("DEM_HINTS", str(tmp_path / "hints"))
    monkeypatch.setattr("dem_build.watch.watch.DEAF", frozenset())  # other tests have loaded them
    (tmp_path / "file").write_bytes(b"bytes")
    opened = open_bucket(f"s3://team-models/{os.urandom(4).hex()}", moto)
    opened.create("a/one", b"1")
    return opened


def asked(bucket: Bucket, moto: str, action) -> tuple[str, Witness | None]:
    """Do something with a bucket as a call would: why it leaves no witness, and the one of what it asked."""
    with Watch(CALL) as watch:
        vouch(math.inf)
        action(open_heard(bucket.url, moto))
    watch.keep(0)
    file = Path(witness.folder() or "") / CALL
    if not file.exists():
        return watch.doubt, None
    found = Witness.from_bytes(file.read_bytes(), CALL)
    looks = {look: seen for look, seen in found.looks.items() if look[0] == ASKED}
    return watch.doubt, Witness(0, found.since, found.until, looks, [])


QUESTIONS = {
    "what is there": lambda b: b.get("a/one"),
    "what is not there": lambda b: b.get("a/two"),
    "names": lambda b: list(b.list("a/")),
}
CHANGES = {
    "what is there": lambda b: b.delete(["a/one"]),
    "what is not there": lambda b: b.create("a/two", b""),
    "names": lambda b: b.create("a/two", b""),
}


@pytest.mark.parametrize("what", QUESTIONS)
def test_a_question_is_asked_again(bucket, moto, what):
    doubt, found = asked(bucket, moto, QUESTIONS[what])
    assert not doubt
    assert len(found.looks) == 1
    assert same(found)
    CHANGES[what](bucket)
    assert not same(found)


def test_many_are_asked_at_once_and_one_other_answer_is_enough(bucket, moto):
    _, found = asked(bucket, moto, lambda b: [b.get(f"a/{n}") for n in range(50)])
    assert len(found.looks) == 50
    assert same(found)
    bucket.create("a/40", b"")
    assert not same(found)


DEEDS = {
    "read": lambda b, _: list(b.read("a/one")),
    "size": lambda b, _: b.size("a/one"),
    "put": lambda b, file: b.put("a/two", file),
    "create": lambda b, _: b.create("a/two", b"2"),
    "delete": lambda b, _: b.delete(["a/one"]),
}


@pytest.mark.parametrize("deed", DEEDS.values(), ids=DEEDS)
def test_whatever_else_is_done_leaves_no_witness(bucket, moto, tmp_path, deed):
    doubt, found = asked(bucket, moto, lambda b: deed(b, tmp_path / "file"))
    assert doubt
    assert found is None


def test_every_call_of_a_bucket_is_one_or_the_other():
    calls = {name for name, made in vars(Bucket).items() if callable(made) and not name.startswith("_")}
    assert calls == {"get", "list", *DEEDS}


def test_no_answer_leaves_no_witness_and_is_no_answer(bucket, moto):
    def fails(heard: Bucket) -> None:
        with pytest.raises(RemoteError):
            heard.get("a/one")

    with Watch(CALL) as watch:
        vouch(math.inf)
        fails(open_heard("s3://no-such-bucket", moto))
    assert watch.doubt
    _, found = asked(bucket, moto, QUESTIONS["what is there"])
    [(way, question)] = found.looks
    gone = Witness(0, 0.0, math.inf, {(way, question.replace(moto.encode(), b"http://127.0.0.1:9")): b""}, [])
    assert not same(gone)


def test_two_answers_within_a_call_leave_no_witness(bucket, moto):
    doubt, _ = asked(bucket, moto, lambda b: (b.get("a/two"), bucket.create("a/two", b"2"), b.get("a/two")))
    assert "changes" in doubt
