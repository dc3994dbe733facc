"""The machine file: how and where to build. Recorded with every action, never part of a key."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Machine"]


class Machine(BaseModel):
    """The keys of `machine.toml`; all of them optional."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    cache: str | None = Field(default=None, description="Folder of the store; relative to the machine file.")
    jobs: int | None = Field(
        default=None,
        ge=1,
        description="Actions that run at once. Default: one a set of GPUs, or one on a CPU-only machine.",
    )
    gpus_per_action: int = Field(
        default=1, ge=1, description="GPUs that one training uses; more than one is refused for now."
    )
    micro_batch: int = Field(default=8, ge=1, description="Most sequences in one forward and backward pass.")
    eval_batch_size: int = Field(
        default=16, ge=1, description="Sequences in one forward pass of an evaluation."
    )
    gradient_checkpointing: bool = Field(default=False, description="Trade time for memory while training.")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = Field(
        default=None, description="Attention kernel, as transformers names it."
    )
    report_to: tuple[Literal["wandb", "tensorboard"], ...] = Field(
        default=(),
        description="Trackers, as transformers names them. They write to `runs/` of the cache; wandb is offline unless "
        "WANDB_MODE says otherwise.",
    )
    checkpoint_seconds: float = Field(
        default=300.0,
        ge=0,
        description="Seconds between two checkpoints of a training; 0 saves after each step.",
    )
