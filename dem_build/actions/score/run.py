"""Kind `score`: what a vector of new rows would do to each skill of a model, before it is trained.

To first order a step s in the direction -P g, g the gradient of the new rows' loss, changes the loss L_j of a skill by

    ΔL_j = -s ⟨∇L_j, P g⟩

(P = 1: G. Pruthi et al., Estimating Training Data Influence by Tracing Gradient Descent, NeurIPS 2020, arXiv
2002.08484; P of Adam: M. Xia et al., LESS, ICML 2024, arXiv 2402.04333). What trains moves each parameter by about its
learning rate, however small its gradient is, so P g is the sign of g (Adam's first step: D. P. Kingma and J. Ba, arXiv
1412.6980, section 2.1). ⟨∇L, sign g⟩ of each row is recorded, of the skills' and of new rows that g is not of, with
⟨∇L, g⟩ and the losses beside it, so that every change has its standard error. How far a training goes, s, is not known
before: `read` says what is taken.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from dem_build.actions.score.gradients import Along, Signs, add_gradient
from dem_build.actions.score.spec import NEW
from dem_build.actions.tune.judges import batches, judged_nll, validation_judges
from dem_build.data.arrays import TokenRows
from dem_build.data.tokenise import MASKED
from dem_build.errors import EvaluationError
from dem_build.model.context_length import refuse_longer
from dem_build.model.environment import (
    device,
    memory_told,
    peak_memory,
    ran_on,
    release_memory,
    reset_peak_memory,
)
from dem_build.model.load import load_model
from dem_build.model.recomputed import recompute_layers
from dem_build.wording import overflow_hint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedModel

    from dem_build.actions.score.gradients import Measured
    from dem_build.actions.tune.judges import Judge
    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance

FORMAT = "score/1"
APART = 1 / 3
"""Share of the new rows that are looked at which the gradient is not of: they tell what it does to rows like them."""
MEMORY_HINT = "set gradient_checkpointing = true in the machine file, or lower micro_batch"


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `scores`.

    Args:
        inputs: `model/weights` and `model/config`; `origin/weights` and `origin/config`, of what vectors start from; a
            group of the new rows (`data/train`), one of each dataset (`data/train`, `data/validation`) and probe
            (`data/rows`).
        params: `max_samples`, most rows of a skill; `sample`, most new rows that the gradient is of.
        context: Uses `machine.micro_batch`, `eval_batch_size` and `gradient_checkpointing`.

    Raises:
        EvaluationError: No token of the new rows counts, something is not finite, or memory ran out.
        DataError: A row has more tokens than the model takes.
        InterruptedBuildError: The user asked to stop.
    """
    torch.set_num_threads(context.threads)
    context.resident.clear()  # what another action left loaded would take the memory of the gradient
    reset_peak_memory(device())
    [fresh] = [group for group in inputs.groups if group.name == NEW]
    new, config = TokenRows.open(fresh.paths["data/train"]), inputs.paths["model/config"]
    refuse_longer(new, config)
    judges = validation_judges(inputs.groups, config, params["max_samples"], all_can=False)
    judges.sort(key=lambda judge: judge.digest)  # the order of datasets in a recipe reaches no byte
    of_gradient, apart = _dealt(new, params["sample"])
    counter = _Counter(context, len(of_gradient) + len(apart) + 2 * sum(judge.used for judge in judges))
    with memory_told(EvaluationError, "while scoring new rows", MEMORY_HINT):
        origin = _origin_losses(inputs, judges, context, counter)
        release_memory()
        model = _loaded(inputs, "model", context)
        tokens = add_gradient(model, new, of_gradient, context.machine.micro_batch, counter.tell)
        gradient = _taken(model, tokens)
        with Along(model, [gradient, Signs(gradient)]) as along:
            own = along.measure(new, [[i] for i in apart], counter.tell)
            skills = [along.measure(j.rows, [[i] for i in _rows_of(j)], counter.tell) for j in judges]
    document: dict[str, JSON] = {
        "format": FORMAT,
        "gradient": _norm(gradient),
        "new": {
            "rows": fresh.digests["data/train"],
            "count": len(new),
            "used": len(of_gradient),
            **_document(own, new, apart),
        },
        "skills": [
            {
                "rows": judge.digest,
                "left_out": judge.left_out,
                "indices": _rows_of(judge),
                "origin": losses,
                **_document(found, judge.rows, _rows_of(judge)),
            }
            for judge, losses, found in zip(judges, origin, skills, strict=True)
        ],
    }
    _refuse_infinite(document)
    context.write("scores", document)
    return {
        "rows": sum(judge.used for judge in judges),
        "new_rows": len(of_gradient) + len(apart),
        "peak_memory": peak_memory(device()),
        "micro_batch": context.machine.micro_batch,
        "batch_size": context.machine.eval_batch_size,
        **ran_on(model),
    }


class _Counter:
    """Counts rows that are done, tells them, and stops where the user asked to."""

    def __init__(self, context: Context, total: int) -> None:
        self._tell, self._done = context.teller(total, "rows"), 0

    def tell(self, more: int) -> None:
        """Say that so many more are done."""
        self._done += more
        self._tell(self._done)


def _dealt(rows: TokenRows, most: int) -> tuple[list[int], list[int]]:
    """The new rows that the gradient is of, and those of other prompts: the first by the hashes of their prompts.

    Raises:
        EvaluationError: No token of them counts.
    """
    ordered = np.argsort(rows.prompt_numbers, kind="stable").tolist()
    counted = [i for i in ordered if np.count_nonzero(rows[i][1][1:] != MASKED)][
        : math.ceil(most / (1 - APART))
    ]
    if not counted:
        raise EvaluationError(
            "no token of the new rows counts", hint="`dem data` shows which tokens of a dataset do"
        )
    held = min(int(len(counted) * APART), len(counted) - 1)
    # Between prompts: another answer to a question that the gradient is of tells nothing of what it does to others.
    prompts = rows.prompt_numbers[counted]
    edges = (np.flatnonzero(prompts[1:] != prompts[:-1]) + 1).tolist()
    if held:
        held = max((edge for edge in edges if edge <= held), default=min(edges, default=0))
    return counted[held:], counted[:held]


def _rows_of(judge: Judge) -> list[int]:
    return sorted(i for block in judge.blocks for i in block)


def _loaded(inputs: Inputs, of: str, context: Context) -> PreTrainedModel:
    """A model in float32; where layers are to be computed again, they are."""
    model = load_model(
        inputs.paths[f"{of}/weights"],
        inputs.paths[f"{of}/config"],
        dtype=torch.float32,
        device=device(),
        attn_implementation=context.machine.attn_implementation,
    )
    if context.machine.gradient_checkpointing:
        recompute_layers(model)
    return model


@torch.no_grad()
def _origin_losses(
    inputs: Inputs, judges: Sequence[Judge], context: Context, counter: _Counter
) -> list[list[float]]:
    """The summed loss of each judge's rows at what vectors start from, in nats."""
    model, found = _loaded(inputs, "origin", context), []
    for judge in judges:
        losses: dict[int, float] = {}
        for batch in batches(model, judge, None, context.machine.eval_batch_size):
            counter.tell(len(batch))
            losses |= zip(batch, judged_nll(model, judge, batch).tolist(), strict=True)
        found.append([losses[i] for i in _rows_of(judge)])
    return found


def _taken(model: PreTrainedModel, tokens: int) -> dict[str, torch.Tensor]:
    """The gradient of the loss per token, out of the model, which is left with none."""
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad.div_(tokens)
            parameter.grad = None
    return found


def _norm(gradient: Mapping[str, torch.Tensor]) -> float:
    return math.sqrt(
        math.fsum(float(torch.linalg.vector_norm(g, dtype=torch.float64)) ** 2 for g in gradient.values())
    )


def _document(found: Measured, rows: TokenRows, which: Sequence[int]) -> dict[str, JSON]:
    prompts, places = np.unique(rows.prompt_numbers[list(which)], return_inverse=True)
    return {
        "nll": found.nll.tolist(),
        "tokens": found.tokens.tolist(),
        "slopes": found.slopes[:, 1].tolist(),
        "plain_slopes": found.slopes[:, 0].tolist(),
        # By their places among them: JSON has no whole numbers of 64 bits.
        **({"prompts": places.tolist()} if len(prompts) < len(which) else {}),
    }


def _refuse_infinite(document: Mapping[str, JSON]) -> None:
    """Refuse what is not finite.

    Raises:
        EvaluationError: A loss or a gradient is not.
    """
    numbers = [document["gradient"]]
    for entry in (document["new"], *document["skills"]):
        numbers += [*entry["nll"], *entry["slopes"], *entry["plain_slopes"], *entry.get("origin", ())]
    if not all(map(math.isfinite, numbers)):
        raise EvaluationError(
            "a loss or a gradient at the composed model is not finite",
            hint=overflow_hint("float32"),
        )
