"""The recipe language and the machine file's keys as JSON Schema, which editors complete and check TOML by.

pydantic makes it of the models. What keys say about each other, `dem check` knows alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dem_build.machine import Machine
from dem_build.recipe.schema import NAME, Recipe

if TYPE_CHECKING:
    from pydantic import BaseModel

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMAS: dict[str, tuple[type[BaseModel], str]] = {
    "recipe": (Recipe, "A recipe of dem"),
    "machine": (Machine, "The machine file of dem"),
}
"""What a file is → its model, and what an editor calls it."""


def json_schema(of: str) -> dict[str, Any]:
    """The schema of one of `SCHEMAS`, a recipe or a machine file, as a JSON document."""
    model, title = SCHEMAS[of]
    written: dict[str, Any] = _written(model.model_json_schema())
    # What is filled in where the file does not say it need not be written.
    filled = {
        name
        for name, field in model.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and "filled" in field.json_schema_extra
    }
    if filled:
        written["required"] = [name for name in written["required"] if name not in filled]
    for table in written["properties"].values():
        entry = table.get("additionalProperties")
        if isinstance(entry, dict) and "$ref" in entry:  # tables with names that a person gives
            table["propertyNames"] = {"pattern": f"^{NAME.pattern}$"}
    return {"$schema": DIALECT, "title": title, **written}


def _written(schema: Any) -> Any:
    """A schema of what can be written: TOML has no null, and pydantic's titles only say keys once more."""
    if isinstance(schema, list):
        return [_written(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    arms = [arm for arm in schema.get("anyOf", ()) if arm != {"type": "null"}]
    kept = {name: value for name, value in schema.items() if not (name == "default" and value is None)}
    if len(arms) == 1 and "anyOf" in schema:
        del kept["anyOf"]
        kept = {**arms[0], **kept}
    # Under `properties` and `$defs` names are a user's or a model's, and none is a keyword.
    return {
        name: {key: _written(each) for key, each in value.items()}
        if name in {"properties", "$defs"}
        else _written(value)
        for name, value in kept.items()
        if not (name == "filled" or (name == "title" and isinstance(value, str)))
    }
