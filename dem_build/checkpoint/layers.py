"""Which layer of a model a tensor belongs to, and what kind of module it is of, by its name.

A layer is what one ω is given to where each layer has its own.
"""

from __future__ import annotations

import re

EMBEDDINGS = "embeddings"
"""The token embeddings, tied or not to the output head, and the head."""
FINAL = "final"
"""What is in no numbered layer and no embedding: the last norm."""
NORMS = "norms"
"""Norms of all kinds: of a layer's input, of queries and keys, the last one."""

_NUMBERED = re.compile(r"\.(?:layers|h|blocks|block|decoder_layers)\.(\d+)\.")
# The head is of the embeddings: it may be tied to them, and then is one tensor with one ω.
_EMBEDDING = re.compile(
    r"(?:^|\.)(?:embed_tokens|wte|wpe|embed_in|word_embeddings|lm_head|embed_out|embed_positions)\."
)
_NORM = re.compile(r"norm|^ln_")
_LAST = re.compile(r"\.(?:weight|bias)$")


def layer_of(tensor: str) -> str:
    """The layer of a tensor: its number as text, `embeddings` or `final`."""
    if numbered := _NUMBERED.search(f".{tensor}"):
        return numbered.group(1)
    return EMBEDDINGS if _EMBEDDING.search(tensor) else FINAL


def layers_of(tensors: list[str]) -> list[str]:
    """The layers of some tensors, each once: embeddings, the numbered ones in order, the final."""
    found = {layer_of(name) for name in tensors}
    numbered = sorted((layer for layer in found if layer.isdigit()), key=int)
    return [EMBEDDINGS] * (EMBEDDINGS in found) + numbered + [FINAL] * (FINAL in found)


def kind_of(tensor: str) -> str:
    """The kind of module that a tensor is of: `embeddings`, `norms`, or the module's name (`q_proj`)."""
    if layer_of(tensor) == EMBEDDINGS:
        return EMBEDDINGS
    module = _LAST.sub("", tensor).rpartition(".")[2]
    return NORMS if _NORM.search(module) else module
