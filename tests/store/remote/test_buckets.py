"""What every bucket does alike, on real servers on loopback."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hub_server import serving

from dem_build.errors import RemoteError
from dem_build.store.remote.address import open_bucket
from dem_build.store.remote.bucket import PIECE

pytestmark = pytest.mark.usefixtures("store_credentials")
WRITABLE = ("folder", "moto", "localbucket", "hub")


@pytest.fixture(scope="module")
def hub():
    with serving() as hub:
        yield hub


@pytest.fixture(params=WRITABLE)
def bucket(request, tmp_path):
    """An empty bucket of each kind that is written."""
    if request.param == "folder":
        (tmp_path / "shared").mkdir()
        return open_bucket(str(tmp_path / "shared"))
    if request.param == "hub":
        hub = request.getfixturevalue("hub")
        hub.commit("datasets", "team/vectors", {".gitattributes": b""})
        return open_bucket("hf://datasets/team/vectors/dem", hub.endpoint)
    endpoint = request.getfixturevalue(request.param)
    return open_bucket(f"s3://team-models/{os.urandom(4).hex()}", endpoint)


def test_what_is_put_is_read_from_any_place(bucket, tmp_path):
    file = tmp_path / "bytes"
    file.write_bytes(os.urandom(3000))
    bucket.put("trusted/cas/sha256/ab/abcd", file)
    assert bucket.size("trusted/cas/sha256/ab/abcd") == 3000
    assert bucket.get("trusted/cas/sha256/ab/abcd") == file.read_bytes()
    for start in (0, 1, 2999, 3000, 4000):
        assert b"".join(bucket.read("trusted/cas/sha256/ab/abcd", start)) == file.read_bytes()[start:]


def test_of_many_bytes_pieces_are_put_and_read(bucket, tmp_path):
    file = tmp_path / "bytes"
    file.write_bytes(os.urandom(1 << 20) * 20)
    bucket.put("a/large", file)
    pieces = list(bucket.read("a/large", 5))
    assert b"".join(pieces) == file.read_bytes()[5:]
    assert max(map(len, pieces)) <= PIECE
    assert bucket.size("a/large") == 20 << 20


def test_of_nothing_there_is_nothing(bucket):
    assert bucket.get("trusted/no") is None
    assert bucket.size("trusted/no") is None
    for start in (0, 7):
        with pytest.raises(FileNotFoundError):
            next(bucket.read("trusted/no", start))
    assert list(bucket.list("trusted/")) == []
    bucket.delete(["trusted/no", "no"])


def test_no_bytes_are_bytes_as_well(bucket, tmp_path):
    (tmp_path / "empty").touch()
    bucket.put("a/empty", tmp_path / "empty")
    assert bucket.create("a/created", b"")
    for name in ("a/empty", "a/created"):
        assert bucket.get(name) == b""
        assert bucket.size(name) == 0
        assert list(bucket.read(name)) == []


def test_the_first_creation_stays(bucket):
    assert bucket.create("a/actions/ab/key.json", b"first")
    assert not bucket.create("a/actions/ab/key.json", b"later")
    assert bucket.get("a/actions/ab/key.json") == b"first"
    bucket.delete(["a/actions/ab/key.json"])
    assert bucket.create("a/actions/ab/key.json", b"later")


def test_of_many_creators_one_wins(bucket):
    for name in ("a/1", "a/2"):
        won, together = [], threading.Barrier(12)

        def create(i, name=name, won=won, together=together):
            together.wait()
            if bucket.create(name, b"%d" % i):
                won.append(i)

        threads = [threading.Thread(target=create, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [b"%d" % i for i in won] == [bucket.get(name)]


def test_a_put_replaces(bucket, tmp_path):
    (tmp_path / "bytes").write_bytes(b"new")
    bucket.create("a/b", b"older")
    bucket.put("a/b", tmp_path / "bytes")
    assert bucket.get("a/b") == b"new"


def test_a_listing_has_what_begins_with_the_prefix(bucket):
    for name in ("a/cas/ab/abc", "a/cas/ad/ad", "a/b", "ab/c", "a/a b+%é"):
        bucket.create(name, name.encode())
    found = {item.name: item.size for item in bucket.list("a/")}
    assert found == {"a/cas/ab/abc": 12, "a/cas/ad/ad": 11, "a/b": 3, "a/a b+%é": 9}
    assert {item.name for item in bucket.list("a/cas/a")} == {"a/cas/ab/abc", "a/cas/ad/ad"}
    assert {item.name for item in bucket.list("a")} == {*found, "ab/c"}
    assert {item.name for item in bucket.list("")} == {*found, "ab/c"}
    assert all(abs(item.modified - time.time()) < 100 for item in bucket.list(""))
    assert bucket.get("a/a b+%é") == "a/a b+%é".encode()


def test_many_are_deleted_at_once_and_the_rest_stays(bucket):
    for i in range(12):
        bucket.create(f"a/{i}", b"x")
    bucket.delete([*(f"a/{i}" for i in range(10)), "a/no"])
    assert {item.name for item in bucket.list("a/")} == {"a/10", "a/11"}


def test_a_root_that_is_not_there_is_no_absence(tmp_path, moto):
    for bucket in (
        open_bucket(str(tmp_path / "not-mounted")),
        open_bucket("s3://no-such-bucket", moto),
    ):
        with pytest.raises(RemoteError):
            list(bucket.list("trusted/"))
