"""`dem cache remote`, as a person calls it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from bucket_servers import SECRET
from faulty import Fault, faulty
from project import Project
from store_samples import make_record

from dem_build.cli.app import run
from dem_build.store import Hints, Store
from dem_build.store.remote.address import open_bucket

pytestmark = pytest.mark.usefixtures("store_credentials")


@pytest.fixture
def dem(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        status = run([*arguments])
        said = capsys.readouterr()
        assert SECRET not in said.out + said.err
        return status, said.out + said.err

    return call


def test_a_folder_becomes_a_remote_once(dem, tmp_path):
    (tmp_path / "machine.toml").write_text(
        '[[remotes]]\nurl = "shared"\nread = ["trusted"]\nwrite = "trusted"\n'
    )
    status, said = dem("cache", "remote", "init")
    assert (status, "is a remote now" in said, "records: conditional" in said) == (0, True, True)
    document = json.loads((tmp_path / "shared/dem-remote.json").read_text())
    assert (document["dem-remote"], document["create"]) == (1, "conditional")
    assert "was a remote already" in dem("cache", "remote", "init")[1]
    assert [p.name for p in (tmp_path / "shared").iterdir()] == ["dem-remote.json"]
    assert dem("cache", "remote", "probe")[0] == 0


def test_a_folder_by_its_address_becomes_a_remote_too(dem, tmp_path):
    url = f"file://{tmp_path}/a%20new/one"
    (tmp_path / "machine.toml").write_text(f'[[remotes]]\nurl = "{url}"\nwrite = "trusted"\n')
    assert dem("cache", "remote", "init")[0] == 0
    assert (tmp_path / "a new/one/dem-remote.json").exists()


def test_show_counts_what_each_namespace_has(dem, moto, monkeypatch):
    monkeypatch.setenv("DEM_REMOTE", "s3://team-models/shown")
    monkeypatch.setenv("DEM_REMOTE_WRITE", "pr-17")
    Path("machine.toml").write_text(
        f'[[remotes]]\nurl = "s3://team-models/shown"\nread = ["trusted"]\nendpoint = "{moto}"\n'
    )
    bucket = open_bucket("s3://team-models/shown", moto)
    bucket.create("pr-17/actions/ab/ab.json", b"12345")
    bucket.create("pr-17/cas/sha256/ab/ab", b"123")
    bucket.create("trusted/cas/sha256/ab/ab", b"123")
    status, said = dem("cache", "remote", "show")
    assert (status, "no dem-remote.json" in said) == (0, True)
    assert dem("cache", "remote", "init")[0] == 0
    status, said = dem("cache", "remote", "show", "--json")
    (found,) = json.loads(said)
    assert found["marker"]["create"] in {
        "conditional",
        "candidates",
    }  # as moto did beside what load there was
    assert found["namespaces"] == {
        "pr-17": {"records": 1, "candidates": 0, "objects": 1, "bytes": 8},
        "trusted": {"records": 0, "candidates": 0, "objects": 1, "bytes": 3},
    }


def test_a_store_that_no_longer_refuses_is_found_out(dem, moto, tmp_path):
    with faulty(moto) as proxy:
        (tmp_path / "machine.toml").write_text(
            f'[[remotes]]\nurl = "s3://team-models/found-out"\nwrite = "trusted"\nendpoint = "{proxy.endpoint}"\n'
        )
        assert dem("cache", "remote", "init")[0] == 0
        assert dem("cache", "remote", "probe")[0] == 0
        proxy.faults.append(Fault("^PUT", overwrite=True))
        status, said = dem("cache", "remote", "probe")
    assert (status, "replaced the first" in said) == (1, True)


def test_without_a_remote_or_a_namespace_to_write_the_way_is_said(dem, tmp_path):
    status, said = dem("cache", "remote", "show")
    assert (status, "DEM_REMOTE" in said) == (2, True)
    (tmp_path / "machine.toml").write_text('[[remotes]]\nurl = "shared"\nread = ["trusted"]\n')
    status, said = dem("cache", "remote", "init")
    assert (status, "DEM_REMOTE_WRITE" in said) == (1, True)


def test_ctrl_c_waits_for_no_object_that_is_on_its_way(moto, tmp_path):
    store = Store.open(tmp_path / "cache", hints=Hints(tmp_path / "hints"))
    store.records.publish(make_record(store))
    with faulty(moto) as proxy:
        url = f"s3://team-models/{os.urandom(4).hex()}"
        (tmp_path / "machine.toml").write_text(
            f'[[remotes]]\nurl = "{url}"\nendpoint = "{proxy.endpoint}"\nwrite = "trusted"\n'
        )
        project = Project(tmp_path)
        project.call("cache", "remote", "init")
        proxy.faults.append(Fault("^PUT .*/cas/", delay=30))
        process = project.start("cache", "push")
        for _ in range(600):
            if proxy.count("^HEAD .*/cas/") >= 2:
                break
            time.sleep(0.05)
        time.sleep(0.5)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - begun < 5
    assert "Traceback" not in said
    assert said.endswith("error: stopped\n")
