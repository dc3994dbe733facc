"""The shape of a decoder, as its `config.json` describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.digest import JSON

__all__ = ["Shape"]


@dataclass(frozen=True)
class Shape:
    """What a decoder's memory follows from.

    Attributes:
        parameters: Of the whole model, tied ones once.
        layers: How many.
        hidden: Width of the residual stream.
        keys: Width of all key heads together.
        inner: Width inside of the MLP that a token goes through.
        vocabulary: Rows of the embedding.
    """

    parameters: int
    layers: int
    hidden: int
    keys: int
    inner: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, JSON], parameters: int | None = None) -> Shape | None:
        """Return the shape that a `config.json` describes; None where it uses other names.

        Args:
            config: The document.
            parameters: Their number where it is known; else it is that of a gated MLP and no biases.
        """
        hidden, layers = (
            _first(config, "hidden_size", "n_embd"),
            _first(config, "num_hidden_layers", "n_layer"),
        )
        heads, vocabulary = _first(config, "num_attention_heads", "n_head"), _first(config, "vocab_size")
        if not hidden or not layers or not heads or not vocabulary:
            return None
        head = _first(config, "head_dim") or hidden // heads
        keys = (_first(config, "num_key_value_heads") or heads) * head
        inner = _first(config, "intermediate_size", "n_inner") or 4 * hidden
        experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts") or 1
        if experts > 1:
            inner = _first(config, "moe_intermediate_size") or inner
        layer = 2 * hidden * (heads * head + keys) + 3 * hidden * inner * experts
        embeddings = 1 if config.get("tie_word_embeddings", True) else 2
        counted = layers * layer + embeddings * vocabulary * hidden
        active = (_first(config, "num_experts_per_tok") or 1) if experts > 1 else 1
        return cls(parameters or counted, layers, hidden, keys, inner * active, vocabulary)


def _first(config: Mapping[str, JSON], *names: str) -> int | None:
    """Return the first of the names that has a number."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)
