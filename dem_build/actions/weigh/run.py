"""Kind `weigh`: layers are matched with a few importances of the datasets; the best on validation rows are kept.

Importances count by their shares alone. From the given ones, and 1 for those that are searched, each of these is
doubled, and where that does not help halved; datasets that recover least of their gain come first. So there are 2n + 1
matchings at most, each measured on rows that no vector was trained on. A change is kept where its lead is more than two
standard errors: of two that cannot be told apart, the one nearer to the start.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dem_build.action import MODEL_PARTS, Input
from dem_build.actions import checkpoints
from dem_build.actions.compose import run as compose
from dem_build.actions.match import run as match
from dem_build.actions.tune.judges import BLOCKS, batches, judged_nll, validation_judges
from dem_build.actions.weigh.spec import REFERENCE
from dem_build.errors import EvaluationError
from dem_build.json_text import parse_json
from dem_build.model.environment import device, memory_told, release_memory
from dem_build.model.load import OUT_OF_MEMORY_HINT, load_model
from dem_build.search import Objective, gain_scale
from dem_build.search.problem import mean_losses, ratio_stderr
from dem_build.stats import SURE
from dem_build.step import Context, StoredFile
from dem_build.workload import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.actions.tune.judges import Judge
    from dem_build.digest import JSON
    from dem_build.step import Inputs, Provenance

    Vector = NDArray[np.float64]
    Importances = Mapping[str, float]

FACTORS = (2.0, 0.5)
OWN = {"delta", REFERENCE}
"""Tags under which a judge has its own vector."""
LOSSES = "losses.json"


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Search, and write the best model.

    Args:
        inputs: Of `match`, with an `importance` in the groups where it is given; and what judges: `data/validation`,
            `data/train` and `weight` of a dataset, and its vector as `reference` where that takes no part; `data/rows`
            and `limit` of a probe.
        params: Of `match`; `objective` and `max_samples`, as of `tune`.
        context: Uses `machine.eval_batch_size`; takes up the losses that an interrupted run measured.

    Returns:
        What `match` returns of the model that is kept, and the search: each matching's importances, score and lead.

    Raises:
        EvaluationError: No row judges, a loss is not finite, or memory ran out.
        CheckpointError: As of `match`.
    """
    torch.set_num_threads(context.threads)
    context.resident.clear()
    judges = validation_judges(inputs.groups, inputs.paths["base/config"], params["max_samples"])
    bench = _Bench(inputs, params, context, judges)
    search = _Search(bench, bench.objective(params["objective"]))
    best = search.run()
    found = bench.keep(best)
    return found | {
        "search": search.document(best),
        "sampled_tokens": sum(term["tokens"] for term in found["terms"]),
        "rows": sum(judge.used for judge in judges),
    }


@dataclass(frozen=True, eq=False)
class _Tried:
    """A matching: group → importance, and its summed losses, [judges, blocks]."""

    importances: Importances
    nll: Vector


@dataclass
class _Inner(Context):
    """The surroundings of a step within this one: it tells nothing of its own."""

    warned: list[str] = field(default_factory=list)

    def progress(self, done: float, total: float, unit: str, **more: JSON) -> None:
        """Nothing: what counts here are whole matchings."""

    def note(self, message: str) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing yet: it would be said once a matching, and counts of the one that is kept."""
        self.warned.append(message)


class _Bench:
    """Makes models and measures them; losses outlive an interruption.

    Attributes:
        judges: Whose rows they are measured on.
        vectors: The groups that have a vector, in an order that no name reaches.
        counted: Tokens that count, [judges, blocks].
    """

    def __init__(
        self, inputs: Inputs, params: Mapping[str, JSON], context: Context, judges: Sequence[Judge]
    ) -> None:
        self._inputs, self._params, self.context, self.judges = inputs, params, context, judges
        self.vectors = [group for group in inputs.groups if "delta" in group.paths]
        self.counted = np.array([judge.tokens for judge in judges])
        saved = checkpoints.newest_complete(context.work / "checkpoints")
        self._losses: dict[str, Any] = parse_json((saved / LOSSES).read_bytes()) if saved else {}
        self._kept: tuple[Importances, Path, _Inner, dict[str, Any]] | None = None

    def objective(self, kind: str) -> Objective:
        """What is sought: gains are of what each dataset's own vector gains alone, in the published format."""
        weight = np.array([float(judge.group.params.get("weight") or 0.0) for judge in self.judges])
        base = self._measured("base", lambda: (self._inputs.paths["base/weights"], range(len(self.judges))))
        single = np.array(base)
        for j, judge in enumerate(self.judges):
            if judge.group.paths.keys() & OWN:
                single[j] = self._measured(f"single {j}", lambda j=j: (self._single(j), [j]))[j]  # type: ignore[misc]
        limits = (judge.group.params.get("limit") for judge in self.judges)
        of_base, of_single = mean_losses(base, self.counted), mean_losses(single, self.counted)
        return Objective(
            kind,
            weight / weight.sum(),
            of_base,
            gain_scale(of_base, of_single, ratio_stderr(base - single, self.counted)),
            np.array([np.inf if limit is None else float(limit) for limit in limits]),
        )

    def measure(self, importances: Importances) -> _Tried:
        """Match with some importances, and take the losses of what comes of it."""
        place = json.dumps([importances[group.name] for group in self.vectors])
        return _Tried(
            importances, self._measured(place, lambda: (self._match(importances), range(len(self.judges))))
        )

    def keep(self, best: _Tried) -> dict[str, Any]:
        """Move the model of a matching to the outputs; what `match` told of it."""
        if self._kept is None or self._kept[0] != best.importances:
            self._match(best.importances)
        assert self._kept is not None
        _, folder, within, told = self._kept
        for message in within.warned:
            self.context.warn(message)
        for part in MODEL_PARTS:
            (folder / part).rename(self.context.out / part)
        out = self.context.out
        self.context.hashed |= {
            out / path.relative_to(folder): found for path, found in within.hashed.items()
        }
        return told

    def _measured(self, name: str, make: Callable[[], tuple[Path, Sequence[int]]]) -> Vector:
        """The summed losses of a model, [judges, blocks]; 0 where a judge is not asked."""
        if name not in self._losses:
            weights, judged = make()
            self._losses[name] = self._losses_of(weights, judged).tolist()
            folder = self.context.work / "checkpoints" / f"checkpoint-{len(self._losses)}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / LOSSES).write_text(json.dumps(self._losses), encoding="utf-8")
            checkpoints.keep(folder)
        return np.array(self._losses[name])

    @torch.no_grad()
    def _losses_of(self, weights: Path, judged: Sequence[int]) -> Vector:
        machine, found = self.context.machine, np.zeros((len(self.judges), BLOCKS))
        with memory_told(EvaluationError, "while measuring a matched model", OUT_OF_MEMORY_HINT):
            model = load_model(
                weights, self._inputs.paths["base/config"], dtype=getattr(torch, self._params["dtype"]),
                device=device(), attn_implementation=machine.attn_implementation,
            )  # fmt: skip
            for j in judged:
                judge = self.judges[j]
                block_of = {row: block for block, rows in enumerate(judge.blocks) for row in rows}
                for batch in batches(model, judge, None, machine.eval_batch_size):
                    self.context.check_stop()
                    for row, nll in zip(batch, judged_nll(model, judge, batch).tolist(), strict=True):
                        found[j, block_of[row]] += nll
        del model
        release_memory()
        if not np.isfinite(found).all():
            raise EvaluationError(
                "the loss of a matched model is not finite", hint="raise `ridge` in [compose]"
            )
        return found

    def _single(self, j: int) -> Path:
        """The weights of a judge's own model, composed as it would be published."""
        group = self.judges[j].group
        [tag] = group.paths.keys() & OWN
        delta = Input("delta", StoredFile(group.paths[tag], group.digests[tag]), 1.0)
        folder, within = self._place("single")
        params = {"method": "dem", "dtype": self._params["dtype"]}
        compose.run(replace(self._inputs, terms=(delta,), groups=()), params, within)
        return folder / "weights"

    def _match(self, importances: Importances) -> Path:
        """The weights of a matched model, which `keep` may take until the next is made."""
        groups = tuple(replace(g, params={"importance": importances[g.name]}) for g in self.vectors)
        folder, within = self._place("matched")
        told = match.run(replace(self._inputs, groups=groups), self._params, within)
        self._kept = importances, folder, within, told
        return folder / "weights"

    def _place(self, name: str) -> tuple[Path, _Inner]:
        folder = self.context.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        context = self.context
        within = _Inner(
            context.work, folder, context.machine, context.threads, context.stopping, context.resident
        )
        return folder, within


class _Search:
    """Doubles and halves importances, one after another.

    Attributes:
        tried: All matchings, in order.
    """

    def __init__(self, bench: _Bench, objective: Objective) -> None:
        self._bench, self._objective = bench, objective
        self._free = [g.name for g in bench.vectors if g.params.get("importance") is None]
        self.tried: list[_Tried] = []

    def run(self) -> _Tried:
        """The matching that is kept."""
        start = {g.name: float(g.params.get("importance") or 1.0) for g in self._bench.vectors}
        best = self._measure(start)
        for name in self._order(best):
            for factor in FACTORS:
                asked = {**best.importances, name: best.importances[name] * factor}
                if self._is_new(asked) and self._is_better(found := self._measure(asked), best):
                    best = found
                    break
        return best

    def document(self, best: _Tried) -> dict[str, JSON]:
        """The search as it is recorded: of each matching the importances in the order of its vectors."""
        vectors = self._bench.vectors
        return {
            "objective": self._objective.kind,
            "vectors": [{"vector": g.digests["delta"], "sample": g.digests.get(SAMPLE)} for g in vectors],
            "kept": self.tried.index(best),
            "passes": [
                {
                    "importances": [one.importances[g.name] for g in vectors],
                    "score": self._score(one),
                    "lead": self._score(one) - self._score(best),
                    "stderr": error if np.isfinite(error := self._error(one, best)) else None,
                    "keeps_limits": self._objective.keeps_limits(self._losses(one)),
                }
                for one in self.tried
            ],
        }

    def _measure(self, importances: Importances) -> _Tried:
        context = self._bench.context
        context.check_stop()
        self.tried.append(self._bench.measure(importances))
        most = max(1 + len(FACTORS) * len(self._free), len(self.tried))
        context.progress(len(self.tried), most, "matchings")
        return self.tried[-1]

    def _order(self, first: _Tried) -> Iterator[str]:
        """The importances that are searched, those of the datasets first that recover least."""
        gains = self._objective.gains(self._losses(first))
        of = {judge.group.name: float(gain) for judge, gain in zip(self._bench.judges, gains, strict=True)}
        yield from sorted(self._free, key=lambda name: of.get(name, np.inf))

    def _is_new(self, importances: Importances) -> bool:
        """Whether no matching had these shares: all of them twice as large are the same ones."""
        shares = [_shares(importances), *(_shares(one.importances) for one in self.tried)]
        return shares[0] not in shares[1:]

    def _is_better(self, one: _Tried, best: _Tried) -> bool:
        keeps = [self._objective.keeps_limits(self._losses(tried)) for tried in (one, best)]
        if not all(keeps):
            excess = [float(self._objective.excess(self._losses(tried)).max()) for tried in (one, best)]
            return keeps[0] or (not keeps[1] and excess[0] < excess[1])
        # With one standard error, a change of nothing would be kept once in six, and there are 2n of them.
        return self._score(best) - self._score(one) > SURE * self._error(one, best)

    def _losses(self, one: _Tried) -> Vector:
        return mean_losses(one.nll, self._bench.counted)

    def _score(self, one: _Tried) -> float:
        return self._objective.score(self._losses(one))

    def _error(self, one: _Tried, other: _Tried) -> float:
        """The standard error of a lead, over blocks of the same rows; infinite where there are too few to tell."""
        errors = ratio_stderr(one.nll - other.nll, self._bench.counted)
        weight = self._objective.slope(self._losses(other))
        counted = weight != 0
        return float(np.sqrt(((weight[counted] * errors[counted]) ** 2).sum()))


def _shares(importances: Importances) -> list[float]:
    most = max(importances.values())
    return [importances[name] / most for name in sorted(importances)]
