"""What the records of a recipe say, as data frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.actions.finetune.read import curves_of
from dem_build.actions.tune.read import read_tuning
from dem_build.report.comparison import LOSS, LOSS_TASK, gains, measure_of, model_names, rows, subject
from dem_build.report.documents import results_document
from dem_build.report.verdict import judge
from dem_build.study.figures import Figures
from dem_build.study.frames import frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

    from dem_build.digest import JSON
    from dem_build.report.inputs import ReportInputs
    from dem_build.report.results import Results
    from dem_build.report.verdict import BuildVerdict
    from dem_build.session.build import Built


class StudyResults:
    """What is recorded of a recipe, as of when it was read.

    Each data frame is in long form, a row a value, and has no rows where nothing of it is recorded. Losses are in nats
    per token, on held-out test rows; `stderr` is one standard error, and not a number where that is not known.
    """

    def __init__(self, inputs: ReportInputs) -> None:
        self._inputs = inputs

    @property
    def missing(self) -> tuple[str, ...]:
        """The actions that are not recorded: what they would tell is in no data frame."""
        return tuple(self._inputs.missing)

    @property
    def verdict(self) -> str:
        """Whether composing was right for these data, in a sentence."""
        return self._verdict.headline

    @property
    def warnings(self) -> tuple[tuple[str, str], ...]:
        """(action, text) of what actions warned of when they ran."""
        return self._results.warnings

    @property
    def losses(self) -> pd.DataFrame:
        """The test loss of each model, by dataset or probe: `model, dataset, probe, loss, stderr, rows, tokens`."""
        names = ["model", "dataset", "probe", "loss", "stderr", "rows", "tokens"]
        return frame(names, self._losses(), whole=["rows", "tokens"]).astype({"stderr": float})

    @property
    def scores(self) -> pd.DataFrame:
        """What tasks measured: `model, task, metric, value, stderr, lower_is_better`."""
        names = ["model", "task", "metric", "value", "stderr", "lower_is_better"]
        found = (
            (model, row.task, row.metric, measure.value, measure.stderr, row.lower_is_better)
            for row in rows(self._results)
            if not row.task.startswith(LOSS_TASK)
            for model, measure in row.measures.items()
        )
        return frame(names, found).astype({"stderr": float})

    @property
    def gains(self) -> pd.DataFrame:
        """Gain recovered: `model, dataset, gain, stderr`; 0 is the base, 1 what a dataset's own vector reaches."""
        found = (
            (model, name, measure.value, measure.stderr)
            for model in model_names(self._results)
            for name, measure in gains(self._results, model).items()
        )
        return frame(["model", "dataset", "gain", "stderr"], found).astype({"stderr": float})

    @property
    def omega(self) -> pd.DataFrame:
        """ω of each vector: `vector, omega, low, high`; the ends of its 95 % interval where a search found it.

        Where each layer has its own, this is their mean.
        """
        tuning = self._results.get(read_tuning)
        found = []
        for name, value in self._results.omega.items():
            tuned = tuning.vectors.get(name) if tuning else None
            found.append((name, value, tuned.low if tuned else None, tuned.high if tuned else None))
        return frame(["vector", "omega", "low", "high"], found).astype({"low": float, "high": float})

    @property
    def omega_by_layer(self) -> pd.DataFrame:
        """ω of each vector in each layer: `vector, layer, omega`; no rows where each vector has one ω."""
        tuning = self._results.get(read_tuning)
        vectors = tuning.vectors if tuning else {}
        found = (
            (name, layer, value) for name, tuned in vectors.items() for layer, value in tuned.layers.items()
        )
        return frame(["vector", "layer", "omega"], found)

    @property
    def curves(self) -> pd.DataFrame:
        """The losses of each training: `training, step, loss, validation_loss`, after each optimizer step.

        A loss of a step is of its own tokens. Where one of the two was not measured it is not a number.
        """
        names = ["training", "step", "loss", "validation_loss"]
        made = frame(names, self._curves(), whole=["step"])
        return made.astype({"loss": float, "validation_loss": float})

    @property
    def costs(self) -> pd.DataFrame:
        """What each action cost when it ran: `action, part, device, seconds, tokens, trained_tokens`.

        `seconds` are those that it had its device. What ran once for several actions stands with the first.
        """
        names = ["action", "part", "device", "seconds", "tokens", "trained_tokens"]
        found = (
            (name, cost.part.value, cost.device, cost.seconds, cost.tokens, cost.trained_tokens)
            for name, cost in self._results.cost.costs.items()
            if cost.same_as is None
        )
        return frame(names, found).astype({"seconds": float, "tokens": float, "trained_tokens": float})

    @property
    def gates(self) -> pd.DataFrame:
        """The recipe's gates: `task, metric, value, passed, why`; judged where all of the recipe is recorded."""
        names = ["task", "metric", "value", "passed", "why"]
        found = ((g.task, g.metric, g.value, g.passed, g.why) for g in self._inputs.gates)
        return frame(names, found).astype({"value": float})

    @property
    def figures(self) -> Figures:
        """The sections of the report."""
        return Figures(self._inputs)

    def document(self) -> dict[str, JSON]:
        """The same as `results.json` beside the published model has it."""
        return results_document(self._results, self._inputs.gates)

    @property
    def _results(self) -> Results:
        return self._inputs.results

    @property
    def _verdict(self) -> BuildVerdict:
        return judge(self._results, self._inputs.gates)

    def _losses(self) -> Iterator[tuple[object, ...]]:
        results = self._results
        for model in model_names(results):
            for task, metrics in results.table[model].items():
                measure = measure_of(results, model, task, LOSS) if task.startswith(LOSS_TASK) else None
                if measure is not None:
                    name = subject(task)
                    counts = (metrics.get(what) for what in ("rows", "tokens"))
                    yield model, name, name in results.probes, measure.value, measure.stderr, *counts

    def _curves(self) -> Iterator[tuple[object, ...]]:
        for curve in curves_of(self._inputs.records):
            trained, validated = dict(curve.trained), dict(curve.validated)
            for step in sorted({*trained, *validated}):
                yield curve.names[0], step, trained.get(step), validated.get(step)

    def __repr__(self) -> str:
        lacks = f" ({len(self.missing)} actions are not recorded)" if self.missing else ""
        return "\n".join((f"{self.verdict}{lacks}", *self._verdict.sentences))

    def _repr_html_(self) -> str:
        from dem_build.report.html.page import fragment, sections_of  # noqa: PLC0415  loaded where it draws

        shown = [section for section in sections_of(self._inputs) if section.anchor in ("loss", "tasks")]
        return fragment(shown, self._verdict)


@dataclass(frozen=True)
class StudyBuild:
    """A build that ended well.

    Attributes:
        results: What is recorded of what was built.
        model: The folder of the published model, as `from_pretrained` takes it; None where actions were named and the
            model was not among them.
        report: The report's file, None where actions were named.
    """

    _built: Built
    results: StudyResults
    model: Path | None
    report: Path | None

    def frame(self) -> pd.DataFrame:
        """What became of each action: `action, status, seconds, note`; `hit` was recorded already, `ran` ran now."""
        found = (
            (name, result.status.value, result.seconds, result.note)
            for name, result in self._built.outcome.results.items()
        )
        return frame(["action", "status", "seconds", "note"], found)

    def __repr__(self) -> str:
        statuses = [result.status.value for result in self._built.outcome.results.values()]
        said = f"{statuses.count('ran')} actions ran, {statuses.count('hit')} were recorded"
        return f"{said}; {self.model}\n{self.results!r}" if self.model else said

    def _repr_html_(self) -> str | None:
        return self.results._repr_html_() if self.model else None
