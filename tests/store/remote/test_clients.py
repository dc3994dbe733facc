"""What is particular to one kind of bucket: web servers, credentials, processes, memory, the extra."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading
import time
import traceback
import urllib.request

import pytest
from bucket_servers import SECRET
from hub_server import serving

from dem_build.errors import RemoteError
from dem_build.store.remote.address import open_bucket

pytestmark = pytest.mark.usefixtures("store_credentials")


@pytest.fixture
def web(tmp_path):
    """A folder that python's own web server shows, which knows no ranges."""
    (tmp_path / "shown/trusted").mkdir(parents=True)
    (tmp_path / "shown/trusted/a b").write_bytes(bytes(range(256)) * 100)
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(tmp_path / "shown"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def reads_and_refuses(bucket, name, data):
    assert bucket.get(name) == data
    assert bucket.size(name) == len(data)
    for start in (0, 1, len(data) - 1, len(data)):
        assert b"".join(bucket.read(name, start)) == data[start:]
    assert bucket.get("trusted/no") is None
    assert bucket.size("trusted/no") is None
    with pytest.raises(FileNotFoundError):
        next(bucket.read("trusted/no"))
    assert (bucket.writable, bucket.listed, bucket.conditional) == (False, False, False)
    for call in (
        lambda: bucket.create("trusted/new", b""),
        lambda: bucket.put("trusted/new", __file__),
        lambda: bucket.delete([name]),
        lambda: [*bucket.list("trusted/")],
    ):
        with pytest.raises(RemoteError, match="web server"):
            call()
    assert bucket.get(name) == data


def test_a_web_server_without_ranges_is_read(web):
    reads_and_refuses(open_bucket(web), "trusted/a b", bytes(range(256)) * 100)


def test_a_web_server_with_ranges_is_read(moto):
    """What a public bucket shows to anybody."""
    folder = os.urandom(4).hex()
    url = f"{moto}/team-models/{folder}/trusted/object"
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"}
    shown = headers | {"x-amz-acl": "public-read", "Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(url, b"0123456789" * 1000, shown, method="PUT")).close()
    reads_and_refuses(open_bucket(f"{moto}/team-models/{folder}"), "trusted/object", b"0123456789" * 1000)


def python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return done.stdout.split("\n")


def test_without_the_extra_the_error_names_it_and_folders_work(tmp_path):
    out = python(f"""
import sys
sys.modules["obstore"] = None
from dem_build.store.remote.address import open_bucket
open_bucket({str(tmp_path)!r}).create("a", b"1")
bucket = open_bucket("s3://team-models/x")
for call in (lambda: bucket.get("a"), lambda: next(bucket.read("a", 1)), lambda: bucket.create("a", b"")):
    try:
        call()
    except Exception as error:
        print(type(error).__name__, error)
""")
    assert (tmp_path / "a").read_bytes() == b"1"
    assert len(out) == 4
    assert all("RemoteError" in line and "pip install 'dem-build[remote]'" in line for line in out[:3])


def test_to_open_a_bucket_loads_no_library():
    out = python("""
import sys
from dem_build.store.remote.address import open_bucket
open_bucket("s3://team-models/x"), open_bucket("/nowhere"), open_bucket("https://host"), open_bucket("hf://org/name")
print({"obstore", "boto3", "huggingface_hub", "httpx2"} & {*sys.modules})
""")
    assert out[0] == "set()"


def test_a_copy_of_a_process_that_used_a_store_is_told_so_and_another_asks(moto):
    out = python(f"""
import os
from dem_build.store.remote.address import open_bucket
bucket = open_bucket("s3://team-models/copied", {moto!r})
def copied():
    if not (pid := os.fork()):
        try:
            print(bucket.get("a"), flush=True)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
copied()
bucket.create("a", b"1")
copied()
print(bucket.get("a"))
""")
    assert out[0] == "None"  # nothing was asked before the first copy
    assert out[1].startswith("RemoteError")
    assert "copy of a process" in out[1]
    assert out[2] == "b'1'"


def test_a_file_of_any_size_is_put_and_read_within_a_bounded_memory(moto, tmp_path):
    """What a process holds at its most, Python and libraries included, is less than the file has."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(160_000_000)
    out = python(f"""
from pathlib import Path
from dem_build.store.remote.address import open_bucket
bucket = open_bucket("s3://team-models/large", {moto!r})
bucket.put("a", Path({str(tmp_path / "large")!r}))
print(sum(map(len, bucket.read("a"))))
bucket.delete(["a"])
# Not getrusage's, which begins with what the process had that started this one.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
""")
    assert int(out[0]) == 160_000_000
    assert int(out[1]) < 130_000  # KiB


def test_a_profile_of_aws_files_is_read_by_boto3(moto, monkeypatch, tmp_path):
    (tmp_path / "credentials").write_text(
        f"[team]\naws_access_key_id = an-id\naws_secret_access_key = {SECRET}\n"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    out = python(f"""
from dem_build.store.remote.address import open_bucket
print(open_bucket("s3://team-models/profile", {moto!r}).create("a", b"1"))
""")
    assert out[0] == "True"


def test_without_credentials_the_way_to_them_is_said(moto, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match="no credentials") as caught:
        open_bucket("s3://team-models/x", moto).get("a")
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)


def test_a_large_file_of_a_hub_is_sent_beside_its_commit(tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(data)
    with serving() as hub:
        hub.commit("models", "team/vectors", {"README": b""})
        bucket = open_bucket("hf://team/vectors", hub.endpoint)
        # By git's protocol of large files; with hf_xet the client sends to a service of its own, which is not here.
        python(
            f"""
from pathlib import Path
from dem_build.store.remote.address import open_bucket
open_bucket("hf://team/vectors", {hub.endpoint!r}).put("trusted/object.bin", Path({str(tmp_path / "file")!r}))
""",
            HF_HUB_DISABLE_XET="1",
        )
        assert [*hub.uploaded.values()] == [data]
        assert bucket.size("trusted/object.bin") == len(data)
        assert b"".join(bucket.read("trusted/object.bin", 1_000_000)) == data[1_000_000:]


def test_a_hub_that_refuses_or_is_not_there_is_an_error_within_seconds():
    with serving() as hub:
        hub.commit("models", "team/private", {"a": b"1"})
        hub.repositories["models", "team/private"].private = True
        for url in ("hf://team/private", "hf://datasets/team/no"):
            with pytest.raises(RemoteError, match="no such repository"):
                open_bucket(url, hub.endpoint).get("a")
            with pytest.raises(RemoteError, match="no such repository"):
                open_bucket(url, hub.endpoint).create("b", b"")
    began = time.monotonic()
    with pytest.raises(RemoteError, match="did not answer"):
        open_bucket("hf://team/vectors", "http://127.0.0.1:9").get("a")
    assert time.monotonic() - began < 5
    for url in ("hf://team", "hf://spaces/team/name", "hf://buckets/team/name"):
        with pytest.raises(RemoteError, match="model or dataset repository"):
            open_bucket(url)


def test_an_error_and_what_led_to_it_name_no_signature(monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=2020-01-01&sig={SECRET}")
    with pytest.raises(RemoteError, match="cannot be reached") as caught:
        open_bucket("az://container/dem", "http://127.0.0.1:9/account").get("a")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
