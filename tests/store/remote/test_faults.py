"""What a bucket says, and how soon, when networks and stores fail; by a proxy before moto."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import pytest
from bucket_servers import SECRET
from faulty import Fault, faulty

from dem_build.errors import RemoteError
from dem_build.store.remote import objectstore
from dem_build.store.remote.address import open_bucket
from dem_build.store.remote.probe import initialise, probe, read_marker

pytestmark = pytest.mark.usefixtures("store_credentials")


@pytest.fixture(scope="module")
def between(moto):
    with faulty(moto) as proxy:
        yield proxy


@pytest.fixture
def proxy(between):
    between.forget()
    return between


@pytest.fixture
def bucket(proxy):
    return open_bucket(f"s3://team-models/{os.urandom(4).hex()}", proxy.endpoint)


def test_the_proxy_passes_on_and_counts(bucket, proxy, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 3000)
    bucket.put("a/b", tmp_path / "file")
    assert bucket.get("a/b") == b"x" * 3000
    assert bucket.size("a/b") == 3000
    assert (proxy.sent("^PUT"), proxy.received("^GET"), proxy.received("^HEAD")) == (3000, 3000, 0)
    assert proxy.count() == 3


@pytest.mark.parametrize("status", [403, 401, 503])
def test_an_answer_that_is_no_absence_is_an_error_within_seconds(bucket, proxy, tmp_path, status):
    (tmp_path / "file").write_bytes(b"x")
    proxy.faults.append(Fault(status=status))
    calls = [
        lambda: bucket.get("a"),
        lambda: bucket.size("a"),
        lambda: next(bucket.read("a")),
        lambda: bucket.create("a", b""),
        lambda: bucket.put("a", tmp_path / "file"),
        lambda: list(bucket.list("a/")),
        lambda: bucket.delete(["a"]),
    ]
    began = time.monotonic()
    for call in calls:
        with pytest.raises(RemoteError) as caught:
            call()
        assert "forbids" in str(caught.value) if status != 503 else "503" in str(caught.value)
        assert SECRET not in str(caught.value)
        assert len(str(caught.value)) < 300
    assert time.monotonic() - began < 20


def test_a_server_that_is_not_there_costs_seconds():
    began = time.monotonic()
    with pytest.raises(RemoteError, match="cannot be reached"):
        open_bucket("s3://team-models", "http://127.0.0.1:9").get("a")
    assert time.monotonic() - began < 5


def test_a_server_that_never_answers_costs_seconds(bucket, proxy, monkeypatch):
    monkeypatch.setattr(objectstore, "_SMALL", 1)
    monkeypatch.setattr(objectstore, "_RETRY", 0.5)
    proxy.faults.append(Fault(delay=3))
    began = time.monotonic()
    with pytest.raises(RemoteError, match="in time"):
        bucket.get("a")
    assert time.monotonic() - began < 3


def test_a_reply_that_ends_early_is_continued_or_an_error(bucket, proxy, tmp_path):
    data = os.urandom(5 << 20)
    (tmp_path / "file").write_bytes(data)
    bucket.put("a/b", tmp_path / "file")
    proxy.faults.append(Fault("^GET", cut=1 << 20, times=1))
    got = b""
    try:
        for piece in bucket.read("a/b"):
            got += piece
    except RemoteError:
        got += b"".join(bucket.read("a/b", len(got)))
    assert got == data


def test_what_a_write_that_was_refused_means_is_to_be_read(bucket, proxy):
    """The reply is lost, the library tries again, and is refused by what it wrote."""
    proxy.faults.append(Fault("^PUT", lose=True, times=1))
    assert not bucket.create("a/b", b"mine")
    assert bucket.get("a/b") == b"mine"


@pytest.mark.parametrize("status", [409, 412])
def test_each_refusal_of_a_condition_is_a_refusal(bucket, proxy, status):
    proxy.faults.append(Fault("^PUT", status=status))
    assert bucket.create("a/b", b"mine") is False


def test_the_probe_finds_a_store_that_says_yes_and_overwrites(bucket, proxy):
    proxy.faults.append(Fault("^PUT", overwrite=True))
    marker, found = initialise(bucket)
    assert marker.create == found.create == "candidates"
    proxy.forget()
    assert read_marker(bucket) == marker
    assert initialise(bucket) == (marker, None)


def test_the_probe_believes_a_store_whose_replies_are_lost(localbucket):
    # Not moto, which looks and then writes: beside load two writers may win there, and the probe says so.
    with faulty(localbucket) as proxy:
        bucket = open_bucket(f"s3://team-models/{os.urandom(4).hex()}", proxy.endpoint)
        proxy.faults += [
            Fault("^PUT .*created", lose=True, times=1),
            Fault("^PUT .*race", lose=True, times=3),
        ]
        assert probe(bucket).create == "conditional"
        assert [*bucket.list("")] == []


def test_a_probe_leaves_nothing_where_it_fails(bucket, proxy):
    proxy.faults.append(Fault("^HEAD", status=403))
    with pytest.raises(RemoteError):
        probe(bucket, "trusted")
    proxy.forget()
    assert [*bucket.list("")] == []


def test_wrong_bytes_of_the_right_size_are_found_by_the_probe(bucket, proxy):
    proxy.faults.append(Fault("^GET .*created", wrong=True))
    with pytest.raises(RemoteError, match="read as it was"):
        probe(bucket)


@pytest.mark.parametrize("kind", ["folder", "localbucket"])  # moto's is not atomic under load
def test_where_creation_holds_the_probe_says_so(kind, request, tmp_path):
    (tmp_path / "shared").mkdir()
    url = str(tmp_path / "shared") if kind == "folder" else f"s3://team-models/{os.urandom(4).hex()}"
    bucket = open_bucket(url, None if kind == "folder" else request.getfixturevalue(kind))
    marker, found = initialise(bucket)
    assert marker.create == found.create == "conditional"
    assert [item.name for item in bucket.list("")] == ["dem-remote.json"]


def test_a_marker_of_a_newer_dem_or_a_damaged_one_is_an_error(bucket):
    for text in (b"{", b"[]", b'{"dem-remote": 2, "create": "conditional", "probed": ""}'):
        bucket.create("dem-remote.json", text)
        with pytest.raises(RemoteError):
            read_marker(bucket)
        bucket.delete(["dem-remote.json"])


def test_what_came_before_each_cut_is_kept(bucket, proxy, tmp_path):
    data = os.urandom(1_500_000)
    (tmp_path / "file").write_bytes(data)
    bucket.put("a", tmp_path / "file")
    proxy.faults.append(Fault("^GET", cut=300_000))
    got = bytearray()
    while len(got) < len(data):
        before = len(got)
        with suppress(RemoteError):
            for piece in bucket.read("a", before):
                got += piece
        assert len(got) > before
    assert got == data
