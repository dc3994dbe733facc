"""`dem blame`: on items whose culprit is known by construction, summed and fitted; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from blamed import CULPRITS, LETTERS, TOWARDS, blamed, recipe
from project import Project
from safetensors.torch import load_file

from dem_build.cli.app import run
from dem_build.cli.blame.asking import opened_item
from dem_build.cli.blame.blame import ask_all
from dem_build.cli.blame.findings import Asked, Blame
from dem_build.cli.blame.items import Items, items_of
from dem_build.cli.blame.without import Without
from dem_build.errors import EvaluationError, UsageError
from dem_build.plan import Status
from dem_build.session.session import Call, open_session

MATCH, HALVES, SCALED = "match.toml", "halves.toml", "scaled.toml"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = blamed(tmp_path_factory.mktemp("blame"))
    project.write(recipe("match").replace('["signs", "say"]', '["signs"]'), MATCH)
    project.write(recipe())
    project.call("build", "tiny.toml", MATCH, "--trust-tasks")
    # What is fitted without vectors is fitted here, at once, and found by the tests.
    project.call("blame", MATCH, "loss:signs", "6", "--pairs")
    return project


@pytest.fixture(autouse=True)
def home(built: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(built.home)
    monkeypatch.delenv("DEM_CACHE", raising=False)
    monkeypatch.setenv("DEM_HINTS", built.environment["DEM_HINTS"])
    monkeypatch.setenv("COLUMNS", "120")
    return built.home


def blame(capsys, *arguments: str, status: int = 0) -> str:
    assert run(["blame", *arguments]) == status
    told = capsys.readouterr()
    return told.out if status == 0 else told.err


def of_all(named: str, target: str, work: Path) -> dict[str, Blame]:
    """Letter → who is to blame for its item."""
    session = open_session(named, Call(trust_tasks=True))
    model, items = Without(session, work), items_of(session, target, None)
    found = {}
    for number in range(len(LETTERS)):
        one = ask_all(session, model, items, number, pairs=False)
        if one.change and not one.culprits:  # no single vector
            one = ask_all(session, model, items, number, pairs=True)
        found[one.asks.strip()[-1]] = one
    model.close()
    return found


@pytest.mark.parametrize("named", ["tiny.toml", MATCH])
@pytest.mark.parametrize("target", ["signs", "loss:signs"])
def test_the_culprit_is_the_one_that_the_construction_made(named, target, tmp_path):
    found = of_all(named, target, tmp_path)
    assert [*sorted(found)] == [*LETTERS]
    for letter, (verdict, culprits) in CULPRITS.items():
        one = found[letter]
        if target == "loss:signs" and letter in "hij":
            assert abs(one.change) < 0.01  # what composing left alone is no vector's doing
            continue
        assert [[*c.without] for c in one.culprits] == ([culprits] if culprits else []), letter
        assert {one.verdict(c) for c in one.culprits} == ({verdict} if verdict else set()), letter


def test_a_model_without_a_vector_is_the_one_that_a_build_publishes(built, tmp_path):
    model = Without(open_session("tiny.toml", Call()), tmp_path)
    in_memory = {k: v.clone() for k, v in model.model(frozenset({"red"})).model.state_dict().items()}
    built.call("build", "tiny.toml", "--set", "vectors.red.omega=0", "--", "model")
    session = open_session("tiny.toml", Call(overrides=("vectors.red.omega=0",)))
    weights = session.store.views.view(session.plan.records["model"].outputs["weights"], tmp_path, "w")
    published = load_file(weights / "model.safetensors")
    assert published.keys() <= in_memory.keys()
    assert all(torch.equal(in_memory[name], published[name]) for name in published)
    model.close()


def test_what_is_fitted_again_is_what_a_build_finds():
    for name in TOWARDS:
        plan = open_session(MATCH, Call(overrides=(f"vectors.{name}.omega=0",))).plan
        assert plan.verdicts["model"].status is Status.HIT


def test_an_item_is_asked_with_the_examples_that_it_had(capsys):
    # Two examples of a generator that goes on from document to document: lm-eval's own `samples` would draw others.
    told = json.loads(blame(capsys, "tiny.toml", "say", "6", "--trust-tasks", "--json"))
    session = open_session("tiny.toml", Call())
    items = items_of(session, "say", None)
    assert told["asks"] == items.models["composed"][6].prompt
    assert told["asks"].endswith("sign g")
    assert told["asks"] != "sign g"
    assert [m["answer"] for m in told["models"][:2]] == ["+", "-"]
    assert told["models"][0]["sure"] == pytest.approx(0.0, abs=1e-4)
    assert told["models"][1]["sure"] < -20


def test_lines_say_who_did_it(capsys):
    out = blame(capsys, "tiny.toml", "signs", "0", "--trust-tasks")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "base 1 +16.00 +" in lines
    assert "without red 1 +16.00 + broke it" in lines
    assert "red broke it" in lines
    none = blame(capsys, "tiny.toml", "signs", "6", "--trust-tasks")
    assert "no single vector broke it; --pairs asks without each two" in none


def test_without_an_item_those_are_listed_that_composing_changed(capsys):
    told = json.loads(blame(capsys, "tiny.toml", "signs", "--json"))
    assert [one["item"] for one in told["broke"]] == [6, 0, 1, 2]
    assert [one["item"] for one in told["mended"]] == [3, 4, 5]
    assert told["items"] == len(LETTERS)
    out = blame(capsys, "tiny.toml", "loss:signs")
    assert "composing worsened 4 and bettered 3 of 10 items" in " ".join(out.split())
    assert "sign g" in out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("tiny.toml", "sings"), "did you mean `signs`?"),
        (("tiny.toml", "signs", "10"), "its items are 0 to 9"),
        (("tiny.toml", "signs", "last"), "its items are 0 to 9"),
        (("tiny.toml", "signs", "1", "--metric", "acc_nrom"), "there is no metric 'acc_nrom'"),
        (("tiny.toml", "loss:signs", "--metric", "acc"), "rows have no metric 'acc'"),
        (("tiny.toml", "signs", "1"), "add --trust-tasks"),
        (("tiny.toml", "signs", "1", "--set", "vectors.red.omega=0.7"), "`dem build tiny.toml` builds it"),
    ],
)
def test_what_cannot_be_asked_is_refused(arguments, what, capsys):
    assert what in " ".join(blame(capsys, *arguments, status=2).split())


def test_nobody_is_blamed_where_the_model_answers_otherwise_than_recorded(tmp_path):
    session = open_session("tiny.toml", Call())
    items = items_of(session, "loss:signs", None)
    with opened_item(session, items, 0, tmp_path) as asked:
        before = items.models["composed"][0].value
        asked.require_recorded(Asked("composed", (), before * 1.0001))
        with pytest.raises(EvaluationError, match=r"its loss is .* Nobody is blamed"):
            asked.require_recorded(Asked("composed", (), before * 1.01))


def test_a_loss_is_blamed_on_who_made_half_of_its_change():
    items = Items("loss:x", "x", "loss", lower_is_better=True)

    def found(**lacking: float) -> dict[str, str]:
        asked = [Asked("composed", (name,), value) for name, value in lacking.items()]
        one = Blame(items, 0, "", "", "", Asked("base", (), 2.0), Asked("composed", (), 3.0), asked)
        return {c.without[0]: one.verdict(c) for c in one.culprits}

    assert found(a=2.4, b=3.0, c=3.5) == {"a": "broke it"}
    assert found(a=2.6, b=2.6) == {}


def test_an_interpolation_leaves_a_share_to_the_base(built, tmp_path):
    quarters = recipe("interpolation", omega="0.25")
    built.write(quarters, SCALED)
    built.write(quarters.replace("omega = 0.25", "omega = 0.5", 1), HALVES)
    built.call("build", HALVES, SCALED, "--", "model")
    model = Without(open_session(HALVES, Call()), tmp_path)
    base = {k: v.clone() for k, v in model.model(frozenset(TOWARDS)).model.state_dict().items()}
    without = model.model(frozenset({"red", "green"})).model.state_dict()
    for name, tensor in without.items():
        assert tensor.isfinite().all()
        if "embed_tokens" not in name:
            assert torch.equal(tensor, base[name])
    assert not torch.equal(without["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    model.close()
    session = open_session(SCALED, Call())
    with pytest.raises(UsageError, match=r"sum to 0\.75"):
        Without(session, tmp_path)


def test_a_trunk_may_have_done_it_before_any_vector():
    items = Items("x", None, "acc", lower_is_better=False)
    lacking = [Asked("composed", (name,), 0.0) for name in ("a", "b")]

    def found(trunk: float) -> Blame:
        asked = Asked("base", (), 1.0), Asked("composed", (), 0.0)
        return Blame(items, 0, "", "", "", *asked, lacking, Asked("trunk", (), trunk))

    assert found(0.0).sentence() == "the trunk broke it, before any vector"
    assert found(0.0).document()["culprits"] == [["trunk"]]
    assert found(1.0).sentence() == "no single vector broke it"
