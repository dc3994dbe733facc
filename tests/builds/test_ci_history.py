"""`dem ci` on a real repository: a dozen branches that each change one thing, and what is said of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from bucket_servers import SECRET, credentials, made_bucket, moto_serving
from pulls.ci_history import CASES, History, add_row
from pulls.workflow_runner import Ran, Runner

STATUSES = {
    "comment": 0, "reorder": 0, "move": 0, "row": 4, "omega": 3, "dataset": 4, "loosened": 0,
    "removed-gate": 3, "tests": 0, "stale": 4, "removed": 0, "mistake": 2, "outside": 2,
}  # fmt: skip
PAGE = Path(__file__).parents[2] / "docs/ci.md"


@pytest.fixture(scope="module")
def history(tmp_path_factory, tiny_base):
    made = History(tmp_path_factory.mktemp("history"), tiny_base)
    assert made.call("build", "recipes/tiny.toml").status == 0
    return made


@pytest.fixture(scope="module")
def said(history):
    """Branch → what was said of it: each is reviewed once."""
    found = {}
    for name, (_, change, options) in CASES.items():
        history.branch(name, change)
        found[name] = history.review(*options)
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_status_and_what_is_said(said, name):
    assert said[name].status == STATUSES[name], said[name].err
    row = f"| {CASES[name][0]} | {' '.join(f'`{o}`' for o in CASES[name][2])} | {said[name].cell} | {STATUSES[name]} |"
    assert row in PAGE.read_text(encoding="utf-8").splitlines(), f"docs/ci.md has not this row:\n{row}"


@pytest.mark.parametrize("name", ["comment", "reorder", "move"])
def test_what_asks_for_the_same_work_is_said_in_one_line(said, name):
    assert "✓ no recipe changed" in said[name].err
    assert (said[name].recipe["keys"], said[name].recipe["actions"]) == ([], [])
    assert said[name].recipe["was"] == ("recipes/tiny.toml" if name == "move" else None)


def test_vectors_to_train_are_told_with_what_is_known_of_them(said):
    (due,) = [a for a in said["row"].recipe["actions"] if a["trains"]]
    assert (due["action"], due["state"]) == ("vector:add", "due")
    assert due["disk"] > 100_000
    assert said["row"].recipe["reasons"][0]["changed"] == ["data:add"]
    assert {"vector:add", "model", "loss:composed:add"} <= {*said["row"].recipe["reasons"][0]["follow"]}


def test_metrics_are_compared_row_by_row_and_prompts_are_shown_side_by_side(said):
    found = {m["on"]: m for m in said["omega"].recipe["metrics"]}
    assert found["loss:copy"]["worth"] == "worse"
    assert found["loss:copy"]["delta"] > 0.01
    assert found["loss:copy"]["common"] >= 8
    assert found["loss:copy"]["only_before"] == 0
    assert said["omega"].recipe["omega"][1] == {"vector": "copy", "before": 0.5, "after": -0.5}
    assert {p["dataset"] for p in said["omega"].recipe["prompts"]} == {"copy"}
    assert len(said["omega"].recipe["prompts"]) == 2
    (gate,) = [g for g in said["omega"].recipe["gates"] if g["passed"] is False]
    assert gate["task"] == "loss:copy"
    text = (Path(said["omega"].recipe["path"]), gate["line"])
    assert text[1] > 10


def test_a_gate_that_is_removed_is_judged_as_it_was(said):
    (gate,) = said["removed-gate"].recipe["weakened"]
    assert (gate["how"], gate["passed"], gate["line"]) == ("removed", False, 0)
    (loosened,) = said["loosened"].recipe["weakened"]
    assert (loosened["was"], loosened["now"], loosened["passed"]) == ("at most 9", "at most 99", True)


def test_where_test_data_changed_only_the_rows_of_both_count(said):
    found = {m["on"]: m for m in said["tests"].recipe["metrics"]}["loss:held"]
    assert (found["common"], found["only_before"], found["only_after"]) == (10, 2, 1)
    assert not [a for a in said["tests"].recipe["actions"] if a["trains"]]


def test_what_is_read_outside_is_at_its_line(said, history):
    (mistake,) = said["outside"].recipe["trouble"]["mistakes"]
    lines = history.repo.git("show", "outside:recipes/tiny.toml").splitlines()
    assert "credentials" in lines[mistake["line"] - 1]


# The workflows: a bare repository stands for GitHub's, a folder for the store that is shared, and every step is run.

TEMPLATES = Path(__file__).parents[2] / "docs/workflows"
ACTION = Path(__file__).parents[2] / ".github/actions/dem-ci/action.yml"
STAND_IN = Path(__file__).parents[1] / "samples/pulls/gh_stand_in.py"


class Forge:
    """GitHub's side: a bare repository, pull requests, comments and a shared store."""

    def __init__(self, home: Path, history: History, remote: str, environment: dict[str, str]) -> None:
        self.home, self.history, self.count = home, history, 0
        self.bare = home / "bare.git"
        history.repo.git("checkout", "--quiet", "main")
        history.repo.git("clone", "--quiet", "--bare", str(history.repo.root), str(self.bare))
        history.repo.git("-C", str(self.bare), "config", "uploadpack.allowAnySHA1InWant", "true")
        self.state = home / "gh"
        self.state.mkdir()
        self.save(
            pulls=[], comments=[{"id": 1, "user": {"login": "eve"}, "body": "<!-- dem ci --> not the bot's"}]
        )
        tools = home / "bin"
        tools.mkdir()
        (tools / "gh").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
        (tools / "gh").chmod(0o755)
        self.environment = {
            "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}", "GH_STATE": str(self.state),
            "DEM_HINTS": str(home / "hints"), "NO_COLOR": "1", "DEM_REMOTE": remote, "OMP_NUM_THREADS": "1",
            "PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", **environment,
        }  # fmt: skip

    def save(self, **documents: object) -> None:
        for name, document in documents.items():
            (self.state / f"{name}.json").write_text(json.dumps(document))

    @property
    def comments(self) -> list[dict[str, object]]:
        return json.loads((self.state / "comments.json").read_text())

    def main_has(self, files: dict[str, str]) -> None:
        self.history.repo.git("checkout", "--quiet", "-B", "with-action", "main")
        for path, content in files.items():
            self.history.repo.put(path, content)
        self.history.repo.commit("the action")
        self.history.repo.git("push", "--quiet", "--force", str(self.bare), "HEAD:main")

    def open_pull(self, number: int, branch: str) -> str:
        """Push a branch as a pull request of a fork; return its commit."""
        head = self.history.repo.git("rev-parse", branch)
        self.history.repo.git(
            "push", "--quiet", "--force", str(self.bare), f"{branch}:refs/pull/{number}/head"
        )
        pull = {"number": number, "label": "eve:patch", "head": {"sha": head}}
        self.save(pulls=[{**pull, "number": 3, "head": {"sha": "0" * 40}}, pull])
        return head

    def run(self, template: str, event: dict[str, object], **environment: str) -> Ran:
        self.count += 1
        runner = Runner(
            self.home / f"run-{self.count}", self.bare, event,
            {"repository": "ours/models", "token": "a-token", "event_name": event.get("name", "pull_request"),
             "workflow": template},
            {**self.environment, **environment}, self.state,
        )  # fmt: skip
        return runner.run(TEMPLATES / f"{template}.yml")


def pull_event(number: int, head: str, base: str, owner: str = "eve") -> dict[str, object]:
    repository = {"full_name": f"{owner}/models", "owner": {"login": owner}}
    ours = {"full_name": "ours/models"}
    return {
        "name": "pull_request_target", "label": {"name": "dem train"}, "repository": ours,
        "pull_request": {
            "number": number, "head": {"sha": head, "repo": repository, "ref": "patch"},
            "base": {"sha": base, "repo": ours, "ref": "main"},
        },
    }  # fmt: skip


def run_event(head: str) -> dict[str, object]:
    repository = {"full_name": "eve/models", "owner": {"login": "eve"}}
    run = {
        "id": 77,
        "event": "pull_request",
        "head_sha": head,
        "head_branch": "patch",
        "head_repository": repository,
    }
    return {"workflow_run": run, "repository": {"full_name": "ours/models"}}


needs_tools = pytest.mark.skipif(
    not (shutil.which("jq") and shutil.which("unzip")), reason="needs jq and unzip"
)


def share(history: History, **environment: str) -> None:
    """Make a remote, and push there what `main` has."""
    history.repo.git("checkout", "--quiet", "main")
    for call in (("cache", "remote", "init"), ("cache", "push", "recipes/tiny.toml")):
        done = history.call(*call, DEM_REMOTE_WRITE="trusted", **environment)
        assert done.status == 0, done.err


@pytest.fixture(scope="module")
def forge(history, tmp_path_factory):
    home = tmp_path_factory.mktemp("forge")
    remote = home / "store"
    remote.mkdir()
    made = Forge(home, history, str(remote), {})
    share(history, DEM_REMOTE=str(remote))
    made.main_has({".github/actions/dem-ci/action.yml": ACTION.read_text(encoding="utf-8")})
    return made


@needs_tools
def test_a_pull_request_is_checked_commented_on_trained_and_checked_again(forge, history):
    history.branch("pull", add_row, "with-action")
    base, head = history.repo.git("rev-parse", "with-action"), forge.open_pull(7, "pull")

    checked = forge.run("dem-check", pull_event(7, head, base))
    assert checked.conclusion == "failure", checked.log
    assert checked.outputs["review"] == {
        "status": "4", "changed": "1", "train": '["vector:add"]', "recipes": '["recipes/tiny.toml"]',
    }  # fmt: skip
    assert checked.summary.startswith("<!-- dem ci -->\n## dem ci: … something comes first")
    assert "taken for a stranger's" in checked.summary
    assert "::warning file=recipes/tiny.toml,line=12,title=dem ci%3A train first::vector:add" in checked.log
    assert [line.partition("@")[0] for line in checked.used] == [
        "actions/checkout", "actions/setup-python", "actions/cache", "actions/upload-artifact",
    ]  # fmt: skip

    for _ in range(2):  # put there, then updated in place
        commented = forge.run("dem-comment", run_event(head))
        assert commented.conclusion == "success", commented.log
        assert [c["user"]["login"] for c in forge.comments] == ["eve", "github-actions[bot]"]
        assert forge.comments[1]["body"].strip() == checked.summary.strip()
    (theirs,) = [p for p in json.loads((forge.state / "pulls.json").read_text()) if p["number"] == 7]
    forge.save(pulls=[theirs, {**theirs, "number": 8}])  # of one branch: nobody says which was checked
    assert forge.run("dem-comment", run_event(head)).conclusion == "success"
    calls = [json.loads(line) for line in (forge.state / "calls.jsonl").read_text().splitlines()]
    assert [c[:2] for c in calls if c[0] != "GET"] == [
        ["POST", "repos/ours/models/issues/7/comments"], ["PATCH", "repos/ours/models/issues/comments/101"],
    ]  # fmt: skip

    trained = forge.run("dem-train", pull_event(7, head, base))
    assert trained.conclusion == "success", trained.log
    assert "vector:add" in trained.log

    again = forge.run("dem-check", pull_event(7, head, base))
    assert again.conclusion == "success", again.log
    assert again.outputs["review"]["status"] == "0"
    assert "recorded: 12 of 12 actions" in again.summary


@needs_tools
def test_the_shared_store_may_be_a_bucket_of_s3(history, tmp_path):
    with moto_serving() as endpoint:
        url = made_bucket(endpoint)
        machine = tmp_path / "machine.toml"
        machine.write_text(f'[[remotes]]\nurl = "{url}/dem"\nendpoint = "{endpoint}"\nread = ["trusted"]\n')
        environment = {**credentials(), "DEM_MACHINE": str(machine)}
        forge = Forge(tmp_path, history, f"{url}/dem", environment)
        share(history, DEM_REMOTE=f"{url}/dem", **environment)
        forge.main_has({".github/actions/dem-ci/action.yml": ACTION.read_text(encoding="utf-8")})
        history.branch("bucket", lambda h: h.edit("max = 9.0", "max = 99.0"), "with-action")
        head = forge.open_pull(8, "bucket")
        checked = forge.run("dem-check", pull_event(8, head, history.repo.git("rev-parse", "with-action")))
    assert checked.conclusion == "success", checked.log
    assert "⚠ A gate asks for less" in checked.summary
    assert "recorded: 12 of 12 actions" in checked.summary
    assert SECRET not in checked.log + checked.summary
