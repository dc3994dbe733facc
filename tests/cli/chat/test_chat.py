"""`dem chat` in a terminal and for scripts: who answers, with which ω, what is written, refused and kept."""

from __future__ import annotations

import io
import json
import multiprocessing.connection
import os
import pty
import resource
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import warm
from project import Project
from safetensors.torch import load_file
from talking import COMMENTED, RECIPE, opened

from dem_build.cli.app import run
from dem_build.cli.chat.models import Settings
from dem_build.cli.chat.terminal import Talk
from dem_build.cli.edit.changes import replace_text
from dem_build.errors import DataError, UsageError
from dem_build.model.tokenizer import BaseTokenizer

ROOM = ("--max-new-tokens", "12")


def asked(capsys, *arguments: str, status: int = 0) -> str:
    assert run(["chat", *arguments]) == status
    told = capsys.readouterr()
    return told.out if status == 0 else told.err


def weights(models, name="composed") -> dict[str, torch.Tensor]:
    models.load([name])
    return models._loaded[name].model.state_dict()


def test_an_answer_is_that_of_the_published_model(home, capsys):
    from transformers import AutoModelForCausalLM

    folder = home / "out" / "tiny" / "model"
    tokenizer = BaseTokenizer(folder)
    [text] = tokenizer.render([[{"role": "user", "content": "say oak"}]], add_generation_prompt=True)
    ids = torch.tensor(tokenizer.encode([text]))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    said = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    wanted = tokenizer.decode(
        [token for token in said[0, ids.shape[1] :].tolist() if token != tokenizer.eos_id]
    )
    found = json.loads(asked(capsys, "tiny.toml", "-p", "say oak", *ROOM, "--json"))
    assert [a["answer"] for a in found["answers"]] == [wanted]
    assert asked(capsys, "tiny.toml", "-p", "say oak", *ROOM) == f"{wanted.lstrip()}\n"


def test_several_models_answer_one_after_another_under_their_names(capsys):
    names = ("base", "add", "copy")
    out = asked(capsys, "tiny.toml", *(f"--model={name}" for name in names), "-p", "say oak", *ROOM, "--json")
    told = json.loads(out)["answers"]
    assert [answer["model"] for answer in told] == [*names]
    plain = asked(capsys, "tiny.toml", "-m", "base", "-m", "add", "-p", "say oak", *ROOM)
    assert plain.startswith("base\n")
    assert plain.index("\nadd\n") > 0


def test_a_script_gives_lines_and_turns_are_remembered(capsys, monkeypatch):
    lines = "say oak\n/omega add=0 copy 0\n\n/omega\nsay oak\n/reset\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    out = asked(capsys, "tiny.toml", *ROOM)
    assert "ω add   0\nω copy  0\ncomposed anew in " in out
    assert out.endswith("forgotten\n")
    with opened() as models:
        talk = Talk(models, ["base"], Settings(4), "be brief")
        first, second = (talk.ask("base", text, lambda _: None).text for text in ("one", "two"))
        roles = [(turn["role"], turn["content"]) for turn in talk.turns["base"]]
        assert roles == [
            *(("system", "be brief"), ("user", "one"), ("assistant", first)),
            *(("user", "two"), ("assistant", second)),
        ]
        with pytest.raises(UsageError, match="the model takes 256 tokens, and the conversation has"):
            talk.ask("base", "three " * 60, lambda _: None)
        assert len(talk.turns["base"]) == 5


def test_omega_that_are_moved_and_written_are_what_a_build_composes(home, built, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("/omega add 0.75\n/omega copy -0.1\n/write\n"))
    out = asked(capsys, "tiny.toml")
    assert "- omega = 0.5   # what add counts\n+ omega = 0.75   # what add counts" in out
    assert (home / "tiny.toml").read_text() == RECIPE.replace("0.5   #", "0.75   #").replace("0.25", "-0.1")
    with opened() as models:
        built.call("build", "tiny.toml")  # in another process, while the models are open
        found = weights(models)
        published = load_file(home / "out" / "tiny" / "model" / "model.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in published.items())
        before = {name: tensor.clone() for name, tensor in found.items()}
        models.move({"add": 0.3})
        assert not all(torch.equal(found[name], tensor) for name, tensor in before.items())
        models.move({"add": None})
        assert all(torch.equal(found[name], tensor) for name, tensor in before.items())


def test_what_is_written_while_a_chat_begins_is_kept(home, monkeypatch):
    from dem_build.cli.chat import chat

    def open_session(*arguments):
        session = planned(*arguments)
        (home / "tiny.toml").write_text(RECIPE.replace("0.25", "0.3"))
        return session

    planned = chat.open_session
    monkeypatch.setattr(chat, "open_session", open_session)
    with opened() as models:
        models.move({"add": 0.75})
        with pytest.raises(UsageError, match="has been changed by somebody else"):
            replace_text(models.draft, models.changed_text())
    assert "omega = 0.3\n" in (home / "tiny.toml").read_text()


def test_nothing_is_written_over_what_somebody_else_wrote(home):
    with opened() as models:
        talk = Talk(models, ["composed"], Settings())
        models.move({"add": 0.75})
        (home / "tiny.toml").write_text(mine := RECIPE + "# mine\n")
        from dem_build.cli.chat.terminal import talk_in_terminal

        with pytest.raises(UsageError, match="has been changed by somebody else"):
            talk_in_terminal(talk, iter(["/write"]))
        assert (home / "tiny.toml").read_text() == mine
    with opened("tiny.toml", "datasets.add.omega=0.1") as models, pytest.raises(UsageError, match="--set"):
        models.changed_text()


def test_what_is_not_built_is_said_with_the_command_that_builds_it(home, capsys):
    error = asked(capsys, "more.toml", "-m", "upper", "-p", "x", status=2)
    assert "upper cannot be asked: vector:upper is not built" in error
    assert "`dem build more.toml -- vector:upper`; a chat builds nothing" in error
    assert "vector:upper is not built" in asked(capsys, "more.toml", "-p", "x", status=2)
    assert "did you mean `upper`?" in asked(capsys, "more.toml", "-m", "uper", "-p", "x", status=2)
    assert "--prompt" in asked(capsys, "tiny.toml", "--json", status=2)
    (home / "new").mkdir(exist_ok=True)
    shutil.copy("tiny.toml", "new/tiny.toml")
    error = asked(capsys, "tiny.toml", "--cache", "new/cache", "-p", "x", status=2)
    assert "base, vector:add, vector:copy are not built" in error
    assert not Path("new/cache").exists(), "who only looks makes no folder"


def test_what_another_terminal_builds_meanwhile_can_be_asked(built):
    with opened("more.toml") as models:
        assert models.missing("upper") == ["vector:upper"]
        built.call("build", "more.toml", "--", "vector:upper")
        models.load(["upper", "composed"])
        assert models.missing("upper") == []
        assert set(models.omega) == {"add", "copy", "upper"}


def test_a_vector_that_is_trained_anew_meanwhile_stays_what_the_chat_began_with(monkeypatch):
    """On a GPU it may come out different."""
    with opened("more.toml") as models:
        found = weights(models, "add")
        before = {name: tensor.clone() for name, tensor in found.items()}
        session = models._session
        add, copy = (session.plan.verdicts[f"vector:{name}"] for name in ("add", "copy"))
        anew = replace(add, record=replace(add.record, outputs=copy.record.outputs))
        plan = replace(session.plan, verdicts={**session.plan.verdicts, "vector:add": anew})
        monkeypatch.setattr(type(session), "planned_again", lambda _: replace(session, plan=plan))
        monkeypatch.setattr(type(plan), "up_to_date", False)
        models.look_again()
        assert all(torch.equal(weights(models, "add")[n], tensor) for n, tensor in before.items())


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--seed", str(1 << 64)), "seed is 18446744073709551616"),
        (("--temperature", "nan"), "temperature is nan"),
        (("--temperature", "1", "--top-p", "nan"), "top_p is nan"),
        (("--system", "be brief \udcff"), "what is asked is not UTF-8"),
    ],
)
def test_an_option_that_no_model_can_be_asked_with_is_refused_in_words(capsys, option, told):
    assert run(["chat", "tiny.toml", "-p", "x", *option]) in {1, 2}
    assert told in capsys.readouterr().err


def test_a_line_that_is_no_utf_8_is_told_as_one(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    assert run(["chat", "tiny.toml", *ROOM]) in {1, 2}
    assert "what is asked is not UTF-8" in capsys.readouterr().err


def test_a_system_prompt_that_no_template_writes_is_refused():
    with opened() as models:
        models.tokenizer.has_chat_template = False
        talk = Talk(models, ["base"], Settings(4), "be brief")
        with pytest.raises(DataError, match="a system prompt needs a chat template"):
            talk.ask("base", "one", lambda _: None)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/omega ad 0.5", "there is no vector 'ad' in this recipe"),
        ("/omega add", "a vector and a number are needed"),
        ("/omega add nan", "ω of add is nan"),
        ("/omega add 1e39", "ω of add is 1e+39"),
        ("/models", "there is no command /models"),
        ("/model upper", "there is no model 'upper'"),
    ],
)
def test_a_line_that_cannot_be_done_is_an_error_of_a_script(capsys, monkeypatch, line, told):
    monkeypatch.setattr(sys, "stdin", io.StringIO(line))
    assert run(["chat", "tiny.toml"]) in {1, 2}
    assert told in capsys.readouterr().err


def test_a_matched_model_is_as_it_was_built_and_says_why(home):
    (home / "matched.toml").write_text(RECIPE + '[compose]\nmethod = "match"\n')
    with opened("matched.toml") as models:
        assert models.missing("composed") == ["model"]
        assert models.missing("add") == []
        with pytest.raises(UsageError, match="`match` is no sum"):
            models.move({"add": 0.5})


def test_models_beside_the_composed_one_say_what_they_are_made_of(home):
    stages = '[trunk]\ndatasets = ["add"]\ntrain = { max_steps = 1 }\n[heal]\ntrain = { max_steps = 1 }\n'
    mix = '[baselines.mix]\nmethod = "mixing"\n[baselines.one]\nmethod = "single"\n'
    (home / "more stages.toml").write_text(RECIPE + stages + mix)
    with opened("more stages.toml") as models:
        assert models.live == "unhealed"
        assert {name: models.missing(name) for name in models.names} == {
            "base": [],
            "composed": ["model:unhealed", "vector:heal"],
            # What starts from the trunk has the vectors of other trainings.
            "add": ["model:trunk", "vector:add"],
            "copy": ["model:trunk", "vector:copy"],
            "trunk": ["vector:trunk"],
            "unhealed": ["model:trunk", "vector:add", "vector:copy"],
            "mix": ["vector:mix"],
            "one": ["model:trunk", "vector:add", "vector:copy", "tune:one"],
        }
        with pytest.raises(UsageError) as error:
            models.load(["mix"])
        assert error.value.hint == "`dem build 'more stages.toml' -- vector:mix`; a chat builds nothing"


def test_an_interpolation_says_what_its_omega_sum_to(home):
    (home / "between.toml").write_text(RECIPE + '[compose]\nmethod = "interpolation"\n')
    with opened("between.toml") as models:
        models.load(["composed"])
        assert models.move({"add": 0.75}) is not None
        assert models.note() == ""
        models.move({"copy": 0.5})
        assert models.note() == "the ω sum to 1.25, not 1: so is the base scaled"
        with pytest.raises(UsageError, match="no vector is no model"):
            models.move({"add": 0, "copy": 0})
        assert models.omega == {"add": 0.75, "copy": 0.5}


def test_what_a_search_found_moves_and_layers_of_their_own_are_not_written(home):
    """A search's result is made up here: to search takes seconds, and what is found is of no account."""
    from dem_build.actions.tune.omega import write_omega
    from dem_build.plan import decide
    from dem_build.session.session import Call, open_session
    from dem_build.store import Record

    searched = RECIPE.replace(COMMENTED, "").replace("omega = 0.25\n", "")
    (home / "searched.toml").write_text(searched + '[tune]\ngranularity = "layer"\n')
    session = open_session("searched.toml", Call())
    known = {n: v.record.outputs for n, v in session.plan.verdicts.items() if v.record is not None}
    verdict = decide(session.plan.graph.actions["tune"], known, session.store.records, session.plan.history)
    digests = {name: known[f"vector:{name}"]["delta"].digest for name in ("add", "copy")}
    layers = {"embeddings": 0.25, "0": 0.5, "1": 1.0, "final": 0.25}
    write_omega(home / "omega", {digests["add"]: 0.7, digests["copy"]: layers})
    for other in ("trace", "passes"):
        (home / other).write_text("{}")
    outputs = {name: session.store.objects.put(home / name) for name in ("omega", "trace", "passes")}
    session.store.records.publish(Record(verdict.key, "tune", verdict.preimage, outputs, {}))
    with opened("searched.toml") as models:
        assert models.omega == {"add": 0.7, "copy": layers}
        found = weights(models)
        before = {name: tensor.clone() for name, tensor in found.items()}
        with pytest.raises(UsageError, match="ω of copy is another one in each layer"):
            models.changed_text()
        models.move({"copy": 0.5})
        same = {name for name, tensor in found.items() if torch.equal(tensor, before[name])}
        assert {name for name in found if ".layers.0." in name} <= same
        assert not {name for name in found if ".layers.1." in name and "norm" not in name} & same
        text = models.changed_text()
        assert text.count("omega = 0.7\n") == text.count("omega = 0.5\n") == 1
        models.move({"copy": None})
        assert all(torch.equal(tensor, before[name]) for name, tensor in found.items())


def test_models_are_loaded_where_few_files_may_be_open_at_first():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with opened() as models:
        models.load(["base"])  # so that all libraries are there
        os.close(free := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 2, limits[1]))
        try:
            models.load(["composed"])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_what_a_chat_has_open_is_not_collected(tmp_path, home, monkeypatch):
    """Nothing but the chat wants these vectors: the recipe's root is gone."""
    other = Project(tmp_path)
    for name in ("base", "data", "cache"):
        shutil.copytree(home / name, tmp_path / name)
    other.write(RECIPE)
    other.write("[project]\nname = 'x'\n", "pyproject.toml")
    shutil.rmtree(tmp_path / "cache" / "roots")
    collect = ("cache", "gc", "--vectors", "--grace", "0s", "--older-than", "0s")
    monkeypatch.chdir(tmp_path)
    with opened() as models:
        models.load(["add"])
        [delta] = models._loaded["add"]._deltas.values()
        file = next(iter(delta.tensors.values())).path
        other.call(*collect)
        assert file.exists()
        models.load(["composed"])
        models.move({"add": 0.1})
        assert models.ask("composed", [{"role": "user", "content": "x"}], Settings(4), lambda _: None).tokens
    other.call(*collect)
    assert not file.exists()


# A terminal


def _in_terminal(terminal: str, arguments: list[str], home: Path, environment: dict[str, str]) -> None:
    os.setsid()
    for stream in range(3):
        os.dup2(os.open(terminal, os.O_RDWR), stream)  # the first makes it this session's
    sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warm._dem(arguments, home, environment)


class Pty:
    """A terminal in which `dem` runs."""

    def __init__(self, project: Project, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        import fcntl
        import struct
        import termios

        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        environment = project.environment | {"TERM": "xterm"}
        self.process = warm.start(_in_terminal, os.ttyname(theirs), [*arguments], project.home, environment)
        self._theirs = theirs
        self.shown = ""

    def until(self, text: str, seconds: float = 60) -> str:
        """Read until a text is shown; return what is since the last time."""
        begun = time.monotonic()
        while text not in self.shown:
            assert time.monotonic() - begun < seconds, self.shown
            self.more(seconds)
        found, _, self.shown = self.shown.partition(text)
        return found + text

    def more(self, seconds: float = 60) -> None:
        """Read what comes next."""
        ready = multiprocessing.connection.wait([self._ours, self.process.sentinel], seconds)
        assert self._ours in ready, self.shown
        self.shown += os.read(self._ours, 4096).decode()

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C until a text is shown: Python's readline misses a signal that comes just before it waits."""
        while text not in self.shown:
            self.type("\x03")
            pressed = time.monotonic()
            while text not in self.shown and time.monotonic() - pressed < 20:  # the key's echo comes first
                if multiprocessing.connection.wait([self._ours, self.process.sentinel], 1):
                    self.more()
        self.until(text)

    def end(self) -> int | None:
        self.process.join(60)
        os.close(self._ours)
        os.close(self._theirs)
        return self.process.exitcode


def test_in_a_terminal_ctrl_c_ends_an_answer_and_ctrl_d_the_chat(built):
    terminal = Pty(built, "chat", "tiny.toml", "-m", "base", "-m", "composed", "--max-new-tokens", "100")
    terminal.until("base, composed of tiny.toml; /help says what else there is")
    terminal.until("> ")
    terminal.type("say oak\r")
    terminal.until("say oak")
    shown = terminal.until("> ", 120)  # side by side: one line names both
    assert any("base" in line and "composed" in line for line in shown.splitlines())
    terminal.type("/model base\r")
    terminal.until("asked now: base")
    terminal.until("> ")
    terminal.type("/reset\rsay elm again and again\r")
    terminal.until("again and again")
    terminal.until("\n")
    while len(terminal.shown.strip()) < 2:  # some of the answer
        terminal.more()
    terminal.type("\x03")
    terminal.until("stopped")
    terminal.until("> ")
    terminal.interrupt("> ")
    terminal.type("/nonsense\r")
    terminal.until("there is no command /nonsense")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.end() == 0
