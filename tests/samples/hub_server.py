"""A small hub on loopback, for the real client: `HF_ENDPOINT` points to it.

It knows what `commit` gave it, as a git host would: repositories of models and datasets, branches, commits and files,
and says each file's size and digest as the hub's API does. Large files (`LFS`) are named by their SHA-256, others by
their git blob.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

__all__ = ["HubServer", "Repository", "serving"]

LFS = ("*.safetensors", "*.parquet", "*.arrow", "*.bin", "*.gguf", "*.zip")
API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|preupload|commit|branch)/([^/]+)(?:/(.*))?)?"
)
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """One repository: what its branches and tags name, and the files of each commit.

    Attributes:
        gated: Its files, and not its name, need the server's token.
        private: All of it needs the server's token.
    """

    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def at(self, revision: str) -> str | None:
        """Return the commit that a branch, a tag or a commit stands for."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class HubServer:
    """What the server serves, and what it was asked for.

    Attributes:
        endpoint: What `HF_ENDPOINT` must be.
        asked: `METHOD /path` of every request for a repository, in order.
        uploaded: SHA-256 → content of the large files that are here.
        sent: SHA-256 of those that were sent, in order.
        committed: The paths that each commit of a client touched.
        refused: What is wrong with a card, as the hub would say of its metadata; None where nothing is.
        lost_after: So many more large files are taken, and then none; None for all.
        token: The only token that opens what is gated or private.
        repositories: (`models` or `datasets`, `org/name`) → what is there.
    """

    endpoint: str = ""
    asked: list[str] = field(default_factory=list)
    token: str = "hf_a_token_of_the_test"
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)
    committed: list[list[str]] = field(default_factory=list)
    refused: str | None = None
    lost_after: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def commit(self, kind: str, name: str, files: Path | Mapping[str, bytes], revision: str = "main") -> str:
        """Make a commit of exactly these files, and let a branch or tag name it.

        Args:
            kind: `models` or `datasets`.
            name: `org/name`.
            files: A folder, or path → content.
            revision: The branch or tag.

        Returns:
            The commit: as in git, 40 hexadecimal digits.
        """
        content = _read(files) if isinstance(files, Path) else dict(files)
        repository = self.repositories.setdefault((kind, name), Repository())
        names = [(path, _blob(data)) for path, data in sorted(content.items())]
        commit = hashlib.sha1(json.dumps([len(repository.commits), names]).encode()).hexdigest()
        repository.commits[commit] = content
        repository.branches[revision] = commit
        return commit

    def downloads(self) -> list[str]:
        """Return the paths of the files that were fetched, in order."""
        fetched = (RESOLVE.fullmatch(line.removeprefix("GET ")) for line in self.asked)
        return [found[4] for found in fetched if found]


@contextmanager
def serving() -> Iterator[HubServer]:
    """Serve an empty hub while the block runs."""
    hub = HubServer()

    class Bound(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: HubServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        # Not decoded yet: a revision may hold a slash, which only its encoding tells from the path's own.
        raw = urlsplit(self.path).path
        if API.fullmatch(raw) or RESOLVE.fullmatch(raw):
            self.served.asked.append(f"{self.command} {unquote(raw)}")
        if found := API.fullmatch(raw):
            self._api(*(unquote(g) if g else "" for g in found.groups()))
        elif found := RESOLVE.fullmatch(raw):
            dataset, name, revision, file = (unquote(g) if g else "" for g in found.groups())
            self._file("datasets" if dataset else "models", name, revision, file)
        elif raw.endswith(".git/info/lfs/objects/batch"):
            self._batch()
        elif raw == "/api/repos/create":
            self._create()
        elif raw == "/api/validate-yaml":
            self._validate()
        else:
            self._fail(404, "")  # the client's own business, such as news of its version

    def _api(self, kind: str, name: str, verb: str, revision: str, under: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        commit = repository.at(revision or "main")
        if verb == "branch":
            self._branch(revision, repository)
        elif commit is None:
            self._fail(404, "RevisionNotFound")
        elif verb == "tree":
            self._json(_tree(repository.commits[commit], under, recursive="recursive" in self.path))
        elif verb == "paths-info":
            self._json(_named(repository.commits[commit], self._form().get("paths", [])))
        elif verb == "preupload":
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if _is_large(f["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": _oid(f["path"], repository.commits[commit]),
                }
                for f in self._form()["files"]
            ]
            self._json({"files": modes})
        elif verb == "commit":
            self._commit(kind, name, revision, repository)
        else:
            self._json(_info(name, commit, repository))

    def _commit(self, kind: str, name: str, revision: str, repository: Repository) -> None:
        """Apply the client's lines, unless they follow a commit that is no longer the last."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        head, *lines = (json.loads(line) for line in body.splitlines() if line)
        with self.served.lock:
            last = repository.branches[revision]
            if head["value"].get("parentCommit", last) != last:
                self._fail(412, "")
                return
            files = dict(repository.commits[last])
            for line in lines:
                path = line["value"]["path"]
                if line["key"] == "file":
                    files[path] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    files[path] = self.served.uploaded[line["value"]["oid"]]
                else:
                    files.pop(path)
            commit = self.served.commit(kind, name, files, revision)
            self.served.committed.append(sorted(line["value"]["path"] for line in lines))
        url = f"{self.served.endpoint}/{name}/commit/{commit}"
        self._json({"commitOid": commit, "commitUrl": url, "success": True})

    def _batch(self) -> None:
        """Say where the client sends large files that are not here."""
        objects = [
            o
            if o["oid"] in self.served.uploaded
            else o | {"actions": {"upload": {"href": f"{self.served.endpoint}/upload/{o['oid']}"}}}
            for o in self._form()["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def _create(self) -> None:
        """Make a repository with an empty first commit, as the hub does."""
        asked = self._form()
        kind, name = asked.get("type", "model") + "s", f"{asked['organization']}/{asked['name']}"
        if not self._trusted():
            self._fail(401, "")
        elif (kind, name) in self.served.repositories:
            self._fail(409, "")
        else:
            self.served.commit(kind, name, {".gitattributes": b""})
            self.served.repositories[kind, name].private = asked.get("visibility") != "public"
            self._json({"url": f"{self.served.endpoint}/{name}"})

    def _branch(self, name: str, repository: Repository) -> None:
        if name in repository.branches:
            self._fail(409, "")
        else:
            repository.branches[name] = repository.branches["main"]
            self._json({})

    def _validate(self) -> None:
        """Say what `refused` says, in the words of the hub."""
        self._form()
        errors = [{"message": self.served.refused}] if self.served.refused else []
        body = json.dumps({"errors": errors, "warnings": [], "error": "invalid"}).encode()
        self._send(400 if errors else 200, body, {"Content-Type": "application/json"})

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        with self.served.lock:
            left = self.served.lost_after
            self.served.lost_after = left if left is None else max(left - 1, 0)
        if left == 0:
            self._fail(403, "")
            return
        self.served.sent.append(_sha256(data))
        self.served.uploaded[_sha256(data)] = data
        self._send(200, b"", {})

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return
        commit = repository.at(revision)
        if repository.gated and not self._trusted():
            self._fail(401, "GatedRepo")
        elif commit is None:
            self._fail(404, "RevisionNotFound")
        elif path not in repository.commits[commit]:
            self._fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
        else:
            self._content(path, repository.commits[commit][path], commit)

    def _content(self, path: str, data: bytes, commit: str) -> None:
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_blob(data)}"', "Accept-Ranges": "bytes"}
        if _is_large(path):
            headers |= {"X-Linked-ETag": f'"{_sha256(data)}"', "X-Linked-Size": str(len(data))}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self._send(200, data, headers)
            return
        start, end = int(asked[1]), int(asked[2] or len(data) - 1)
        if start >= len(data):
            self._send(416, b"", headers)
            return
        part = data[start : end + 1]
        self._send(206, part, headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def _repository(self, kind: str, name: str) -> Repository | None:
        repository = self.served.repositories.get((kind, name))
        if repository is None or (repository.private and not self._trusted()):
            # The hub does not tell a stranger whether a private repository is there.
            self._fail(401 if not self._trusted() else 404, "RepoNotFound")
            return None
        return repository

    def _trusted(self) -> bool:
        return self.headers.get("Authorization", "") == f"Bearer {self.served.token}"

    def _form(self) -> dict[str, Any]:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if "json" in self.headers.get("Content-Type", ""):
            return dict(json.loads(body))
        return parse_qs(body.decode())

    def _fail(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, b'{"error": "no"}', {"X-Error-Code": code, **(headers or {})})

    def _json(self, document: object) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _info(name: str, commit: str, repository: Repository) -> dict[str, Any]:
    files = repository.commits[commit]
    siblings = [{"rfilename": e["path"], "blobId": e["oid"], **_more(e)} for e in _entries(files)]
    return {
        "id": name,
        "sha": commit,
        "private": repository.private,
        "gated": "auto" if repository.gated else False,
        "tags": [],
        "siblings": siblings,
    }


def _more(entry: Mapping[str, Any]) -> dict[str, Any]:
    lfs = entry.get("lfs")
    large = {"lfs": {"sha256": lfs["oid"], "size": lfs["size"], "pointerSize": 130}} if lfs else {}
    return {"size": entry["size"], **large}


def _tree(files: Mapping[str, bytes], under: str, *, recursive: bool) -> list[dict[str, Any]]:
    inside = {path: data for path, data in files.items() if not under or path.startswith(f"{under}/")}
    depth = under.count("/") + 2 if under else 1
    listed = {path: data for path, data in inside.items() if recursive or path.count("/") < depth}
    folders = {"/".join(path.split("/")[:n]) for path in inside for n in range(depth, path.count("/") + 1)}
    kept = sorted(f for f in folders if recursive or f.count("/") < depth)
    return [*({"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in kept), *_entries(listed)]


def _named(files: Mapping[str, bytes], paths: list[str]) -> list[dict[str, Any]]:
    found = _entries({path: files[path] for path in paths if path in files})
    folders = [p for p in paths if p not in files and any(f.startswith(f"{p}/") for f in files)]
    return [*({"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders), *found]


def _entries(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    return [_entry(path, data) for path, data in sorted(files.items())]


def _entry(path: str, data: bytes) -> dict[str, Any]:
    last = {
        "id": "0" * 40,
        "title": "a commit",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
    }
    entry = {"type": "file", "path": path, "size": len(data), "oid": _blob(data), "lastCommit": last}
    large = {"lfs": {"oid": _sha256(data), "size": len(data), "pointerSize": 130}}
    return entry | large if _is_large(path) else entry


def _read(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def _is_large(path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in LFS)


def _oid(path: str, files: Mapping[str, bytes]) -> str | None:
    """What the client compares a file with before it sends it: the name of the content that is there."""
    if path not in files:
        return None
    return _sha256(files[path]) if _is_large(path) else _blob(files[path])


def _blob(data: bytes) -> str:
    """Return git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
