"""`gh api` as far as the templates call it, on a folder: stands in for GitHub's side.

The folder holds `pulls.json`, `comments.json` and the artifacts' archives; `calls.jsonl` gets each call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def main(arguments: list[str]) -> None:
    state = Path(os.environ["GH_STATE"])
    assert arguments.pop(0) == "api"
    method, jq, fields, path = "", None, {}, ""
    while arguments:
        word = arguments.pop(0)
        if word == "--method":
            method = arguments.pop(0)
        elif word == "--jq":
            jq = arguments.pop(0)
        elif word in ("-f", "-F"):
            name, _, value = arguments.pop(0).partition("=")
            fields[name] = Path(value[1:]).read_text() if word == "-F" and value.startswith("@") else value
        elif word != "--paginate":
            path = word
    with (state / "calls.jsonl").open("a") as log:
        log.write(json.dumps([method or "GET", path, {n: v[:200] for n, v in fields.items()}]) + "\n")
    if path.endswith("/zip"):
        sys.stdout.buffer.write((state / "dem-ci.zip").read_bytes())
        return
    answer = answered(state, method or "GET", path, fields)
    if jq is not None:
        done = subprocess.run(
            ["jq", "-r", jq], input=json.dumps(answer), text=True, capture_output=True, check=True
        )
        sys.stdout.write(done.stdout)
    else:
        sys.stdout.write(json.dumps(answer))


def answered(state: Path, method: str, path: str, fields: dict[str, str]) -> object:
    """What GitHub would say."""
    comments = json.loads((state / "comments.json").read_text())
    if path.endswith("/pulls"):
        pulls = json.loads((state / "pulls.json").read_text())
        return [pull for pull in pulls if pull["label"] == fields["head"]]
    if path.endswith("/artifacts"):
        return {"artifacts": [{"id": 5, "name": "other"}, {"id": 6, "name": "dem-ci"}]}
    if path.endswith("/comments") and method == "GET":
        return comments
    user = {"login": "github-actions[bot]"}
    if method == "POST":
        comments.append({"id": 100 + len(comments), "user": user, "body": fields["body"]})
    else:
        assert method == "PATCH", method
        place = next(c for c in comments if str(c["id"]) == path.rpartition("/")[2])
        place["body"] = fields["body"]
    (state / "comments.json").write_text(json.dumps(comments))
    return {}


if __name__ == "__main__":
    main(sys.argv[1:])
