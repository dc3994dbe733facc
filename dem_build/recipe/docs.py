"""Write `docs/recipe.md` from the models: `python -m dem_build.recipe.docs > docs/recipe.md`."""

from __future__ import annotations

import inspect
import json
import sys
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from dem_build.actions.compose.methods import METHODS, Method
from dem_build.machine import Machine, Remote, Submit
from dem_build.recipe import schema, sections

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("## `[base]`", schema.Base),
    ("## `[train]`", sections.Train),
    ("## `[datasets.NAME]`", schema.Dataset),
    ("### A part of a dataset", schema.DatasetPart),
    ("## `[probes.NAME]`", schema.Probe),
    ("## `[vectors.NAME]`", schema.Vector),
    ("## `[trunk]`", schema.Trunk),
    ("## `[compose]`", schema.Compose),
    ("## `[tune]`", sections.Tune),
    ("## `[heal]`", schema.Heal),
    ("## `[analysis]`", sections.Analysis),
    ("## `[evaluate]`", sections.Evaluate),
    ("### A task of `[evaluate]`", sections.Task),
    ("## `[[gates]]`", sections.Gate),
    ("## `[baselines.NAME]`", schema.Baseline),
)
WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

INTRODUCTION = """\
<!-- Written by `python -m dem_build.recipe.docs`. Change the models, not this page. -->

# The recipe language

A recipe is a TOML file that says what to build: a base model, datasets with a weight ω for each, and what to measure.
How and where to build is in the [machine file](#the-machine-file), which never changes what is built.

- An unknown key, a wrong type or a contradiction is an error. `dem check RECIPE` tells all of them at once, with
  file, line, key and the nearest valid key, before anything is read or run.
- Names follow Hugging Face where it has one.
- Relative paths start from the recipe's folder, and `~` is the home folder.
- Of models, bare names, `./`, `../`, `/`, `~` and `*.gguf` are local and nothing else. `org/name` is a local folder if
  there is one, or if the lock has it as one and no `revision` is given; else it is a hub id.
- A local file that the lock pins need not be here: only an action that has to read it fails. The lock is asked where
  nothing lies at a path, or a folder lacks what its model needs; what is here counts as it is. A pattern that matches
  something means what it matches.
- Names of tables are made of letters, digits, `_` and `-`. Datasets, vectors, probes and baselines share their names,
  and none is called `composed`, `base`, `base-revision`, `vectors`, `trunk`, `heal` or `unhealed`.
- Numbers are finite, and no text is read as a number.
- `--set KEY=VALUE` changes a key from the command line: a dotted key and a TOML value, such as
  `--set train.learning_rate=1e-5` or `--set evaluate.tasks.0.limit=10`. A bare word is text. A build with it leaves
  the lock as it is.
- `dem add` and `dem remove` edit it, and by `dem schema RECIPE` an editor completes and checks it:
  [getting started](getting-started.md#a-recipe-of-your-own).
"""

MACHINE = """\
## The machine file

`--machine FILE`, else `$DEM_MACHINE`, else `machine.toml` beside the recipe; all keys are optional. The cache is
`--cache`, else `$DEM_CACHE`, else `cache` here, else `cache/` in the nearest folder around the recipe that holds `.git`
or `pyproject.toml`, else beside the recipe.
"""
REMOTES = """\
`$DEM_REMOTE` names one remote in place of those of the file, `$DEM_REMOTE_READ` its namespaces with commas between
them, `$DEM_REMOTE_WRITE` the one that is written. Without `$DEM_REMOTE` the other two replace `read` and `write` of
the first remote of the file; with it the file's `endpoint` of the same `url` counts. `DEM_REMOTE=none` asks no remote.

Object stores and `https://` need `pip install 'dem-build[remote]'`; folders and `hf://` need nothing. Credentials are
found by the store's own client and are never printed or recorded; an address that holds one is refused.
"""
CREDENTIALS = (
    ("store", "where its credentials are looked for"),
    (
        "`s3://`",
        (
            "`AWS_ACCESS_KEY_ID` and its kin, a web identity (OIDC), the role of a container or instance; with `boto3` "
            "installed also `AWS_PROFILE`, `~/.aws` and SSO"
        ),
    ),
    (
        "`gs://`",
        (
            "`GOOGLE_SERVICE_ACCOUNT`, `GOOGLE_APPLICATION_CREDENTIALS`, `gcloud auth application-default login`, an "
            "instance's role"
        ),
    ),
    (
        "`az://`",
        "`AZURE_STORAGE_ACCOUNT_NAME` with a key, a SAS token, a client's secret or a workload identity",
    ),
    ("`hf://`", "`HF_TOKEN`, `hf auth login`"),
    ("`https://`", "none: what is public is read"),
)
REMOTES_END = """\
A reader of S3 needs `s3:ListBucket` beside `s3:GetObject`: without it S3 answers 403, and not 404, to what is not
there, and a 403 is an error. What an `https://` remote has is read by anybody; it lists nothing and is never written.
"""

EXAMPLES: dict[type[BaseModel], str] = {
    schema.Base: """\
[base]
model = "HuggingFaceTB/SmolLM2-135M-Instruct"
revision = "main"
dtype = "bfloat16"
chat_template = "chat.jinja"
pad_token = "<pad>"
added_tokens = ["<pad>", "<tool>"]
""",
    sections.Train: """\
[train]
learning_rate = 2e-5
num_train_epochs = 1
global_batch_size = 32
max_length = 1024
""",
    schema.Dataset: """\
[datasets.math]
path = "data/math/*.jsonl"
format = "prompt-completion"
columns = { prompt = "question", completion = "answer" }
system = "You are a careful tutor."
max_samples = 20000
omega = 0.5
train = { num_train_epochs = 3 }

[datasets.poems]
path = "data/poems.jsonl"
format = "text"
validation = 0.1
omega = 0.2
""",
    schema.DatasetPart: """\
[datasets.prompts]
columns = { prompt = "inputs", completion = "targets" }

[[datasets.prompts.parts]]
hub = "org/prompted-tasks"
config = ["glue_*", "cos_e_*"]
max_samples = 500
share = 0.9

[[datasets.prompts.parts]]
path = "data/tasks/*.jsonl"
columns = { prompt = "question" }
by = "task"
max_samples = 100
share = 0.1
""",
    schema.Probe: """\
[probes.chat]
path = "data/chat.jsonl"
max_loss_increase = 0.01
""",
    schema.Vector: """\
[vectors.code]
checkpoint = "org/a-fine-tune-of-the-same-base"
rows = "code.jsonl"
omega = 0.3
""",
    schema.Trunk: """\
[trunk]
datasets = ["math", "poems"]
train = { max_steps = 100 }
""",
    schema.Heal: """\
[heal]
proportions = { math = 0.7, poems = 0.3 }
train = { max_steps = 40, learning_rate = 7e-6 }
""",
    schema.Compose: """\
[compose]
method = "dem"
dtype = "bfloat16"
""",
    sections.Tune: """\
[tune]
search = "gradient"
objective = "gain"
importance = { math = 2.0 }
""",
    sections.Analysis: """\
[analysis]
response = [0.0, 0.25, 0.5, 1.0, 1.5]
""",
    sections.Evaluate: """\
[evaluate]
tasks = ["arc_easy", { name = "math_words", num_fewshot = 4, limit = 200, apply_chat_template = true }]
include_path = "tasks"
models = ["composed", "base", "mix"]
prompts = ["What is 12 times 12?", "Write a haiku about rain."]
""",
    sections.Gate: """\
[[gates]]
task = "math_words"
metric = "acc"
min = 0.30

[[gates]]
task = "loss:chat"
metric = "loss"
max = 3.5

[[gates]]
task = "loss:math"
metric = "loss"
against = "base-revision"
max_drop = 0.01
margin = 2.0
""",
    schema.Baseline: """\
[baselines.mix]
method = "mixing"
proportions = { math = 0.5, poems = 0.5 }
alpha = "tune"

[baselines.mean]
method = "interpolation"
""",
}

MACHINE_EXAMPLE = """\
cache = "/scratch/dem"
micro_batch = 4
gradient_checkpointing = true
report_to = ["tensorboard"]
"""

SUBMIT_EXAMPLE = """\
engine = "slurm"

[submit]
cpus = 8
memory_gb = 64
minutes = 1440
options = { partition = "gpu", account = "models" }
"""
REMOTES_EXAMPLE = """\
[[remotes]]
url = "s3://team-models/dem"
read = ["trusted", "pr-17"]
write = "pr-17"
endpoint = "https://minio.example.com"
"""

METHODS_INTRODUCTION = """\
### Ways to compose

A key of `[compose]` that the method does not read is refused. `omega = "tune"` is for the methods whose ω are searched:
{tuned}.
"""

ROWS = """\
### What a row holds

These columns, by their own names; `columns` says where a file has others. Nothing else is read: `dem build` and
`dem data` name once what a dataset has beside them, columns and keys of turns. A column or key that is there twice
is an error.
"""
FORMAT_ROWS = (
    ("format", "columns", "where they are there"),
    ("`text`", "`text`", ""),
    (
        "`prompt-completion`",
        "`prompt` and `completion`, each a text or a list of turns",
        "`system`¹, `tools`¹, `chat_template_kwargs`¹",
    ),
    ("`messages`", "`messages`, a list of turns", "`system`, `tools` or `functions`, `chat_template_kwargs`"),
    (
        "`alpaca`",
        "`instruction`, `output`",
        "`input`, `system`, `history`, `tools`¹, `chat_template_kwargs`¹",
    ),
    ("`sharegpt`", "`conversations`, a list of turns", "`system`, `tools`, `chat_template_kwargs`"),
)
TEMPLATED = """\
¹ A chat template writes them. Without one they are not read, and named.
"""
BESIDE_ROWS = (
    ("column", "what it says"),
    (
        "`system`",
        (
            "The row's system prompt, in place of that of the recipe. A row whose turns have a system turn of their "
            "own keeps that one; such rows are counted."
        ),
    ),
    (
        "`history`",
        (
            'Questions and answers that came before, `[["…", "…"], …]`, as LLaMA-Factory has them. Their answers are '
            'trained as well; with `loss = "completion"` the last one alone.'
        ),
    ),
    ("`tools`, `functions`", "JSON schemas of what may be called: a list, or the JSON text of one."),
    (
        "`chat_template_kwargs`",
        'What the row gives the chat template beside turns and tools, such as `{"enable_thinking": false}`.',
    ),
)
TURN_ROWS = (
    ("key of a turn", "what it says"),
    (
        "`role`, `content`",
        "Who says what; in `sharegpt` also `from` and `value`. OpenAI's older role `function` is `tool`.",
    ),
    (
        "`tool_calls`, `function_call`",
        (
            'What is called, each as `{"function": {"name": "…", "arguments": {…}}}`. Arguments may be a JSON '
            "text, empty, or left out. In `sharegpt` the value of a turn from `function_call` is the JSON text of a "
            "call, or of a list of them."
        ),
    ),
    ("`tool_call_id`, `name`", "Passed on to the chat template."),
    (
        "`reasoning_content`, `reasoning`, `thinking`, `tool_plan`",
        "What the assistant thinks before it answers; in the content, that is what comes before `</think>`.",
    ),
    ("`weight`, `train`, `training`", "0 or false: this answer is not trained, whatever `loss` says."),
)
ROWS_END = """\
Of a `completion` that is a list of turns all answers are trained, of such a `prompt` none. In a parquet file a null
inside of an object is no data, since parquet gives every object of a column the keys of all; in JSON it is what it is.

What a chat template leaves out of a turn is an error that names the row: a text, reasoning, words beside a call, what
a call is given, what a tool answers. Counted and said instead is what templates are made to leave out: switches that
they read (`/no_think`), and what was thought before an earlier answer once a later one follows.
"""


def markdown() -> str:
    """The page."""
    parts = [INTRODUCTION, f"## The file\n\n{_keys(schema.Recipe)}"]
    for title, model in SECTIONS:
        parts += [
            f"{title}\n",
            f"{inspect.cleandoc(model.__doc__ or '')}\n",
            _keys(model),
            _toml(EXAMPLES.get(model, "")),
        ]
        if model is schema.Compose:
            parts += [
                METHODS_INTRODUCTION.format(tuned=_tuned()),
                _methods(),
                "".join(map(_sentence, METHODS.values())),
            ]
        if model is schema.Dataset:
            parts += [ROWS, _table(FORMAT_ROWS), TEMPLATED, _table(BESIDE_ROWS), _table(TURN_ROWS), ROWS_END]
    parts += [MACHINE, _keys(Machine), _toml(MACHINE_EXAMPLE)]
    parts += [
        "### `[submit]`\n",
        f"{inspect.cleandoc(Submit.__doc__ or '')}\n",
        _keys(Submit),
        _toml(SUBMIT_EXAMPLE),
    ]
    parts += ["### `[[remotes]]`\n", f"{inspect.cleandoc(Remote.__doc__ or '')}\n", _keys(Remote)]
    parts += [_toml(REMOTES_EXAMPLE), REMOTES, _table(CREDENTIALS), REMOTES_END]
    return "\n".join(part for part in parts if part)


def _tuned() -> str:
    return ", ".join(f"`{method.name}`" for method in METHODS.values() if method.tuned)


def _methods() -> str:
    head = ("method", "model", "a vector's `omega` is", "left out", "keys", "takes", "keeps")
    return _table((head, *(_method(method) for method in METHODS.values())))


def _method(method: Method) -> tuple[str, ...]:
    takes = "training rows of each dataset" if "rows" in method.keys else ""
    if method.vectors is not None:
        takes = f"{method.vectors} vectors"
    default = (
        "refused" if method.default == "tune" and not method.tuned else f"`{json.dumps(method.default)}`"
    )
    keys = ", ".join(f"`{key}`" for key in method.keys)
    return (f"`{method.name}`", method.formula, method.omega, default, keys, takes, method.keeps)


def _sentence(method: Method) -> str:
    return f"- `{method.name}`: {method.sentence}.\n"


def _toml(text: str) -> str:
    return f"```toml\n{text}```\n" if text else ""


def _keys(model: type[BaseModel]) -> str:
    fields = model.model_fields
    shared = schema.Source.model_fields if model is schema.Probe else {}
    rows = ""
    for name, key in fields.items():
        if name not in shared:
            kind = _type(key.annotation, key.metadata).replace("|", "\\|")
            rows += f"| `{name}` | {kind} | {_default(key)} | {key.description} |\n"
    first = "The keys `path` to `salt` of a dataset, and:\n\n" if shared else ""
    return f"{first}| key | type | default | meaning |\n|---|---|---|---|\n{rows}" if rows else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "" if isinstance(field.json_schema_extra, dict) else "required"
    if field.default_factory is not None or field.default is None or field.default == ():
        return ""
    return f"`{json.dumps(field.default, ensure_ascii=False)}`"


def _type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Say what values a key takes: their TOML type, and their limits."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(args[0], args[1:])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in args)
    if origin is tuple:
        item = _type(args[0])
        return f"list of {item}{'' if item[-1] == '`' else 's'}"
    if origin is dict:
        return f"table: name = {_type(args[1])}"
    if args:
        return " or ".join(_type(a) for a in args if a is not NoneType) + _limits(metadata)
    return WORDS.get(annotation, "table") + _limits(metadata)


def _limits(metadata: Iterable[Any]) -> str:
    limits = [limit for m in metadata for limit in (m.metadata if isinstance(m, FieldInfo) else [m])]
    texts = [
        f" {sign} {getattr(m, name)}" for m in limits for name, sign in SIGNS.items() if hasattr(m, name)
    ]
    return ",".join(texts)


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    head, *body = rows
    lines = (head, ("---",) * len(head), *body)
    return "".join(
        f"| {' | '.join(cells)} |\n".replace("| --- ", "|---").replace("|--- |", "|---|") for cells in lines
    )


if __name__ == "__main__":
    sys.stdout.write(markdown())
