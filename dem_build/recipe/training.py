"""The table of how vectors are trained: `[train]`, and the own `train` of a dataset or a mixture."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, Tag, model_validator

from dem_build.recipe.shapes import Dtype, Salt, Table, Text, shapes

__all__ = ["IDLE", "Train"]

IDLE: Mapping[tuple[str, str], tuple[str, ...]] = MappingProxyType(
    {
        ("optim", "adafactor"): ("adam_beta1", "adam_beta2", "adam_epsilon"),
        ("lr_scheduler_type", "constant"): ("warmup_steps",),
    }
)
"""A key with a value → the keys that nothing reads then. They enter no key of an action."""


class Train(Table):
    """How vectors are trained. A dataset's own `train` table overrides it key by key."""

    method: Literal["full", "lora"] = Field(
        default="full", description="Train all weights, or low-rank adapters."
    )
    r: int = Field(default=16, ge=1, description="LoRA: rank.")
    lora_alpha: float = Field(default=32.0, gt=0, description="LoRA: scale of the adapters, over `r`.")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="LoRA: dropout before the adapters.")
    target_modules: Annotated[
        Annotated[Literal["all-linear"], Tag("<text>")] | Annotated[tuple[Text, ...], Tag("<list>")],
        shapes('must be "all-linear" or a list of module names', "all-linear"),
    ] = Field(default="all-linear", description="LoRA: modules that get an adapter.")
    optim: Literal["adamw_torch_fused", "adamw_8bit", "adafactor"] = Field(
        default="adamw_torch_fused",
        description="Optimizer, as transformers names it. `adafactor` keeps next to no state, `adamw_8bit` a quarter "
        "of AdamW's; it needs the package bitsandbytes.",
    )
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of Adam's first moment.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="Decay of Adam's second moment.")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="Added to the denominator of Adam's step.")
    learning_rate: float = Field(default=2e-5, gt=0, description="Peak learning rate.")
    num_train_epochs: float | None = Field(
        default=1.0,
        gt=0,
        le=1_000_000,
        description="Passes over the data. One choice with `max_steps`: an override of either replaces both.",
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps, instead of `num_train_epochs`."
    )
    global_batch_size: int = Field(
        default=32, ge=1, description="Sequences (packs, when packing) per optimizer step, over all devices."
    )
    max_length: int = Field(
        default=1024, ge=2, description="Most tokens in a sequence; `on_overflow` says what becomes of more."
    )
    packing: bool = Field(
        default=False, description="Put several documents in one sequence; they do not see each other."
    )
    bf16: bool = Field(
        default=True, description="Forward pass in bfloat16; master weights are always float32."
    )
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = Field(default="cosine", description="Course of the learning rate, as transformers names it.")
    warmup_steps: float = Field(
        default=0.03, ge=0, description="Steps of warm-up; below 1, a share of the steps."
    )
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Gradients are clipped to this norm; 0 clips nothing."
    )
    eval_steps: int = Field(
        default=0, ge=0, description="Steps between two validation losses while training; 0 takes none."
    )
    load_best_model_at_end: bool = Field(
        default=False, description="Keep the weights of the lowest validation loss."
    )
    early_stopping_patience: int | None = Field(
        default=None, ge=1, description="Stop after this many validation losses without a new lowest."
    )
    vector_dtype: Dtype = Field(default="bfloat16", description="Type that the vector is stored in.")
    seed: int = Field(default=42, ge=0, lt=2**32, description="Seed of the order of rows and of dropout.")
    salt: Salt = None

    @property
    def idle(self) -> tuple[str, ...]:
        """The keys that nothing reads, by what the others say."""
        return tuple(
            name for (key, value), names in IDLE.items() if getattr(self, key) == value for name in names
        )

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, data: Any) -> Any:
        """Let either length stand for both: the one that is written takes the other's place."""
        if not isinstance(data, dict) or {"num_train_epochs", "max_steps"} <= data.keys():
            return data
        if "max_steps" in data:
            return data | {"num_train_epochs": None}
        return data | {"max_steps": None} if "num_train_epochs" in data else data
