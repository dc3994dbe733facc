"""Loads a model for training and evaluation from weights and a config: all of it, or an error."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from dem_build.errors import CheckpointError
from dem_build.model.environment import device, is_out_of_memory, ran_on
from dem_build.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from dem_build.step import Context, Inputs

OUT_OF_MEMORY_HINT = (
    "lower eval_batch_size in the machine file; where that is 1, dtype in [compose] or max_length"
)
"""Of an evaluation."""
MOST_NAMED = 4  # weights in a message


def evaluated_model(inputs: Inputs, dtype: str, context: Context) -> PreTrainedModel:
    """The model of `model/weights` and `model/config`, its parameters in `dtype`, in evaluation mode.

    It stays loaded for all evaluations of the model that follow one another in a worker: whoever changes it puts it
    back.
    """
    torch.set_num_threads(context.threads)  # which the last action of this worker may have set otherwise
    attention = context.machine.attn_implementation
    key = [
        "evaluated",
        inputs.digests["model/weights"],
        inputs.digests["model/config"],
        dtype,
        str(attention),
    ]

    def load() -> PreTrainedModel:
        return load_model(
            inputs.paths["model/weights"],
            inputs.paths["model/config"],
            dtype=getattr(torch, dtype),
            device=device(),
            attn_implementation=attention,
        )

    return context.resident.get(" ".join(key), load)


def surroundings(model: PreTrainedModel, context: Context) -> dict[str, Any]:
    """What an evaluation records of where it ran: these can move its results in their last digits."""
    return {"batch_size": context.machine.eval_batch_size, **ran_on(model)}


def load_model(
    weights: Path,
    config: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model, in evaluation mode.

    Args:
        weights: Folder of `model.safetensors`, or of shards and their index.
        config: The model's `config.json`.
        dtype: Type of the parameters in memory, whatever the file's is.
        device: Where the model is put.
        attn_implementation: Attention kernel as transformers names it; None for its default.

    Raises:
        CheckpointError: The folder's weights are not exactly the weights of the config's model.
    """
    # In the store weights and config are two objects; transformers wants them in one folder.
    with tempfile.TemporaryDirectory(prefix="dem-model-") as name, quiet():
        folder = Path(name)  # of links, and only as long as the loading
        for file in weights.iterdir():
            (folder / file.name).symlink_to(file.resolve())
        (folder / "config.json").unlink(
            missing_ok=True
        )  # weights copied with their config: the one given counts
        (folder / "config.json").symlink_to(config.resolve())
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                attn_implementation=attn_implementation,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are in the report, where the error below names them
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"the model cannot be loaded: {reason}", where=str(weights)) from error
    model, report = loaded
    refuse_partial(report, weights, "take config.json and the weights from the same model")
    return cast("PreTrainedModel", model.to(device))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and log messages below errors; what matters is raised by dem."""
    log: Any = transformers_logging  # its functions carry no types
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        (log.enable_progress_bar if bars else log.disable_progress_bar)()


def refuse_partial(report: dict[str, set[object]], weights: Path, hint: str) -> None:
    """Refuse weights that are not exactly those of a model, by transformers' report of loading them.

    Raises:
        CheckpointError: Weights are missing, unexpected or of another shape; `hint` is how to mend that.
    """
    wrong = [
        f"{kind.removesuffix('_keys')}: {first_of(names, MOST_NAMED)}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        # A mismatched key comes with the two shapes.
        if (names := sorted(json.dumps(k) if isinstance(k, tuple) else str(k) for k in report[kind]))
    ]
    if wrong:
        raise CheckpointError(
            f"the weights are not those of the config's model; {'; '.join(wrong)}",
            where=str(weights),
            hint=hint,
        )
