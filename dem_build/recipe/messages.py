"""What pydantic says of a table, in the words of the file: which key, what is wrong, and the nearest valid key."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dem_build.machine import Machine
from dem_build.recipe.schema import Dataset
from dem_build.recipe.sections import Evaluate, Train, is_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pydantic_core import ErrorDetails

    from dem_build.recipe.toml import Key

# What other tools call the same: transformers and TRL, axolotl (`sequence_len`), LLaMA-Factory (`cutoff_len`), mergekit
# (`merge_method`, `out_dtype`).
OTHER_NAMES = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "global_batch_size",
    "max_seq_length": "max_length",
    "sequence_len": "max_length",
    "sample_packing": "packing",
    "cutoff_len": "max_length",
    "warmup_ratio": "warmup_steps",
    "scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "r": "lora_r",
    "lora_rank": "lora_r",
    "target_modules": "lora_target_modules",
    "lora_target": "lora_target_modules",
    "lora_target_linear": "lora_target_modules",
    "flash_attention": "attn_implementation",
    "train_on_inputs": "loss",
    "val_set_size": "validation",
    "test_size": "test",
    "field_messages": "columns",
    "weight": "omega",
    "ω": "omega",
    "file": "path",
    "data_files": "path",
    "system_prompt": "system",
    "base_model": "model",
    "model_name_or_path": "model",
    "model": "checkpoint",
    "path": "checkpoint",
    "lambda": "scale",
    "on": "task",
    "dataset": "task",
    "torch_dtype": "dtype",
    "out_dtype": "dtype",
    "merge_method": "method",
}
# What any table may have, and is called otherwise in each: it belongs nowhere else.
ANY_TABLES = {"type": ("format", "method", "search")}
# What has another name and another meaning: a key of that name alone would be filled in wrongly.
_BATCH = (
    "`global_batch_size` in [train] counts the sequences of a step, over all devices and accumulated passes; "
    "`micro_batch` in the machine file those of one pass"
)
_LORA = 'adapters are trained by method = "lora" in [train]'
_MODEL = "the model that vectors are trained from is `model` in [base]"
OTHER_WAYS = {
    "micro_batch_size": _BATCH,
    "per_device_train_batch_size": _BATCH,
    "gradient_accumulation_steps": _BATCH,
    "adapter": f"{_LORA}; one from elsewhere is `adapter` in [vectors.NAME]",
    "use_peft": _LORA,
    "peft_type": _LORA,
    "load_in_4bit": f"no base is loaded in 4 bits; {_LORA}",
    "load_in_8bit": f"no base is loaded in 8 bits; {_LORA}",
    "base_model": _MODEL,
    "model_name_or_path": _MODEL,
    "merge_method": "how vectors are composed is `method` in [compose]",
}
# What mergekit and Axolotl call a value.
OTHER_VALUES = {
    "task_arithmetic": "dem",
    "linear": "interpolation",
    "dare_linear": "dare",
    "chat_template": "messages",
}


@dataclass(frozen=True)
class Mistake:
    """A mistake before its line is known: key, what is wrong, how to mend it."""

    key: Key
    what: str
    hint: str = ""


def mistakes_of(model: type[BaseModel], data: Mapping[str, Any]) -> list[Mistake]:
    """What is wrong with the shape of a table, whose lists are tuples; nothing when the model takes it."""
    try:
        model.model_validate(data, strict=True)
    except ValidationError as error:
        return mistakes_in(model, error)
    return []


def mistakes_in(model: type[BaseModel], error: ValidationError) -> list[Mistake]:
    """What pydantic found wrong with a table of a model."""
    return [_mistake(model, details) for details in error.errors(include_url=False)]


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint that leads from a word to the known ones; empty where none is known."""
    words = sorted(known)
    if similar := _similar(word, words):
        return f"did you mean `{similar}`?"
    if len(words) > 12:
        return f"the nearest is `{_similar(word, words, cutoff=0.0)}`"
    return f"known: {listed(words)}" if words else ""


def _similar(word: str, words: Iterable[str], cutoff: float = 0.6) -> str | None:
    from difflib import get_close_matches  # noqa: PLC0415  only for a mistake

    return next(iter(get_close_matches(word, list(words), n=1, cutoff=cutoff)), None)


def listed(words: Iterable[str]) -> str:
    """Write names one after another."""
    return ", ".join(f"`{w}`" for w in words)


def any_of(values: Iterable[Any]) -> str:
    """Write a choice: `"a", "b" or "c"`."""
    *most, last = [_show(v) for v in values]
    return f"{', '.join(most)} or {last}" if most else last


def _model_at(model: type[BaseModel], key: Key) -> type[BaseModel] | None:
    """The model of the table at a key; None where the language has no table with keys of its own."""
    now: type[BaseModel] | None = model
    parts = list(key)
    while parts and now is not None:
        field = now.model_fields.get(str(parts.pop(0)))
        if field is None:
            return None
        now = _model_in(field.annotation)
        if get_origin(field.annotation) in (dict, tuple) and parts:
            parts.pop(0)  # the name or number of a table among others of its kind
    return now


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for a in get_args(annotation) if (m := _model_in(a))), None)


def _mistake(model: type[BaseModel], error: ErrorDetails) -> Mistake:
    key = tuple(part for part in error["loc"] if not is_tag(part))
    if error["type"] == "extra_forbidden":
        return Mistake(key, "unknown key", _key_hint(model, key))
    if error["type"] == "literal_error":
        # pydantic gives a Literal's values as one text: 'a', 'b' or 'c'
        expected = str(error.get("ctx", {}).get("expected", ""))
        choices = [part.strip().strip("'") for part in expected.replace(" or ", ",").split(",")]
        other = OTHER_VALUES.get(str(error["input"]))
        similar = other if other in choices else _similar(str(error["input"]), choices)
        what = f"must be {any_of(choices)}, not {_show(error['input'])}"
        return Mistake(key, what, f'did you mean "{similar}"?' if similar else "")
    say = _SAYINGS.get(error["type"])
    what = say(error.get("ctx", {})) if say else error["msg"]
    return Mistake(key, what if error["type"] in _WITHOUT_VALUE else f"{what}, not {_show(error['input'])}")


def _key_hint(model: type[BaseModel], key: Key) -> str:
    """Point from an unknown key to the one that was meant: a similar one here, or the table or file it belongs in."""
    table, word = _model_at(model, key[:-1]), str(key[-1])
    here = table.model_fields if table else {}
    here_called = (name for name in ANY_TABLES.get(word, ()) if name in here)
    other = next(here_called, OTHER_NAMES.get(word, word))
    if other != word and other in here:
        return f"did you mean `{other}`?"
    if word in OTHER_WAYS:
        return OTHER_WAYS[word]
    if _similar(word, here):  # a slip of the pen is likelier than a key of another table
        return nearest(word, here)
    found = (_elsewhere(model, here, meant) for meant in dict.fromkeys((word, other)))
    return next(filter(None, found), "") or nearest(word, here)


def _elsewhere(model: type[BaseModel], here: Mapping[str, Any], meant: str) -> str:
    """Say which other table or file takes a key; empty where none does."""
    if model is Machine:
        return "the recipe says what to build, the machine file how" if meant in Train.model_fields else ""
    if "train" in here and meant in Train.model_fields:
        return f"`{meant}` belongs in its `train`: train = {{ {meant} = … }}"
    places: tuple[tuple[type[BaseModel], str], ...] = (
        (Train, "[train]"),
        (Dataset, "[datasets.NAME]"),
        (Evaluate, "[evaluate]"),
        (Machine, "the machine file, `machine.toml`"),
    )
    return next((f"`{meant}` belongs in {name}" for owner, name in places if meant in owner.model_fields), "")


_WITHOUT_VALUE = {
    *("missing", "string_too_short", "too_short", "too_long"),
    *("credential", "nothing_asked", "read_only", "no_endpoint"),
}
_SAYINGS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "missing": lambda _: "is required",
    "string_type": lambda _: "must be text",
    "string_too_short": lambda _: "must not be empty",
    "too_short": lambda _: "must not be empty",
    "string_pattern_mismatch": lambda _: "must be made of letters, digits, `_` and `-`",
    "int_type": lambda _: "must be a whole number",
    "float_type": lambda _: "must be a number",
    "finite_number": lambda _: "must be a finite number",
    "bool_type": lambda _: "must be true or false",
    "tuple_type": lambda _: "must be a list",
    "dict_type": lambda _: "must be a table",
    "model_type": lambda _: "must be a table",
    "too_long": lambda limits: f"must have {limits['max_length']} items, not {limits['actual_length']}",
    "greater_than": lambda limits: f"must be above {_limit(limits['gt'])}",
    "greater_than_equal": lambda limits: f"must be at least {_limit(limits['ge'])}",
    "less_than": lambda limits: f"must be below {_limit(limits['lt'])}",
    "less_than_equal": lambda limits: f"must be at most {_limit(limits['le'])}",
}


def _limit(value: float) -> str:
    return str(value).removesuffix(".0")


def _show(value: Any) -> str:
    """Write a value as it may stand in a TOML file, or its shape where it is long."""
    if isinstance(value, str):
        short = value if len(value) <= 40 else value[:39] + "…"
        return json.dumps(short, ensure_ascii=False)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, tuple) else "a date or time"
