"""What `prepare` says of a dataset: counts, warnings, and the refusal of one that leaves nothing.

What nothing reads, and what a chat template reads and does not write, is gathered while rows pass, and said once.
"""

from __future__ import annotations

import re
from collections import Counter
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from dem_build.data import splits
from dem_build.data.rows import columns_of
from dem_build.data.sources import side_of
from dem_build.errors import DataError
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    import numpy.typing as npt

    from dem_build.action import SourceFile
    from dem_build.data.arrays import RowsWriter
    from dem_build.data.formats import AnyExample, Layout
    from dem_build.data.rows import Row
    from dem_build.data.tokenise import Style, Tokenised
    from dem_build.step import Context

# What may be odd about a conversation: it is used, counted and said.
ODD_TURNS = {
    "unanswered_turns": "with turns after the last answer, which are left out",
    "unasked_answers": "that begin with an answer, which is not trained: nothing asks for it",
    "empty_turns": "with an empty turn; one of the assistant's is not trained",
    "repeated_roles": "with two turns of the same role in a row",
    "system_twice": "with a `system` column that is not read: a turn of theirs says something else as the system",
    "trained_prompts": "with a turn that says that it is trained, and is not the assistant's: it is not trained",
}
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
USE = {"train": "train on", "validation": "choose by", "test": "judge by"}
AWAY = {
    "train": "held out for validation and test",
    "validation": "for other splits",
    "test": "for other splits",
}


def refuse_nothing(
    counts: Mapping[str, int], writers: Mapping[str, RowsWriter], style: Style, sources: Sequence[SourceFile]
) -> None:
    """Refuse a split that has files and no rows. A probe has files for `test` alone.

    Raises:
        DataError: There is one; says what became of its rows.
    """
    for side in splits.SPLITS:
        files = [str(s.path) for s in sources if (side_of(s) or "train") == side]
        if files and not len(writers[side]):
            others = sum(len(w) for name, w in writers.items() if name != side)
            held = [f"{counted(others, 'row')} {AWAY[side]}"] if others else []
            lost = "; ".join(_lost(counts, style) + held)
            raise DataError(
                f"of {counted(counts['read'], 'row')}, none is left to {USE[side]}: {lost}",
                where=", ".join(files),
                hint="raise max_length, hold out less, or give the dataset more rows",
            )


def _lost(counts: Mapping[str, int], style: Style) -> list[str]:
    """Say how many rows were left out, and why."""
    reasons = {
        "over_max_length": f"dropped: over max_length = {style.max_length} tokens",
        "completion_cut_off": f"dropped: prompt alone fills max_length = {style.max_length} tokens",
        "empty": "dropped: completion, text or every answer is empty",
        "untrained": "dropped: every answer says that it is not trained",
        "beyond_part": "left out by max_samples or share of a part",
        "beyond_max_samples": "left out by max_samples",
    }
    return [f"{counted(counts[name], 'row')} {reason}" for name, reason in reasons.items() if counts[name]]


def provenance_of(
    layout: Layout, style: Style, counts: Counter[str], writers: Mapping[str, RowsWriter]
) -> dict[str, Any]:
    """What is worth knowing of the rows: format, counts, sizes of the splits, prompts shared with train."""
    told = (
        "read", "used", "empty", "untrained", "over_max_length", "truncated", "completion_cut_off",
        "beyond_max_samples", "encoded_apart", "control_tokens", "one_an_answer", "answers_over_max_length",
        "beyond_part", *ODD_TURNS, *MEANT,
    )  # fmt: skip
    train = whole_prompts(writers["train"].prompts)
    return {
        "format": layout.format.name,
        "columns": dict(layout.columns),
        "chat": style.chat,
        "versions": {name: version(name) for name in ("tokenizers", "transformers")},
        "rows": {name: counts[name] for name in told},
        "splits": {name: size_of(writer) for name, writer in writers.items()},
        "overlap": {
            name: int(np.isin(whole_prompts(writers[name].prompts), train).sum())
            for name in splits.SPLITS
            if name != "train"
        },
    }


def size_of(writer: RowsWriter) -> dict[str, int]:
    """How large a split is: rows, tokens, and prompts that differ."""
    return {
        "rows": len(writer),
        "tokens": writer.tokens,
        "trained_tokens": writer.trained,
        "longest": writer.longest,
        "prompts": len(np.unique(whole_prompts(writer.prompts))),
    }


def whole_prompts(prompts: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """View each prompt's 16 bytes as one value, which numpy can sort and compare."""
    return np.ascontiguousarray(prompts).view(np.dtype((np.void, prompts.shape[1])))[:, 0]


def tell(provenance: Mapping[str, Any], style: Style, context: Context) -> None:
    """Say how many rows are used, and warn of what became of the others."""
    rows, parts = provenance["rows"], provenance["splits"]
    sizes = ", ".join(f"{part['rows']} {name}" for name, part in parts.items() if part["rows"])
    train = parts["train"]
    context.note(
        f"{rows['used']} of {counted(rows['read'], 'row')} used ({sizes}); "
        f"train: {train['tokens']} tokens, {train['trained_tokens']} of them trained"
    )
    for line in _lost(
        {**rows, "beyond_max_samples": 0, "beyond_part": 0}, style
    ):  # those the user asked to leave out
        context.warn(line)
    if rows["truncated"]:
        context.warn(f"{counted(rows['truncated'], 'row')} cut at max_length = {style.max_length} tokens")
    _tell_turns(rows, context)
    for name, shared in provenance["overlap"].items():
        if shared:
            context.warn(f"{counted(shared, 'row')} of {name} with a prompt that is in train, too")
    for name, near in provenance["near_duplicates"].items():
        if near:
            context.warn(
                f"{counted(near, 'row')} of {name} nearly repeat{'s' if near == 1 else ''} rows of train"
            )


def _tell_turns(rows: Mapping[str, int], context: Context) -> None:
    for name, what in ODD_TURNS.items():
        if rows[name]:
            context.warn(f"{counted(rows[name], 'row')} {what}")
    if rows["one_an_answer"]:
        context.note(
            f"{counted(rows['one_an_answer'], 'row')} became one row an answer: the base's chat template writes "
            "earlier turns differently once there are later ones"
        )
    if rows["answers_over_max_length"]:
        context.warn(
            f"{rows['answers_over_max_length']} answers dropped: over max_length, in rows of one an answer"
        )


class ControlTokens:
    """Finds rows whose own text spells a control token of the base, such as `<|im_end|>`: it is encoded as that token.

    Such a row can end a turn or begin one that is nobody's. That is what every tokenizer does with the text, here and
    wherever the model is asked, so the row is used as it is; but nobody should find out by the model's answers.

    Args:
        texts: The control tokens as text.
        start: What a row may begin with all the same: BOS, which is not doubled.
        end: What a row may end with all the same: EOS, which is not doubled.

    Attributes:
        rows: How many rows spell one.
        first: Where the first such row stands, and the token that it spells; None while there is none.
    """

    def __init__(self, texts: Collection[str], start: str = "", end: str = "") -> None:
        # The longest first, as a tokenizer matches them. Without any, a pattern that nothing matches.
        ordered = sorted(texts, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        self._start, self._end = start, end
        self.rows = 0
        self.first: tuple[str, str] | None = None

    def look(self, rows: Iterable[tuple[Row, AnyExample]]) -> None:
        """Look through more rows."""
        for row, example in rows:
            texts = (t.removeprefix(self._start).removesuffix(self._end) for t in example.texts)
            if found := next((f for f in map(self._pattern.search, texts) if f), None):
                self.rows += 1
                self.first = self.first or (row.where, found[0])

    def tell(self, context: Context) -> None:
        """Warn of them."""
        if self.first is not None:
            where, token = self.first
            context.warn(
                f"{counted(self.rows, 'row')} with a control token of the base in the text, first {token} at {where}: "
                "where it is written, it is that token and not text"
            )


class RowNotes:
    """Gathers what there is to say while rows pass.

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
        # A key may hold half a surrogate pair, which no record can be written with.
        return {
            what: sorted(name.encode("utf-8", "replace").decode("utf-8") for name in names)
            for what, names in found.items()
        }

    def tell(self, context: Context) -> None:
        """Say it, once."""
        if sentence := unread_sentence(self.unread):
            context.note(sentence)
        for name, what in MEANT.items():
            if count := self.counts[name]:
                context.note(f"{counted(count, 'row')} {what}, such as {self._shown[name]!r}")


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
