"""What shells are offered: recipes, actions, keys and names, and in bash words that it takes for several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dem_build.cli.app import app, run
from dem_build.cli.setup.completion import VARIABLE, ForBash

RECIPE = """\
[base]
model = "base.gguf"
[datasets.chat]
path = "chat.jsonl"
[vectors.code]
checkpoint = "a/b"
[probes.words]
path = "words.jsonl"
[baselines.mix]
method = "mixing"
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.toml", "below/other.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(RECIPE)
    (tmp_path / "machine.toml").write_text("jobs = 1\n")
    return tmp_path


def offered(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """What bash inserts: behind the last `:` or `=` of the word before the cursor."""
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("DEM_BREAKS", " :=")
    told = ForBash(app, {}, "dem", VARIABLE).complete()
    return [each.removeprefix("plain,") for each in told.splitlines()]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("dem che", ["check"]),
        ("dem cache remote i", ["init"]),
        ("dem build ", ["mine.toml", "below/other.toml"]),
        ("dem build be", ["below/other.toml"]),
        ("dem plan ./be", ["below/other.toml"]),
        ("dem build none/", ["file,none/"]),
        ("dem build mine.toml below/other.toml -- vector:c", ["chat", "code"]),
        ("dem build mine.toml -- 'loss:*' vector:c", ["chat", "code"]),
        ("dem build mine.toml -- 'vector:*", []),
        ("dem why mine.toml vec", ["vector:chat", "vector:code"]),
        ("dem build mine.toml --rebuild data:", ["chat", "words"]),
        ("dem data mine.toml ", ["chat", "words", "mix"]),
        ("dem chat mine.toml --model ", ["base", "composed", "chat", "code", "mix"]),
        ("dem remove ", ["chat", "code", "words", "mix", "mine.toml", "below/other.toml"]),
        ("dem remove below/other.toml co", ["code"]),
        ("dem add mine.toml new ", ["file,"]),
        ("dem add mine.toml new x --as pr", ["probe"]),
        ("dem add mine.toml new x --set max", ["max_samples="]),
        ("dem add mine.toml new x --as adapter --set ad", ["adapter="]),
        ("dem plan mine.toml --set train.lea", ["train.learning_rate="]),
        ("dem plan mine.toml --set datasets.chat.train.see", ["datasets.chat.train.seed="]),
        ("dem plan mine.toml --set train.bf16=", ["true", "false"]),
        ("dem plan mine.toml --set datasets.chat.omega=t", ["tune"]),
        ("dem plan mine.toml --set compose.method=m", ["match"]),
        ("dem build mine.toml --no", ["--no-train"]),
        ("dem plan 'mine.toml", ["mine.toml"]),
        ("dem why none.toml ", []),
    ],
)
def test_what_can_follow_is_offered(monkeypatch: pytest.MonkeyPatch, line: str, told: list[str]) -> None:
    assert offered(monkeypatch, line) == told


def test_a_shell_that_ends_no_word_there_is_given_whole_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "dem why mine.toml vector:ch")
    monkeypatch.setenv("DEM_BREAKS", " ")
    assert ForBash(app, {}, "dem", VARIABLE).complete() == "plain,vector:chat"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_asks_dem(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["completion", shell]) == 0
    out = capsys.readouterr().out
    assert f"{VARIABLE}={shell}_complete" in out


def test_bash_itself_completes_an_action_and_a_key(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The script in a real bash, whose words end at `:` and `=`; `dem` is this Python's."""
    assert run(["completion", "bash"]) == 0
    dem = home / "dem"
    dem.write_text(f'#!/bin/sh\nexec {sys.executable} -m dem_build "$@"\n')
    dem.chmod(0o755)
    script = capsys.readouterr().out + (
        "compopt() { :; }\nCOMP_WORDBREAKS=$' :='\nfor COMP_LINE in \"dem why mine.toml vector:ch\" "
        '"dem plan mine.toml --set train.optim=adaf"; do COMP_POINT=${#COMP_LINE}; _dem_completion ./dem; '
        'echo "${COMPREPLY[@]}"; done\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True, cwd=home
    )
    assert done.stdout.split() == ["chat", "adafactor"]
    assert done.stderr == ""
