"""The JSON Schema of recipes says of shapes what the models say, of every recipe that there is."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dem_build.machine import Machine
from dem_build.recipe.docs import EXAMPLES, MACHINE_EXAMPLE
from dem_build.recipe.json_schema import SCHEMAS, json_schema
from dem_build.recipe.messages import mistakes_of
from dem_build.recipe.schema import Recipe
from dem_build.recipe.toml import frozen

ROOT = Path(__file__).parents[2]
MISTAKEN = sorted((ROOT / "tests/recipes").glob("*/recipe.toml"))
GOOD = sorted((ROOT / "recipes").glob("*/*.toml"))


def read(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    return Draft202012Validator(json_schema("recipe"))


@pytest.mark.parametrize("of", SCHEMAS)
def test_it_is_a_schema(of: str) -> None:
    document = json_schema(of)
    Draft202012Validator.check_schema(document)
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "null" not in str(document)


def test_every_recipe_of_the_project_is_valid(validator: Draft202012Validator) -> None:
    assert len(GOOD) >= 3
    for path in GOOD:
        assert [error.message for error in validator.iter_errors(read(path))] == [], path


def test_it_finds_a_mistake_where_the_models_find_one(validator: Draft202012Validator) -> None:
    """Names and exactly what is a number are rules of dem's own, beside the models."""
    found = {True: 0, False: 0}
    for path in MISTAKEN:
        data = read(path)
        if (
            data is None
            or path.parent.name in {"space-in-a-name", "slash-in-the-recipes-name"}
            or not finite(data)
        ):
            continue
        wrong = bool(mistakes_of(Recipe, frozen({"name": "recipe", **data})))
        found[wrong] += 1
        assert bool(list(validator.iter_errors(data))) == wrong, path
    assert min(found.values()) > 30


def finite(value: Any) -> bool:
    """JSON has no other numbers."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(finite, parts)) and not (isinstance(value, float) and not math.isfinite(value))


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("[base]\nmdoel = 1", "$.base", "'mdoel' was unexpected"),
        ("[base]\nmodel = 1", "$.base.model", "1 is not of type 'string'"),
        ("[datasets.'a b']\npath = 'x'", "$.datasets", "'a b' does not match"),
        ("[compose]\nmethod = 'dme'", "$.compose.method", "'dme' is not one of"),
        ("[tune]\nbounds = [0.0]", "$.tune.bounds", "[0.0] is too short"),
        (
            "[evaluate]\ntasks = ['a', { name = 'b', limit = 0 }]",
            "$.evaluate.tasks[1]",
            "is not valid under any",
        ),
    ],
)
def test_a_mistake_has_its_place(validator: Draft202012Validator, text: str, where: str, what: str) -> None:
    data = {"base": {"model": "m"}, **tomllib.loads(text)}
    assert [e.json_path for e in validator.iter_errors(data) if what in e.message] == [where]


def test_every_key_has_its_words_and_the_examples_of_the_documentation_are_valid(
    validator: Draft202012Validator,
) -> None:
    document = json_schema("recipe")
    for name, table in {"Recipe": document, **document["$defs"]}.items():
        undescribed = [key for key, entry in table["properties"].items() if "description" not in entry]
        assert not undescribed, name
    for text in EXAMPLES.values():
        data = {"base": {"model": "m"}, **tomllib.loads(text)}
        assert [error.message for error in validator.iter_errors(data)] == []
    machine = Draft202012Validator(json_schema("machine"))
    assert list(machine.iter_errors(tomllib.loads(MACHINE_EXAMPLE))) == []
    assert [e.json_path for e in machine.iter_errors({"jobs": 0})] == ["$.jobs"]
    assert "jobs" in Machine.model_fields
