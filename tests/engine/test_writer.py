"""Who is said to have made a record."""

from __future__ import annotations

import getpass
import os

from dem_build.engine.writer import writer

RUN = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_REPOSITORY": "team/models",
    "GITHUB_REF": "refs/heads/main",
    "GITHUB_SHA": "0" * 40,
    "GITHUB_RUN_ID": "17",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_TOKEN": "a secret",
}


def test_a_user_and_a_host(monkeypatch):
    for name in RUN:
        monkeypatch.delenv(name, raising=False)
    assert writer() == {"user": getpass.getuser(), "host": os.uname().nodename}


def test_in_ci_also_the_run(monkeypatch):
    for name, value in RUN.items():
        monkeypatch.setenv(name, value)
    by = writer()
    assert (
        by.items()
        >= {"repository": "team/models", "ref": "refs/heads/main", "run": "17", "attempt": "2"}.items()
    )
    assert "a secret" not in by.values()


def test_a_user_without_a_name(monkeypatch):
    def nobody():
        raise OSError("No username set in the environment")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert writer()["user"] == str(os.getuid())
