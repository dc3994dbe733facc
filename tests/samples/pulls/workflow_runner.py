"""Runs the steps of GitHub's workflows on this machine: what stands in the YAML is what is run, and nothing is copied.

`run:` steps run in bash, those of local composite actions too. Of what others wrote (`uses: owner/name@…`) each has a
stand-in here: `checkout` clones from a bare repository, `upload-artifact` zips, and the rest sets up what is here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<sign>\|\||&&|==|!=|[()!])|(?P<name>[A-Za-z_][\w.-]*)|(?P<number>\d+))"
)


def evaluate(text: str, contexts: dict[str, Any]) -> Any:  # noqa: C901  a parser of five rules, one a function
    """An expression of workflows, as far as the templates have them: names, texts, `||`, `&&`, `==`, `!=`."""
    tokens = list(TOKEN.finditer(text))
    assert "".join(m.group() for m in tokens).strip() == text.strip(), f"not understood: {text}"
    words = [m.group().strip() for m in tokens]

    def take(sign: str) -> bool:
        if words[:1] == [sign]:
            words.pop(0)
            return True
        return False

    def either() -> Any:
        value = both()
        while take("||"):
            other = both()
            value = value or other
        return value

    def both() -> Any:
        value = compared()
        while take("&&"):
            other = compared()
            value = value and other
        return value

    def compared() -> Any:
        value = single()
        if take("=="):
            return value == single()
        if take("!="):
            return value != single()
        return value

    def single() -> Any:
        word = words.pop(0)
        if word.startswith("'"):
            return word[1:-1].replace("''", "'")
        if take("("):
            assert word == "always", word
            return take(")")
        value: Any = contexts
        for part in word.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return "" if value is None else value

    value = either()
    assert not words, f"left over: {words}"
    return value


def filled(value: Any, contexts: dict[str, Any]) -> Any:
    """A text of a workflow with its expressions replaced."""
    if not isinstance(value, str):
        return json.dumps(value) if isinstance(value, bool) else str(value)
    return EXPRESSION.sub(lambda found: str(evaluate(found[1], contexts)), value)


@dataclass
class Ran:
    """What became of a job."""

    conclusion: str = "success"
    log: str = ""
    summary: str = ""
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass
class Runner:
    """A machine that runs one job, and knows nothing of those before.

    Attributes:
        home: Its folder, empty.
        remote: The bare repository on GitHub's side.
        event: The event's document.
        github: What else the context `github` holds.
        environment: What the machine has, and what a user edits in the templates' `env`.
        artifacts: Where artifacts are kept between runs.
    """

    home: Path
    remote: Path
    event: dict[str, Any]
    github: dict[str, Any]
    environment: dict[str, str]
    artifacts: Path
    variables: dict[str, str] = field(default_factory=dict)

    def run(self, workflow: Path) -> Ran:
        """Run the only job of a workflow."""
        read = yaml.safe_load(workflow.read_text(encoding="utf-8"))
        (job,) = read["jobs"].values()
        self.workspace, self.temp = self.home / "work", self.home / "temp"
        for folder in (self.workspace, self.temp, self.artifacts):
            folder.mkdir(parents=True, exist_ok=True)
        event = self.home / "event.json"
        event.write_text(json.dumps(self.event))
        self.files = {n: self.home / n for n in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV")}
        self.ran, self.job_env = Ran(), {}
        contexts = {
            "github": {**self.github, "event": self.event},
            "runner": {"temp": str(self.temp), "os": "Linux"},
            "inputs": self.event.get("inputs", {}),
            "vars": self.variables,
        }
        if "if" in job and not evaluate(EXPRESSION.sub(r"\1", job["if"]), contexts):
            return Ran("skipped")
        for level in (read, job):
            for name, value in level.get("env", {}).items():
                self.job_env[name] = self.environment.get(name, filled(value, contexts))
        self._steps(job["steps"], contexts)
        self.ran.summary = self._content("GITHUB_STEP_SUMMARY")
        return self.ran

    def _content(self, name: str) -> str:
        return self.files[name].read_text() if self.files[name].exists() else ""

    def _steps(self, steps: list[dict[str, Any]], contexts: dict[str, Any]) -> dict[str, Any]:
        contexts = {**contexts, "steps": {}}
        for step in steps:
            contexts["env"] = dict(self.job_env)
            wanted = evaluate(EXPRESSION.sub(r"\1", str(step.get("if", "'yes'"))), contexts)
            if not wanted or (self.ran.conclusion == "failure" and "always()" not in str(step.get("if"))):
                self.ran.skipped.append(step.get("name", step.get("uses", "")))
                continue
            outputs = self._used(step, contexts) if "uses" in step else self._shell(step, contexts)
            if "id" in step:
                contexts["steps"][step["id"]] = {"outputs": outputs}
                self.ran.outputs[step["id"]] = outputs
        return contexts

    def _shell(self, step: dict[str, Any], contexts: dict[str, Any]) -> dict[str, str]:
        script = self.home / "script.sh"
        script.write_text(filled(step["run"], contexts))
        assert "${{" not in step["run"], "what a workflow is given reaches a script by its environment alone"
        self.files["GITHUB_OUTPUT"].write_text("")
        shell = (
            ["bash", "--noprofile", "--norc", "-eo", "pipefail"]
            if step.get("shell") == "bash"
            else ["bash", "-e"]
        )
        done = subprocess.run(
            [*shell, str(script)],
            cwd=self.workspace / filled(step.get("working-directory", "."), contexts),
            env={
                **{n: v for n, v in os.environ.items() if n in ("PATH", "LANG")},
                **{name: str(path) for name, path in self.files.items()},
                "HOME": str(self.home), "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(self.workspace),
                "GITHUB_EVENT_PATH": str(self.home / "event.json"), **self.environment, **self.job_env,
                **{name: filled(value, contexts) for name, value in step.get("env", {}).items()},
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
        )  # fmt: skip
        self.ran.log += done.stdout
        if done.returncode:
            self.ran.conclusion = "failure"
        self.job_env |= dict(line.split("=", 1) for line in self._content("GITHUB_ENV").splitlines())
        return dict(line.split("=", 1) for line in self.files["GITHUB_OUTPUT"].read_text().splitlines())

    def _used(self, step: dict[str, Any], contexts: dict[str, Any]) -> dict[str, str]:
        given = {name: filled(value, contexts) for name, value in step.get("with", {}).items()}
        if step["uses"].startswith("./"):
            action = yaml.safe_load(
                (self.workspace / step["uses"] / "action.yml").read_text(encoding="utf-8")
            )
            inputs = {n: given.get(n, i.get("default", "")) for n, i in action["inputs"].items()}
            assert given.keys() <= action["inputs"].keys(), f"{step['uses']} has no input {given.keys()}"
            inner = self._steps(action["runs"]["steps"], {**contexts, "inputs": inputs})
            return {name: filled(o["value"], inner) for name, o in action["outputs"].items()}
        name = step["uses"].partition("@")[0]
        self.ran.used.append(step["uses"])
        if name == "actions/checkout":
            self._checkout(given)
        elif name == "actions/upload-artifact":
            with zipfile.ZipFile(self.artifacts / f"{given['name']}.zip", "w") as bundle:
                for file in sorted(Path(given["path"]).glob("*")):
                    bundle.write(file, file.name)
        else:
            assert name in (
                "actions/setup-python",
                "actions/cache",
                "aws-actions/configure-aws-credentials",
            ), name
        return {}

    def _checkout(self, given: dict[str, str]) -> None:
        place = self.workspace / given.get("path", ".")
        git = ["-C", str(place)]
        wanted = given.get("ref", "refs/heads/main")
        # As the action does it: branches are those of the repository; what else is asked for is fetched by its name.
        commands = [
            ["init", "--quiet", str(place)],
            [*git, "remote", "add", "origin", f"file://{self.remote}"],
            [*git, "fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*"],
            [*git, "fetch", "--quiet", "origin", wanted],
            [*git, "checkout", "--quiet", "--detach", "FETCH_HEAD"],
        ]
        quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        for command in commands:
            subprocess.run(["git", *command], env={**os.environ, **quiet}, check=True, capture_output=True)
        if "ref" in given:
            asked = ["git", "-C", str(place), "rev-parse", "HEAD"]
            found = subprocess.run(asked, check=True, capture_output=True, text=True)
            assert found.stdout.strip() == given["ref"]
