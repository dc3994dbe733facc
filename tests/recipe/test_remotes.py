"""`[[remotes]]` of the machine file, and the variables that stand for it."""

from __future__ import annotations

import pytest

from dem_build.errors import RecipeError
from dem_build.recipe.machine_file import load_machine, remotes_of

FILE = """\
jobs = 1

[[remotes]]
url = "s3://team-models/dem/"
read = ["trusted", "pr-17"]
write = "pr-17"
endpoint = "http://127.0.0.1:5000"

[[remotes]]
url = "shared"
read = ["user-ada"]
"""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in ("DEM_REMOTE", "DEM_REMOTE_READ", "DEM_REMOTE_WRITE", "DEM_MACHINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def remotes(tmp_path):
    def load(text=FILE):
        (tmp_path / "machine.toml").write_text(text)
        return remotes_of(*load_machine(None, tmp_path / "recipe.toml"))

    return load


def test_a_file_names_remotes_in_order_and_folders_beside_itself(remotes, tmp_path):
    first, second = remotes()
    assert (first.url, first.read, first.write) == ("s3://team-models/dem", ("trusted", "pr-17"), "pr-17")
    assert first.endpoint == "http://127.0.0.1:5000"
    assert (second.url, second.asked, second.write) == (str(tmp_path / "shared"), ("user-ada",), None)


def test_who_writes_reads_what_it_writes_where_nothing_else_is_said(remotes):
    assert remotes('[[remotes]]\nurl = "gs://b"\nwrite = "trusted"\n')[0].asked == ("trusted",)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('url = "s3://id:secret@bucket"', "holds a credential"),
        ('url = "https://host/x?token=secret"', "holds a credential"),
        ('url = "ftp://host"', "must begin with"),
        ('url = "http://example.com"', "must begin with https://"),
        ('url = "s3://"', "must name a bucket"),
        ('url = ""', "must not be empty"),
        ('endpoint = "127.0.0.1:5000"', "must begin with"),
        ('endpoint = "https://id:secret@host"', "holds a credential"),
        ('read = ["Trusted"]', "small letters"),
        ('read = ["../trusted"]', "small letters"),
        ('write = ""', "must not be empty"),
        ('writes = "a"', "unknown key (did you mean `write`?)"),
        ("read = 1", "must be a list"),
    ],
)
def test_a_mistake_is_said_with_its_line_and_without_a_secret(remotes, line, said):
    key = line.partition(" ")[0]
    lines = [f'url = "s3://b"\n{line}' if key != "url" else line, 'read = ["a"]' if key != "read" else ""]
    with pytest.raises(RecipeError) as caught:
        remotes("[[remotes]]\n" + "\n".join(lines))
    assert said in str(caught.value)
    assert f"machine.toml:{2 if key == 'url' else 3}" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('url = "s3://b"', "needs `read`, `write` or both"),
        ('url = "https://host"\nwrite = "a"', "read only"),
        ('url = "shared"\nread = ["a"]\nendpoint = "https://host"', "`endpoint` is for"),
    ],
)
def test_keys_that_do_not_go_together_are_a_mistake(remotes, text, said):
    with pytest.raises(RecipeError) as caught:
        remotes(f"[[remotes]]\n{text}\n")
    assert said in str(caught.value)


def test_variables_stand_for_the_file(remotes, monkeypatch, tmp_path):
    monkeypatch.setenv("DEM_REMOTE_READ", "trusted, user-bob")
    first, second = remotes()
    assert (first.read, first.write, second.read) == (("trusted", "user-bob"), "pr-17", ("user-ada",))
    monkeypatch.setenv("DEM_REMOTE", "s3://team-models/dem")
    (only,) = remotes()
    assert (only.write, only.endpoint) == (None, "http://127.0.0.1:5000")  # the file knows the address
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEM_REMOTE", "elsewhere")
    monkeypatch.setenv("DEM_REMOTE_WRITE", "user-bob")
    (only,) = remotes()
    assert (only.url, only.write, only.endpoint) == (str(tmp_path / "elsewhere"), "user-bob", None)
    monkeypatch.setenv("DEM_REMOTE", "none")
    assert remotes() == ()


def test_a_mistake_in_a_variable_names_it(remotes, monkeypatch):
    monkeypatch.setenv("DEM_REMOTE_READ", "Trusted")
    with pytest.raises(RecipeError, match=r"\$DEM_REMOTE_READ"):
        remotes()
    with pytest.raises(RecipeError, match=r"\$DEM_REMOTE_READ"):
        remotes("")
    monkeypatch.setenv("DEM_REMOTE", "s3://id:secret@bucket")
    monkeypatch.setenv("DEM_REMOTE_READ", "a")
    with pytest.raises(RecipeError, match=r"\$DEM_REMOTE: holds a credential"):
        remotes()
