"""The recipe language: every table and key, its type, default and meaning, as frozen pydantic models.

The models know the shape of each value alone. What keys say about each other is in `checks/`. `docs/recipe.md` is
generated from here. Values keep their TOML types: no text is read as a number. Lists are given as tuples.

Annotations are no strings (`from __future__ import annotations`): pydantic would compile each of them at every start.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, PrivateAttr, Tag

from dem_build.action import HEAL, TRUNK
from dem_build.actions.compose.methods import EDIT, METHODS
from dem_build.errors import Problem
from dem_build.paths import absolute, expanded
from dem_build.recipe.sections import (
    Analysis,
    Dtype,
    Evaluate,
    Gate,
    Omega,
    Salt,
    Share,
    Table,
    Text,
    Train,
    Tune,
    VectorDtype,
    shapes,
)
from dem_build.recipe.toml import Origin, parsed

NAME = re.compile(r"[A-Za-z0-9_-]+")
"""What is a name."""


class SplitName(Table):
    """A split of the same hub dataset."""

    split: Text = Field(description="The split's name.")


HeldOut = Annotated[
    Share | Annotated[Text, Tag("<text>")] | Annotated[SplitName, Tag("<table>")],
    shapes('must be a share from 0 to below 1, a path, or { split = "…" }'),
]


class Base(Table):
    """The model that everything starts from; prepared once, before any vector exists."""

    model: Text = Field(description="A local folder, a `.gguf` file, or a hub id.")
    revision: Text = Field(
        default="main", description="Branch, tag or commit of a hub model; the lock pins the commit."
    )
    chat_template: Text | None = Field(
        default=None,
        description="A Jinja file that replaces the base's own chat template (all of them, where it has several with "
        "names), in training, in evaluation and in the model that is published.",
    )
    pad_token: Text | None = Field(
        default=None,
        description="Padding token, where the tokenizer has none or another: one of its tokens, or an added one.",
    )
    added_tokens: tuple[Text, ...] = Field(
        default=(),
        description="Special tokens that the tokenizer shall have. One without a row in the embeddings gets the mean "
        "of the known tokens' rows.",
    )
    dtype: Dtype | None = Field(
        default=None,
        description="Type that the base's weights are prepared in. Default: as they are stored; bfloat16 of GGUF.",
    )
    salt: Salt = None


class RowSource(Table):
    """Files, or a split of a hub dataset."""

    path: Text | None = Field(
        default=None, description="A file or glob: jsonl, json, csv or parquet. One of `path` and `hub`."
    )
    hub: Text | None = Field(default=None, description="A dataset's id on the hub.")
    config: Text | None = Field(default=None, description="Configuration of a hub dataset.")
    revision: Text | None = Field(
        default=None, description="Branch, tag or commit of a hub dataset; the lock pins the commit."
    )
    split: Text | None = Field(
        default=None, description="Split of a hub dataset; `train` where none is named."
    )

    @property
    def configs(self) -> tuple[str, ...]:
        """The configurations that it names."""
        return () if self.config is None else (self.config,)


Texts: TypeAlias = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[tuple[Text, ...], Field(min_length=1), Tag("<list>")],
    shapes('must be a name, a pattern such as "glue_*", or a list of them'),
]


class DatasetPart(RowSource):
    """A part of a dataset: one sub-dataset, or many of one shape.

    A sub-dataset is each configuration that `config` names, else each file that `path` or `files` names, else the
    whole split; with `by` it is all rows of one value of that column. Which rows are taken of it follows from what they
    say: the same ones every time, in whatever order files and rows come.
    """

    config: Texts | None = Field(  # type: ignore[assignment]  # of one dataset a source names one
        default=None,
        description="Configurations of a hub dataset: a name, a pattern (`*`, `?`, `[abc]`), or a list of them. A "
        "pattern means those that have the split, and `!` before one takes away what it means of those before it; "
        "`dem lock` writes down which are left.",
    )
    files: Texts | None = Field(
        default=None,
        description="Patterns of a hub dataset's files (`**` crosses folders), in place of `config` and `split`.",
    )
    columns: dict[Text, Text] | None = Field(
        default=None, description="As in the dataset, over whose own `columns` they are laid."
    )
    by: Text | None = Field(
        default=None, description="Column whose values tell sub-datasets apart, such as `task`."
    )
    max_samples: int | None = Field(
        default=None,
        ge=1,
        description="Most training rows of each sub-dataset. Of its held-out rows as many are used as the dataset's "
        "shares say beside them.",
    )
    max_files: int | None = Field(
        default=None,
        ge=1,
        description="Most files of each configuration, or of each pattern of `files`: the first ones by name. It "
        "bounds what there is to download of a hub dataset with very many rows.",
    )
    share: float | None = Field(
        default=None,
        gt=0,
        description="Of the dataset's training rows, beside the `share` of the other parts: rows are left out until "
        "these hold, and none is repeated. All parts give it, or none; none: all rows of each.",
    )

    @property
    def configs(self) -> tuple[str, ...]:
        """The configurations and patterns that it names."""
        return _listed(self.config)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of files that it names."""
        return _listed(self.files)


def _listed(named: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else named or ()


class Source(RowSource):
    """Where rows come from and how they become tokens."""

    format: Literal["text", "prompt-completion", "messages", "alpaca", "sharegpt"] | None = Field(
        default=None, description="What a row holds. Inferred from the columns where that is unambiguous."
    )
    columns: dict[Text, Text] | None = Field(
        default=None, description="The format's column = the file's column, where the names differ."
    )
    chat: Annotated[
        Annotated[Literal["auto"], Tag("<text>")] | Annotated[bool, Tag("<boolean>")],
        shapes('must be "auto", true or false', "auto"),
    ] = Field(
        default="auto",
        description="Whether prompt and completion are put in the base's chat template, in training and "
        "evaluation alike. `auto`: yes where the base has one.",
    )
    system: Text | None = Field(
        default=None, description="System prompt of every row that has no system turn of its own."
    )
    loss: Literal["completion", "assistant", "all"] | None = Field(
        default=None,
        description="Tokens that count: of the `completion` (of a chat, the last answer), of every turn of the "
        "`assistant`, or `all`. Default: `completion`, but `all` for text and `assistant` for chats.",
    )
    on_overflow: Literal["drop", "truncate"] = Field(
        default="drop", description="What becomes of rows over `max_length`; both are counted and said."
    )
    max_samples: int | None = Field(
        default=None, ge=1, description="Most rows to use; the same ones every time."
    )
    salt: Salt = None

    @property
    def origins(self) -> "dict[str, RowSource]":
        """Where its rows come from, by the key below its own that says it: `parts[0]`, or nothing for itself."""
        return {"": self}


class Dataset(Source):
    """A dataset, which becomes one distribution vector."""

    parts: Annotated[tuple[DatasetPart, ...], Field(min_length=1)] | None = Field(
        default=None,
        description="In place of `path` and `hub`: [parts](#a-part-of-a-dataset), of a dataset made of many.",
    )
    validation: HeldOut = Field(
        default=0.05,
        description="Held out for choices: a share, by a hash of the prompt, or a path, or a split.",
    )
    test: HeldOut = Field(
        default=0.05, description="Held out for judgement, likewise; nothing is ever chosen on it."
    )
    group_by: Text | None = Field(
        default=None, description="Rows with the same value of this column stay on one side of a split."
    )
    omega: Omega | None = Field(
        default=None,
        description="ω, the vector's weight: a number, or `tune`. Default: the method's, which is `tune` for `dem`.",
    )
    # Only its `model_fields_set` count: `Train.with_own` lays them over [train].
    train: Train = Field(default_factory=Train, description="Keys of `[train]` that differ for this dataset.")

    @property
    def origins(self) -> "dict[str, RowSource]":
        """As of any source; of a dataset with parts, these."""
        if self.parts is None:
            return super().origins
        return {f"parts[{index}]": part for index, part in enumerate(self.parts)}


SomeRows = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[Source, Tag("<table>")],
    shapes('must be a path, or a table such as { hub = "…" }'),
]


class Probe(Source):
    """Data that judges and protects, and is never trained on."""

    max_loss_increase: float | None = Field(
        default=None,
        ge=0,
        description="Most that tuning may let its loss grow over that of the base, or of the trunk where there is one.",
    )


class Vector(Table):
    """A vector that is extracted from a fine-tuned model, not trained here."""

    checkpoint: Text | None = Field(
        default=None, description="A full fine-tune of the same base: folder or hub id."
    )
    adapter: Text | None = Field(
        default=None,
        description="A LoRA adapter of the same base: folder or hub id. It is added by its formula, tensor by tensor.",
    )
    rows: SomeRows | None = Field(
        default=None,
        description="Rows that it was trained on, or others like them: a path, or a table as a probe's. Ways to "
        "compose that look at training rows (`match`, `regmean`) look at these; no vector is trained on them. What "
        "chooses leaves out validation rows with a prompt of theirs, as with those of datasets.",
    )
    revision: Text | None = Field(
        default=None, description="Branch, tag or commit on the hub; the lock pins the commit."
    )
    omega: Omega | None = Field(
        default=None,
        description="ω, the vector's weight: a number, or `tune`. Default: the method's, which is `tune` for `dem`.",
    )
    vector_dtype: VectorDtype | None = Field(
        default=None, description="Type that the vector is stored in; as `[train]` says where absent."
    )
    salt: Salt = None

    @property
    def sampled(self) -> Source | None:
        """Where its rows come from, if it has any."""
        return Source(path=self.rows) if isinstance(self.rows, str) else self.rows

    @property
    def source(self) -> str:
        """Which of the two keys says where it comes from: `checkpoint` or `adapter`."""
        return "adapter" if self.checkpoint is None else "checkpoint"

    @property
    def origin(self) -> str:
        """Where it comes from: a folder or a hub id."""
        return self.checkpoint or self.adapter or ""


if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]  # each by name, so that a typo gets "did you mean"


Prior: TypeAlias = Annotated[
    Annotated[float, Field(ge=0), Tag("<number>")] | Annotated[Literal["fit"], Tag("<text>")],
    shapes('must be a number or "fit"', "fit"),
]


class Compose(Table):
    """How base and vectors become one model."""

    method: MethodName = Field(
        default=EDIT.name,
        description="The way to compose: see below.",
    )
    dtype: Dtype = Field(
        default="bfloat16",
        description="Type of the composed model's weights, but for those that transformers keeps in float32. Every "
        "model of the recipe is judged in it. `bf16` trains in bfloat16: in float32 that is another model.",
    )
    density: float = Field(
        default=0.2, gt=0, le=1, description="Share of each tensor of a vector that is kept."
    )
    scale: float = Field(default=1.0, description="λ, what the merged vector is multiplied by.")
    seed: int = Field(default=42, ge=0, lt=2**32, description="Seed of what is dropped.")
    rows: int = Field(
        default=32, ge=1, le=256, description="Training rows of each dataset that layers are fitted on."
    )
    ridge: float = Field(
        default=2.0,
        gt=0,
        description="λ, what pulls a fitted layer to the prior, in squares of its median input.",
    )
    prior: Prior = Field(
        default="fit",
        description="c, what the mean of the vectors is multiplied by in the prior: a number, or `fit`: between 1 and "
        "the number of vectors, as each layer's rows say, and 1 where nothing is fitted.",
    )
    saliency: bool = Field(
        default=False,
        description="Whether a token weighs by its saliency where a layer is fitted: by how much what the layer puts "
        "out of it moves the loss of the dataset's own model. It is taken once for each vector, by a backward pass "
        "over its `rows`.",
    )
    salt: Salt = None


Proportions: TypeAlias = Annotated[
    Annotated[Literal["natural", "uniform"], Tag("<text>")]
    | Annotated[dict[Text, Annotated[float, Field(ge=0)]], Tag("<table>")],
    shapes('must be "natural", "uniform", or a table such as { math = 0.5 }'),
]


class Baseline(Table):
    """A model that the composed one is compared with.

    What the composed model cost is told beside what the mixtures cost that are named here: all of them, with what it
    takes to choose from them. Where none is named, one of as many tokens is projected.
    """

    method: Literal["mixing", "interpolation", "uniform", "single"] = Field(
        description="`mixing`: one model fine-tuned on the datasets together. `interpolation`: Σ ω Θᵢ of the "
        "fine-tuned models. `uniform`: Θ + Σ ΔΘ / n. `single`: Θ + α ΔΘ of the vector and α that do best alone on the "
        "validation rows of all datasets, as `[tune]` judges."
    )
    proportions: Proportions = Field(
        default="natural",
        description="mixing: shares of the mixture's tokens. `natural`: as the train splits are large; `uniform`: all "
        "alike; or dataset = share, 0 where it is not named.",
    )
    alpha: Omega = Field(
        default=1.0,
        description="mixing: scale of the mixture's vector, a number, or `tune`: found as ω is, on the same rows.",
    )
    omega: dict[Text, float] | None = Field(
        default=None,
        description="interpolation: vector = its ω, 0 where it is not named; 1/n of each if absent.",
    )
    # Only its `model_fields_set` count: `Train.with_own` lays them over [train].
    train: Train = Field(
        default_factory=Train,
        description="mixing: keys of `[train]` that differ. Without `num_train_epochs` or `max_steps` here, the "
        "mixture is trained on as many tokens as the vectors of all datasets together; those of `[trunk]` and `[heal]` "
        "are told beside it.",
    )
    salt: Salt = Field(
        default=None,
        description="As elsewhere, for all that makes the baseline; a mixture's training has a `salt` in `train`.",
    )


class Trunk(Table):
    """A short training on several datasets together, which every vector starts from in the base's place.

    It is made once: a dataset that is added to the recipe and not to it trains one vector, and no other. Everything
    that takes the base to compose, to search, to match or to analyse takes the trunk. Mixtures start from the base, as
    does what is called `base` in results. The trunk is measured beside the composed model, as `trunk`.

    Absent: every vector starts from the base. Vectors from elsewhere do so always, and so go with no trunk.
    """

    datasets: tuple[Text, ...] = Field(description="The datasets that it is trained on, by name.")
    proportions: Proportions = Field(
        default="uniform",
        description="Shares of its tokens. `uniform`: all alike; `natural`: as the train splits are large; or dataset "
        "= share, 0 where it is not named.",
    )
    # Only its `model_fields_set` count: `Train.with_own` lays them over [train].
    train: Train = Field(
        default_factory=Train,
        description="Keys of `[train]` that differ; `max_steps` or `num_train_epochs`, which is passes over all rows "
        "of its datasets, has to be one of them.",
    )
    dtype: Dtype = Field(
        default="bfloat16",
        description="Type of the trunk's weights: a matter of its own, as `compose.dtype` shall train nothing.",
    )
    salt: Salt = Field(
        default=None,
        description="As elsewhere, for its rows and its model; its training has a `salt` in `train`.",
    )


class Heal(Table):
    """A short training of the composed model on several datasets together: what it becomes is the model.

    The composed model as it was before is measured beside it, as `unhealed`. Where anything in the composed model
    changes, it is healed anew. Absent: the composed model is the model.
    """

    datasets: tuple[Text, ...] | None = Field(
        default=None,
        description="The datasets that it is trained on, by name; all of the recipe's if absent.",
    )
    proportions: Proportions = Field(default="uniform", description="As in `[trunk]`.")
    # Only its `model_fields_set` count: `Train.with_own` lays them over [train].
    train: Train = Field(
        default_factory=Train,
        description="Keys of `[train]` that differ; `max_steps` or `num_train_epochs` has to be one of them. In the "
        "study that took a tenth of a mixture's steps, at a third of the vectors' learning rate.",
    )
    salt: Salt = Field(
        default=None,
        description="As elsewhere, for its rows and the healed model; its training has a `salt` in `train`.",
    )


Mixture: TypeAlias = Baseline | Trunk | Heal
"""What is trained on several datasets together."""


class Recipe(Table):
    """A recipe: what to build, never how or where."""

    name: str = Field(
        pattern=rf"^{NAME.pattern}$",
        description="Name of the output folder. Default: the file's stem.",
        json_schema_extra={"filled": "by load_recipe"},
    )
    base: Base = Field(description="The base model.")
    train: Train = Field(default_factory=Train, description="How vectors are trained.")
    datasets: dict[str, Dataset] = Field(
        default_factory=dict, description="Datasets by name; each becomes a vector."
    )
    probes: dict[str, Probe] = Field(default_factory=dict, description="Probes by name.")
    vectors: dict[str, Vector] = Field(default_factory=dict, description="Vectors from elsewhere, by name.")
    trunk: Trunk | None = Field(
        default=None, description="What every vector starts from, in the base's place."
    )
    compose: Compose = Field(default_factory=Compose, description="How the model is composed.")
    heal: Heal | None = Field(default=None, description="How the composed model is trained a little more.")
    tune: Tune | None = Field(default=None, description="How ω is searched.")
    analysis: Analysis | None = Field(default=None, description="Whether vectors are analysed.")
    evaluate: Evaluate | None = Field(default=None, description="What is measured.")
    gates: tuple[Gate, ...] = Field(default=(), description="Conditions on results.")
    baselines: dict[str, Baseline] = Field(
        default_factory=dict, description="What the model is compared with, by name."
    )
    # Private, so that no dump, and so no key, knows where a recipe lies.
    _path: Path = PrivateAttr(default=Path("recipe.toml"))
    _origin: Origin = PrivateAttr(default=Origin("recipe.toml"))

    @property
    def path(self) -> Path:
        """The recipe's file, absolute. Equal recipes may lie in different files."""
        return self._path

    @property
    def folder(self) -> Path:
        """The folder that relative paths of the recipe start from."""
        return self._path.parent

    def resolve(self, text: str) -> Path:
        """A path of the recipe as a path of this machine: absolute, with `~` expanded."""
        return self.folder / expanded(text)

    @property
    def sources(self) -> dict[str, Source]:
        """Where rows come from: datasets, probes, and vectors from elsewhere that name some; each by its name."""
        sampled = {name: vector.sampled for name, vector in self.vectors.items()}
        given = {name: source for name, source in sampled.items() if source is not None}
        return {**self.datasets, **self.probes, **given}

    @property
    def learned_from(self) -> list[str]:
        """The sources that a vector was trained on, here or elsewhere: nothing is judged fairly on their prompts."""
        return [name for name in self.sources if name not in self.probes]

    def source_key(self, name: str, *below: str) -> str:
        """The key of a source in the recipe, or of what is below it: `datasets.math`, `datasets.math.parts[0].path`.

        Args:
            name: The source.
            below: Keys below its own, from the outermost; an empty one is none, as of `Source.origins`.

        Raises:
            KeyError: The recipe has no source of that name.
        """
        section = next((s for s in ("datasets", "probes", "vectors") if name in getattr(self, s)), None)
        if section is None:
            raise KeyError(name)
        rows = "rows" if section == "vectors" else ""
        return ".".join(filter(None, (section, name, rows, *below)))

    @property
    def stages(self) -> dict[str, Trunk | Heal]:
        """`[trunk]` and `[heal]`, those that there are, by the name that their rows and vectors have."""
        found = {TRUNK: self.trunk, HEAL: self.heal}
        return {name: stage for name, stage in found.items() if stage is not None}

    @property
    def prepared(self) -> list[str]:
        """Names of all rows that are prepared: sources, stages and mixtures."""
        mixtures = [name for name, baseline in self.baselines.items() if baseline.method == "mixing"]
        return [*self.sources, *self.stages, *mixtures]

    def mixture_of(self, name: str) -> Mixture:
        """What is trained on several datasets together: `trunk`, `heal`, or a baseline.

        Raises:
            KeyError: The recipe has none of that name.
        """
        stages = self.stages
        return stages[name] if name in stages else self.baselines[name]

    def mixed_by(self, name: str) -> tuple[str, ...]:
        """The datasets that a mixture may have rows of: those that it names, else all."""
        mixture = self.mixture_of(name)
        named = None if isinstance(mixture, Baseline) else mixture.datasets
        return tuple(self.datasets) if named is None else named

    def train_of(self, name: str) -> Train:
        """`[train]` with the own `train` table of a dataset or a mixture laid over it.

        Raises:
            KeyError: The recipe has no such dataset or mixture.
        """
        owner = self.datasets[name] if name in self.datasets else self.mixture_of(name)
        return self.train.with_own(owner.train)

    def omega_of(self, vector: Dataset | Vector) -> float | Literal["tune"]:
        """ω of a dataset's vector or of one from elsewhere: as it says, else as the way to compose has it."""
        return METHODS[self.compose.method].default if vector.omega is None else vector.omega

    @property
    def omegas(self) -> dict[str, float | Literal["tune"]]:
        """Vector → its ω, those of datasets first."""
        vectors: dict[str, Dataset | Vector] = {**self.datasets, **self.vectors}
        return {name: self.omega_of(vector) for name, vector in vectors.items()}

    @property
    def validated(self) -> list[str]:
        """Names of the datasets that have validation rows; a share of 0 says that none are held out."""
        return [name for name, dataset in self.datasets.items() if dataset.validation != 0]

    @property
    def tested(self) -> list[str]:
        """Names of the datasets that have test rows."""
        return [name for name, dataset in self.datasets.items() if dataset.test != 0]

    @property
    def unevaluated(self) -> list[str]:
        """Names of the baselines of which nothing is measured."""
        measured = self.evaluate.models if self.evaluate else ()
        return [name for name in self.baselines if name not in measured]

    @property
    def inherited_rates(self) -> list[str]:
        """Tables (`datasets.chat.train`) whose own `method` is trained at a rate that [train] has for another one."""
        if "learning_rate" not in self.train.model_fields_set:
            return []
        owners: dict[str, Dataset | Baseline | Trunk | Heal] = {
            f"datasets.{n}": d for n, d in self.datasets.items()
        }
        owners |= {f"baselines.{name}": b for name, b in self.baselines.items() if b.method == "mixing"}
        owners |= {
            name: stage for name, stage in (("trunk", self.trunk), ("heal", self.heal)) if stage is not None
        }
        return [
            f"{key}.train"
            for key, owner in owners.items()
            if "learning_rate" not in owner.train.model_fields_set
            and self.train.with_own(owner.train).method != self.train.method
        ]

    def problem(self, key: str, what: str, hint: str = "") -> Problem:
        """A mistake at a key (`datasets.math.path`, `gates[0].task`) of the recipe, with its line or option."""
        return self._origin.problem(parsed(key), what, hint)

    def placed(self, path: Path, origin: Origin) -> "Recipe":
        """Say where the recipe was read from; it enters nothing that is built."""
        self._path, self._origin = absolute(path), origin
        return self

    def __eq__(self, other: object) -> bool:
        """Compare what is to be built, and not the file that says it."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # it holds dictionaries
