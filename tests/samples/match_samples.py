"""What the tests of matching share: rows, runs as a worker does them, and the same by hand, in float64."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D
from weight_samples import DIGEST, PARTS, make_context

from dem_build.actions.match import run as match
from dem_build.data.arrays import RowsWriter
from dem_build.step import Group, Inputs

PARAMS = {"dtype": "float32", "rows": 32, "ridge": 2.0, "prior": 1.0}


def random_rows(seed, lengths=(12, 20, 9, 16), vocabulary=259):
    """Rows [(ids, labels)] of random tokens, of which the second half counts."""
    draw = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        ids = draw.integers(3, vocabulary, length).astype(np.int32)
        rows.append((ids, np.where(np.arange(length) < length // 2, -100, ids).astype(np.int32)))
    return rows


def run_match(imported, folder, vectors, *, threads=2, stopping=lambda: False, saliency=(), **params):
    """Match vectors [(file, rows or None, importance)]; return outputs, provenance and events.

    `saliency`: a file for each vector. Digests are those of the objects' names in a test: equal files have equal ones.
    """
    context = make_context(folder, threads, stopping)
    groups = []
    for i, (delta, rows, importance) in enumerate(vectors):
        paths, digests = {"delta": delta}, {"delta": delta.name.ljust(64, "0")}
        if rows is not None:
            paths["data/sample"] = folder / f"rows-{i}"
            with RowsWriter(folder / "spool") as writer:
                for ids, labels in rows:
                    writer.append(ids, labels, bytes(16))
                writer.save(paths["data/sample"])
            if saliency:
                paths["saliency"], digests["saliency"] = saliency[i], saliency[i].name.ljust(64, "0")
            digests["data/sample"] = str(hash(paths["data/sample"].read_bytes()) % 10**12).ljust(64, "0")
        groups.append(Group(f"d{i}", {"importance": importance}, paths, digests))
    inputs = Inputs(
        paths={f"base/{part}": imported / part for part in PARTS},
        digests={"base/weights": DIGEST},
        groups=tuple(groups),
    )
    told = match.run(inputs, PARAMS | params, context)
    events = context.work / "events.jsonl"
    lines = events.read_text().splitlines()
    return SimpleNamespace(out=context.out, told=told, events=[json.loads(line) for line in lines])


def by_hand(base, deltas, rows, *, ridge=2.0, prior=1.0, saliency=None):
    """The matched model's state in float64, of vectors that all are other than 0 everywhere and count alike.

    Each linear module is one least-squares problem, solved as it stands and by no normal equations; each input is taken
    of a forward pass of its own.

    Args:
        base: A folder that transformers loads.
        deltas: Name → tensor, of each vector.
        rows: The rows of each.
        ridge: λ.
        prior: c; `fit`: of each module by least squares along the mean of the vectors, between 1 and their number.
        saliency: Of each vector: name of a linear module → that of its rows' tokens, [tokens].
    """
    plain = _edited(base, [])
    singles = [_edited(base, [delta]) for delta in deltas]
    composed = _edited(base, [{n: t / len(deltas) for n, t in delta.items()} for delta in deltas])
    tokens = [[torch.from_numpy(ids.astype("int64"))[None] for ids, _ in found] for found in rows]
    seen = [_seen(single, ids) for single, found in zip(singles, tokens, strict=True) for ids in found]
    weights = [shares_of(found) for found in rows]
    lengths = []
    for name in seen[0]:  # in the order in which a pass meets them
        module = composed.get_submodule(name)
        given = [torch.cat([_seen(composed, ids)[name][0] for ids in found]) for found in tokens]
        z = torch.cat(given)
        weighing = weights
        if saliency:
            salient = [w * g[name].double() for w, g in zip(weights, saliency, strict=True)]
            weighing = [w / w.sum() for w in salient]
        root = torch.cat([damped(w, of) for w, of in zip(weighing, given, strict=True)]).sqrt()[:, None]
        y = torch.cat([of[name][1] for of in seen]) - (0 if module.bias is None else module.bias)
        turn = (lambda weight: weight) if isinstance(module, Conv1D) else (lambda weight: weight.T)
        mean, start = turn(module.weight), turn(plain.get_submodule(name).weight)
        if prior == "fit":
            made, wanted = (root * (z @ (mean - start))).ravel(), (root * (y - z @ start)).ravel()
            longer = torch.linalg.lstsq(made[:, None], wanted[:, None]).solution.clip(1, len(deltas)).item()
            lengths.append(longer)
            mean = start + longer * (mean - start)
        held = (ridge * (root * z).square().sum(0).median()).sqrt()
        left = torch.cat([root * z, held * torch.eye(z.shape[1], dtype=z.dtype)])
        right = torch.cat([root * y, held * mean])
        solved = torch.linalg.lstsq(left, right).solution
        module.weight.data = turn(solved).contiguous()
    assert prior != "fit" or any(1 < c < len(deltas) for c in lengths)
    return composed


def shares_of(rows):
    """Of each token of all rows of a dataset, float64: the same for all, but that counting and others have a half each.

    What several rows begin with counts once.
    """
    once, count = [], []
    for ids, labels in rows:
        for t in range(len(ids)):
            once.append(1 / sum(other[: t + 1].tolist() == ids[: t + 1].tolist() for other, _ in rows))
            count.append(t + 1 < len(ids) and labels[t + 1] != -100)
    once, count = np.array(once), np.array(count)
    halves = np.where(count, once[count].sum(), once[~count].sum())
    return torch.from_numpy(once / halves / 2)


def damped(weights, z):
    """A token of which a module is given much, beside the dataset's median one, weighs less."""
    size = z.square().mean(1)
    return weights * 2 * size.median() / (size + size.median())


def _edited(base, edits):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval().requires_grad_(False)
    state = model.state_dict()
    for edit in edits:
        for name, tensor in edit.items():
            own = name.replace("embed_out", "lm_head")  # GPT-NeoX, in files and in memory
            state[own] += torch.from_numpy(np.asarray(tensor, np.float64))
    return model


def _seen(model, ids):
    """What each linear module of the layers is given and gives in a pass, [tokens, width] each."""
    found, handles = {}, []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and name not in ("lm_head", "embed_out"):

            def note(_, given, made, name=name):
                found[name] = [t.reshape(-1, t.shape[-1]) for t in (given[0], made)]

            handles.append(module.register_forward_hook(note))
    model.base_model(ids)
    for handle in handles:
        handle.remove()
    return found
