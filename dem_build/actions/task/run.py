"""Evaluates a model on one lm-eval task, in process.

Only lm-eval's `evaluate` is used, with a task and a model made here: its index of all tasks, its request caches and
its report of the environment cost more than most evaluations, and its caches do not know the model.

A local task runs in a copy of its closure. Its data are found beside it whatever the working directory is, and what
is not in the closure, and so not in the key, is not there.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import datasets  # type: ignore[import-untyped]
import jinja2
import lm_eval  # type: ignore[import-untyped]
import numpy as np
import torch
from lm_eval.evaluator import evaluate  # type: ignore[import-untyped]
from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]
from lm_eval.tasks._yaml_loader import load_yaml  # type: ignore[import-untyped]
from transformers import GenerationConfig

from dem_build.actions.task.harness import ReportingLM
from dem_build.errors import EvaluationError
from dem_build.json_text import parse_json
from dem_build.lock.tasks import FILE_FORMATS, TASK_MARK, map_data_files, within
from dem_build.model.environment import memory_told
from dem_build.model.load import OUT_OF_MEMORY_HINT, evaluated_model, quiet, surroundings
from dem_build.model.tokenizer import BaseTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PreTrainedModel

    from dem_build.action import SourceFile
    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance

BOOTSTRAP_SAMPLES = 1000
"""For standard errors without a formula (F1, BLEU): known to some 2 %, where lm-eval's 100,000 take minutes."""

PYTHON_SEED, OTHER_SEEDS = 0, 1234
"""lm-eval's own defaults, so that its few-shot examples are ours."""

STDERR = "_stderr"
HASHES = ("doc_hash", "prompt_hash", "target_hash")

# What a task can raise: its YAML, templates, Python and data are the user's, and lm-eval asserts much of them.
TASK_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError, jinja2.TemplateError, datasets.exceptions.DatasetsError,
)  # fmt: skip


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `metrics` (JSON: metric, metric_stderr, samples) and `samples` (JSON lines, one per document).

    Args:
        inputs: The model's four parts, and the task's closure as `sources`, tagged as in `dem_build.lock.tasks`.
        params: `task`, `num_fewshot`, `limit`, `apply_chat_template`, `dtype`, `lm_eval`, `dataset_revision`.
        context: Uses `machine.eval_batch_size`.

    Raises:
        EvaluationError: The task cannot be loaded or run, or a metric is not finite.
        DataError: The tokenizer cannot be loaded or has no EOS, or of several chat templates none is the default.
    """
    name = params["task"]
    with (
        opened_task(inputs, params, context) as (task, tokenizer),
        memory_told(EvaluationError, f"in {name}", OUT_OF_MEMORY_HINT),
    ):
        model = evaluated_model(inputs, params["dtype"], context)
        lm = ReportingLM(model, tokenizer, context, chat=bool(params["apply_chat_template"]))
        results = _evaluate(task, lm, inputs, params)
        lm.tell_of_descriptions()
    return _write(results, name, context) | surroundings(model, context)


@contextlib.contextmanager
def opened_task(
    inputs: Inputs, params: Mapping[str, JSON], context: Context
) -> Iterator[tuple[Any, BaseTokenizer]]:
    """Yield lm-eval's task as it is evaluated, and the tokenizer; what it raises in the block is told as an error.

    Args:
        inputs: Of `run`, of the model its tokenizer alone.
        params: Of `run`.
        context: Where copies of files are made.

    Raises:
        EvaluationError: The task cannot be loaded or run.
        DataError: As of `run`.
    """
    name = params["task"]
    if params["lm_eval"] != lm_eval.__version__:
        what = f"the task is locked to lm-eval {params['lm_eval']}, and {lm_eval.__version__} is installed"
        raise EvaluationError(what, where=name, hint="build again, or install that version")
    tokenizer, chat = BaseTokenizer(inputs.paths["model/tokenizer"]), bool(params["apply_chat_template"])
    if chat and not tokenizer.has_chat_template:
        hint = "set apply_chat_template = false for the task, or chat_template in [base]"
        raise EvaluationError("the base has no chat template to apply", hint=hint)
    if chat:
        tokenizer.require_template()
    try:
        # Quiet also around the imports of a task's Python.
        with quiet(), _no_bars(), _task_file(inputs.sources, context.work / "task") as file:
            yield _load_task(file, params, context.work / "datasets"), tokenizer
    except TASK_ERRORS as error:
        # An error's first line, and its type, where the line alone may say nothing.
        first = next(iter(str(error).strip().splitlines()), "")
        said = f"{type(error).__name__}: {first}" if first else type(error).__name__
        raise EvaluationError(f"lm-eval cannot run it: {said}", where=name, hint=_hint(error)) from error


@contextlib.contextmanager
def _task_file(sources: Sequence[SourceFile], folder: Path) -> Iterator[Path]:
    """Yield the task's YAML: lm-eval's own where it lies, a local one in a copy of its closure, made in `folder`."""
    own = next(source for source in sources if source.tag.startswith(TASK_MARK))
    tag = own.tag.removeprefix(TASK_MARK)
    if tag.startswith("builtin/"):
        yield own.path
        return
    near = {_near(s.tag): s.path for s in sources if _near(s.tag) is not None}
    # As deep as the closure climbs, so that `../data/x.jsonl` has a place in the copy.
    depth = max(tag.parts.count("..") for tag in near if tag is not None)
    home = folder.joinpath(*["_"] * depth)
    for place, path in near.items():
        target = within(home, str(place))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    with _importable(folder, home):
        yield within(home, str(_near(own.tag)))


def _near(tag: str) -> PurePosixPath | None:
    """Where a file lies relative to the task's folder, None for one named by an absolute path."""
    place = tag.removeprefix(TASK_MARK)
    return PurePosixPath(place.removeprefix("local/")) if place.startswith("local/") else None


@contextlib.contextmanager
def _importable(folder: Path, home: Path) -> Iterator[None]:
    """Let a task's Python files import their neighbours, and forget all of them afterwards.

    A worker runs one task after another, and each may have a `utils.py`.
    """
    beside = dict.fromkeys([str(home), *(str(path.parent) for path in sorted(folder.rglob("*.py")))])
    sys.path[:0] = beside
    try:
        yield
    finally:
        sys.path[:] = [entry for entry in sys.path if entry not in beside]
        for name, module in list(sys.modules.items()):
            if Path(getattr(module, "__file__", None) or "/").is_relative_to(folder):
                del sys.modules[name]


def _load_task(file: Path, params: Mapping[str, JSON], cache: Path) -> Any:
    """lm-eval's task of a YAML file, its data read from beside the file, or at the locked revision."""
    config = load_yaml(file)
    config |= _dataset(config, file.parent, params["dataset_revision"], cache)
    _set_fewshot(config, params)
    (task,) = TaskManager(include_defaults=False).load([config])["tasks"].values()
    task.set_fewshot_seed(seed=OTHER_SEEDS)
    return task


def _set_fewshot(config: dict[str, Any], params: Mapping[str, JSON]) -> None:
    shots, own = params["num_fewshot"], config.get("num_fewshot")
    if shots and own == 0:
        hint = "leave num_fewshot out of the recipe"
        raise EvaluationError(
            f"the task has num_fewshot = 0 on purpose, not {shots}", where=params["task"], hint=hint
        )
    config["num_fewshot"] = shots if shots is not None else own or 0
    # lm-eval leaves the document under test out of the examples only where the `fewshot_split` is the `test_split`: not
    # where it takes them from that split by its own rule (training, validation, test), or asks the validation split.
    said = config.get("fewshot_config") or {}
    rule = () if said.get("samples") else ("training_split", "validation_split", "test_split")
    splits = [said.get("split"), *(config.get(name) for name in ("fewshot_split", *rule))]
    asked = config.get("test_split") or config.get("validation_split")
    if config["num_fewshot"] and next(filter(None, splits), None) == asked:
        config["fewshot_split"] = config["test_split"] = asked


def _dataset(config: Mapping[str, Any], folder: Path, revision: str | None, cache: Path) -> dict[str, Any]:
    """A task's `dataset_path` and `dataset_kwargs`, local files by absolute paths, hub datasets pinned.

    What is made of local files is cached in this run's folder; hub datasets, which a commit pins, in Hugging Face's.
    """
    path, kwargs = config.get("dataset_path"), dict(config.get("dataset_kwargs") or {})
    if path in FILE_FORMATS:
        kwargs |= _data_files(kwargs, folder, revision) | {"cache_dir": str(cache)}
    elif path and within(folder, path).is_dir():
        path, kwargs = str(within(folder, path)), kwargs | {"cache_dir": str(cache)}
    elif path and revision is not None:
        kwargs["revision"] = revision
    return {"dataset_path": path, "dataset_kwargs": kwargs}


def _data_files(kwargs: Mapping[str, Any], folder: Path, revision: str | None) -> dict[str, Any]:
    data_folder = within(folder, kwargs.get("data_dir") or "")
    if "data_files" not in kwargs:
        return {"data_dir": str(data_folder)}

    def absolute(pattern: str) -> str:
        if "://" not in pattern:
            return str(within(data_folder, pattern))
        pinned = rf"\1@{revision}/"
        return pattern if revision is None else re.sub(r"^(hf://datasets/[^/@]+/[^/@]+)/", pinned, pattern)

    return {"data_files": map_data_files(kwargs["data_files"], absolute), "data_dir": None}


def _evaluate(task: Any, lm: ReportingLM, inputs: Inputs, params: Mapping[str, JSON]) -> dict[str, Any]:
    with as_evaluated(lm, inputs):
        results: dict[str, Any] = evaluate(
            lm,
            {"tasks": {params["task"]: task}, "groups": {}, "group_map": {}},
            limit=params["limit"],
            bootstrap_iters=BOOTSTRAP_SAMPLES,
            log_samples=True,
            apply_chat_template=bool(params["apply_chat_template"]),
            fewshot_as_multiturn=True,
        )
    return results


@contextlib.contextmanager
def as_evaluated(lm: ReportingLM, inputs: Inputs) -> Iterator[None]:
    """Draw, and generate, as every evaluation does."""
    random.seed(PYTHON_SEED)
    np.random.seed(OTHER_SEEDS)  # noqa: NPY002 -- a task's Python may draw from the global generators
    torch.manual_seed(OTHER_SEEDS)
    with _generating_as(lm.model, inputs.paths["model/generation_config"]), _one_process():
        yield


@contextlib.contextmanager
def _generating_as(model: PreTrainedModel, file: Path) -> Iterator[None]:
    """Let a model generate as its generation config says, but for the length, which is the task's to limit."""
    before = model.generation_config
    settings = GenerationConfig.from_model_config(model.config).to_diff_dict() | parse_json(file.read_bytes())
    for length in ("max_length", "max_new_tokens", "transformers_version"):
        settings.pop(length, None)
    model.generation_config = GenerationConfig.from_dict(settings)
    try:
        yield
    finally:
        model.generation_config = before


@contextlib.contextmanager
def _one_process() -> Iterator[None]:
    """Let lm-eval bootstrap in this process: else it forks one that holds a model and running threads."""
    name = "DISABLE_MULTIPROC"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()


def _hint(error: BaseException) -> str:
    if isinstance(error, ConnectionError):
        return "its dataset is on the hub: build once where that can be reached"
    if isinstance(error, FileNotFoundError) and not isinstance(error, datasets.exceptions.DatasetsError):
        return (
            "a task runs in a copy of the files that its YAML names and its Python imports, and of no others"
        )
    return "`dem logs` shows the traceback"


def _write(results: Mapping[str, Any], name: str, context: Context) -> Provenance:
    metrics = _metrics(results["results"][name], name)
    samples = results["n-samples"][name]["effective"]
    context.write("metrics", metrics | {"samples": samples})
    with (context.out / "samples").open("w", encoding="utf-8") as file:
        for sample in results["samples"][name]:
            told = {
                "doc_id": sample["doc_id"],
                "doc": sample["doc"],
                **{
                    name: sample[name] for name in HASHES
                },  # by which two builds find the documents they share
                "prompt": sample["arguments"][0][0],
                "target": sample["target"],
                "filter": sample["filter"],
                "responses": sample["filtered_resps"],
                "metrics": {metric: sample[metric] for metric in sample["metrics"]},
            }
            file.write(json.dumps(told, ensure_ascii=False, sort_keys=True, default=_plain) + "\n")
    return {
        "samples": samples,
        "num_fewshot": results["n-shot"][name],
        "task_version": results["versions"][name],
        "higher_is_better": results["higher_is_better"][name],
        "lm_eval": lm_eval.__version__,
        "datasets": datasets.__version__,
    }


def _metrics(found: Mapping[str, Any], name: str) -> dict[str, float]:
    """Metrics under lm-eval's names without the filter.

    Where two filters give a metric, the first has the plain name and others are `metric@filter`. The standard error
    of each is its name and `_stderr`.

    Raises:
        EvaluationError: A metric is no finite number.
    """
    metrics: dict[str, float] = {}
    first: dict[str, str] = {}
    for key, value in found.items():
        metric, comma, filtered = key.rpartition(",")
        plain = first.setdefault(metric, filtered) == filtered
        if not comma or value == "N/A":  # the task's name and count; a standard error that nobody can tell
            continue
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise EvaluationError(f"the metric {metric} is {value}", where=name, hint="is the model broken?")
        base = metric.removesuffix(STDERR)
        metrics[metric if plain else f"{base}@{filtered}{metric[len(base) :]}"] = float(value)
    return metrics


def _plain(value: Any) -> JSON:
    """What JSON has for an object that it does not know: numpy's numbers and arrays, sets, or text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)
