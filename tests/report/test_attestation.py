"""What is found of something that was withdrawn, and what is not taken for it, over made-up results."""

from __future__ import annotations

from pathlib import Path

import pytest

from dem_build.action import SourceFile, key_of
from dem_build.data.splits import Shared
from dem_build.digest import Blob, Output, of_bytes, tree_bytes
from dem_build.graph import Graph, build_graph
from dem_build.lock.lock import Lock, LockedBase
from dem_build.plan import preimage_of
from dem_build.recipe import load_recipe
from dem_build.report.attestation import entered, withdrawn_of
from dem_build.store import Record

FOLDERS = ("weights", "tokenizer")
HEAD = '[base]\nmodel = "base"\n[compose]\ndtype = "float32"\n'
ADD = '[datasets.add]\npath = "add.jsonl"\n'
COPY = '[datasets.copy]\npath = "copy.jsonl"\nomega = {}\n'
VECTOR = '[vectors.{0}]\nadapter = "./{0}"\nomega = 0.5\n'
HEAL = '[heal]\ndatasets = ["add"]\ntrain = { max_steps = 1 }\n'


def file(tag: str, content: str) -> SourceFile:
    return SourceFile(tag, of_bytes(content.encode()), Path(tag))


@pytest.fixture
def planned(tmp_path: Path):
    """The graph of a recipe."""
    (tmp_path / "base").mkdir()

    def make(*tables: str, **vectors: tuple[SourceFile, ...]) -> Graph:
        path = tmp_path / "recipe.toml"
        path.write_text("".join((HEAD, *tables)))
        recipe = load_recipe(path)
        rows = {name: (file("jsonl", f"rows of {name}"),) for name in recipe.sources}
        return build_graph(recipe, Lock(LockedBase("directory", ()), rows, {}, vectors))

    return make


def recorded(graph: Graph, **same: str) -> dict[str, Record]:
    """Made-up results: outputs are of what their keys hash, or of the text that is given for an action."""
    known: dict[str, dict[str, Output]] = {}
    records = {}
    for action in graph:
        document = preimage_of(action, known)
        text = same.get(action.name.replace(":", "_"), key_of(document))
        outputs = {}
        for name in action.kind.outputs:
            blob = Blob(of_bytes(f"{text} {name}".encode()), 1)
            files = {"model.safetensors": blob} if name in FOLDERS else None
            digest = of_bytes(tree_bytes(files)) if files else blob.digest
            outputs[name] = Output(digest, 1, files)
        known[action.name] = outputs
        records[action.name] = Record(key_of(document), action.kind.name, document, outputs, {})
    return records


def test_a_model_that_comes_out_as_it_was_is_no_find(planned):
    """It had ω = 0 in the model, say: what is healed has the same bytes, and follows from nothing of it."""
    before, after = planned(ADD, COPY.format(0.5), HEAL), planned(ADD, HEAL)
    one = withdrawn_of("copy", before, recorded(before, model_unhealed="the same").items(), None)
    assert entered([one], after, recorded(after, model_unhealed="the same")) == []


def test_a_published_model_that_was_made_with_it_is_found_as_a_vector_and_its_config_is_not(planned):
    graph = planned(ADD, COPY.format(0.5))
    records = recorded(graph)
    one = withdrawn_of("copy", graph, records.items(), None)
    [weights] = records["model"].outputs["weights"].files.values()
    published = (
        SourceFile("config.json", records["model"].outputs["config"].digest, Path("config.json")),
        SourceFile("model.safetensors", weights.digest, Path("model.safetensors")),
    )
    other = planned(ADD, VECTOR.format("old"), old=published)
    assert [(f.action, f.digest) for f in entered([one], other, recorded(other))] == [
        ("vector:old", weights.digest)
    ]


def test_two_adapters_of_one_config_are_not_taken_for_each_other(planned):
    config = file("adapter_config.json", "r = 4")
    one, two = (
        (config, file("adapter_model.safetensors", "of one")),
        (config, file("adapter_model.safetensors", "of two")),
    )
    before = planned(ADD, VECTOR.format("one"), VECTOR.format("two"), one=one, two=two)
    gone = withdrawn_of("one", before, recorded(before).items(), None)
    assert gone.files == (one[1].digest,)
    after = planned(ADD, VECTOR.format("two"), two=two)
    assert entered([gone], after, recorded(after)) == []
    again = planned(ADD, VECTOR.format("two"), two=one)
    assert [f.action for f in entered([gone], again, recorded(again))] == ["vector:two"]


def test_what_judges_a_search_is_part_of_what_it_finds(planned):
    probe = '[probes.chat]\npath = "chat.jsonl"\nmax_loss_increase = 0.1\n'
    before = planned(ADD, COPY.format('"tune"'), probe)
    gone = withdrawn_of("chat", before, recorded(before).items(), None)
    assert [f.action for f in entered([gone], before, recorded(before))] == ["data:chat"]
    after = planned(ADD, COPY.format('"tune"'))
    assert entered([gone], after, recorded(after)) == []


def test_prompts_that_other_data_trains_on_are_counted_in_every_split_of_what_is_withdrawn(planned):
    graph = planned(ADD, COPY.format(0.5))
    shared = [
        Shared("add", "train", "copy", "train", 5),
        Shared("copy", "test", "add", "train", 2),
        Shared("copy", "validation", "add", "train", 1),
        Shared("add", "test", "copy", "train", 9),  # which add judges by, and trains on nothing of
    ]
    assert withdrawn_of("copy", graph, recorded(graph).items(), shared).shared == {"add": 8}
