"""What the tests of weights share: imported bases, vectors beside them, and the steps run as a worker runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from dem_build.action import Input, SourceFile
from dem_build.actions.base import run as base
from dem_build.actions.compose import run as compose
from dem_build.actions.extract import run as extract
from dem_build.checkpoint.delta import delta_shapes, write_delta
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.lock.base import CHAT_TEMPLATE, base_files
from dem_build.lock.finetuned import local_files
from dem_build.machine import Machine
from dem_build.step import Context, Inputs, StoredFile

DIGEST = "b" * 64
IDS = torch.arange(3, 67).reshape(4, 16)
PARTS = ("weights", "config", "tokenizer", "generation_config")


def import_base(
    source: Path,
    folder: Path,
    dtype: str | None = None,
    threads: int = 2,
    *,
    template: Path | None = None,
    pad_token: str | None = None,
    added: list[str] | None = None,
) -> Path:
    """Import `source`; return the folder of its outputs."""
    context = make_context(folder, threads)
    found = [*base_files(source), *([(CHAT_TEMPLATE, template)] if template else [])]
    files = tuple(SourceFile(tag, "0" * 64, path) for tag, path in found)
    kind = "gguf" if source.suffix == ".gguf" else "directory"
    params = {"source": kind, "dtype": dtype, "pad_token": pad_token, "added_tokens": added or []}
    base.run(Inputs(sources=files), params, context)
    return context.out


def make_context(folder: Path, threads: int = 2, stopping=lambda: False) -> Context:
    (folder / "out").mkdir(parents=True)
    (folder / "work").mkdir()
    return Context(
        work=folder / "work", out=folder / "out", machine=Machine(), threads=threads, stopping=stopping
    )


def random_vector(imported: Path, seed: int, scale: float = 0.02) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = delta_shapes(open_checkpoint(imported / "weights"))
    return {name: (rng.standard_normal(shape) * scale).astype(np.float32) for name, shape in shapes.items()}


def store_vector(
    path: Path, vector: dict[str, np.ndarray], dtype: str = "bfloat16", digest: str = DIGEST
) -> Path:
    write_delta(path, digest, {n: t.shape for n, t in vector.items()}, iter(vector.items()), dtype)
    return path


def run_compose(
    imported,
    folder,
    terms,
    *,
    method="dem",
    dtype="bfloat16",
    threads=2,
    digest=DIGEST,
    stopping=lambda: False,
):
    """Compose terms [(file, ω)]; return outputs, provenance and events."""
    context = make_context(folder, threads, stopping)
    inputs = Inputs(
        paths={f"base/{part}": imported / part for part in PARTS},
        digests={"base/weights": digest},
        terms=tuple(
            Input("delta", StoredFile(path, f"{i}" * 64), omega) for i, (path, omega) in enumerate(terms)
        ),
    )
    told = compose.run(inputs, {"method": method, "dtype": dtype}, context)
    lines = (context.work / "events.jsonl").read_text().splitlines()
    return SimpleNamespace(out=context.out, told=told, events=[json.loads(line) for line in lines])


def load(outputs: Path, folder: Path, dtype=None) -> torch.nn.Module:
    """Publish outputs as a model's folder and load that."""
    shutil.copytree(outputs / "weights", folder)
    shutil.copyfile(outputs / "config", folder / "config.json")
    shutil.copyfile(outputs / "generation_config", folder / "generation_config.json")
    shutil.copytree(outputs / "tokenizer", folder, dirs_exist_ok=True)
    return AutoModelForCausalLM.from_pretrained(folder, **({"dtype": dtype} if dtype else {})).eval()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def run_extract(imported, folder, tuned, *, source="checkpoint", dtype="float32", stopping=lambda: False):
    """Extract as a worker does; return the vector's file, the provenance and what was said."""
    files = local_files(source, tuned)
    context = make_context(folder, stopping=stopping)
    paths = {"base/weights": imported / "weights", "base/config": imported / "config"}
    sources = tuple(SourceFile(tag, "0" * 64, path) for tag, path in files)
    inputs = Inputs(paths=paths, digests={"base/weights": DIGEST}, sources=sources)
    provenance = extract.run(inputs, {"source": source, "vector_dtype": dtype}, context)
    events = context.work / "events.jsonl"
    said = [json.loads(line) for line in events.read_text().splitlines()]
    return context.out / "delta", provenance, [e["message"] for e in said if e["event"] == "warning"]


def trained_elsewhere(base: Path, folder: Path) -> None:
    """Write a copy of a base that took a few steps, as somebody else's training would."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(5):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
