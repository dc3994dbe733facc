"""The bare PyTorch loop that bench/train.py runs: transformers' model and its own loss, fused AdamW, nothing else."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaForCausalLM


def collate(rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """Return rows as tensors [rows, longest], padded on the right."""
    longest = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
    }


def main() -> None:
    """Train one epoch; print when each step ended, the last loss and the peak memory."""
    home = Path(sys.argv[1])
    rows = json.loads((home / "rows.json").read_text())
    told = json.loads((home / "settings.json").read_text())
    model = LlamaForCausalLM.from_pretrained(home / "model", dtype=torch.float32).train()
    adam = torch.optim.AdamW(
        model.parameters(), lr=told["learning_rate"], weight_decay=told["weight_decay"], fused=True
    )
    ends, loss = [], 0.0
    for first in range(0, len(rows), told["batch"]):
        step = rows[first : first + told["batch"]]
        counted = sum(label != -100 for _, labels in step for label in labels[1:])
        loss = 0.0
        for i in range(0, len(step), told["micro_batch"]):
            batch = collate(step[i : i + told["micro_batch"]])
            with torch.autocast("cpu", torch.bfloat16):
                part = model(**batch, use_cache=False, num_items_in_batch=counted).loss
            part.backward()
            loss += part.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), told["max_grad_norm"])
        adam.step()
        adam.zero_grad()
        ends.append((time.time(), time.process_time()))
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps({"ends": ends, "loss": loss, "peak": peak}))


if __name__ == "__main__":
    main()
