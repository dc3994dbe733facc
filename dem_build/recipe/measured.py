"""The tables of what is measured and chosen by it: `[tune]`, `[analysis]`, `[evaluate]` and `[[gates]]`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag
from pydantic_core import PydanticCustomError

from dem_build.recipe.shapes import Salt, Table, Text, shapes

__all__ = ["Analysis", "Evaluate", "Gate", "Task", "Tune"]


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
        description="The task's name in lm-eval or in `include_path`; not that of a group or a tag of tasks."
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
    tasks: tuple[Annotated[Task, BeforeValidator(_named_task)], ...] = Field(
        default=(), description="lm-eval tasks: names, or tables with the keys of a task."
    )
    include_path: Text | None = Field(default=None, description="Folder of local lm-eval task files.")
    models: tuple[Text, ...] = Field(
        default=("composed", "base"),
        description="`composed`, `base`, `vectors` (each alone, with ω = 1), and baselines by name.",
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
        default=None, description="The model that `max_drop` compares with, such as `base`."
    )
