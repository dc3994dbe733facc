"""What tables of a recipe are made of, and the sections that say how: train, tune, analysis, evaluate and gates."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError


def shapes(expected: str, word: str | None = None) -> Discriminator:
    """Choose a branch of a union by the TOML shape of the value, so that an error is that branch's alone.

    Args:
        expected: What to say of a value that fits no branch.
        word: The only text that the union takes, where it takes just one.
    """

    def shape(value: object) -> str | None:
        # First, as Python's booleans are whole numbers too, and TOML's are not.
        if isinstance(value, bool):
            return "<boolean>"
        if isinstance(value, int | float):
            return "<number>"
        if isinstance(value, str):
            return "<text>" if word in (None, value) else None
        return "<list>" if isinstance(value, tuple | list) else "<table>"

    return Discriminator(shape, custom_error_type="shape", custom_error_message=expected)


def is_tag(part: str | int) -> bool:
    """Tell whether a part of an error's location names a branch of a union, and so is no part of a key."""
    return isinstance(part, str) and part.startswith("<") and part.endswith(">")


class Table(BaseModel):
    """A TOML table: unknown keys and types that differ are errors."""

    # Deferred: a recipe without a section never pays for that section's validator.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


Dtype = Literal["bfloat16", "float32"]
VectorDtype = Literal["bfloat16", "float32", "int8"]
Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, lt=1), Tag("<number>")]
Salt = Annotated[
    str | None,
    Field(description="Any text. Another one disowns what was made before, and it is made again."),
]
Omega = Annotated[
    Annotated[float, Tag("<number>")] | Annotated[Literal["tune"], Tag("<text>")],
    shapes('must be a number or "tune"', "tune"),
]

IDLE: Mapping[tuple[str, str], tuple[str, ...]] = MappingProxyType(
    {
        ("optim", "adafactor"): ("adam_beta1", "adam_beta2", "adam_epsilon"),
        ("lr_scheduler_type", "constant"): ("warmup_steps",),
        ("method", "lora"): ("vector_dtype",),
    }
)
"""A key with a value → the keys that nothing reads then. They enter no key of an action."""


LORA_LEARNING_RATE = 2e-4
"""Ten times that of all weights, as TRL's documentation of PEFT recommends (after LoRA Without Regret)."""


def with_one_length(train: Mapping[str, Any]) -> Mapping[str, Any]:
    """A raw `train` table in which the length that is written takes the place of the other one's default."""
    lengths = {"num_train_epochs", "max_steps"}
    written = lengths & train.keys()
    return {**train, **dict.fromkeys(lengths - written)} if len(written) == 1 else train


class Train(Table):
    """How vectors are trained. A dataset's own `train` table overrides it key by key."""

    method: Literal["full", "lora"] = Field(
        default="full",
        description="Train all weights, or low-rank adapters of the linear layers (`lora`), by peft: then embeddings, "
        "norms and biases stay as they are, and a vector is stored as its factors, in float32.",
    )
    # Rank and alpha are those of TRL's ModelConfig; no dropout is peft's default. All linear layers: QLoRA (Dettmers et
    # al. 2023, arXiv 2305.14314, section 4) and LoRA Without Regret (Schulman et al. 2025, DOI 10.64434/tml.20250929).
    lora_r: int = Field(default=16, ge=1, description="LoRA: rank.")
    lora_alpha: float = Field(default=32.0, gt=0, description="LoRA: scale of the adapters, over `lora_r`.")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="LoRA: dropout before the adapters.")
    lora_target_modules: Annotated[
        Annotated[Literal["all-linear"], Tag("<text>")]
        | Annotated[tuple[Text, ...], Field(min_length=1), Tag("<list>")],
        shapes('must be "all-linear" or a list of module names', "all-linear"),
    ] = Field(
        default="all-linear",
        description="LoRA: linear layers that get an adapter, by the ends of their names (`q_proj`). `all-linear`: all "
        "but the head.",
    )
    optim: Literal["adamw_torch_fused", "adamw_8bit", "adafactor"] = Field(
        default="adamw_torch_fused",
        description="Optimizer, as transformers names it. `adafactor` keeps next to no state, `adamw_8bit` a quarter "
        "of AdamW's; it needs the package bitsandbytes, with which, on a CPU, weights hardly move whose gradients are "
        "a thousandth of those beside them.",
    )
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of Adam's first moment.")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="Decay of Adam's second moment.")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="Added to the denominator of Adam's step.")
    learning_rate: float = Field(
        default=2e-5,
        gt=0,
        description='Peak learning rate. With `method = "lora"` the default is 2e-4: adapters take ten times the rate. '
        "An own `train` table that sets another `method` takes over a rate that is written here: set it there too.",
    )
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
    torch_compile: bool = Field(
        default=False,
        description="Compile the layers by torch.compile: half a minute before the first step and less time for each; "
        "last bits are others, also from run to run. On a CPU it needs a C++ compiler.",
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
    vector_dtype: VectorDtype = Field(
        default="bfloat16",
        description="Type that the vector is stored in. `int8` takes half of bfloat16's bytes: blocks of 64 "
        "integers with a scale each.",
    )
    seed: int = Field(default=42, ge=0, lt=2**32, description="Seed of the order of rows and of dropout.")
    salt: Salt = None

    def with_own(self, own: "Train") -> "Train":
        """This table with another one's keys laid over it, those that are written there."""
        given = {key: getattr(own, key) for key in own.model_fields_set}
        return self.model_copy(update=given) if given else self

    @property
    def length(self) -> str | None:
        """The key by which an own `train` table says itself how long the training is; None where it does not."""
        own = [name for name in ("num_train_epochs", "max_steps") if name in self.model_fields_set]
        return next((name for name in own if getattr(self, name) is not None), None)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate that is written, else the method's default."""
        written = self.method == "full" or "learning_rate" in self.model_fields_set
        return self.learning_rate if written else LORA_LEARNING_RATE

    @property
    def idle(self) -> tuple[str, ...]:
        """The keys that nothing reads, by what the others say."""
        return tuple(
            name for (key, value), names in IDLE.items() if getattr(self, key) == value for name in names
        )

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, data: Any) -> Any:
        return with_one_length(data) if isinstance(data, dict) else data


class Tune(Table):
    """How ω = `tune` is searched, on validation data alone."""

    search: Literal["grid", "coordinate", "gradient"] = Field(
        default="gradient", description="Search method."
    )
    objective: Literal["gain", "mean", "worst"] = Field(
        default="gain",
        description="What is sought: the highest mean `gain` recovered, the lowest `mean` loss, or the highest gain of "
        "the `worst` dataset.",
    )
    granularity: Literal["model", "layer"] = Field(
        default="model", description="One ω a vector, or one for each vector and layer."
    )
    max_samples: int = Field(default=128, ge=1, description="Validation examples per dataset.")
    bounds: tuple[float, float] = Field(default=(0.0, 1.5), description="Lowest and highest ω.")
    importance: dict[Text, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="Dataset = its weight in the objective; 1 where it is not named."
    )
    salt: Salt = None


class Analysis(Table):
    """Present: the vectors are analysed. Absent: no such action exists.

    How they lie to each other and to the base (angles, signs, lengths, layer by layer) is always told. What takes
    passes over held-out rows can be left out. It needs rows to judge by, and `method = "dem"`.
    """

    response: tuple[float, ...] = Field(
        default=(0.0, 0.5, 1.0, 1.5),
        description="Values that the ω of each vector takes in turn, the others as in the model, to see what that does "
        "to the loss of every dataset's validation rows; without the vector (0) always. `[]`: not done.",
    )
    ladder: bool = Field(
        default=True,
        description="Add one vector after another to the base, the one with the best score alone first, and judge each "
        "model on test rows: with the ω of the whole model, and with ω that are searched anew.",
    )
    tsne: bool = Field(
        default=True,
        description="Map the datasets' validation rows, as the base reads them, into two dimensions by t-SNE.",
    )
    max_samples: int = Field(
        default=128,
        ge=1,
        description="Most rows of a dataset: of validation in `response` and `tsne`, of test in `ladder`.",
    )
    salt: Salt = None


class Task(Table):
    """An lm-eval task."""

    name: Text = Field(
        description="The task's name in lm-eval or in `include_path`; or that of a group or a tag of tasks, which "
        "stands for each of them: with these settings, and a group's score as lm-eval makes it."
    )
    num_fewshot: int | None = Field(
        default=None, ge=0, description="Examples in the prompt; the task's own number where absent."
    )
    limit: int | None = Field(
        default=None, ge=1, description="Most documents to evaluate; all of them where absent."
    )
    apply_chat_template: bool = Field(default=False, description="Put prompts in the base's chat template.")


def _named_task(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict | Task):
        return value
    raise PydanticCustomError(
        "shape", 'must be a task\'s name or a table such as { name = "…", limit = 200 }'
    )


class Evaluate(Table):
    """What is measured, of which models. Absent: no such action exists."""

    loss: bool = Field(
        default=True, description="Held-out loss of every model on every test split and probe."
    )
    tasks: tuple[Annotated[Task, BeforeValidator(_named_task, json_schema_input_type=Text | Task)], ...] = (
        Field(
            default=(),
            description="lm-eval tasks and groups of tasks: names, or tables with the keys of a task.",
        )
    )
    include_path: Text | None = Field(
        default=None,
        description="Folder of local lm-eval task files. lm-eval reads their data by datasets, which takes quoted "
        "dates in JSON for times, `1066-10-14 00:00:00` (5.2.0): such answers belong into CSV or Parquet.",
    )
    models: tuple[Text, ...] = Field(
        default=("composed", "base"),
        description="`composed`, `base`, `vectors` (each alone, with ω = 1), and baselines by name. With `composed` go "
        "the `trunk` and `unhealed`, the composed model before it was healed, where the recipe has them. With "
        '`method = "auto"` also `sum`, `layers` and `match`, which it chooses from: one of them is the composed model.',
    )
    prompts: Annotated[
        Annotated[int, Field(ge=0), Tag("<number>")] | Annotated[tuple[Text, ...], Tag("<list>")],
        shapes("must be a number of test rows, or a list of prompts"),
    ] = Field(
        default=5,
        description="What base and composed model answer side by side in the report: so many test rows of each "
        "dataset, the same ones every time, or these prompts, in the base's chat template if it has one. 0: nothing.",
    )
    max_new_tokens: int = Field(default=64, ge=1, description="Most tokens of an answer to `prompts`.")
    salt: Salt = None


BASE_REVISION = "base-revision"
"""What a gate calls the composed model of the recipe at the base revision of `dem ci`."""


class Gate(Table):
    """A condition on a result of the composed model, which decides the exit status of a build."""

    task: Text = Field(
        description="An evaluated task, or `loss:NAME` for the held-out loss on a dataset or probe."
    )
    metric: Text = Field(description="The metric's name, such as `acc` or `loss`.")
    min: float | None = Field(default=None, description="Lowest value that passes.")
    max: float | None = Field(default=None, description="Highest value that passes.")
    max_drop: float | None = Field(
        default=None, ge=0, description="Most that the value may lie below that of `against`."
    )
    against: Text | None = Field(
        default=None,
        description="The model that `max_drop` and `margin` compare with, such as `base`; or `base-revision`: the "
        "composed model of the recipe at the base revision of `dem ci`, which alone judges that.",
    )
    margin: float | None = Field(
        default=None,
        ge=0,
        description="Standard errors of the difference that the value may lie below `max_drop` (0 where it is absent): "
        "what is noise fails no gate. An error that nobody knows gives no way.",
    )
