"""TRL's SFTTrainer as bench/train.py runs it, with the python of an environment that has TRL; dem is not needed."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Notes when each optimizer step ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the time."""
        self.ends.append((time.time(), time.process_time()))


def config(home: Path, told: dict[str, Any]) -> SFTConfig:
    """Return settings equal to those of the others; the rest is TRL's default."""
    return SFTConfig(
        output_dir=str(home / "trl"),
        per_device_train_batch_size=told["micro_batch"],
        gradient_accumulation_steps=told["batch"] // told["micro_batch"],
        train_sampling_strategy="sequential",
        learning_rate=told["learning_rate"],
        weight_decay=told["weight_decay"],
        max_grad_norm=told["max_grad_norm"],
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        num_train_epochs=1,
        bf16=True,
        use_cpu=True,
        gradient_checkpointing=False,  # TRL's default trades time for memory; the others do not
        completion_only_loss=True,
        max_length=None,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def main() -> None:
    """Train one epoch; print when each step ended, the last loss and the peak memory."""
    home = Path(sys.argv[1])
    rows = json.loads((home / "rows.json").read_text())
    told = json.loads((home / "settings.json").read_text())
    masked = [
        {"input_ids": ids, "completion_mask": [int(label != -100) for label in labels]}
        for ids, labels in rows
    ]
    clock = Clock()
    trainer = SFTTrainer(
        model=LlamaForCausalLM.from_pretrained(home / "model", dtype=torch.float32),
        args=config(home, told),
        train_dataset=Dataset.from_list(masked),
        processing_class=AutoTokenizer.from_pretrained(home / "model"),
        callbacks=[clock],
    )
    trainer.train()
    loss = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-1]
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps({"ends": clock.ends, "loss": float(loss), "peak": peak}))


if __name__ == "__main__":
    main()
