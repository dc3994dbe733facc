"""Loads a model for training and evaluation from weights and a config: all of it, or an error.

In the store the two are separate objects; transformers wants them in one folder, which is made here of links
and lives as long as the loading.
"""

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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

__all__ = ["device", "is_out_of_memory", "load_model", "quiet", "refuse_partial"]

OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "std::bad_alloc", "Cannot allocate memory")


def device() -> torch.device:
    """Return the device that models run on: the first visible GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    with tempfile.TemporaryDirectory(prefix="dem-model-") as folder, quiet():
        _link(weights, config, Path(folder))
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
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    _progress_bars(shown=False)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        _progress_bars(shown=bars)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, a GPU's or the machine's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in OUT_OF_MEMORY)


def _progress_bars(*, shown: bool) -> None:
    log: Any = transformers_logging  # its functions carry no types
    (log.enable_progress_bar if shown else log.disable_progress_bar)()


def _link(weights: Path, config: Path, folder: Path) -> None:
    for file in weights.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    (folder / "config.json").unlink(missing_ok=True)  # weights copied with their config: the one given counts
    (folder / "config.json").symlink_to(config.resolve())


def refuse_partial(report: dict[str, set[object]], weights: Path, hint: str) -> None:
    """Refuse weights that are not exactly those of a model, by transformers' report of loading them.

    Raises:
        CheckpointError: Weights are missing, unexpected or of another shape; `hint` is how to mend that.
    """
    wrong = [
        f"{kind.removesuffix('_keys')}: {_some(report[kind])}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if report[kind]
    ]
    if wrong:
        raise CheckpointError(
            f"the weights are not those of the config's model; {'; '.join(wrong)}",
            where=str(weights),
            hint=hint,
        )


def _some(keys: set[object], most: int = 4) -> str:
    """Name the first few keys; a mismatched one comes with the two shapes."""
    names = sorted(json.dumps(key) if isinstance(key, tuple) else str(key) for key in keys)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
