"""What a stranger's recipe may read and take: each way out of the repository is refused, by harmless inputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from git_samples import Repo

from dem_build.cli.app import run
from dem_build.errors import RecipeError
from dem_build.lock import lock
from dem_build.lock.absent import Absent
from dem_build.lock.task_index import builtin_folder
from dem_build.recipe import load_recipe
from dem_build.review.policy import ReviewPolicy, Untrusted, read_policy
from dem_build.store import Hints

SECRET = '{"text": "what nobody shall see"}\n'
HEAD = '[base]\nmodel = "base"\n\n[datasets.a]\npath = "{}"\nomega = 1.0\n'
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def lock_of(path: str, digest: str = EMPTY) -> str:
    """A lock of a base and a dataset, whose files need not be here."""
    base = [
        {"tag": tag, "path": f"base/{tag}", "sha256": EMPTY}
        for tag in ("config.json", "model.safetensors", "tokenizer.json")
    ]
    files = [{"tag": "jsonl", "path": path, "sha256": digest}]
    return json.dumps(
        {"dem_lock": 1, "base": {"source": "directory", "files": base}, "datasets": {"a": {"files": files}},
         "tasks": {}}
    )  # fmt: skip


class Pull:
    """A repository with a recipe, and a branch that changes it."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "secret.jsonl").write_text(SECRET)
        self.repo = Repo(folder / "repo")
        self.repo.write(r_toml=HEAD.format("rows.jsonl"), r_lock=lock_of("rows.jsonl"), rows_jsonl="")
        self._capsys = capsys
        monkeypatch.chdir(self.repo.root)
        monkeypatch.setenv("HOME", str(self.outside))
        monkeypatch.setenv("DEM_HINTS", str(folder / "hints"))
        monkeypatch.setenv("DEM_CACHE", str(folder / "cache"))
        for name in ("GITHUB_EVENT_PATH", "DEM_MACHINE", "DEM_REMOTE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        # What keeps tokens from the hub's client is undone with the rest.
        for name in ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "HF_TOKEN_PATH"):
            monkeypatch.setenv(name, "")

    def policy(self, text: str) -> None:
        self.repo.put("dem-ci.toml", text)

    def review(self, *options: str, status: int = 2) -> str:
        self.repo.commit("the head")
        assert run(["ci", "--base", "main", "--json", "--no-train", *options]) == status
        said = self._capsys.readouterr()
        assert "what nobody shall see" not in said.out + said.err
        (recipe,) = json.loads(said.out)["recipes"]
        mistakes = (recipe["trouble"] or {"mistakes": []})["mistakes"]
        return "\n".join(f"{m['file']}:{m['line']}: {m['key']}: {m['what']}" for m in mistakes)


@pytest.fixture
def pull(tmp_path, monkeypatch, capsys):
    made = Pull(tmp_path, monkeypatch, capsys)

    def start(policy: str = "") -> Pull:
        if policy:
            made.policy(policy)
        made.repo.commit("the base")
        made.repo.git("checkout", "-q", "-b", "head")
        return made

    return start


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("~/secret.jsonl", "in somebody's home folder"),
        ("~root/secret.jsonl", "in somebody's home folder"),
        ("/etc/hostname", "an absolute path"),
        ("../outside/secret.jsonl", "leads out of the repository"),
        ("x/../../outside/*.jsonl", "leads out of the repository"),
        (".git/config", "git's own"),
        ("x/../.GIT/config", "git's own"),
    ],
)
@pytest.mark.parametrize("key", ["path", "test"])
def test_a_path_that_leads_out_is_refused_as_it_is_written(pull, path, what, key):
    made = pull()
    text = HEAD.format(path) if key == "path" else HEAD.format("rows.jsonl") + f'test = "{path}"\n'
    made.repo.write(r_toml=text, r_lock=lock_of(path))
    said = made.review("--untrusted")
    assert said.startswith(f"r.toml:{5 if key == 'path' else 7}: datasets.a.{key}: `{path}` ")
    assert said.endswith(what)


@pytest.mark.parametrize("key", ["base", "chat_template", "adapter", "probe", "part"])
def test_so_is_every_other_path_of_a_recipe(pull, key):
    made = pull()
    changes = {
        "base": lambda t: t.replace('"base"', '"../outside"'),
        "chat_template": lambda t: t.replace('"base"\n', '"base"\nchat_template = "../outside/t.jinja"\n'),
        "adapter": lambda t: t + '[vectors.v]\nadapter = "../outside/v"\nomega = 1.0\n',
        "probe": lambda t: t + '[probes.p]\npath = "../outside/secret.jsonl"\n',
        "part": lambda t: t + '[datasets.p]\n[[datasets.p.parts]]\npath = "../outside/secret.jsonl"\n',
    }
    made.repo.write(r_toml=changes[key](HEAD.format("rows.jsonl")))
    assert "leads out of the repository" in made.review("--untrusted")


def test_a_link_that_leads_out_is_refused(pull):
    made = pull()
    (made.repo.root / "rows.jsonl").unlink()
    (made.repo.root / "rows.jsonl").symlink_to(made.outside / "secret.jsonl")
    made.repo.write(
        r_toml=HEAD.format("rows.jsonl") + "# another\n",
        r_lock=lock_of("rows.jsonl", "0" * 64),
    )
    assert "is a link that leads out of the repository" in made.review("--untrusted")


def test_so_is_one_that_a_folder_on_the_way_is(pull):
    made = pull()
    (made.repo.root / "data").symlink_to(made.outside)
    made.repo.write(r_toml=HEAD.format("data/secret.jsonl"), r_lock=lock_of("data/secret.jsonl", "0" * 64))
    assert "is a link that leads out of the repository" in made.review("--untrusted")


def test_a_lock_names_files_too(pull):
    """The recipe is as it was, but for a pattern: its lock has a file elsewhere for it."""
    made = pull()
    made.repo.write(r_toml=HEAD.format("*.jsonl"), r_lock=lock_of("../outside/secret.jsonl"))
    made.repo.commit("the head")
    said = made.review("--untrusted", status=4)  # the recipe does not name that file, so it is no lock of it
    assert said == ""


def test_a_file_that_git_does_not_have_is_refused(pull):
    """Earlier steps of a job may have left credentials in the workspace."""
    made = pull()
    made.repo.put(".gitignore", "creds.jsonl\n")
    (made.repo.root / "creds.jsonl").write_text(SECRET)
    made.repo.write(r_toml=HEAD.format("creds.jsonl"), r_lock=lock_of("creds.jsonl", "0" * 64))
    assert "is no file that git has at this revision" in made.review("--untrusted")


def test_a_name_on_a_hub_is_on_the_base_revisions_list(pull):
    made = pull('[untrusted]\nhub = ["ours/rows", "team/*"]\n')
    made.policy('[untrusted]\nhub = ["theirs/*"]\n')  # what the head says of it counts for nothing
    data = '[base]\nmodel = "{}"\n[datasets.a]\nhub = "{}"\nmax_samples = 5\nomega = 1.0\n'
    made.repo.write(r_toml=data.format("theirs/model", "theirs/rows"))
    said = made.review("--untrusted")
    assert "base.model: `theirs/model` on the hub is on no list of the base revision" in said
    assert "datasets.a.hub: `theirs/rows`" in said
    part = '[datasets.b]\n[[datasets.b.parts]]\nhub = "theirs/rows"\n'
    made.repo.write(r_toml=data.format("team/model", "ours/rows") + part)
    assert "datasets.b.parts[0].hub: `theirs/rows`" in made.review("--untrusted")
    made.repo.write(r_toml=data.format("team/model", "ours/rows"))
    assert made.review("--untrusted", status=4) == ""  # goes on to the lock, which tells of neither


def test_local_task_files_are_refused_and_trusting_them_too(pull, capsys):
    made = pull()
    made.repo.write(r_toml=HEAD.format("rows.jsonl") + '[evaluate]\ninclude_path = "tasks"\ntasks = ["t"]\n')
    assert "evaluate.include_path: names task files, which are code" in made.review("--untrusted")
    assert run(["ci", "--base", "main", "--untrusted", "--trust-tasks"]) == 2
    assert "--trust-tasks runs code" in capsys.readouterr().err


TASK = '\n[evaluate]\ntasks = ["{}"]\n'


def lock_of_task(name: str, tag: str, path: str, **says: object) -> str:
    """A lock that says of a task that lm-eval brings it, whatever its file is."""
    lock = json.loads(lock_of("rows.jsonl"))
    files = [{"tag": f"task:{tag}", "path": path, "sha256": EMPTY}]
    lock["tasks"][name] = {"lm_eval": "0.4.13", "local": False, **says, "files": files}
    return json.dumps(lock)


@pytest.mark.parametrize(
    "tag", ["local/t.yaml", "builtin/../../../t.yaml", "local/builtin/t.yaml", "absolute/t"]
)
def test_that_task_files_are_no_code_is_not_taken_on_a_locks_word(pull, tag):
    """A lock is a stranger's, too: what it calls lm-eval's and is not would run with all that it calls."""
    made = pull()
    made.repo.write(
        t_yaml="task: t\n",
        r_toml=HEAD.format("rows.jsonl") + TASK.format("t"),
        r_lock=lock_of_task("t", tag, "t.yaml"),
    )
    assert made.review("--untrusted", status=4) == ""
    assert made.review(status=4) == ""


def test_a_task_of_lm_evals_is_read_where_lm_eval_is_whatever_a_lock_says(pull):
    made = pull()
    made.repo.write(
        t_yaml="task: t\nprocess_docs: !function t.f\n",
        r_toml=HEAD.format("rows.jsonl") + TASK.format("t"),
        r_lock=lock_of_task("t", "builtin/t.yaml", "t.yaml"),
    )
    made.repo.commit("the head")
    recipe, document = load_recipe(Path("r.toml")), lock.read(Path("r.lock"))
    located = lock.locate(recipe, Absent(document, recipe.folder, alone=True))
    task = lock.resolve(located, Hints(), document).tasks["t"]
    assert [source.path for source in task.files] == [builtin_folder() / "t.yaml"]


def test_a_task_reads_what_lm_eval_says_and_not_what_a_lock_says(pull):
    made = pull('[untrusted]\nhub = ["ours/rows"]\n')
    for said in ({}, {"dataset": "ours/rows", "dataset_revision": "0" * 40}):
        made.repo.write(
            r_toml=HEAD.format("rows.jsonl") + TASK.format("arc_easy"),
            r_lock=lock_of_task("arc_easy", "builtin/arc/arc_easy.yaml", "arc_easy.yaml", **said),
        )
        assert "evaluate.tasks: `allenai/ai2_arc` on the hub is on no list" in made.review("--untrusted")


@pytest.mark.parametrize("kind", ["new", "changed", "link"])
def test_a_machine_file_of_the_head_is_refused(pull, kind):
    made = pull()
    if kind != "new":
        made.repo.git("checkout", "-q", "main")
        made.repo.write(machine_toml="jobs = 1\n")
        made.repo.commit("a machine file")
        made.repo.git("checkout", "-q", "-B", "head", "main")
    if kind == "link":
        (made.outside / "machine.toml").write_text("jobs = 1\n")
        (made.repo.root / "machine.toml").unlink()
        (made.repo.root / "machine.toml").symlink_to(made.outside / "machine.toml")
    else:
        made.repo.write(machine_toml='cache = "/tmp/theirs"\n')
    made.repo.write(r_toml=HEAD.format("rows.jsonl") + "# another\n")
    assert "machine.toml:0: : is not what the base revision has" in made.review("--untrusted")


def test_the_machine_file_of_the_base_revision_is_read(pull):
    made = pull()
    made.repo.git("checkout", "-q", "main")
    made.repo.write(machine_toml="jobs = 1\n")
    made.repo.commit("a machine file")
    made.repo.git("checkout", "-q", "-B", "head", "main")
    made.repo.write(r_toml=HEAD.format("rows.jsonl") + "# another\n")
    assert made.review("--untrusted", status=0) == ""


def test_a_cache_of_the_head_is_refused(pull, monkeypatch):
    """Its records would be believed."""
    monkeypatch.delenv("DEM_CACHE")
    made = pull()
    made.repo.put("cache/actions/ab/key.json", "{}")
    made.repo.write(r_toml=HEAD.format("rows.jsonl") + "# another\n")
    monkeypatch.delenv("DEM_CACHE", raising=False)
    assert "the cache is part of the head" in made.review("--untrusted")


@pytest.mark.parametrize(
    ("policy", "train", "what"),
    [
        ("max_rows = 1", "", "2 rows, and at most 1"),
        ("max_steps = 3", "max_steps = 4", "4 steps, and at most 3"),
        ("max_tokens = 100", "max_steps = 4\nmax_length = 16", "2,048 tokens, and at most 100"),
        ("max_disk = 1", "max_steps = 1", "of disk, and at most 1 B"),
        ("max_steps = 3", "num_train_epochs = 900.0\nglobal_batch_size = 1", "1,800 steps, and at most 3"),
        # A mixture is as long as the trainings of all datasets together.
        (
            "max_steps = 30",
            'max_steps = 1\n[datasets.a.train]\nmax_steps = 20\n[baselines.m]\nmethod = "mixing"',
            "40 steps, and at most 30",
        ),
        (
            "max_steps = 30",
            'max_steps = 1\n[trunk]\ndatasets = ["a"]\ntrain = { max_steps = 20 }\n[heal]\ntrain = { max_steps = 15 }',
            "36 steps, and at most 30",
        ),
    ],
)
def test_what_is_due_is_bounded(pull, capsys, policy, train, what):
    made = pull(f"[untrusted]\n{policy}\n")
    (made.repo.root / "base").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (made.repo.root / "base" / name).write_text("x")
    made.repo.write(rows_jsonl='{"text": "a"}\n', r_toml=HEAD.format("rows.jsonl") + f"[train]\n{train}\n")
    from dem_build.digest import of_bytes

    rows, weights = of_bytes(b'{"text": "a"}\n'), of_bytes(b"x")
    lock = json.loads(lock_of("rows.jsonl"))
    lock["datasets"]["a"]["files"][0]["sha256"] = rows
    for file in lock["base"]["files"]:
        file["sha256"] = weights
    made.repo.write(r_lock=json.dumps(lock))
    made.repo.commit("the head")
    assert run(["ci", "--base", "main", "--json", "--untrusted"]) == 2
    (recipe,) = json.loads(capsys.readouterr().out)["recipes"]
    assert what in recipe["trouble"]["mistakes"][0]["what"]


def test_trusted_recipes_are_not_bounded_so(pull):
    made = pull()
    made.repo.write(r_toml=HEAD.format("~/secret.jsonl"), r_lock=lock_of("~/secret.jsonl"))
    assert "somebody's" not in made.review(status=4)


@pytest.mark.parametrize(
    ("event", "untrusted"),
    [
        (None, False),
        (
            {
                "pull_request": {
                    "head": {"repo": {"full_name": "a/x"}},
                    "base": {"repo": {"full_name": "a/x"}},
                }
            },
            False,
        ),
        (
            {
                "pull_request": {
                    "head": {"repo": {"full_name": "b/x"}},
                    "base": {"repo": {"full_name": "a/x"}},
                }
            },
            True,
        ),
        (
            {"pull_request": {"head": {"repo": None}, "base": {"repo": {"full_name": "a/x"}}}},
            True,
        ),  # the fork is gone
        ({"pull_request": {}}, True),
        ({"push": {}}, False),
        (
            {"workflow_run": {"head_repository": {"full_name": "b/x"}}, "repository": {"full_name": "a/x"}},
            True,
        ),
        (
            {"workflow_run": {"head_repository": {"full_name": "a/x"}}, "repository": {"full_name": "a/x"}},
            False,
        ),
        ([], True),
        ("not JSON", True),
    ],
)
def test_a_forks_pull_request_is_a_strangers_whatever_the_call_says(
    pull, tmp_path, monkeypatch, event, untrusted
):
    made = pull()
    made.repo.write(r_toml=HEAD.format("~/secret.jsonl"), r_lock=lock_of("~/secret.jsonl"))
    if event is not None:
        place = tmp_path / "event.json"
        place.write_text(event if isinstance(event, str) else json.dumps(event))
        monkeypatch.setenv("GITHUB_EVENT_PATH", str(place))
    said = made.review(status=2 if untrusted else 4)
    assert ("somebody's home folder" in said) is untrusted


def test_the_hub_is_asked_as_nobody(pull, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    made = pull()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    made.repo.write(r_toml=HEAD.format("rows.jsonl") + "# another\n")
    made.review("--untrusted", status=0)
    from huggingface_hub.utils import build_hf_headers, get_token

    assert "HF_TOKEN" not in os.environ
    assert get_token() is None or "authorization" not in build_hf_headers()
    assert os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[untrusted]\nhub = ['x']\n", "must be `org/name`"),
        ("[untrusted]\nhub = ['*/*']\n", "must be `org/name`"),
        ("[untrusted]\nmax_rows = -1\n", "max_rows"),
        ("[untrusted]\nmax_row = 1\n", "max_row"),
        ("hub = 1\n", "hub"),
        ("[[untrusted", "is not TOML"),
    ],
)
def test_a_policy_with_a_mistake_is_refused(text, what):
    with pytest.raises(RecipeError, match=r"dem-ci\.toml") as error:
        read_policy(text.encode())
    assert what in str(error.value)


def test_without_a_policy_no_name_on_a_hub_is_allowed():
    assert read_policy(None) == ReviewPolicy()
    assert not Untrusted().allows("org/name")
    assert Untrusted(hub=("org/*",)).allows("org/name")
    assert not Untrusted(hub=("org/*",)).allows("organisation/name")


@pytest.mark.parametrize("what", ["no lock", "a mistake", "a stale lock"])
def test_what_was_wrong_before_and_is_not_touched_is_not_the_pull_requests(pull, what):
    made = pull()
    made.repo.git("checkout", "-q", "main")
    changes = {
        "no lock": {"r_lock": None},
        "a mistake": {"r_toml": HEAD.format("rows.jsonl") + "steps = 1\n"},
        "a stale lock": {"rows_jsonl": '{"text": "a"}\n'},
    }
    made.repo.write(**changes[what])
    made.repo.commit("wrong")
    made.repo.git("checkout", "-q", "-B", "head", "main")
    made.repo.write(notes_txt="something else")
    assert made.review(status=0) == ""
    if what == "a stale lock":
        made.repo.write(
            rows_jsonl='{"text": "b"}\n'
        )  # it is stale in another way now, which the head made it
        assert made.review(status=4) == ""


def test_data_that_changed_without_the_lock_are_the_pull_requests(pull):
    made = pull()
    made.repo.write(rows_jsonl='{"text": "a"}\n')
    assert made.review(status=4) == ""
