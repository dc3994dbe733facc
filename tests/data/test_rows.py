"""Rows come out of every file type alike, and what is no row is named by its place."""

from __future__ import annotations

import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_samples import source, write_rows

from dem_build.action import HubFile
from dem_build.data.rows import columns_of, read_rows
from dem_build.data.sources import side_of
from dem_build.errors import DataError

ROWS = [
    {"prompt": "plain", "completion": "text"},
    {"prompt": "naïve 東京 🦉", "completion": 'a "quote", a comma\nand a line'},
    {"prompt": " spaces ", "completion": "line\u2028separator"},
]
TYPES = ("jsonl", "json", "csv", "parquet")


def read(path):
    return list(read_rows(source(path)))


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_gives_the_same_rows(tmp_path, kind):
    assert [row.values for row in read(write_rows(tmp_path / f"a.{kind}", ROWS))] == ROWS


@pytest.mark.parametrize("kind", TYPES)
def test_columns_are_those_of_the_first_row(tmp_path, kind):
    assert columns_of(source(write_rows(tmp_path / f"a.{kind}", ROWS))) == ("prompt", "completion")


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_an_empty_file_has_no_rows(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    path.touch()
    assert read(path) == []
    assert columns_of(source(path)) == ()


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path, kind):
    path = write_rows(tmp_path / f"a.{kind}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row.values for row in read(path)] == ROWS


def test_blank_lines_are_no_rows_but_count_as_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"text": "a"}\r\n   \n{"text": "b"}\n\n')
    assert [(row.number, row.values["text"]) for row in read(path)] == [(2, "a"), (4, "b")]


def test_a_last_line_needs_no_line_break(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}')
    assert [row.values["text"] for row in read(path)] == ["a", "b"]


def test_only_the_columns_asked_for_are_read_from_parquet(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [{"text": "a", "image": "…"}])
    assert [row.values for row in read_rows(source(path), ["text"])] == [{"text": "a"}]
    assert [row.values for row in read_rows(source(path), ["txt"])] == [{"text": "a", "image": "…"}]


@pytest.mark.parametrize("kind", TYPES)
def test_a_huge_row_is_read_whole(tmp_path, kind):
    rows = [{"text": "x" * 3_000_000}, {"text": "y"}]
    assert [row.values for row in read(write_rows(tmp_path / f"a.{kind}", rows))] == rows


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{not json}", "not JSON"),
        (b'{"text": "cut', "not JSON"),
        (b'["a", "list"]', "this is a list"),
        (b'"text"', "this is a string"),
        (b"12", "this is a number"),
        (b"null", "this is a null"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_junk_line_is_named_by_file_and_line(tmp_path, line, what):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n')
    with pytest.raises(DataError, match=what) as caught:
        read(path)
    assert caught.value.where == f"{path}:3"


def test_json_lines_in_a_json_file_are_refused_with_the_name_to_give(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"called \.jsonl") as caught:
        read(path)
    assert caught.value.where == str(path)


def test_a_parquet_file_of_one_group_of_rows_is_not_held_in_memory(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [os.urandom(1000).hex() for _ in range(15000)]}), path)
    assert pq.read_metadata(path).num_row_groups == 1
    before = pa.total_allocated_bytes()
    held = max(pa.total_allocated_bytes() - before for _ in read_rows(source(path)))
    assert held < path.stat().st_size / 2


def test_a_json_file_of_a_hub_may_hold_one_object_a_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff\n{"text": "a"}\n\n{"text": "b"}\n')
    remote = replace(source(path), hub=HubFile("dataset", "org/name", "0" * 40, "a.json"))
    assert [row.values for row in read_rows(remote)] == [{"text": "a"}, {"text": "b"}]
    path.write_text('[{"text": "a"}]')
    assert [row.values for row in read_rows(remote)] == [{"text": "a"}]


def test_a_json_file_of_one_object_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"data": []}')
    with pytest.raises(DataError, match="holds a JSON object, not a list of rows"):
        read(path)


def test_a_json_row_that_is_no_object_is_named_by_its_number(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"text": "a"}, 3]')
    with pytest.raises(DataError, match="this is a number") as caught:
        read(path)
    assert caught.value.where == f"{path}, row 2"


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("prompt,completion\na,b\nc,d,e\n", "more fields than the 2 columns", 3),
        ("prompt,completion\na,b\n\nc\n", "no field for the column `completion`", 4),
        ('prompt,completion\na,"b\nc,d\n', "not CSV", 2),
        ("prompt,completion\na,\ufffd\n", "not UTF-8", 2),
        ("prompt,completion,prompt\na,b,c\n", "the header names the column `prompt` twice", 1),
    ],
)
def test_a_junk_csv_row_is_named_by_its_line(tmp_path, text, what, line):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode().replace("\ufffd".encode(), b"\xff"))
    with pytest.raises(DataError, match=what) as caught:
        read(path)
    assert caught.value.where == f"{path}:{line}"


def test_what_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_text("text\na\n")
    with pytest.raises(DataError, match="not a parquet file") as caught:
        read(path)
    assert caught.value.where == str(path)


def test_a_file_that_is_gone_is_an_error_of_the_data(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ROWS)
    gone = source(path)
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        list(read_rows(gone))


def test_a_tag_can_hold_a_whole_file_out(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ROWS)
    assert side_of(source(path)) is None
    assert side_of(source(path, "validation:jsonl")) == "validation"
    assert [row.values for row in read_rows(source(path, "test:jsonl"))] == ROWS


@pytest.mark.parametrize("ask", [lambda source: [*read_rows(source, ("text",))], columns_of])
def test_a_damaged_footer_of_parquet_is_refused(tmp_path, ask):
    path = write_rows(tmp_path / "a.parquet", [{"text": "a"}])
    data = bytearray(path.read_bytes())
    data[-8 - int.from_bytes(data[-8:-4], "little")] = 0  # the first byte of the footer
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a parquet file: Couldn't deserialize") as caught:
        ask(source(path))
    assert not caught.value.what.endswith("\n")


def test_parquet_values_that_python_has_not_are_refused_with_the_file(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff\xfe", b"\xff"]).buffers())
    late = pa.array([2**62, 0]).cast(pa.timestamp("us"))
    for name, column in (("text", broken), ("dates", late)):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": column}), path)
        with pytest.raises(DataError) as refused:
            read(path)
        assert refused.value.where == str(path)


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 1, "b": 2, "a": 3}\n', ":3"),
        ("a.jsonl", '{"a": 1}\n{"b": [{"c": {"a": 1, "a": 1}}]}\n', ":2"),
        ("a.json", '[{"a": 1}, {"b": "}],"},\n {"a": 1, "a": 3}, {"a": 1}]', ", row 3"),
        ("a.json", '{"a": [1], "a": [2]}', ""),
    ],
)
def test_a_key_twice_in_json_is_named_by_its_row(tmp_path, name, text, where):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match="the key 'a' stands twice in one object") as caught:
        read(path)
    assert caught.value.where == f"{path}{where}"
    assert caught.value.hint == "rename or remove one of the two"


def test_a_key_twice_is_refused_in_a_hubs_json_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}\n{"a": 1, "a": 2}\n')
    remote = replace(source(path), hub=HubFile("dataset", "org/name", "0" * 40, "a.json"))
    with pytest.raises(DataError, match="the key 'a' stands twice"):
        list(read_rows(remote))


def test_a_column_or_a_field_twice_in_parquet_is_refused(tmp_path):
    nested = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    tables = {
        "the column `text` is there twice": pa.table(
            [pa.array(["a"]), pa.array(["b"])], names=["text", "text"]
        ),
        r"the column `turns\.element\.a` is there twice": pa.table(
            {"turns": pa.ListArray.from_arrays([0, 1], nested)}
        ),
    }
    for what, table in tables.items():
        path = tmp_path / "a.parquet"
        pq.write_table(table, path)
        for ask in (read, lambda path: columns_of(source(path))):
            with pytest.raises(DataError, match=what) as caught:
                ask(path)
            assert caught.value.where == str(path)


def test_parquets_nulls_inside_of_objects_are_no_data(tmp_path):
    rows = [{"a": None, "b": {"x": 1, "y": [{"z": 1}, {"w": [None, 2]}]}}, {"a": 2, "b": {"v": 3}}]
    assert [row.values for row in read(write_rows(tmp_path / "a.parquet", rows))] == rows


def test_optional_columns_are_read_from_parquet_where_they_are(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [{"text": "a", "image": "…", "system": "s"}])
    found = [row.values for row in read_rows(source(path), ["text"], ["system", "tools"])]
    assert found == [{"text": "a", "system": "s"}]
