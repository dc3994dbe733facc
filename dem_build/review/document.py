"""What `dem ci` found, as one document: pages, JSON, JUnit and annotations are all made of it.

It is read back from files that a stranger's pull request may have made (`dem ci --render`), so its shape is strict and
all of it is bounded. What it says is shown, and believed of nothing.

Annotations are no strings: pydantic would compile each of them.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dem_build.compare.keys import Standing
from dem_build.errors import GRAVITY, UsageError
from dem_build.report.comparison import Trend

MOST_BYTES = 4_000_000
MOST_TEXT = 4000
MOST_RECIPES = 500

Name = Annotated[str, Field(max_length=1000)]
Prose = Annotated[str, Field(max_length=MOST_TEXT)]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Status = Literal[0, 1, 2, 3, 4, 130]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class ToldPart(BaseModel):
    """A part of the document: strict, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ToldChange(StrEnum):
    """What became of a recipe between the two revisions."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    BROKEN = "broken"


class ToldMistake(ToldPart):
    """A mistake at a line of a file; line 0 is the whole of it."""

    file: Name
    line: Count
    key: Name = ""
    what: Prose
    hint: Prose = ""


class Trouble(ToldPart):
    """Why a recipe could not be reviewed to its end."""

    what: Prose
    where: Name | None = None
    hint: Prose | None = None
    mistakes: tuple[ToldMistake, ...] = Field(default=(), max_length=200)


class Weakened(ToldPart):
    """A gate that was loosened or removed, judged by what it was at the base revision.

    Attributes:
        passed: Whether the head passes it as it was; None where nothing could be judged.
        line: Of the gate at the head; 0 where it is gone.
    """

    gate: Name
    how: Literal["loosened", "removed"]
    was: Prose
    now: Prose = ""
    line: Count = 0
    value: float | None = None
    passed: bool | None = None
    why: Prose = ""


class GateVerdict(ToldPart):
    """A gate of the head, judged; `passed` is None where nothing could be."""

    metric: Name
    task: Name
    line: Count = 0
    value: float | None = None
    passed: bool | None = None
    why: Prose = ""


class Metric(ToldPart):
    """One metric of the composed model at both revisions.

    Attributes:
        before: The base revision's value, None where it has none.
        delta: After less before, on what both measured.
        p: The probability of a difference at least as large by chance, after Holm over the table.
        common: Rows or documents of both revisions, where it was compared by them.
        only_before: Those of the base revision alone.
        only_after: Those of the head alone.
        test: How p was found, in a word.
        worth: What the difference is worth, all those of its table considered.
    """

    on: Name
    metric: Name
    before: float | None = None
    after: float | None = None
    delta: float | None = None
    stderr: float | None = None
    p: float | None = None
    common: Count | None = None
    only_before: Count | None = None
    only_after: Count | None = None
    test: Name = ""
    worth: Trend = Trend.UNKNOWN


class Omega(ToldPart):
    """A vector's ω at both revisions; None where it has none."""

    vector: Name
    before: float | None = None
    after: float | None = None


class ToldReason(ToldPart):
    """What was changed, and which actions that makes others."""

    text: Prose
    changed: tuple[Name, ...] = Field(default=(), max_length=500)
    follow: tuple[Name, ...] = Field(default=(), max_length=500)


class ToldDue(ToldPart):
    """An action that ran, or has to.

    Attributes:
        trains: Whether it is a training.
        line: Of the dataset, vector or baseline that it is of, in the recipe; 0 where it is of none.
        state: `due`, `ran`, `failed` or `skipped`.
        seconds: What it took; of one that is due, what it is expected to take.
        disk: Bytes that it is expected to write.
        error: Why it failed.
    """

    action: Name
    trains: bool = False
    line: Count = 0
    state: Literal["due", "ran", "failed", "skipped"]
    seconds: float | None = None
    device: Name = ""
    disk: Count | None = None
    error: Prose = ""

    @property
    def to_train(self) -> bool:
        """Whether it is a training that is yet to run."""
        return self.trains and self.state == "due"


class AskedPrompt(ToldPart):
    """A prompt, and what the composed models of both revisions answered."""

    dataset: Name
    asked: Prose
    before: Prose | None = None
    after: Prose | None = None
    reference: Prose | None = None


class KeyChange(ToldPart):
    """An action that is other work than it was; a key is None where there is no action, or its key is not known yet."""

    action: Name
    before: Digest | None = None
    after: Digest | None = None
    what: Standing


class RecipeReview(ToldPart):
    """One recipe at both revisions.

    Attributes:
        path: Where it is, from the root of the repository.
        was: Where it was, if elsewhere.
        notes: What else there is to say, a sentence each.
        no_baseline: Why nothing is compared with; empty where something is.
        cost: What the head has and the base revision has not took to make, by device, in words.
        recorded: How many of the head's actions are recorded, and of how many.
    """

    path: Name
    was: Name | None = None
    change: ToldChange
    status: Status = 0
    trouble: Trouble | None = None
    weakened: tuple[Weakened, ...] = Field(default=(), max_length=200)
    gates: tuple[GateVerdict, ...] = Field(default=(), max_length=200)
    metrics: tuple[Metric, ...] = Field(default=(), max_length=1000)
    omega: tuple[Omega, ...] = Field(default=(), max_length=500)
    reasons: tuple[ToldReason, ...] = Field(default=(), max_length=500)
    actions: tuple[ToldDue, ...] = Field(default=(), max_length=1000)
    prompts: tuple[AskedPrompt, ...] = Field(default=(), max_length=300)
    keys: tuple[KeyChange, ...] = Field(default=(), max_length=2000)
    model_before: Digest | None = None
    model_after: Digest | None = None
    cost: Prose = ""
    recorded: tuple[Count, Count] = (0, 0)
    no_baseline: Prose = ""
    notes: tuple[Prose, ...] = Field(default=(), max_length=50)

    @property
    def is_same(self) -> bool:
        """Whether all there is to say is that nothing changed."""
        return self.change is ToldChange.UNCHANGED and not self.status and not self.weakened


class Review(ToldPart):
    """All recipes of two revisions.

    Attributes:
        against: What the base was named as.
        base: The commit that both have in common.
        untrusted: Whether the head was taken for a stranger's.
        command: What repeats the review.
    """

    dem_ci: Literal[1] = 1
    against: Name
    base: Commit
    head: Commit
    untrusted: bool = False
    command: Name = ""
    recipes: tuple[RecipeReview, ...] = Field(default=(), max_length=MOST_RECIPES)
    notes: tuple[Prose, ...] = Field(default=(), max_length=50)

    @property
    def status(self) -> int:
        """The gravest status of its recipes."""
        return min((recipe.status for recipe in self.recipes), key=GRAVITY.index, default=0)

    @property
    def touched(self) -> list[RecipeReview]:
        """The recipes of which there is more to say than that nothing changed."""
        return [recipe for recipe in self.recipes if not recipe.is_same]

    @property
    def same(self) -> list[RecipeReview]:
        """All others."""
        return [recipe for recipe in self.recipes if recipe.is_same]


def read_review(data: bytes, where: str) -> Review:
    """The document that a file holds.

    Raises:
        UsageError: It is no document of `dem ci`, or one of another version.
    """
    hint = "it is what `dem ci --json` writes, by a dem of the same version"
    if len(data) > MOST_BYTES:
        raise UsageError(f"is {len(data)} bytes, and a review at most {MOST_BYTES}", where=where, hint=hint)
    try:
        return Review.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(shown(f"is no review: {place}: {first['msg']}"), where=where, hint=hint) from error


def shown(text: str, most: int = MOST_TEXT) -> str:
    """A text that a field of the document can hold: what is too long is cut, what is no character is `?`."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= most else text[: most - 2] + " …"
