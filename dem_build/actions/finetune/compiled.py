"""Layers that are compiled by `torch.compile`, where a recipe says so: compiled code rounds in other places.

Layer by layer, and not the model: one piece of code serves all layers of a sort, and rows of any length.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dem_build.digest import of_json
from dem_build.errors import TrainingError
from dem_build.host import host_folder
from dem_build.model.environment import is_out_of_memory, processor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKEND = "inductor"
KEPT = "TORCHINDUCTOR_CACHE_DIR"
MOST_SORTS = 64
"""Pieces of code for one function: layers of several sorts, batches of one row and of more, training and validation."""
HINT = "set torch_compile = false in [train]; on a CPU compiling needs a C++ compiler (g++), on a GPU triton"


def compile_layers(model: torch.nn.Module) -> None:
    """Let each layer of a model be compiled when it is first called.

    Raises:
        TrainingError: It has no layers that transformers knows as such.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer  # noqa: PLC0415  most trainings need none

    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise TrainingError(f"{type(model).__name__} has no layers that can be compiled", hint=HINT)
    if (folder := _folder()) is not None:
        os.environ.setdefault(KEPT, str(folder))
    import torch._dynamo  # noqa: PLC0415  two seconds

    torch._dynamo.config.recompile_limit = MOST_SORTS  # noqa: SLF001
    for layer in layers:
        layer.compile(backend=BACKEND, dynamic=True)


@contextlib.contextmanager
def compiling(warn: Callable[[str], None]) -> Iterator[None]:
    """Say what compiling failed of, and once where calls run uncompiled since there are too many sorts of them.

    Raises:
        TrainingError: It failed.
    """
    limit, logger = _Limit(warn), logging.getLogger("torch._dynamo.convert_frame")
    logger.addHandler(limit)
    try:
        yield
    except RuntimeError as error:
        known = sys.modules.get("torch._dynamo.exc")
        if known is None or not isinstance(error, known.TorchDynamoException) or is_out_of_memory(error):
            raise
        # The first line may be the backend's name alone.
        told = " ".join(line.strip() for line in f"{error}".split("\n\n")[0].splitlines()[:2])
        raise TrainingError(f"torch.compile failed: {told}", hint=HINT) from error
    finally:
        logger.removeHandler(limit)


class _Limit(logging.Handler):
    """Hears torch say that it compiles no more pieces of a function; it goes on uncompiled, and no other sign is given.

    Args:
        warn: Who is told, once.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._warn: Callable[[str], None] | None = warn

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it where that is what is said."""
        said = record.getMessage()
        if self._warn is None or "recompile_limit" not in said:
            return
        warn, self._warn = self._warn, None
        lines = [line.strip() for line in said.splitlines()]
        why = [line for line in lines if line.startswith(("function:", "last reason:"))]
        warn(
            f"torch.compile has made {MOST_SORTS} pieces of code for one function and makes no more: other calls run "
            f"uncompiled, slower and with other last bits ({'; '.join(why)}). torch_compile = false in [train] trains "
            "all of it alike; packing = true, or a micro_batch of 1, makes rows of fewer sorts"
        )


def _folder() -> Path | None:
    """Where compiled code is kept for the next training, none of whose instructions another processor may lack."""
    # Not the library's own place, a name in /tmp that anybody may have made before.
    host = host_folder()
    return None if host is None else Path(host) / "compiled" / of_json([torch.__version__, processor()])[:16]
