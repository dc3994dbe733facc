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
        tied: Whether the head is the embedding.
    """

    parameters: int
    layers: int
    hidden: int
    keys: int
    inner: int
    vocabulary: int
    tied: bool = True

    @classmethod
    def of(cls, config: Mapping[str, JSON], parameters: int | None = None) -> Shape | None:
        """The shape that a `config.json` describes; None where it uses other names.

        Args:
            config: The document.
            parameters: Their number where it is known; else it is that of gated MLPs and no biases.
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
        mlps, inner = _mlps(config, hidden, layers)
        attention = 2 * hidden * (heads * head + keys)
        tied = bool(config.get("tie_word_embeddings", True))
        embeddings = 1 if tied else 2
        counted = layers * attention + mlps + embeddings * vocabulary * hidden
        return cls(parameters or counted, layers, hidden, keys, inner, vocabulary, tied)


def _mlps(config: Mapping[str, JSON], hidden: int, layers: int) -> tuple[int, int]:
    """The parameters of all MLPs, and the width inside of the one, or of the experts, that a token goes through.

    Of a mixture of experts some layers may have a plain MLP: the first ones, or all but every so manieth.
    """
    inner = _first(config, "intermediate_size", "n_inner") or 4 * hidden
    shared = _first(config, "shared_expert_intermediate_size", "shared_intermediate_size") or 0
    experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts") or 1
    if experts <= 1:
        return layers * 3 * hidden * (shared or inner), shared or inner
    each = _first(config, "moe_intermediate_size") or inner
    shared = shared or each * (_first(config, "n_shared_experts", "moe_num_shared_experts") or 0)
    plain = _first(config, "first_k_dense_replace", "moe_layer_start_index") or 0
    sparse = (layers - plain) // (_first(config, "expert_layer_period", "decoder_sparse_step") or 1)
    widths = sparse * (experts * each + shared) + (layers - sparse) * inner
    active = each * (_first(config, "num_experts_per_tok", "moe_k", "moe_topk") or 1) + shared
    return 3 * hidden * widths, max(active, inner if sparse < layers else 0)


def _first(config: Mapping[str, JSON], *names: str) -> int | None:
    """The first of the names that has a number."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)
