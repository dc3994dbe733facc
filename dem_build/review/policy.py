"""`dem-ci.toml`: what a stranger's recipe may name and take. It is read at the base revision, never at the head.

Annotations are no strings: pydantic would compile each of them.
"""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from dem_build.errors import Problem, RecipeError
from dem_build.recipe import toml
from dem_build.recipe.messages import mistakes_of

POLICY = "dem-ci.toml"
"""Where it lies, from the root of the repository."""

_ENTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/(?:\*|[A-Za-z0-9][A-Za-z0-9._-]*)")


def _entry(value: object) -> object:
    if isinstance(value, str) and not _ENTRY.fullmatch(value):
        raise PydanticCustomError("hub", "must be `org/name`, or `org/*` for all that an organisation has")
    return value


class Untrusted(BaseModel):
    """What a recipe from a fork may name and take."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    hub: tuple[Annotated[str, BeforeValidator(_entry)], ...] = Field(
        default=(), description="Models and datasets on a hub that it may name: `org/name`, or `org/*`."
    )
    max_rows: int = Field(
        default=100_000, ge=0, description="Most rows of all datasets that are due together."
    )
    max_tokens: int = Field(
        default=100_000_000, ge=0, description="Most tokens that trainings read and models answer together."
    )
    max_steps: int = Field(default=10_000, ge=0, description="Most steps of all trainings together.")
    max_disk: int = Field(
        default=50_000_000_000, ge=0, description="Most bytes of vectors, models and checkpoints together."
    )

    def allows(self, repository: str) -> bool:
        """Whether a repository on a hub is on the list."""
        return repository in self.hub or f"{repository.partition('/')[0]}/*" in self.hub


class ReviewPolicy(BaseModel):
    """The keys of `dem-ci.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    untrusted: Untrusted = Field(default_factory=Untrusted)


def read_policy(data: bytes | None) -> ReviewPolicy:
    """The policy of a revision.

    Args:
        data: The file's bytes at that revision; None where it has none, which is the defaults: no name on a hub.

    Raises:
        RecipeError: All its mistakes.
    """
    if data is None:
        return ReviewPolicy()
    text, tables = toml.parse(data, Path(POLICY), "policy")
    if toml.too_deep(tables):
        raise RecipeError([Problem(POLICY, 0, "", toml.TOO_DEEP)])
    values = toml.frozen(tables)
    if mistakes := mistakes_of(ReviewPolicy, values):
        origin = toml.Origin(POLICY, text)
        raise RecipeError([origin.problem(m.key, m.what, m.hint) for m in mistakes])
    return ReviewPolicy.model_validate(values, strict=True)
