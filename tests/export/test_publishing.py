"""Uploads through the hub's own client to a hub on loopback: private, one commit, and only what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from hub_server import HubServer, serving
from huggingface_hub import ModelCard, constants

from dem_build.digest import canonical
from dem_build.errors import RemoteError, UsageError
from dem_build.export.hub_card import VectorFacts, finished, vector_card, without_folders
from dem_build.export.hub_upload import WROTE, upload
from dem_build.recipe.schema import Base, Dataset, DatasetPart, Recipe, Vector
from dem_build.report.results import Results

# The client sends large files in a way that its own HTTP library calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "org/tiny"
FILES: dict[str, Path | bytes] = {
    "README.md": b"---\ntags: [dem]\n---\n",
    "config.json": b"{}",
    "model-00001-of-00002.safetensors": b"first" * 100,
    "model-00002-of-00002.safetensors": b"second" * 100,
    "model.safetensors.index.json": b"{}",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub that this process's client asks, as a user who may write there."""
    with serving() as server:
        # What the environment says was read when the client was imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        files = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


def content(hub: HubServer, branch: str = "main") -> dict[str, bytes]:
    repository = hub.repositories["models", NAME]
    return repository.commits[repository.branches[branch]]


def wrote(files: dict[str, bytes]) -> bytes:
    return canonical(
        {"dem-files": 1, "files": {path: sha256(data).hexdigest() for path, data in files.items()}}
    )


def edit(hub: HubServer, files: dict[str, bytes]) -> None:
    """A commit of somebody else's, on a page of the hub."""
    hub.commit("models", NAME, content(hub) | files)


def send(files: dict[str, Path | bytes], *, revision: str | None = None, public: bool = False):
    return upload(files, NAME, "a message", revision=revision, public=public)


class TestUploads:
    def test_what_is_made_is_private_and_one_commit(self, hub):
        sent = send(FILES)
        assert (sent.private, sent.changed, sent.removed) == (True, True, ())
        assert hub.repositories["models", NAME].private
        assert hub.committed == [sorted([*FILES, WROTE])]
        assert content(hub) == FILES | {".gitattributes": b"", WROTE: wrote(FILES)}

    def test_again_nothing_is_sent(self, hub):
        first = send(FILES)
        hub.sent.clear()
        sent = send(FILES)
        assert (sent.changed, sent.commit) == (False, first.commit)
        assert (len(hub.committed), hub.sent) == (1, [])

    def test_after_an_upload_that_broke_off_only_the_rest_is_sent(self, hub):
        hub.lost_after = 1
        with pytest.raises(RemoteError, match="the hub does not take 'org/tiny'") as caught:
            send(FILES)
        assert "http" not in str(caught.value)  # the address of an upload is a signature
        assert hub.committed == []  # nobody loads half of a model
        there = dict(hub.uploaded)
        assert len(there) == 1
        hub.lost_after, hub.uploaded = None, dict(there)
        hub.sent.clear()
        send(FILES)
        assert len(hub.sent) == 1
        assert not set(hub.sent) & set(there)
        assert content(hub) == FILES | {".gitattributes": b"", WROTE: wrote(FILES)}

    def test_only_what_changed_is_in_the_next_commit_and_weights_of_another_layout_go(self, hub):
        send(FILES)
        whole = {k: v for k, v in FILES.items() if not k.startswith("model")} | {
            "model.safetensors": b"whole"
        }
        sent = send(whole)
        stale = sorted(FILES.keys() - whole.keys())
        assert list(sent.removed) == stale
        assert hub.committed[1] == sorted([*stale, "model.safetensors", WROTE])
        assert content(hub) == whole | {".gitattributes": b"", WROTE: wrote(whole)}

    def test_of_an_earlier_upload_goes_what_the_next_one_has_not_and_nobody_edited(self, hub):
        template = {
            "chat_template.jinja": b"{{ messages }}",
            "additional_chat_templates/rag.jinja": b"{{ x }}",
        }
        send(FILES | template | {"generation_config.json": b"{}", "tokenizer.model": b"t"})
        edit(hub, {"notes.md": b"mine", "generation_config.json": b'{"mine": 1}', "tokenizer.json": b"mine"})
        sent = send(FILES)
        assert list(sent.removed) == [
            "additional_chat_templates/rag.jinja",
            "chat_template.jinja",
            "tokenizer.model",
        ]
        assert sent.kept == ("generation_config.json",)
        mine = {"notes.md": b"mine", "generation_config.json": b'{"mine": 1}', "tokenizer.json": b"mine"}
        assert content(hub) == FILES | mine | {".gitattributes": b"", WROTE: wrote(FILES)}
        again = send(FILES)  # what was edited is not dem's any more
        assert (again.changed, again.removed, again.kept) == (False, (), ())

    @pytest.mark.parametrize("said", [b"", b"[]", b'{"files": 3}', b'{"files": {"notes.md": [1]}}', b"\xff"])
    def test_a_list_of_files_that_dem_did_not_write_takes_nothing_away(self, hub, said):
        send(FILES)
        edit(hub, {"notes.md": b"mine", WROTE: said})
        assert send(FILES).removed == ()
        assert content(hub)["notes.md"] == b"mine"

    def test_a_vector_takes_no_model_away_and_an_adapter_hides_none(self, hub):
        adapter = {"README.md": b"", "adapter_config.json": b"{}", "adapter_model.safetensors": b"a"}
        for first, second in ((FILES, adapter), (FILES, {"vector.safetensors": b"v"}), (adapter, FILES)):
            hub.repositories.clear()
            send(first)
            with pytest.raises(UsageError, match=r"'org/tiny' holds a.* beside it"):
                send(second)
            assert content(hub) == first | {".gitattributes": b"", WROTE: wrote(first)}
            send(first)

    def test_a_branch_is_made_and_main_is_left_alone(self, hub):
        send(FILES)
        send(FILES | {"config.json": b"[]"}, revision="next")
        assert content(hub)["config.json"] == b"{}"
        assert content(hub, "next")["config.json"] == b"[]"

    def test_what_everybody_reads_is_not_written_unless_that_was_said(self, hub):
        assert not send(FILES, public=True).private
        with pytest.raises(UsageError, match="everybody can read the repository 'org/tiny'"):
            send(FILES | {"config.json": b"[]"})
        assert len(hub.committed) == 1
        assert not send(FILES | {"config.json": b"[]"}, public=True).private

    def test_a_card_that_the_hub_refuses_is_told_before_a_byte_is_sent(self, hub):
        hub.refused = '"license" must be one of these'
        with pytest.raises(RemoteError, match=r'Invalid metadata in README\.md\. - "license" must be'):
            send(FILES)
        assert (hub.uploaded, hub.committed) == ({}, [])

    @pytest.mark.usefixtures("hub")
    def test_who_may_not_write_is_told_what_to_do_and_no_token(self, monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_another")
        with pytest.raises(UsageError, match="does not let you write") as caught:
            send(FILES)
        assert "hf_another" not in str(caught.value)
        for name in ("no such name", "tiny"):
            with pytest.raises(UsageError, match="is no name of a repository"):
                upload(FILES, name, "m", revision=None, public=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UsageError, match="this call is offline"):
            send(FILES)


class TestCards:
    def test_the_model_index_is_what_was_measured_and_the_client_reads_it(self):
        table = {
            "composed": {
                "loss:add": {"loss": 1.5, "loss_stderr": 0.1, "tokens": 7.0, "rows": 3.0},
                "arc_easy": {"acc": 1e-05, "acc_stderr": 0.1, "odd": float("nan")},
            },
            "base": {"loss:add": {"loss": 2.0}},
        }
        text = finished("# A card\n", "tiny", "org/base", Results(table=table, datasets=("add",)), "composed")
        data = ModelCard(text).data
        found = {(r.dataset_name, r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
        assert found == {("add", "test", "loss"): 1.5, ("arc_easy", None, "acc"): 1e-05}
        assert (data.model_name, data.base_model) == ("tiny", "org/base")
        assert text.endswith("# A card\n")

    def test_nothing_measured_is_no_index_and_a_local_base_is_not_named(self):
        data = ModelCard(finished("---\nbase_model: base\n---\nx", "tiny", None, Results(), "composed")).data
        assert (data.eval_results, data.base_model) == (None, None)

    def test_files_of_the_builder_are_their_names(self):
        recipe = Recipe(
            name="tiny",
            base=Base(model="base"),
            datasets={
                "a": Dataset(path="../someone/rows.jsonl"),
                "b": Dataset(hub="org/rows"),
                "many": Dataset(
                    parts=(DatasetPart(path="/home/someone/*.jsonl"), DatasetPart(hub="org/more"))
                ),
            },
            vectors={"c": Vector(checkpoint="/home/someone/tuned"), "d": Vector(adapter="org/lora")},
        )
        plain = without_folders(recipe)
        assert (plain.datasets["a"].path, plain.datasets["b"].hub) == ("rows.jsonl", "org/rows")
        assert [part.path or part.hub for part in plain.datasets["many"].parts] == ["*.jsonl", "org/more"]
        assert [v.origin for v in plain.vectors.values()] == ["tuned", "org/lora"]

    @pytest.mark.parametrize("adapter", [True, False])
    def test_a_vector_says_what_it_is_of_and_how_it_is_loaded(self, adapter):
        provenance = {"dtype": "bfloat16", "norm": 2.5}
        facts = VectorFacts("vector:add", "tiny", "org/base", "b" * 64, "c" * 64, adapter, provenance)
        text = finished(vector_card(facts), "tiny", "org/base", Results(), "add")
        card = ModelCard(text)
        assert card.data.library_name == ("peft" if adapter else None)
        assert card.data.base_model == "org/base"
        for said in (
            "`org/base`",
            "b" * 64,
            "c" * 64,
            "2.5",
            "PeftModel" if adapter else "`vector.safetensors`",
        ):
            assert said in card.text
