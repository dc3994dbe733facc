"""Reads the rows of jsonl, json, csv and parquet files as a stream, and knows where each row stands."""

from __future__ import annotations

import csv
import json
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dem_build.errors import DataError
from dem_build.json_text import TwinKeyError, parse_json, unique

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from typing import BinaryIO

    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    from dem_build.action import SourceFile

UTF8_BOM = b"\xef\xbb\xbf"
PARQUET_BATCH = 1024
PARQUET_BUFFER = 2**20  # bytes a column


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one file.

    Attributes:
        number: 1-based: the line in jsonl and csv, the row in json and parquet.
        values: Column → value.
        consumed: About how many bytes of the file were read when this row was; for progress alone.
    """

    source: SourceFile
    number: int
    values: Mapping[str, Any]
    consumed: int

    @property
    def where(self) -> str:
        """Where the row stands, as `file:line` or `file, row n`."""
        return _place(self.source, self.number)


def read_rows(
    source: SourceFile, columns: Collection[str] = (), optional: Collection[str] = ()
) -> Iterator[Row]:
    """Yield a file's rows in its order; blank lines are no rows.

    Args:
        source: The file; its tag ends in its type.
        columns: What will be asked of each row: a parquet file's other columns are not read. Empty: all.
        optional: What else will be asked of those rows that have it.

    Raises:
        DataError: The file cannot be read, or a row is no row; names the line.
    """
    try:
        if _type_of(source) == "parquet":
            yield from _parquet(source, columns, optional)
        else:
            yield from _READERS[_type_of(source)](source)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(source.path)) from error


def columns_of(source: SourceFile) -> tuple[str, ...]:
    """The columns of a file's first row, in its order; empty for a file without rows.

    Raises:
        DataError: As `read_rows`.
    """
    if _type_of(source) == "parquet":
        with _opened(source) as file:
            return tuple(file.schema_arrow.names) if file.metadata.num_rows else ()
    first = next(read_rows(source), None)
    return tuple(first.values) if first else ()


def parquet_rows(source: SourceFile) -> int:
    """How many rows a parquet file says it has.

    Raises:
        DataError: As `read_rows`.
    """
    with _opened(source) as file:
        return int(file.metadata.num_rows)


def _type_of(source: SourceFile) -> str:
    return source.tag.rpartition(":")[2]


def _place(source: SourceFile, number: int) -> str:
    return (
        f"{source.path}:{number}" if _type_of(source) in {"jsonl", "csv"} else f"{source.path}, row {number}"
    )


def _jsonl(source: SourceFile) -> Iterator[Row]:
    consumed = 0
    with source.path.open("rb") as file:
        # Bytes, so that only \n ends a line: U+2028 and its kin may stand unescaped inside a JSON string.
        for number, line in enumerate(file, 1):
            consumed += len(line)
            text = line.removeprefix(UTF8_BOM) if number == 1 else line
            if text.strip():
                yield _object(source, number, _parse(text, _place(source, number)), consumed)


def _json(source: SourceFile) -> Iterator[Row]:
    # On a hub, `.json` is the name of files of one object a line as well, and not the user's to change.
    if source.hub is not None:
        with source.path.open("rb") as file:
            begins_with_object = file.read(1024).removeprefix(UTF8_BOM).lstrip().startswith(b"{")
        if begins_with_object:
            yield from _jsonl(source)
            return
    data = source.path.read_bytes().removeprefix(UTF8_BOM)
    if not data.strip():
        return
    hint = "a .json file holds one list of objects; a file with one object a line is called .jsonl"
    rows = _parse(data, str(source.path), hint, lambda text: _row_with_twins(source, text))
    if not isinstance(rows, list):
        raise DataError(f"holds a JSON {_kind(rows)}, not a list of rows", where=str(source.path), hint=hint)
    for number, value in enumerate(rows, 1):
        yield _object(source, number, value, len(data) * number // len(rows))


def _csv(source: SourceFile) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default refuses a field over 128 KiB; the limit is the process's
    with source.path.open("rb") as raw:
        lines = (
            _decode(line.removeprefix(UTF8_BOM) if number == 1 else line, _place(source, number))
            for number, line in enumerate(raw, 1)
        )
        # Strict: without it, an open quote swallows the rest of the file as one field, silently.
        reader = csv.DictReader(lines, strict=True)
        try:
            names = reader.fieldnames or ()
            twin = next((name for number, name in enumerate(names) if name in names[:number]), None)
            if twin is not None:  # only the last of the two would be read
                what = f"the header names the column `{twin}` twice"
                raise DataError(what, where=_place(source, 1), hint="rename or remove one of the two")
            yield from _csv_rows(source, reader, raw)
        except csv.Error as error:
            # The row begins after the last good one; a quote that is left open goes on to the end of the file.
            hint = 'close each quote, and write a quote inside of a field as ""'
            where = _place(source, reader.line_num + 1)
            raise DataError(f"not CSV: {error}", where=where, hint=hint) from error


def _csv_rows(source: SourceFile, reader: csv.DictReader[str], raw: BinaryIO) -> Iterator[Row]:
    for values in reader:
        where = _place(source, reader.line_num)
        if None in values:
            raise DataError(
                f"more fields than the {len(reader.fieldnames or ())} columns of the header",
                where=where,
                hint='put a field that holds a comma or a line break in "quotes"',
            )
        if None in values.values():
            missing = [name for name, value in values.items() if value is None]
            hint = "give each row as many fields as the header, empty ones too"
            raise DataError(f"no field for the column `{missing[0]}`", where=where, hint=hint)
        yield Row(source, reader.line_num, values, raw.tell())


def _parquet(source: SourceFile, columns: Collection[str], optional: Collection[str]) -> Iterator[Row]:
    asked, number = {*columns, *optional}, 0
    with _opened(source) as file:
        names = file.schema_arrow.names
        # A column that is missing is an error by row, which lists all columns there are: then all are read.
        wanted = [n for n in names if n in asked] if columns and set(columns) <= set(names) else None
        size, total = source.path.stat().st_size, file.metadata.num_rows
        for batch in file.iter_batches(batch_size=PARQUET_BATCH, columns=wanted):
            for values in batch.to_pylist(maps_as_pydicts="strict"):
                number += 1
                yield Row(source, number, {n: _filled(v) for n, v in values.items()}, size * number // total)


@contextmanager
def _opened(source: SourceFile) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa  # noqa: PLC0415  a quarter of a second that other files need not pay
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        # Buffered: else a group of rows, which may be the whole file, is read at once.
        with pq.ParquetFile(source.path, buffer_size=PARQUET_BUFFER, pre_buffer=False) as file:
            _refuse_twin_fields(source, file.schema_arrow)
            yield file
    # Arrow's own errors, and those of values that Python has not: text that is no UTF-8, a date after the year 9999.
    except (pa.ArrowException, ValueError, KeyError, OverflowError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's; one without a number is Arrow's, of a footer that makes no sense
        what, hint = f"not a parquet file: {str(error).strip()}", "it is damaged, or not what its name says"
        raise DataError(what, where=str(source.path), hint=hint) from error


def _filled(value: Any) -> Any:
    """Take the nulls out of objects: parquet gives each the keys of all, so a null says that there is no such key.

    Those of a list are its writer's own.
    """
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items() if item is not None}
    return [_filled(item) for item in value] if isinstance(value, list) else value


def _refuse_twin_fields(source: SourceFile, fields: Iterable[pa.Field], inside: str = "") -> None:
    """Refuse a column, or a key inside of one, that is there twice: only the last of the two would be read."""
    names: set[str] = set()
    for field in fields:
        if field.name in names:
            what = f"the column `{inside}{field.name}` is there twice"
            raise DataError(what, where=str(source.path), hint="rename or remove one of the two")
        names.add(field.name)
        nested = [field.type.field(i) for i in range(field.type.num_fields)]
        _refuse_twin_fields(source, nested, f"{inside}{field.name}.")


_READERS: dict[str, Callable[[SourceFile], Iterator[Row]]] = {
    "jsonl": _jsonl,
    "json": _json,
    "csv": _csv,
}


def _parse(
    data: bytes,
    where: str,
    hint: str = "each line is one JSON object",
    place: Callable[[str], str] | None = None,
) -> Any:
    text = _decode(data, where)
    try:
        return parse_json(text, unique)
    except TwinKeyError as error:
        where = place(text) if place else where
        raise DataError(str(error), where=where, hint="rename or remove one of the two") from error
    except ValueError as error:
        raise DataError(f"not JSON: {error}", where=where, hint=hint) from error


def _row_with_twins(source: SourceFile, text: str) -> str:
    """Say which row of a JSON list has a key twice."""
    if not text.lstrip().startswith("["):
        return str(source.path)
    decoder = json.JSONDecoder(object_pairs_hook=unique)
    at, number = text.index("[") + 1, 0
    with suppress(ValueError, IndexError):  # the row with the twins ends it
        while True:
            number += 1
            while text[at] in " \t\r\n,":
                at += 1
            _, at = decoder.raw_decode(text, at)
    return _place(source, number)


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error}", where=where, hint="save the file as UTF-8") from error


def _object(source: SourceFile, number: int, value: Any, consumed: int) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f"a row is a JSON object of columns, this is a {_kind(value)}",
            where=_place(source, number),
            hint='write it as {"prompt": "…", "completion": "…"} or {"text": "…"}',
        )
    return Row(source, number, value, consumed)


def _kind(value: Any) -> str:
    """Name a JSON value's type in JSON's words."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
