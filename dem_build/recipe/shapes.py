"""What the values of recipes are made of: strict tables, texts, and unions that are told apart by TOML shape."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

__all__ = ["Dtype", "Omega", "Salt", "Share", "Table", "Text", "is_tag", "shapes"]


def shapes(expected: str, word: str | None = None) -> Discriminator:
    """Choose a branch of a union by the TOML shape of the value, so that an error is that branch's alone.

    Args:
        expected: What to say of a value that fits no branch.
        word: The only text that the union takes, where it takes just one.
    """

    def shape(value: object) -> str | None:
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
