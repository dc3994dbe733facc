"""Small tokenizers and files for the tests of data."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dem_build import digest
from dem_build.action import SourceFile
from dem_build.actions.prepare import run as prepare
from dem_build.data.arrays import TokenRows
from dem_build.machine import Machine
from dem_build.step import Context, Inputs

BOS, EOS = 1, 2
CHATML = (
    "{% for m in messages %}{{ '[' + m['role'] + ']\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"
)
PARAMS = {
    "format": None,
    "columns": None,
    "chat": "auto",
    "system": None,
    "loss": "completion",
    "max_length": 128,
    "on_overflow": "drop",
    "validation": 0.0,
    "test": 0.0,
    "max_samples": None,
}


def make_tokenizer(folder, *, merges=(), bos=False, chat_template=None):
    """A byte-level BPE: one token a byte, but for the merges; BOS is added only where asked."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<pad>": 0, "<s>": BOS, "</s>": EOS} | {c: i + 3 for i, c in enumerate(letters)}
    vocab |= {a + b: len(vocab) + i for i, (a, b) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _save(tokenizer, folder, bos, chat_template)


def make_sentencepiece(folder, *, merges=(), bos=True):
    """As Llama 2: a space is ▁, and every text gets one in front."""
    letters = ["▁", *map(chr, range(33, 127)), "\n"]
    vocab = {"<pad>": 0, "<s>": BOS, "</s>": EOS} | {c: i + 3 for i, c in enumerate(letters)}
    vocab |= {a + b: len(vocab) + i for i, (a, b) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _save(tokenizer, folder, bos, None)


def _save(tokenizer, folder, bos, chat_template):
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return folder


def source(path, tag=None):
    return SourceFile(tag or path.suffix[1:], digest.of_file(path), path)


def write_rows(path, rows):
    """Write rows in the format that the path's suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


class Prepared:
    """What a run of `prepare` left: its provenance, its events and its outputs."""

    def __init__(self, folder, provenance):
        self.folder = folder
        self.provenance = provenance
        self.rows = provenance["rows"]
        self.splits = provenance["splits"]
        self.events = [
            json.loads(line) for line in (folder / "work" / "events.jsonl").read_text().splitlines()
        ]

    @property
    def warnings(self):
        return [e["message"] for e in self.events if e["event"] == "warning"]

    def bytes(self, split="train"):
        return (self.folder / "out" / split).read_bytes()

    def tokens(self, split="train"):
        """Each row as (ids, labels), as lists."""
        opened = TokenRows.open(self.folder / "out" / split)
        return [(ids.tolist(), labels.tolist()) for ids, labels in (opened[i] for i in range(len(opened)))]


class Preparer:
    """Runs `prepare` in a new folder each time."""

    def __init__(self, folder):
        self.folder = folder
        self.tokenizer = make_tokenizer(folder / "tokenizer")
        self.count = 0

    def __call__(self, *sources, tokenizer=None, threads=1, **params):
        self.count += 1
        folder = self.folder / f"run-{self.count}"
        for name in ("work", "out"):
            (folder / name).mkdir(parents=True)
        files = tuple(s if isinstance(s, SourceFile) else source(s) for s in sources)
        inputs = Inputs(paths={"base/tokenizer": tokenizer or self.tokenizer}, sources=files)
        context = Context(work=folder / "work", out=folder / "out", machine=Machine(), threads=threads)
        return Prepared(folder, prepare.run(inputs, PARAMS | params, context))
