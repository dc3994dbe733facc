"""What anybody may write into a record's provenance."""

from __future__ import annotations

from hypothesis import strategies as st

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.just(10**400), st.just(-1)
)
NAMES = st.sampled_from(["curve", "seen", "trained", "torch", "math", "share", "train", "epochs"])


def tables(*fields, names=NAMES):
    """Return a strategy of provenance with some of these fields, of any shape, whose tables have such names."""
    values = st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=8,
    )
    return st.dictionaries(st.sampled_from(fields), values, min_size=1, max_size=4)
