"""`prepare`: a dataset's files become token ids and labels, split in train, validation and test.

Rows keep the order of their file. Several files are ordered by what their rows say, not by their bytes, so that a
blank line, another spelling of the same JSON or another name of a file changes no byte of the outputs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from dem_build.data import splits
from dem_build.data.arrays import RowsWriter
from dem_build.data.control import ControlTokens
from dem_build.data.duplicates import NearDuplicates
from dem_build.data.formats import resolve
from dem_build.data.rows import columns_of, read_rows, side_of
from dem_build.data.tokenise import Style, tokenise
from dem_build.errors import DataError
from dem_build.steps.tokenizer import BaseTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt

    from dem_build.data.formats import AnyExample, Layout
    from dem_build.data.rows import Row
    from dem_build.data.tokenise import Tokenised
    from dem_build.digest import JSON
    from dem_build.kinds import SourceFile
    from dem_build.steps.api import Context, Inputs, Provenance

__all__ = ["run"]

# What may be odd about a conversation: it is used, counted and said.
ODD_TURNS = {
    "unanswered_turns": "with turns after the last answer, which are left out",
    "unasked_answers": "that begin with an answer, which is not trained: nothing asks for it",
    "empty_turns": "with an empty turn; one of the assistant's is not trained",
    "repeated_roles": "with two turns of the same role in a row",
}
BATCH_ROWS = 1024
BATCH_CHARACTERS = 2**20  # bounds memory where rows are long


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `train`, `validation` and `test`, each one file as `dem_build.data.arrays` describes.

    Args:
        inputs: `base/tokenizer`, and the data files as sources; one whose tag begins with `validation:` or `test:`
            is held out whole.
        params: Those of the kind `prepare`.
        context: The run's surroundings.

    Returns:
        The format, and counts: rows read, used, and left out for each reason; rows, tokens and trained tokens of each
        split; prompts that a held-out split shares with train, and rows that nearly repeat what is in it.

    Raises:
        DataError: A file or row is wrong, or nothing is left to train on.
    """
    sources = sorted(inputs.sources)
    layout = _layout(sources, params)
    tokenizer = BaseTokenizer(inputs.paths["base/tokenizer"])
    style = _style(params, layout, tokenizer)
    splitter = splits.Splitter(_share(params, "validation"), _share(params, "test"))
    dataset = _Dataset(sources, layout, splitter, params.get("group_by")).ordered()
    control = _control(tokenizer, style)
    with ExitStack() as stack:
        writers = {s: stack.enter_context(RowsWriter(context.work / "spool" / s)) for s in splits.SPLITS}
        near = stack.enter_context(NearDuplicates(context.work / "spool" / "words"))
        counts: Counter[str] = Counter()
        items = _kept(dataset, params.get("max_samples"), counts)
        for batch in _told(_batches(items), dataset.sources, context):
            control.look((item.row, item.example) for item in batch)
            for item in _write(writers, batch, tokenizer, style, counts):
                if dataset.holds_out:
                    near.add(item.side, item.example.texts)
        counts["control_tokens"] = control.rows
        _refuse_nothing(counts, writers, style, sources)
        provenance = _provenance(layout, style, counts, writers) | {"near_duplicates": near.count()}
        _tell(provenance, style, context)
        _tell_control(control, context)
        for name, writer in writers.items():
            writer.save(context.out / name)
    return provenance


@dataclass(frozen=True)
class _Item:
    """A row on its way: its example, where it goes, and where it stands."""

    row: Row
    example: AnyExample
    digest: bytes
    side: str


@dataclass(frozen=True)
class _Dataset:
    """The rows of a dataset: which files, in which order, and which side each row is on.

    Attributes:
        sources: The files.
        layout: What is in their columns.
        splitter: Decides sides.
        group_by: The column that decides a row's side, instead of its prompt.
    """

    sources: Sequence[SourceFile]
    layout: Layout
    splitter: splits.Splitter
    group_by: str | None = None

    def items(self) -> Iterator[_Item]:
        """Yield every row."""
        for source in self.sources:
            yield from self._items_of(source)

    def ordered(self) -> _Dataset:
        """Return the dataset with its files in the order of what their rows say; reads several files once."""
        if len(self.sources) < 2:
            return self
        return replace(self, sources=sorted(self.sources, key=self._content))

    @property
    def limited(self) -> str:
        """The split that `max_samples` speaks of: train, or the only one that a probe has."""
        return "train" if any(side_of(s) is None for s in self.sources) else "test"

    @property
    def holds_out(self) -> bool:
        """Whether any row can be outside of train."""
        return self.splitter != splits.Splitter() or any(map(side_of, self.sources))

    def smallest(self, most: int | None) -> splits.Smallest | None:
        """Return which rows of the limited split are the `most` first; reads all files once."""
        if most is None:
            return None
        limited = self.limited
        return splits.Smallest((_place(item) for item in self.items() if item.side == limited), most)

    def _content(self, source: SourceFile) -> bytes:
        content = hashlib.sha256((side_of(source) or "").encode())
        for item in self._items_of(source):
            content.update(_place(item))
        return content.digest()

    def _items_of(self, source: SourceFile) -> Iterator[_Item]:
        held = side_of(source)
        columns = (*self.layout.columns.values(), *filter(None, [self.group_by]))
        for row in read_rows(source, columns):
            example = self.layout.example(row)
            digest = splits.prompt_digest(example.split_key)
            yield _Item(row, example, digest, held or self._side(row, digest))

    def _side(self, row: Row, digest: bytes) -> str:
        if self.group_by is None:
            return self.splitter.side(digest)
        return self.splitter.side(splits.prompt_digest(_group(row, self.group_by)))


def _group(row: Row, column: str) -> str:
    """Return a row's group; 7 of a JSON file and the text 7 of a CSV file are one."""
    value = row.values.get(column)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    found = (
        f"is of type {type(value).__name__}"
        if value is not None
        else "is null"
        if column in row.values
        else None
    )
    raise DataError(
        f"column `{column}` (group_by) {found}" if found else f"no column `{column}` to group by",
        where=row.where,
        hint="a group is a text or a whole number, and every row has one",
    )


def _layout(sources: Sequence[SourceFile], params: Mapping[str, JSON]) -> Layout:
    """Decide the format by the first file that has a row."""
    for source in sources:
        if columns := columns_of(source):
            return resolve(params.get("format"), params.get("columns"), columns, str(source.path))
    files = ", ".join(str(s.path) for s in sources) or "no file"
    raise DataError("the dataset has no rows", where=files, hint="give it a file with rows")


def _style(params: Mapping[str, JSON], layout: Layout, tokenizer: BaseTokenizer) -> Style:
    wanted, system = params.get("chat", "auto"), params.get("system")
    can = layout.format.turns and tokenizer.has_chat_template
    chat = can if wanted in ("auto", None) else bool(wanted)
    if not chat and not layout.format.bare:
        why = "chat = false" if wanted is False else "the base has no chat template"
        raise DataError(
            f"`{layout.format.name}` rows are written by a chat template, and {why}",
            hint="give the base a chat_template, or the rows as prompt and completion",
        )
    if chat and not can:
        why = (
            "the base has no chat template"
            if layout.format.turns
            else f"`{layout.format.name}` rows have no turns"
        )
        raise DataError(f"chat = true, but {why}", hint="leave chat out, or give the base a chat_template")
    if system is not None and not chat:
        raise DataError(
            "a system prompt needs a chat template, and this dataset is trained without one",
            hint="leave `system` out, or give the base a chat_template",
        )
    truncate, loss = params["on_overflow"] == "truncate", params.get("loss")
    return Style(chat, system, loss == "all", int(params["max_length"]), truncate, loss == "completion")


def _control(tokenizer: BaseTokenizer, style: Style) -> ControlTokens:
    """A text may spell out its own BOS and EOS, but not in a chat: there the template writes them."""
    if style.chat:
        return ControlTokens(tokenizer.control_tokens)
    return ControlTokens(
        tokenizer.control_tokens, tokenizer.decode(tokenizer.prefix_ids), tokenizer.eos_token
    )


def _share(params: Mapping[str, JSON], split: str) -> float:
    """Return the share held out by hash; files held out whole come as sources of their own."""
    value = params.get(split)
    return float(value) if isinstance(value, int | float) else 0.0


def _place(item: _Item) -> bytes:
    return splits.row_order(item.digest, item.example.content)


def _kept(dataset: _Dataset, max_samples: int | None, counts: Counter[str]) -> Iterator[_Item]:
    """Yield the rows that say something and are among the `max_samples` first of train; count them and the others."""
    smallest, limited = dataset.smallest(max_samples), dataset.limited
    for item in dataset.items():
        counts["read"] += 1
        if item.side == limited and smallest and not smallest.keeps(_place(item)):
            counts["beyond_max_samples"] += 1
        elif item.example.empty:
            counts["empty"] += 1
        else:
            counts.update(item.example.oddities)
            yield item


def _told(
    batches: Iterator[list[_Item]], sources: Sequence[SourceFile], context: Context
) -> Iterator[list[_Item]]:
    """Pass batches on, telling after each how much of the files is done, and stopping where the user asked to."""
    sizes = [s.path.stat().st_size for s in sources]
    for batch in batches:
        context.check_stop()
        yield batch
        last = batch[-1].row
        before = sum(sizes[: sources.index(last.source)])
        context.progress(before + last.consumed, sum(sizes), "bytes")


def _batches(items: Iterator[_Item]) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item.example.size
        if len(batch) == BATCH_ROWS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write(
    writers: Mapping[str, RowsWriter],
    batch: Sequence[_Item],
    tokenizer: BaseTokenizer,
    style: Style,
    counts: Counter[str],
) -> list[_Item]:
    """Write what a batch teaches, count the rest, and return the items that were used."""
    used = []
    for item, rows in zip(batch, _tokenised(batch, tokenizer, style), strict=True):
        kept = [row for row in rows if row is not None and row.trained]
        counts["one_an_answer"] += len(rows) > 1
        if kept:
            used.append(item)
            counts["used"] += 1
            counts["truncated"] += any(row.length > len(row.input_ids) for row in kept)
            counts["encoded_apart"] += any(row.apart for row in kept)
            counts["answers_over_max_length"] += len(rows) - len(kept)
        else:
            counts["completion_cut_off" if any(row is not None for row in rows) else "over_max_length"] += 1
        for row in kept:
            writers[item.side].append(row.input_ids, row.labels, item.digest)
    return used


def _tokenised(
    batch: Sequence[_Item], tokenizer: BaseTokenizer, style: Style
) -> list[list[Tokenised | None]]:
    """Tokenise a batch; where that is refused, find the row that is to blame."""
    try:
        return tokenise(tokenizer, [item.example for item in batch], style)
    except DataError:
        for item in batch:
            try:
                tokenise(tokenizer, [item.example], style)
            except DataError as error:
                raise DataError(error.what, where=item.row.where, hint=error.hint) from error
        raise


def _refuse_nothing(
    counts: Mapping[str, int], writers: Mapping[str, RowsWriter], style: Style, sources: Sequence[SourceFile]
) -> None:
    """Refuse a split that has files and no rows. A probe has files for `test` alone."""
    for side in splits.SPLITS:
        files = [str(s.path) for s in sources if (side_of(s) or "train") == side]
        if files and not len(writers[side]):
            others = sum(len(w) for name, w in writers.items() if name != side)
            held = [f"{_rows(others)} {_AWAY[side]}"] if others else []
            raise DataError(
                f"of {_rows(counts['read'])}, none is left to {_USE[side]}: {'; '.join(_lost(counts, style) + held)}",
                where=", ".join(files),
                hint="raise max_length, hold out less, or give the dataset more rows",
            )


_USE = {"train": "train on", "validation": "choose by", "test": "judge by"}
_AWAY = {
    "train": "held out for validation and test",
    "validation": "for other splits",
    "test": "for other splits",
}


def _lost(counts: Mapping[str, int], style: Style) -> list[str]:
    """Say how many rows were left out, and why."""
    reasons = {
        "over_max_length": f"dropped: over max_length = {style.max_length} tokens",
        "completion_cut_off": f"dropped: prompt alone fills max_length = {style.max_length} tokens",
        "empty": "dropped: completion, text or every answer is empty",
        "beyond_max_samples": "left out by max_samples",
    }
    return [f"{_rows(counts[name])} {reason}" for name, reason in reasons.items() if counts[name]]


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"


def _provenance(
    layout: Layout, style: Style, counts: Counter[str], writers: Mapping[str, RowsWriter]
) -> dict[str, Any]:
    names = (
        "read", "used", "empty", "over_max_length", "truncated", "completion_cut_off", "beyond_max_samples",
        "encoded_apart", "control_tokens", "one_an_answer", "answers_over_max_length", *ODD_TURNS,
    )  # fmt: skip
    train = _unique(writers["train"])
    return {
        "format": layout.format.name,
        "columns": dict(layout.columns),
        "chat": style.chat,
        "versions": {name: version(name) for name in ("tokenizers", "transformers")},
        "rows": {name: counts[name] for name in names},
        "splits": {
            name: {
                "rows": len(writer),
                "tokens": writer.tokens,
                "trained_tokens": writer.trained,
                "prompts": len(_unique(writer)),
            }
            for name, writer in writers.items()
        },
        "overlap": {
            name: int(np.isin(_whole(writers[name].prompts), train).sum())
            for name in splits.SPLITS
            if name != "train"
        },
    }


def _whole(prompts: npt.NDArray[np.uint8]) -> npt.NDArray[np.void]:
    """View each prompt's 16 bytes as one value, which numpy can sort and compare."""
    return np.ascontiguousarray(prompts).view(np.dtype((np.void, prompts.shape[1])))[:, 0]


def _unique(writer: RowsWriter) -> npt.NDArray[np.void]:
    return np.unique(_whole(writer.prompts))


def _tell(provenance: Mapping[str, Any], style: Style, context: Context) -> None:
    rows, parts = provenance["rows"], provenance["splits"]
    sizes = ", ".join(f"{part['rows']} {name}" for name, part in parts.items() if part["rows"])
    train = parts["train"]
    context.note(
        f"{rows['used']} of {_rows(rows['read'])} used ({sizes}); "
        f"train: {train['tokens']} tokens, {train['trained_tokens']} of them trained"
    )
    for line in _lost({**rows, "beyond_max_samples": 0}, style):  # those the user asked to leave out
        context.warn(line)
    if rows["truncated"]:
        context.warn(f"{_rows(rows['truncated'])} cut at max_length = {style.max_length} tokens")
    _tell_turns(rows, context)
    for name, shared in provenance["overlap"].items():
        if shared:
            context.warn(f"{_rows(shared)} of {name} with a prompt that is in train, too")
    for name, near in provenance["near_duplicates"].items():
        if near:
            context.warn(f"{_rows(near)} of {name} nearly repeat{'s' if near == 1 else ''} rows of train")


def _tell_turns(rows: Mapping[str, int], context: Context) -> None:
    for name, what in ODD_TURNS.items():
        if rows[name]:
            context.warn(f"{_rows(rows[name])} {what}")
    if rows["one_an_answer"]:
        context.note(
            f"{_rows(rows['one_an_answer'])} became one row an answer: the base's chat template writes earlier turns "
            "differently once there are later ones"
        )
    if rows["answers_over_max_length"]:
        context.warn(
            f"{rows['answers_over_max_length']} answers dropped: over max_length, in rows of one an answer"
        )


def _tell_control(control: ControlTokens, context: Context) -> None:
    if control.first is not None:
        where, token = control.first
        context.warn(
            f"{_rows(control.rows)} with a control token of the base in the text, first {token} at {where}: "
            "it is trained as that token, not as text"
        )
