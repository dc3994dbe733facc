"""safetensors, tensor by tensor: reading, canonical writing, vectors, weighted sums. Torch-free."""

from dem_build.checkpoint.combine import Combination, Norms, combine, result_specs
from dem_build.checkpoint.delta import (
    DeltaNorms,
    delta_shapes,
    delta_writer,
    open_delta,
    write_delta,
    write_difference,
)
from dem_build.checkpoint.floats import CODES, FLOATS, NAMES, from_bfloat16, narrow, to_bfloat16, widen
from dem_build.checkpoint.kept import kept_in, kept_metadata
from dem_build.checkpoint.layout import ITEM_SIZES, TensorInfo, TensorSpec
from dem_build.checkpoint.products import Sums, sum_products
from dem_build.checkpoint.reader import Checkpoint, check_index, open_checkpoint
from dem_build.checkpoint.writer import Writer, weights_writer

__all__ = [
    "CODES",
    "FLOATS",
    "ITEM_SIZES",
    "NAMES",
    "Checkpoint",
    "Combination",
    "DeltaNorms",
    "Norms",
    "Sums",
    "TensorInfo",
    "TensorSpec",
    "Writer",
    "check_index",
    "combine",
    "delta_shapes",
    "delta_writer",
    "from_bfloat16",
    "kept_in",
    "kept_metadata",
    "narrow",
    "open_checkpoint",
    "open_delta",
    "result_specs",
    "sum_products",
    "to_bfloat16",
    "weights_writer",
    "widen",
    "write_delta",
    "write_difference",
]
