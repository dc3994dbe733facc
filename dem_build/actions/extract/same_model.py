"""Whether a model can be a fine-tune of a base, by their configs: before a tensor is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dem_build.errors import CheckpointError
from dem_build.model.architecture import architecture, parse_config

if TYPE_CHECKING:
    from dem_build.digest import JSON
    from dem_build.model.architecture import Architecture
    from dem_build.step import Context

__all__ = ["OF_THE_BASE", "refuse_strangers"]

OF_THE_BASE = "take a fine-tune of this base, or name its own base in [base]"
# What shapes do not tell, and weights mean nothing without.
STRUCTURE = ("model_type", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act")
# Keys that say nothing of what the weights compute; the shapes and the tie are compared by themselves.
IRRELEVANT = frozenset(
    {
        "_attn_implementation",
        "_name_or_path",
        "architectures",
        "chunk_size_feed_forward",
        "dtype",
        "id2label",
        "initializer_range",
        "label2id",
        "output_attentions",
        "output_hidden_states",
        "pretraining_tp",
        "problem_type",
        "return_dict",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "vocab_size",
    }
)
TOLD = 4  # keys in a message


def refuse_strangers(base: JSON, tuned: JSON, where: str, context: Context) -> Architecture:
    """Refuse a model that cannot be a fine-tune of the base, and warn where it computes with other settings.

    Args:
        base: The base's `config.json`.
        tuned: The other model's.
        where: What messages call the other model.
        context: Takes the warnings.

    Returns:
        The architecture of the other model: the base's, but that it may have fewer rows of embeddings. Tokens are added
        to a base at the end, so the rows that it lacks are the base's last ones.

    Raises:
        CheckpointError: Another architecture, tie or shape, or rows of embeddings that the base has not.
    """
    of_base, of_tuned = architecture(base, "base"), architecture(tuned, where)
    _same_model(of_base, of_tuned, where)
    _no_more_rows(of_base, of_tuned, where)
    _same_tie(of_base, of_tuned, where)
    _same_shapes(of_base, of_tuned, where)
    _same_settings(parse_config(base, "base"), parse_config(tuned, where), where, context)
    return of_tuned


def _same_model(base: Architecture, tuned: Architecture, where: str) -> None:
    if base.model != tuned.model:
        what = f"is a {tuned.model}, and the base is a {base.model}"
        raise CheckpointError(what, where=where, hint=OF_THE_BASE)


def _no_more_rows(base: Architecture, tuned: Architecture, where: str) -> None:
    more = tuned.vocabulary - base.vocabulary
    if more <= 0:
        return
    what = f"has {tuned.vocabulary} rows of embeddings, and the base {base.vocabulary}: {more} were added, for new "
    hint = (
        f"where it can do without the added rows, cut them off: model.resize_token_embeddings({base.vocabulary})"
        ", then model.save_pretrained(NEW_FOLDER)"
    )
    raise CheckpointError(what + "tokens or as padding", where=where, hint=hint)


def _same_tie(base: Architecture, tuned: Architecture, where: str) -> None:
    if base.tied == tuned.tied:
        return
    if base.tied:
        what = "has a head of its own, and the base's is tied to the embeddings"
        hint = 'where its head equals its embeddings, set "tie_word_embeddings": true in its config.json'
    else:
        what = "ties its head to the embeddings, and the base has a head of its own"
        hint = OF_THE_BASE
    raise CheckpointError(what, where=where, hint=hint)


def _same_shapes(base: Architecture, tuned: Architecture, where: str) -> None:
    names = sorted({*base.shapes, *tuned.shapes})
    odd = [name for name in names if not _fits(base, tuned, name)]
    if odd:
        there, here = (_shape(a, odd[0]) for a in (tuned, base))
        what = f"{len(odd)} of its tensors are not those of the base, first {odd[0]}: {there}, and the base {here}"
        raise CheckpointError(what, where=where, hint=OF_THE_BASE)


def _fits(base: Architecture, tuned: Architecture, name: str) -> bool:
    ours, theirs = base.shapes.get(name), tuned.shapes.get(name)
    if ours == theirs or ours is None or theirs is None:
        return ours == theirs
    return (ours[:1], theirs[:1]) == ((base.vocabulary,), (tuned.vocabulary,)) and ours[1:] == theirs[1:]


def _shape(weights: Architecture, name: str) -> str:
    return f"has {weights.shapes[name]}" if name in weights.shapes else "has none"


def _same_settings(base: Any, tuned: Any, where: str, context: Context) -> None:
    """Compare what transformers reads, so that a default that is written out is no difference."""
    known = type(base)().to_dict().keys() - IRRELEVANT
    ours, theirs = base.to_dict(), tuned.to_dict()
    odd = sorted(
        k for k in known if ours.get(k) != theirs.get(k) and not k.endswith(("_token_id", "dropout"))
    )
    said = [f"{k} is {theirs.get(k)}, the base's {ours.get(k)}" for k in odd]
    if structural := [line for key, line in zip(odd, said, strict=True) if key in STRUCTURE]:
        raise CheckpointError(
            f"differs from the base: {'; '.join(structural)}", where=where, hint=OF_THE_BASE
        )
    if said:
        more = f"; and {len(said) - TOLD} more" if len(said) > TOLD else ""
        context.warn(f"{where}: the composed model has the base's settings: {'; '.join(said[:TOLD])}{more}")
