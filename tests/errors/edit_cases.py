"""Calls of what writes recipes, refused before anything is written."""

from __future__ import annotations

from error_cases import RECIPE, ROWS, Call, write

__all__ = ["EDITS"]

GATE = '\n[[gates]]\ntask = "loss:add"\nmetric = "loss"\nmax = 2\n'


INLINE = 'datasets = { add = { path = "data/add.jsonl" } }\n[base]\nmodel = "base"\n'

EDITS = (
    Call(
        "A dataset is added whose columns are called as elsewhere",
        "add recipe.toml sums data/sums.jsonl",
        (
            "error: data/sums.jsonl: no format fits the columns `question`, `answer`\n"
            "  hint:  if `question`, `answer` are what is meant: --set columns.prompt=question --set "
            "columns.completion=answer"
        ),
        setup=write("data/sums.jsonl", '{"question": "1 + 1", "answer": "2"}\n'),
    ),
    Call(
        "A dataset is added that is not there",
        "add recipe.toml sums data/ad.jsonl",
        "error: no file matches `data/ad.jsonl`\n  hint:  data holds add.jsonl",
    ),
    Call(
        "A dataset on a hub is added without saying so",
        "add recipe.toml sums org/sums",
        "error: no file matches `org/sums`\n  hint:  a dataset on the hub is named hub:org/sums",
    ),
    Call(
        "A name is added that is there already",
        "add recipe.toml add data/add.jsonl",
        (
            "error: recipe.toml: there is a `datasets.add` already\n"
            "  hint:  edit the table, or take it out first: dem remove recipe.toml add"
        ),
    ),
    Call(
        "A dataset is added under a name that a model has",
        "add recipe.toml base data/more.jsonl",
        (
            "recipe.toml: left as it was; the recipe would have mistakes:\n"
            "recipe.toml: error: datasets.base: `base` names a model of every build\n"
            "  hint:  choose another name"
        ),
        setup=write("data/more.jsonl", ROWS),
    ),
    Call(
        "A dataset is added in a file that is written in another form",
        "add recipe.toml more data/more.jsonl",
        (
            "error: `datasets` (line 1) is written in a form that dem does not edit\n"
            "  hint:  write it there by hand:\n"
            "    [datasets.more]\n"
            '    path = "data/more.jsonl"'
        ),
        replaced=(RECIPE, INLINE),
        setup=write("data/more.jsonl", ROWS),
    ),
    Call(
        "A dataset is taken out that is not there",
        "remove recipe.toml ad",
        "error: recipe.toml: there is no `ad`\n  hint:  did you mean `add`?",
    ),
    Call(
        "A dataset is taken out that a gate is about",
        "remove recipe.toml add",
        (
            "recipe.toml: left as it was; the recipe would have mistakes:\n"
            "recipe.toml:19: error: gates[0].task: nothing evaluates `loss:add`\n"
            "  hint:  add it to `tasks` in [evaluate]"
        ),
        replaced=("prompts = 0\n", f"prompts = 0\n{GATE}"),
    ),
    Call(
        "A recipe is begun where one is",
        "init recipe.toml --base base",
        (
            "error: recipe.toml: is there already\n"
            "  hint:  name another file, or edit it: dem add recipe.toml NAME PATH"
        ),
    ),
    Call(
        "A recipe is begun without a base, and nobody can be asked",
        "init new.toml",
        (
            "error: a base is needed\n"
            "  hint:  --base HuggingFaceTB/SmolLM2-135M-Instruct, a model's folder or a GGUF file"
        ),
    ),
)
