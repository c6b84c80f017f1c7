"""Files: read by one rule, written whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import suppress

import pytest

from aloe.core.errors import UserError
from aloe.core.files import (
    append_line,
    digest,
    file_digest,
    json_lines,
    parse_json,
    parse_yaml,
    read_bytes,
    read_mapping,
    read_object,
    read_table,
    read_text,
    read_words,
    whole,
    write_json,
    write_whole,
)

NESTED = "[" * 100_000


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
@pytest.mark.parametrize("text", [NESTED, NESTED.encode(), "{", b"\xff\xfe"])
def test_what_is_no_text_of_the_kind_is_a_value_error(parse, text):
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


@pytest.mark.parametrize("parse", [parse_json, parse_yaml])
def test_a_byte_order_mark_is_no_part_of_the_text(parse):
    assert parse("\ufeff[1]".encode()) == [1]


def test_text_is_read_without_its_mark(tmp_path):
    (tmp_path / "a.csv").write_text("name,x\n", encoding="utf-8-sig")
    assert read_text(tmp_path / "a.csv") == "name,x\n"


def test_only_regular_files_of_a_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "zero"):
        if path.name == "zero":
            path.symlink_to("/dev/zero")
        with pytest.raises(UserError, match="not a regular file"):
            read_bytes(path)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(UserError, match="more than"):
        read_bytes(tmp_path / "large", limit=10)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)


@pytest.mark.parametrize("text", [NESTED, "[1]", "nothing", "\x00"])
def test_an_object_is_an_object_or_one_sentence(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"config\.json.*; fetch it again\.$"):
        read_object(path, "fetch it again")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_object(tmp_path / "none.json", "fetch it again")


@pytest.mark.parametrize("text", [NESTED, "1: 2", "- a", "a: ["])
def test_a_mapping_is_a_mapping_or_one_sentence(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"The sweep file .*a\.yaml"):
        read_mapping(path, "sweep file")


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": 1})
    with suppress(RuntimeError), whole(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
    with pytest.raises(UserError, match="cannot be written: No space left"):
        write_whole(path, "other")
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_lines_come_with_their_numbers_and_faults(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_line(path, {"a": 1})
    with path.open("ab") as file:
        file.write(b"\n\xff\n[1")
    values = dict(json_lines(path.read_bytes()))
    assert values[1] == {"a": 1}
    assert [n for n, value in values.items() if isinstance(value, ValueError)] == [3, 4]


def test_digests_are_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest(["a", "b"]) != digest(["ab"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path, encoding):
    mark = "\ufeff" if encoding.endswith("e") else ""  # the others write their own
    path = tmp_path / "file"
    path.write_bytes(f"{mark}Käfer\n".encode(encoding))
    assert read_text(path) == read_words(path) == "Käfer\n"
    path.write_bytes(f'{mark}{{"a": "é"}}'.encode(encoding))
    assert read_object(path, "") == read_mapping(path, "") == {"a": "é"}


def test_a_text_in_another_encoding_is_said(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes("Käfer".encode("latin-1"))
    with pytest.raises(UserError, match="is not a text file in UTF-8; save it as UTF-8"):
        read_words(path)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_words(tmp_path)


TABLE = 'a,b,c\n1,"x, y",\n2,"two\nlines",z\n'
ROWS = [(2, {"b": "x, y", "a": "1"}), (4, {"b": "two\nlines", "a": "2"})]


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_read_whatever_a_spreadsheet_parts_its_cells_with(tmp_path, sign, end, encoding):
    text = TABLE.replace(",", sign).replace(f"x{sign}", "x,").replace("\n", end)
    text = text.replace(f"two{end}lines", "two\nlines")
    path = tmp_path / "table.csv"
    path.write_bytes((text + f"{sign}{sign}{end}").encode(encoding))  # an empty row as well
    assert read_table(path, ["b", "a"], "table") == ROWS
    path.write_bytes((f"sep={sign}{end}" + text.replace("a", '"a"', 1)).encode(encoding))
    assert read_table(path, ["b", "a"], "table") == [(number + 1, row) for number, row in ROWS]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no table: its first line does not name the columns a, b"),
        ("a|b\n1|2\n", "holds no table: its first line does not name the columns a, b"),
        ("a;c\n1;2\n", "holds no table: its first line does not name the column b"),
        ("a,b,a\n1,2,3\n", "names the column a more than once"),
        ("a,b\n1,2\n1\n", "line 3, has 1 cells where the first line names 2 columns"),
        ("a;b\n1;2;3\n", "line 2, has 3 cells where the first line names 2 columns"),
    ],
)
def test_a_table_that_is_none_is_said(tmp_path, text, words):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        read_table(path, ["a", "b"], "table")


@pytest.mark.parametrize("mark", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"])
def test_only_line_ends_end_a_row(tmp_path, mark):
    path = tmp_path / "table.csv"
    path.write_text(f"a,n{mark}m,b\n1,2,x{mark}y\n2,3,z\n", encoding="utf-8", newline="")
    assert read_table(path, ["a", "b"], "table") == [(2, {"a": "1", "b": f"x{mark}y"}), (3, {"a": "2", "b": "z"})]


def test_a_file_of_settings_in_another_encoding_is_said(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("name: Käfer".encode("latin-1"))
    with pytest.raises(UserError, match=r"^The sweep file .*a\.yaml is not a text file in UTF-8; save it as UTF-8\.$"):
        read_mapping(path, "sweep file")
    path.write_bytes('{"name": "Käfer"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"is not a text file in UTF-8; save it as UTF-8, or fetch it again\.$"):
        read_object(path, "fetch it again")
