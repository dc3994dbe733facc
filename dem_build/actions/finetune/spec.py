"""Kind `finetune`: the base is trained on one dataset; the distribution vector ΔΘ is what it became minus the base."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from dem_build.action import BASE, Action, Edge, Input, Kind
from dem_build.workload import Workload

if TYPE_CHECKING:
    from dem_build.digest import JSON
    from dem_build.recipe import Train

VALIDATION = "data/validation"
LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")

KIND = Kind(
    name="finetune",
    module="dem_build.actions.finetune.run",
    family="finetune",
    version=1,
    params=(
        "method",
        "optim",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "global_batch_size",
        "bf16",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
        "max_grad_norm",
        "vector_dtype",
        "seed",
    ),
    outputs=("delta",),
    # max_length reaches an unpacked vector through its data alone.
    added=MappingProxyType(
        {
            "packing": False,
            "torch_compile": False,
            "max_length": None,
            "eval_steps": 0,
            "load_best_model_at_end": False,
            "early_stopping_patience": None,
            **dict.fromkeys(LORA),
        }
    ),
    optional=frozenset(
        {
            "num_train_epochs",
            "max_steps",
            "adam_beta1",
            "adam_beta2",
            "adam_epsilon",
            "warmup_steps",
            "vector_dtype",
        }
    ),
    device=True,
    resumes=True,
    trains=True,
    writes_model=True,
    chooses=lambda _, taken: taken.of == VALIDATION and not taken.watched,
    work=Workload(
        lambda due: due.trained_tokens(),
        lambda record: record.count("tokens", "seen"),
        ("method",),
        tokens=True,
    ),
)


def finetune_action(name: str, train: Train) -> Action:
    """The training of a vector on the rows of `data:NAME`."""
    takes: tuple[Input[Edge], ...] = (
        Input("base/weights", Edge(BASE, "weights")),
        Input("base/config", Edge(BASE, "config")),
        Input("data/train", Edge(f"data:{name}", "train")),
    )
    params, watching = _train_params(train), {}
    if train.eval_steps:
        chosen = "eval_steps" in params
        watching = {} if chosen else {"eval_steps": train.eval_steps}
        takes = (*takes, Input(VALIDATION, Edge(f"data:{name}", "validation"), watched=not chosen))
    return Action(f"vector:{name}", KIND, params, takes, salt=train.salt, watching=watching)


def _train_params(train: Train) -> dict[str, JSON]:
    """What the weights follow from: validation counts where it stops a training or chooses from it."""
    packing = {"packing": train.packing, "max_length": train.max_length if train.packing else None}
    choosing: tuple[str, ...] = ()
    if train.eval_steps and (train.load_best_model_at_end or train.early_stopping_patience):
        choosing = ("eval_steps", "load_best_model_at_end", "early_stopping_patience")
    adapters = LORA if train.method == "lora" else ()
    found = {name: getattr(train, name) for name in (*KIND.params, *choosing, *adapters)}
    found["learning_rate"] = train.peak_learning_rate
    if adapters and not isinstance(train.lora_target_modules, str):
        found["lora_target_modules"] = sorted(set(train.lora_target_modules))  # as a set they mean the same
    found["torch_compile"] = train.torch_compile
    return found | packing | dict.fromkeys(train.idle)
