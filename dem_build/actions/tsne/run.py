"""Kind `tsne`: a map of the datasets' validation rows as the base reads them.

A row is the mean of its tokens' last hidden states, after the final norm. t-SNE (L. van der Maaten and G. Hinton,
Visualizing Data using t-SNE, JMLR 9, 2008; scikit-learn's) lays all rows out in two dimensions: what lies together is
alike to the base, while axes and the distances between groups mean nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.manifold import TSNE

from dem_build.data.arrays import TokenRows
from dem_build.errors import EvaluationError
from dem_build.model.batches import by_length, collate
from dem_build.model.context_length import longest_short, refuse_longer
from dem_build.model.environment import memory_told
from dem_build.model.load import OUT_OF_MEMORY_HINT, evaluated_model, surroundings
from dem_build.wording import overflow_hint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance

FORMAT = "tsne/1"
PERPLEXITY = 30.0  # of the 5 to 50 among which the map hardly changes (van der Maaten and Hinton, section 2)
FEWEST = 4  # rows of which there is a map
DECIMALS = 3


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `map`.

    Args:
        inputs: `model/weights` and `model/config`, and a group (`data/validation`) for each dataset.
        params: `max_samples`, most rows of a dataset, and `dtype` of the forward pass.
        context: Uses `machine.eval_batch_size`.

    Raises:
        EvaluationError: The hidden states are not finite, or memory ran out.
        DataError: A row has more tokens than the model takes.
        InterruptedBuildError: The user asked to stop.
    """
    splits = {g.digests["data/validation"]: TokenRows.open(g.paths["data/validation"]) for g in inputs.groups}
    chosen: dict[str, list[int]] = {}
    for digest, rows in sorted(splits.items()):
        # The rows of the smallest prompt hashes, the same ones every time.
        prompts = [bytes(prompt) for prompt in rows.prompts]
        chosen[digest] = sorted(range(len(rows)), key=prompts.__getitem__)[: params["max_samples"]]
    for rows in splits.values():
        refuse_longer(rows, inputs.paths["model/config"])
    with memory_told(EvaluationError, "while reading validation rows", OUT_OF_MEMORY_HINT):
        model = evaluated_model(inputs, params["dtype"], context)
        wanted = [splits[digest][i] for digest, rows in chosen.items() for i in rows]
        states = _states(model, wanted, params["dtype"], context)
    places = _laid_out(states, context)
    ends = np.cumsum([len(rows) for rows in chosen.values()])[:-1]
    parts = zip(chosen, np.split(places, ends), strict=True)
    document = {"format": FORMAT, "rows": {digest: part.tolist() for digest, part in parts}}
    context.write("map", document)
    tokens = sum(len(ids) for ids, _ in wanted)
    return surroundings(model, context) | {"rows": len(states), "tokens": {"seen": tokens}}


@torch.inference_mode()
def _states(
    model: PreTrainedModel,
    rows: Sequence[tuple[NDArray[np.int32], NDArray[np.int32]]],
    dtype: str,
    context: Context,
) -> NDArray[np.float32]:
    """Mean last hidden states, [rows, hidden]; rows of like length are read together."""
    lengths = np.array([len(ids) for ids, _ in rows], np.int64)
    found: dict[int, NDArray[np.float32]] = {}
    for batch in by_length(lengths, context.machine.eval_batch_size, longest_short(model.config)):
        context.check_stop()
        ids = collate([rows[i] for i in batch])["input_ids"].to(model.device)
        # Padded on the right, where a causal model's real tokens cannot look.
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state.float()
        for i, state in zip(batch, hidden, strict=True):
            found[i] = state[: len(rows[i][0])].mean(dim=0).cpu().numpy()
        context.progress(len(found), len(rows), "rows")
    states = np.array([found[i] for i in range(len(rows))], np.float32)
    if not np.isfinite(states).all():
        raise EvaluationError("the base's hidden states are not finite", hint=overflow_hint(dtype))
    return states


def _laid_out(states: NDArray[np.float32], context: Context) -> NDArray[np.float64]:
    """A place for each row, [rows, 2]; of too few rows there is no map, and all lie at its middle."""
    count = len(states)
    if count < FEWEST:
        context.warn(f"{count} validation rows are too few for a map")
        return np.zeros((count, 2))
    # It is about a number of neighbours, and scikit-learn looks at three times as many for each row.
    perplexity = min(PERPLEXITY, (count - 1) / 3)
    # From the principal components, with a fixed seed and on one thread: the same map every time.
    method = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1)
    places = np.asarray(method.fit_transform(states), np.float64)
    return np.asarray(np.round(places, DECIMALS), np.float64)
