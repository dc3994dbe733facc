"""What `[base]` gives the base before any vector exists, from the recipe to the model that is published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from project import Project, fresh, ran
from transformers import AutoModelForCausalLM, AutoTokenizer

TEMPLATE = (
    "{% for m in messages %}<tool>{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<tool>assistant: {% endif %}"
)
RECIPE = """\
[base]
model = "base"
chat_template = "chat.jinja"
pad_token = "<fill>"
added_tokens = ["<fill>", "<tool>"]

[train]
max_steps = 2
global_batch_size = 4
max_length = 96

[datasets.add]
path = "data/add.jsonl"
omega = 1.0

[datasets.copy]
path = "data/copy.jsonl"
omega = 1.0
chat = false
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> tuple[Project, dict[str, object]]:
    project = fresh(tmp_path_factory.mktemp("prepared"), tiny_base)
    (project.home / "chat.jinja").write_text(TEMPLATE)
    return project, project.build(RECIPE)


def due(project: Project) -> list[str]:
    plan = json.loads(project.call("plan", "tiny.toml", "--json").stdout)
    return [a["name"] for a in plan["actions"] if a["status"] == "run"]


def test_the_published_model_carries_template_padding_and_tokens(built) -> None:
    _, first = built
    tokenizer = AutoTokenizer.from_pretrained(first["model"])
    model = AutoModelForCausalLM.from_pretrained(first["model"])
    written = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert written == "<tool>user: hi</s>"
    assert tokenizer.convert_tokens_to_ids(["<fill>", "<tool>"]) == [259, 260]
    assert (tokenizer.pad_token, model.config.pad_token_id, model.config.vocab_size) == ("<fill>", 259, 261)
    assert model.generation_config.pad_token_id == 259
    assert model.get_input_embeddings().weight.shape == (261, 64)


def test_a_template_that_is_moved_runs_nothing_and_one_that_says_more_is_imported_again(built) -> None:
    project, _ = built
    (project.home / "other.jinja").write_text(TEMPLATE)
    project.write(RECIPE.replace("chat.jinja", "other.jinja"))
    assert due(project) == []
    (project.home / "other.jinja").write_text(TEMPLATE + "\n")
    assert due(project) == ["base"]


def test_another_template_trains_what_is_written_in_it_and_nothing_else(built) -> None:
    project, _ = built
    (project.home / "chat.jinja").write_text(TEMPLATE.replace("<tool>", "<fill>"))
    again = ran(project.build(RECIPE))
    assert {"base", "vector:add", "model"} <= {*again}
    assert "vector:copy" not in again
