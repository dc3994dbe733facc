"""`prepare`: a dataset's files become token ids and labels, split in train, validation and test.

Rows keep the order of their file. Several files are ordered by what their rows say, not by their bytes, so that a
blank line, another spelling of the same JSON or another name of a file changes no byte of the outputs.

`sample` is a few rows of train, for what composes by looking at data. `examples` reads prepared rows back, as a person
reads them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from dem_build.actions.prepare.notes import ControlTokens, RowNotes, provenance_of, refuse_nothing, tell
from dem_build.actions.prepare.parallel import Cutter, processes_for
from dem_build.data import splits
from dem_build.data.arrays import RowsWriter, TokenRows
from dem_build.data.duplicates import NearDuplicates
from dem_build.data.formats import resolve
from dem_build.data.parts import NO_PARTS, Parts, Placed, again
from dem_build.data.rows import columns_of, read_rows
from dem_build.data.sample import RowSample
from dem_build.data.sources import part_of, side_of
from dem_build.data.tokenise import MASKED, Style, tokenise
from dem_build.errors import DataError
from dem_build.model.tokenizer import BaseTokenizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from dem_build.action import SourceFile
    from dem_build.actions.prepare.parallel import Cut
    from dem_build.data.formats import AnyExample, Layout
    from dem_build.data.parts import Taken
    from dem_build.data.rows import Row
    from dem_build.digest import JSON
    from dem_build.step import Context, Inputs, Provenance

BATCH_ROWS = 1024
BATCH_CHARACTERS = 2**20  # bounds memory where rows are long


def run(inputs: Inputs, params: Mapping[str, JSON], context: Context) -> Provenance:
    """Write `train`, `validation`, `test` and `sample`, each one file as `dem_build.data.arrays` describes.

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
    layouts = _layouts(sources, params)
    layout = next(iter(layouts.values()))
    tokenizer = BaseTokenizer(inputs.paths["base/tokenizer"])
    style = _style(params, layout, tokenizer)
    if not style.chat:
        layouts = {part: each.without_template() for part, each in layouts.items()}
        layout = layout.without_template()
    splitter = splits.Splitter(_share(params, "validation"), _share(params, "test"))
    most = params.get("max_samples")
    size = sum(s.path.stat().st_size for s in sources)
    parts = Parts(params.get("parts") or {}, splitter)
    progress = _Progress(context, size, passes=1 + (len(sources) > 1) + (most is not None) + parts.passes)
    dataset = _Dataset(sources, layouts, splitter, params.get("group_by"), parts).ordered(progress)
    # A text may spell out its own BOS and EOS, but not in a chat: there the template writes them.
    own = () if style.chat else (tokenizer.decode(tokenizer.prefix_ids), tokenizer.eos_token)
    control = ControlTokens(tokenizer.control_tokens, *own)
    cutter = Cutter(
        tokenizer, style, compares=dataset.holds_out, processes=processes_for(context.threads, size)
    )
    with ExitStack() as stack:
        writers = {s: stack.enter_context(RowsWriter(context.work / "spool" / s)) for s in splits.SPLITS}
        near = stack.enter_context(NearDuplicates(context.work / "spool" / "words"))
        counts, told, sample = Counter[str](), RowNotes(dataset.read, sources), RowSample()
        taken = dataset.taken(most, progress)
        items = _kept(dataset, taken, dataset.smallest(most, progress, taken), counts)
        cut_up = stack.enter_context(closing(cutter.cut(_batches(items), lambda item: item.example)))
        for batch, cuts in cut_up:
            context.check_stop()
            if cuts is None:
                _refuse_row(batch, tokenizer, style)
            control.look((item.row, item.example) for item in batch)
            told.look((item.row, item.example) for item in batch)
            for item, cut in _write(writers, zip(batch, cuts or (), strict=True), counts, sample):
                told.unwritten(cut.rows)
                if cut.shingles is not None:
                    near.add(item.side, cut.shingles)
            progress.tell(batch[-1].row, dataset.sources)
        counts["control_tokens"] = control.rows
        counts.update(told.counts)
        refuse_nothing(counts, writers, style, sources)
        provenance = provenance_of(layout, style, counts, writers)
        provenance |= {"near_duplicates": near.count(), "unread": told.unread}
        if parts.rules:
            provenance["parts"] = {
                name: {"subsets": taken.subsets.get(name), "rows": counts[f"part {name}"]}
                for name in parts.rules
            }
        writers["sample"] = stack.enter_context(RowsWriter(context.work / "spool" / "sample"))
        sample.write(writers["sample"])
        provenance["sample"] = {"lengths": writers["sample"].lengths}
        tell(provenance, style, context)
        told.tell(context)
        control.tell(context)
        _tell_empty(splitter, provenance, context)
        for name, writer in writers.items():
            writer.save(context.out / name)
    return provenance


@dataclass(frozen=True)
class _Item:
    """A row on its way: its example, where it goes, and where it stands; in a dataset with parts also of which one."""

    row: Row
    example: AnyExample
    digest: bytes
    side: str
    part: str | None = None
    subset: str = ""

    @property
    def placed(self) -> Placed:
        """What decides whether a row of a part is used."""
        return Placed(self.part or "", self.subset, self.side, _place(self))

    @property
    def order(self) -> bytes:
        """Its place among those of which the dataset has a most; of rows of parts that is after these have theirs."""
        return _place(self) if self.part is None else again(_place(self))


class _Progress:
    """Tells how much of the files is read, over all the times that they are."""

    def __init__(self, context: Context, size: int, passes: int) -> None:
        self._context, self._size, self._passes = context, size, passes
        self._ended = 0

    def tell(self, row: Row, sources: Sequence[SourceFile]) -> None:
        """Say that a row was read of files that come in the order of `sources`."""
        before = sum(s.path.stat().st_size for s in sources[: sources.index(row.source)])
        done = self._ended * self._size + before + row.consumed
        self._context.progress(done, self._passes * self._size, "bytes")

    def follow(self, items: Iterable[_Item], sources: Sequence[SourceFile]) -> Iterator[_Item]:
        """Pass items on, telling now and then, and stopping where the user asked to."""
        for number, item in enumerate(items, 1):
            if number % BATCH_ROWS == 0:
                self._context.check_stop()
                self.tell(item.row, sources)
            yield item

    def end_pass(self) -> None:
        """Say that all files were read once more."""
        self._ended += 1


@dataclass(frozen=True)
class _Dataset:
    """The rows of a dataset: which files, in which order, and which side each row is on.

    Attributes:
        layouts: What is in their columns, for each part; `""` for files that are in none, as one held out whole.
        splitter: Decides sides.
        group_by: The column that decides a row's side, instead of its prompt.
    """

    sources: Sequence[SourceFile]
    layouts: Mapping[str, Layout]
    splitter: splits.Splitter
    group_by: str | None = None
    parts: Parts = NO_PARTS

    def items(self) -> Iterator[_Item]:
        """Yield every row."""
        for source in self.sources:
            yield from self._items_of(source)

    def ordered(self, progress: _Progress) -> _Dataset:
        """The dataset with its files in the order of what their rows say; reads several files once."""
        if len(self.sources) < 2:
            return self
        ordered = sorted(self.sources, key=lambda source: self._content(source, progress))
        progress.end_pass()
        return replace(self, sources=ordered)

    @property
    def limited(self) -> str:
        """The split that `max_samples` speaks of: train, or the only one that a probe has."""
        return "train" if any(side_of(s) is None for s in self.sources) else "test"

    @property
    def read(self) -> frozenset[str]:
        """The columns that are read."""
        columns = [c for layout in self.layouts.values() for c in layout.columns.values()]
        by = [self.parts.by(part) for part in self.parts.rules]
        return frozenset([*columns, *filter(None, [self.group_by, *by])])

    @property
    def holds_out(self) -> bool:
        """Whether any row can be outside of train."""
        return self.splitter != splits.Splitter() or any(map(side_of, self.sources))

    def taken(self, most: int | None, progress: _Progress) -> Taken:
        """Which rows of parts are used; reads all files as often as that takes.

        Raises:
            DataError: A part with a share has no row to train on.
        """

        def rows() -> Iterator[Placed]:
            yield from (i.placed for i in progress.follow(self.items(), self.sources) if i.part is not None)
            progress.end_pass()

        found = self.parts.taken(rows, most)
        if files := [str(s.path) for s in self.sources if (part_of(s) or ("",))[0] in found.lacking]:
            raise DataError(
                "no row to train on, and beside a `share` of nothing no other part has one",
                where=", ".join(files),
                hint="leave that part out, hold out less, or give it more rows",
            )
        return found

    def smallest(self, most: int | None, progress: _Progress, taken: Taken) -> splits.Smallest | None:
        """Which rows of the limited split are the `most` first of those that parts have; reads all files once."""
        if most is None:
            return None
        limited, items, keeps = self.limited, progress.follow(self.items(), self.sources), taken.filter()
        kept = (item for item in items if item.part is None or keeps(item.placed))
        found = splits.Smallest((item.order for item in kept if item.side == limited), most)
        progress.end_pass()
        return found

    def _content(self, source: SourceFile, progress: _Progress) -> bytes:
        # Of what the rows say, in their order: where a file lies and how it spells its JSON must move no byte.
        content = hashlib.sha256((side_of(source) or "").encode())
        for item in progress.follow(self._items_of(source), self.sources):
            content.update(_place(item))
        return content.digest()

    def _items_of(self, source: SourceFile) -> Iterator[_Item]:
        held, (part, subset) = side_of(source), part_of(source) or (None, "")
        by = self.parts.by(part) if part else None
        # A file without a row has decided no layout, and needs none.
        layout = self.layouts.get(part or "") or next(iter(self.layouts.values()))
        required = (*layout.required, *filter(None, [self.group_by, by]))
        for row in read_rows(source, required, self.read):
            example = layout.example(row)
            digest = splits.prompt_digest(example.split_key)
            if not (side := held):
                group = (
                    digest
                    if self.group_by is None
                    else splits.prompt_digest(_value(row, self.group_by, "group_by"))
                )
                side = self.splitter.side(group)
            yield _Item(row, example, digest, side, part, _value(row, by, "by") if by else subset)


APART = {"group_by": "group", "by": "tell sub-datasets apart"}


def _value(row: Row, column: str, key: str) -> str:
    """What a column that tells rows apart holds; 7 of a JSON file and the text 7 of a CSV file are one."""
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
        f"column `{column}` ({key}) {found}" if found else f"no column `{column}` to {APART[key]} by",
        where=row.where,
        hint="a group is a text or a whole number, and every row has one",
    )


def _layouts(sources: Sequence[SourceFile], params: Mapping[str, JSON]) -> dict[str, Layout]:
    """Decide what the columns of each part are by its first file that has a row; all parts have one format.

    Files without a part are together under `""`: others of them are held against the first row by row. Beside parts
    these are held out whole, and have the dataset's own columns.
    """
    found: dict[str, Layout] = {}
    form, parts = params.get("format"), params.get("parts") or {}
    # What is trained on decides the format.
    for source in sorted(sources, key=lambda s: side_of(s) is not None):
        part = (part_of(source) or ("", ""))[0]
        if part in found:
            continue
        if columns := columns_of(source):
            named = {**(params.get("columns") or {}), **(parts[part].get("columns") or {} if part else {})}
            found[part] = resolve(form, named or None, columns, str(source.path))
            form = found[part].format.name
    if not found:
        files = ", ".join(str(s.path) for s in sources) or "no file"
        raise DataError("the dataset has no rows", where=files, hint="give it a file with rows")
    return found


def _style(params: Mapping[str, JSON], layout: Layout, tokenizer: BaseTokenizer) -> Style:
    wanted, system = params.get("chat", "auto"), params.get("system")
    can = layout.format.turns and tokenizer.has_chat_template
    chat = can if wanted in ("auto", None) else bool(wanted)
    if not chat and not layout.format.bare:
        why = "chat = false" if wanted is False else "the base has no chat template"
        mend = (
            "leave `chat` out, or give"
            if tokenizer.has_chat_template
            else "give the base a chat_template, or"
        )
        raise DataError(
            f"`{layout.format.name}` rows are written by a chat template, and {why}",
            hint=f"{mend} the rows as prompt and completion",
        )
    if chat and not can:
        why = (
            "the base has no chat template"
            if layout.format.turns
            else f"`{layout.format.name}` rows have no turns"
        )
        raise DataError(f"chat = true, but {why}", hint="leave chat out, or give the base a chat_template")
    tables = [params, *(params.get("parts") or {}).values()]
    named = [r for r in layout.format.templated if any(r in (t.get("columns") or {}) for t in tables)]
    if not chat and (system is not None or named):
        what = "a system prompt" if system is not None else f"the column of `{named[0]}`"
        mend = "leave `chat` out" if tokenizer.has_chat_template else "give the base a chat_template"
        raise DataError(
            f"{what} needs a chat template, and this dataset is trained without one",
            hint=f"leave `{'system' if system is not None else named[0]}` out, or {mend}",
        )
    truncate, loss = params["on_overflow"] == "truncate", params.get("loss")
    return Style(chat, system, loss == "all", int(params["max_length"]), truncate, loss == "completion")


def _tell_empty(splitter: splits.Splitter, provenance: Provenance, context: Context) -> None:
    """Warn, before hours of training, of a held-out split that no row fell into: it has no loss."""
    for name, share in (("validation", splitter.validation), ("test", splitter.test)):
        if share and not provenance["splits"][name]["rows"]:
            context.warn(f"no row fell into {name} with a share of {share:g}: a larger share holds some out")


def _share(params: Mapping[str, JSON], split: str) -> float:
    """The share held out by hash; files held out whole come as sources of their own."""
    value = params.get(split)
    return float(value) if isinstance(value, int | float) else 0.0


def _place(item: _Item) -> bytes:
    return splits.row_order(item.digest, item.example.content)


def _kept(
    dataset: _Dataset, taken: Taken, smallest: splits.Smallest | None, counts: Counter[str]
) -> Iterator[_Item]:
    """Yield the rows that say something and are among those that are to be used; count them and the others."""
    limited, keeps = dataset.limited, taken.filter()
    for item in dataset.items():
        counts["read"] += 1
        if item.part is not None and not keeps(item.placed):
            counts["beyond_part"] += 1
        elif item.side == limited and smallest and not smallest.keeps(item.order):
            counts["beyond_max_samples"] += 1
        elif item.example.empty:
            counts["untrained" if item.example.untrained else "empty"] += 1
        else:
            counts.update(item.example.oddities)
            yield item


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
    batch: Iterable[tuple[_Item, Cut]],
    counts: Counter[str],
    sample: RowSample,
) -> list[tuple[_Item, Cut]]:
    """Write what a batch teaches, show the sample what is trained, count the rest, and return what was used."""
    used = []
    for item, cut in batch:
        kept = [row for row in cut.rows if row is not None and row.trained]
        counts["one_an_answer"] += len(cut.rows) > 1
        if kept:
            used.append((item, cut))
            counts["used"] += 1
            counts[f"part {item.part}"] += item.part is not None
            counts["truncated"] += any(row.length > len(row.input_ids) for row in kept)
            counts["encoded_apart"] += any(row.apart for row in kept)
            counts["answers_over_max_length"] += len(cut.rows) - len(kept)
        else:
            cut_off = any(row is not None for row in cut.rows)
            counts["completion_cut_off" if cut_off else "over_max_length"] += 1
        # By the example's prompt and not the row's: all rows of one conversation are on one side.
        for row in kept:
            writers[item.side].append(row.input_ids, row.labels, item.digest)
            if item.side == "train":
                sample.look(row.input_ids, row.labels, item.digest)
    return used


def _refuse_row(batch: Sequence[_Item], tokenizer: BaseTokenizer, style: Style) -> NoReturn:
    """Find the row that a batch is refused for, and say what is wrong with it."""
    for item in batch:
        try:
            tokenise(tokenizer, [item.example], style)
        except DataError as error:
            raise DataError(error.what, where=item.row.where, hint=error.hint) from error
    raise AssertionError("a batch was refused, and none of its rows is")


@dataclass(frozen=True)
class Shown:
    """One row, decoded.

    Attributes:
        segments: Stretches of text in their order, each with whether its tokens are trained; special tokens and all.
    """

    segments: tuple[tuple[str, bool], ...]
    tokens: int
    trained: int


def examples(tokenizer: Path, rows: Path, places: Iterable[int]) -> list[Shown]:
    """Some rows of a split.

    Args:
        tokenizer: Folder of the base's tokenizer.
        rows: An output of the kind `prepare`.
        places: Which rows to show, from 0; those that the split does not have are left out.

    Raises:
        DataError: The tokenizer cannot be loaded.
    """
    opened, loaded = TokenRows.open(rows), BaseTokenizer(tokenizer)
    return [_shown(loaded, *opened[i]) for i in places if i < len(opened)]


def _shown(tokenizer: BaseTokenizer, ids: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]) -> Shown:
    # What is trained, apart from what is not.
    trained = labels != MASKED
    edges = [0, *(np.flatnonzero(np.diff(trained)) + 1).tolist(), len(ids)]
    # Each text is the difference of two decoded prefixes: SentencePiece would lose the space a stretch begins with.
    texts = [tokenizer.decode(ids[:edge].tolist()) for edge in edges]
    segments = tuple(
        (after[len(before) :], bool(trained[start]))
        for (before, after), start in zip(pairwise(texts), edges[:-1], strict=True)
    )
    return Shown(segments, len(ids), int(trained.sum()))
