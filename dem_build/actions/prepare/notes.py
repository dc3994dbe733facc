"""What `prepare` says once of a dataset: what nothing reads, and what a chat template reads and does not write."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dem_build.data.rows import columns_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from dem_build.action import SourceFile
    from dem_build.data.formats import AnyExample
    from dem_build.data.rows import Row
    from dem_build.data.tokenise import Tokenised
    from dem_build.step import Context

__all__ = ["MEANT", "Told", "unread_sentence"]

# What a template does not write, as it is meant to: the row is used, and it is counted and said.
MEANT = {
    "switches": "with a switch of the base's chat template, which it reads and does not write",
    "earlier_reasoning": (
        "with reasoning of an earlier answer, which the base's chat template leaves out before a later one"
    ),
    "unwritten_names": "with a turn's `name`, which the base's chat template does not write",
    "unwritten_tools": "with a tool whose description or parameters the base's chat template does not write",
    "unused_variables": "with chat_template_kwargs that the base's chat template does not ask for",
}
MOST_NAMES = 100


class Told:
    """Gathers what there is to say while rows pass.

    Args:
        read: The columns that are read.
        sources: The files.

    Attributes:
        counts: Rows by the names of `MEANT`.
    """

    def __init__(self, read: Collection[str], sources: Sequence[SourceFile]) -> None:
        self._read = frozenset(read)
        self._columns: set[str] = set()
        self._keys: set[str] = set()
        self._shown: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        for source in sources:
            if source.tag.endswith("parquet"):  # of which only what is read comes by
                self._columns |= {*columns_of(source)} - self._read

    def look(self, rows: Iterable[tuple[Row, AnyExample]]) -> None:
        """Look through more rows for what nothing reads."""
        for row, example in rows:
            _add(self._columns, row.values.keys() - self._read)
            _add(self._keys, example.unread)

    def unwritten(self, rows: Iterable[Tokenised | None]) -> None:
        """Count a row of the data by what the template did not write of it."""
        found = {pair for row in rows if row is not None for pair in row.unwritten}
        for name, example in sorted(found):
            self._shown.setdefault(name, example)
        self.counts.update({name for name, _ in found})

    @property
    def unread(self) -> dict[str, list[str]]:
        """Columns, and keys of turns, that nothing reads; sorted."""
        found = {"columns": self._columns, "keys": self._keys}
        return {what: sorted(_clean(name) for name in names) for what, names in found.items()}

    def tell(self, context: Context) -> None:
        """Say it, once."""
        if sentence := unread_sentence(self.unread):
            context.note(sentence)
        for name, what in MEANT.items():
            if count := self.counts[name]:
                rows = "1 row" if count == 1 else f"{count} rows"
                context.note(f"{rows} {what}, such as {self._shown[name]!r}")


def unread_sentence(unread: dict[str, list[str]]) -> str:
    """Say what is not read; empty where all is."""
    kinds = (("columns", "column", ""), ("keys", "key", " of turns"))
    parts = [
        f"the {one if len(names) == 1 else one + 's'} {', '.join(f'`{n}`' for n in names)}{of}"
        for kind, one, of in kinds
        if (names := unread.get(kind, []))
    ]
    return f"not read: {'; '.join(parts)}" if parts else ""


def _add(names: set[str], more: Iterable[str]) -> None:
    """Keep what is new, but no more than people read: a key may be a date or an id."""
    if len(names) < MOST_NAMES:
        names.update(more)


def _clean(name: str) -> str:
    return name.encode("utf-8", "replace").decode("utf-8")
