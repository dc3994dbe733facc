"""Builds that fail: `BROKEN_DATA` shares one, which goes on after each failure; `BUILDS` starts one each."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from error_cases import ROWS, BrokenData, Build

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["AFTER_A_BUILD", "BROKEN_DATA", "BUILDS"]

LONG = json.dumps({"prompt": "x" * 90, "completion": "y"}).encode() + b"\n"
NAMED = 'columns = { prompt = "question", completion = "answer" }'

BROKEN_DATA = (
    BrokenData(
        "A row is no JSON",
        "junk.jsonl",
        ROWS.encode() + b"<html>\n",
        (
            "data/junk.jsonl:41: not JSON: Expecting value: line 1 column 1 (char 0)\n"
            "hint: each line is one JSON object"
        ),
    ),
    BrokenData(
        "A row is a list",
        "list.jsonl",
        b"[1, 2]\n",
        (
            "data/list.jsonl:1: a row is a JSON object of columns, this is a list\n"
            'hint: write it as {"prompt": "…", "completion": "…"} or {"text": "…"}'
        ),
    ),
    BrokenData(
        "A key twice in a row",
        "twins.jsonl",
        b'{"prompt": "a", "completion": "b", "completion": "c"}\n',
        (
            "data/twins.jsonl:1: the key 'completion' stands twice in one object\n"
            "hint: rename or remove one of the two"
        ),
    ),
    BrokenData(
        "Columns that no format has",
        "other.jsonl",
        b'{"frage": "a", "antwort": "b"}\n',
        (
            "data/other.jsonl: no format fits the columns `frage`, `antwort`\n"
            'hint: name the columns: columns = { prompt = "…", completion = "…" }, { text = "…" } or { '
            'messages = "…" }'
        ),
    ),
    BrokenData(
        "A column that the file lacks",
        "lacks.jsonl",
        ROWS.encode(),
        (
            "data/lacks.jsonl: no column `question` for the prompt; there are `prompt`, `completion`\n"
            'hint: say which it is: columns = { prompt = "…" }'
        ),
        more=NAMED,
    ),
    BrokenData(
        "A number for a text",
        "number.jsonl",
        b'{"prompt": "a", "completion": 7}\n',
        (
            "data/number.jsonl:1: column `completion` (completion) is of type int, not a string\n"
            "hint: write it as a string, or take the row out"
        ),
    ),
    BrokenData(
        "Text that is not UTF-8",
        "latin.jsonl",
        '{"text": "Z\xfcrich"}\n'.encode("latin-1"),
        (
            "data/latin.jsonl:1: not UTF-8: 'utf-8' codec can't decode byte 0xfc in position 11: invalid "
            "start byte\n"
            "hint: save the file as UTF-8"
        ),
    ),
    BrokenData(
        "A csv names a column twice",
        "twice.csv",
        b"prompt,completion,prompt\na,b,c\n",
        (
            "data/twice.csv:1: the header names the column `prompt` twice\n"
            "hint: rename or remove one of the two"
        ),
    ),
    BrokenData(
        "A csv row has too many fields",
        "fields.csv",
        b"prompt,completion\na,b, c\n",
        (
            "data/fields.csv:2: more fields than the 2 columns of the header\n"
            'hint: put a field that holds a comma or a line break in "quotes"'
        ),
    ),
    BrokenData(
        "A csv quote that is left open",
        "quote.csv",
        b'prompt,completion\na,"b\nc,d\n',
        (
            "data/quote.csv:2: not CSV: unexpected end of data\n"
            'hint: close each quote, and write a quote inside of a field as ""'
        ),
    ),
    BrokenData(
        "One object a line in a `.json` file",
        "lines.json",
        ROWS.encode(),
        (
            "data/lines.json: not JSON: Extra data: line 2 column 1 (char 45)\n"
            "hint: a .json file holds one list of objects; a file with one object a line is called .jsonl"
        ),
    ),
    BrokenData(
        "A parquet file that is none",
        "not.parquet",
        b"PAR2",
        (
            "data/not.parquet: not a parquet file: Parquet file size is 4 bytes, smaller than the "
            "minimum file footer (8 bytes)\n"
            "hint: it is damaged, or not what its name says"
        ),
    ),
    BrokenData(
        "An empty file",
        "empty.jsonl",
        b"\n\n",
        ("data/empty.jsonl: the dataset has no rows\nhint: give it a file with rows"),
    ),
    BrokenData(
        "Every row is longer than `max_length`",
        "long.jsonl",
        LONG * 40,
        (
            "data/long.jsonl: of 40 rows, none is left to train on: 40 rows dropped: over max_length = "
            "64 tokens\n"
            "hint: raise max_length, hold out less, or give the dataset more rows"
        ),
    ),
    BrokenData(
        "A conversation, and no chat template",
        "chat.jsonl",
        b'{"messages": [{"role": "user"}]}\n',
        (
            "`messages` rows are written by a chat template, and the base has no chat template\n"
            "hint: give the base a chat_template, or the rows as prompt and completion"
        ),
    ),
    BrokenData(
        "A system prompt, and no chat template",
        "system.jsonl",
        ROWS.encode(),
        (
            "a system prompt needs a chat template, and this dataset is trained without one\n"
            "hint: leave `system` out, or give the base a chat_template"
        ),
        'system = "Be kind."',
    ),
    BrokenData(
        "Training diverges to NaN",
        "nan.jsonl",
        ROWS.encode(),
        (
            "the norm of the gradient is nan at optimizer step …\n"
            "hint: lower learning_rate, and look for odd rows with `dem data`"
        ),
        "train = { learning_rate = 1e30, max_steps = 6 }",
        "vector",
    ),
)


def cut_off(home: Path) -> None:
    """Take the end off the base's weights."""
    path = home / "base" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage(home: Path) -> None:
    """Flip a bit of every object that is large enough to hold weights."""
    for path in (home / "cache" / "cas").rglob("*"):
        if path.is_file() and path.stat().st_size > 100_000:
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.chmod(0o644)
            path.write_bytes(data)


def take_data_away(home: Path) -> None:
    """Leave what a clone has without its data."""
    shutil.rmtree(home / "data")


def unpublish(home: Path) -> None:
    """Remove what was published."""
    shutil.rmtree(home / "out")


def cancel(home: Path) -> None:
    """Make two fine-tunes of the base, each with enormous weights that the other one's take back: queries overflow."""
    from safetensors.torch import load_file, save_file

    for name, size in (("up", 1e18), ("down", -1e18)):
        shutil.copytree(home / "base", home / name)
        tensors = {
            place: tensor.float() for place, tensor in load_file(home / name / "model.safetensors").items()
        }
        layer = "model.layers.0."
        tensors[f"{layer}input_layernorm.weight"][0] += size
        for part in "qk":
            tensors[f"{layer}self_attn.{part}_proj.weight"][0, 0] += size
        save_file(tensors, home / name / "model.safetensors", {"format": "pt"})


def grow(home: Path) -> None:
    """Give the base a tensor of 200 million parameters, of which no byte is written."""
    entry = {"dtype": "BF16", "shape": [200_000, 1000], "data_offsets": [0, 400_000_000]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    with (home / "base" / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 400_000_000)


def occupy(home: Path) -> None:
    """Put a file in the place of the published models."""
    unpublish(home)
    (home / "out").write_text("")


def link_out(home: Path) -> None:
    """Put a link in the place of the published models."""
    unpublish(home)
    (home / "elsewhere").mkdir()
    (home / "out").symlink_to(home / "elsewhere")


LONGER = ("max_steps = 2", "max_steps = 4000")
GATE = ("prompts = 0", 'prompts = 0\n\n[[gates]]\ntask = "loss:add"\nmetric = "loss"\nmax = 0.001')

BUILDS = (
    Build(
        "The base's file is cut off",
        (
            "✗ base               failed after … s\n"
            "    base/model.safetensors: is cut off inside model.norm.weight: 183220 bytes, and it "
            "should end after more\n"
            "    hint: the file is damaged or incomplete: fetch it again"
        ),
        setup=cut_off,
    ),
    Build(
        "The disk is full",
        (
            "✗ base               failed after … s\n"
            "    cache/work/…/out/weights/model.safetensors: cannot hold 183320 bytes: File too large\n"
            "    hint: free some space, and build again"
        ),
        file_limit=100_000,
    ),
    Build(
        "Ctrl-C while training",
        (
            "stopping: running actions save their state; Ctrl-C again ends them at once\n"
            "- vector:add         stopped; its state is saved\n"
            "interrupted: the next build goes on from here"
        ),
        130,
        replaced=LONGER,
        mishap="interrupt",
    ),
    Build(
        "The system kills the worker, as it does when memory runs out",
        (
            "✗ vector:add         failed after … s\n"
            "    the worker was killed by signal 9\n"
            "    hint: its checkpoints are kept: build again; if memory ran out, lower micro_batch in "
            "the machine file"
        ),
        replaced=LONGER,
        mishap="kill",
    ),
)

CANCELLING = """\
[vectors.up]
checkpoint = "./up"
omega = 1.0

[vectors.down]
checkpoint = "./down"
omega = 1.0

[evaluate]"""
AFTER_A_BUILD = (
    Build("A gate fails", "✗ gate loss on add: …, must be at most 0.001", 3, replaced=GATE),
    Build(
        "A vector is missing under `--no-train`",
        (
            "✗ vector:add         failed after … s\n"
            "    this vector is not in the cache (never built), and --no-train forbids to train it\n"
            "    hint: build without --no-train, or point --cache at the one that has it"
        ),
        4,
        call="build recipe.toml --no-train",
        replaced=LONGER,
    ),
    Build(
        "A file that is locked is not here, and something has to read it",
        (
            "✗ data:add           failed after … s\n"
            "    data/add.jsonl: is not on this machine; its SHA-256 is DIGEST\n"
            "    hint: put there what was locked, or use a cache that has what data:add makes"
        ),
        replaced=("max_length = 64", "max_length = 65"),
        setup=take_data_away,
    ),
    Build(
        "A model without one of its vectors has no loss",
        (
            "error: loss:add: the loss of item 0 is not finite: without up\n"
            '  hint:  the model is broken or overflows its dtype; try `dtype = "float32"` in [compose]'
        ),
        call="blame recipe.toml add 0",
        before="build recipe.toml",
        replaced=("[evaluate]", CANCELLING),
        setup=cancel,
    ),
    Build(
        "The disk of `out/` is full",
        (
            "error: out/recipe: cannot be written: the disk is full\n"
            "  hint:  free some space, or mend what is in the way; the model is in the cache, so nothing "
            "has to run again"
        ),
        setup=unpublish,
        file_limit=100_000,
    ),
    Build(
        "A file where `out/` should be",
        (
            "error: out/recipe: cannot be written: Not a directory\n"
            "  hint:  free some space, or mend what is in the way; the model is in the cache, so nothing "
            "has to run again"
        ),
        setup=occupy,
    ),
    Build(
        "A link where `out/` should be",
        (
            "error: out: is a link, and models are published into folders of the project only\n"
            "  hint:  remove the link; the next build makes the folder"
        ),
        setup=link_out,
    ),
    Build(
        "`lora_target_modules` names what the base has not",
        (
            "✗ vector:add         failed after … s\n"
            "    lora_target_modules names wq, and the base has no linear layer of that name\n"
            "    hint: it has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"
        ),
        replaced=("max_steps = 2", 'max_steps = 2\nmethod = "lora"\nlora_target_modules = ["wq"]'),
    ),
    Build(
        "A training cannot fit into memory",
        (
            "error: vector:add: cannot fit: weights, gradients and optimizer states of 200,000,000 "
            "parameters take 3.2 GB, and this machine has 2.5 GB of memory\n"
            '  hint:  optim = "adamw_8bit" needs 2.0 GB and may fit'
        ),
        setup=grow,
        memory_limit=2_500_000_000,
    ),
    Build(
        "A file of the cache is damaged",
        (
            "cache/cas/sha256/…/DIGEST holds other bytes (sha256 DIGEST)\n"
            "cache/cas/sha256/…/DIGEST holds other bytes (sha256 DIGEST)\n"
            "cache/cas/sha256/…/DIGEST holds other bytes (sha256 DIGEST)\n"
            "cache/actions/…/DIGEST.json names object DIGEST, which is damaged\n"
            "cache/actions/…/DIGEST.json names object DIGEST, which is damaged\n"
            "cache/actions/…/DIGEST.json names object DIGEST, which is damaged\n"
            "6 damaged, and nothing was changed: `dem cache verify --repair` sets it aside, and the next build makes "
            "what it needs of it again"
        ),
        call="cache verify",
        setup=damage,
    ),
    Build(
        "A file of the cache is damaged, and is to be repaired",
        (
            "cache/cas/sha256/…/DIGEST holds other bytes (sha256 DIGEST); now in quarantine\n"
            "cache/cas/sha256/…/DIGEST holds other bytes (sha256 DIGEST); now in quarantine\n"
            "cache/cas/sha256/…/DIGEST holds other bytes (sha256 DIGEST); now in quarantine\n"
            "cache/actions/…/DIGEST.json names object DIGEST, which is not there at its size; now in quarantine\n"
            "cache/actions/…/DIGEST.json names object DIGEST, which is not there at its size; now in quarantine\n"
            "cache/actions/…/DIGEST.json names object DIGEST, which is not there at its size; now in quarantine\n"
            "6 damaged: the next build makes what it needs of it again"
        ),
        call="cache verify --repair",
        setup=damage,
    ),
)
