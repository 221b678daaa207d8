"""Malformed data: told with file and line before anything starts, or skipped and counted; nothing else happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError
from posttrain.stages.data.files import LONGEST_LINE, BadRows
from posttrain.stages.data.load import check_source, load_prompts, load_rows
from posttrain.stages.models.locations import Locations

GOOD = b'{"prompt": "1+1?", "answer": "2", "response": "2"}'

BAD: dict[str, tuple[bytes, str]] = {
    "a broken object": (b'{"prompt": "x"', "not JSON"),
    "two objects in a line": (b'{"prompt": "x"} {"prompt": "y"}', "not JSON"),
    "a trailing comma": (b'{"prompt": "x",}', "not JSON"),
    "a list": (b'["x"]', "a row is an object"),
    "null": (b"null", "a row is an object"),
    "no prompt": (b'{"answer": "2"}', "neither `messages` nor `prompt`"),
    "a null prompt": (b'{"prompt": null}', "`prompt` must be text"),
    "a number for a prompt": (b'{"prompt": 7}', "`prompt` must be text"),
    "an empty prompt": (b'{"prompt": ""}', "`prompt` is empty"),
    "a blank prompt": (b'{"prompt": " \\n\\t "}', "`prompt` is empty"),
    "a NUL": (b'{"prompt": "a\\u0000b"}', "NUL"),
    "a raw NUL": (b'{"prompt": "a\0b"}', "not JSON"),
    "half a surrogate pair": (b'{"prompt": "a\\ud83d"}', "half a surrogate pair"),
    "half a surrogate pair elsewhere": (b'{"prompt": "a", "x": ["\\udc00"]}', "half a surrogate pair"),
    "not UTF-8": (b'{"prompt": "caf\xe9"}', "not UTF-8: byte 0xe9"),
    "ten megabytes": (b'{"prompt": "' + b"x" * 10_000_000 + b'"}', "a row of 9.5 MiB"),
    "no list of messages": (b'{"messages": {"role": "user", "content": "x"}}', "non-empty list"),
    "no messages": (b'{"messages": []}', "non-empty list"),
    "a message without a role": (b'{"messages": [{"content": "x"}]}', "needs role and content"),
    "a role that is none": (b'{"messages": [{"role": "usr", "content": "x"}]}', "did you mean `user`"),
    "a message without content": (b'{"messages": [{"role": "user", "content": null}]}', "content must be text"),
    "a message of parts": (b'{"messages": [{"role": "user", "content": [{"text": "x"}]}]}', "content must be text"),
    "nobody asks": (b'{"messages": [{"role": "user", "content": " "}]}', "an empty prompt"),
    "an unknown mode": (b'{"prompt": "x", "mode": "thinking"}', "no mode 'thinking'"),
    "a number of 5000 digits": (b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}", "can't be read"),
    "lists in lists": (b'{"prompt": "x", "n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "can't be read"),
    "an empty line": (b"", "an empty line"),
}


def source(path: str = "rows.jsonl", **fields: Any) -> PromptSource:
    return PromptSource.model_validate({"from": path, **fields})


def written(folder: Path, bad: bytes, good: int = 3) -> None:
    (folder / "rows.jsonl").write_bytes(b"\n".join([GOOD, GOOD, bad, *[GOOD] * good]))


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_a_malformed_row_is_refused_with_its_file_and_line(tmp_path: Path, bad: bytes, message: str) -> None:
    written(tmp_path, bad)
    with pytest.raises(DataError) as caught:
        check_source(source(), tmp_path, form="prompts")
    assert message in str(caught.value)
    assert "rows.jsonl:3" in str(caught.value)
    assert "on_bad_row: skip" in str(caught.value)


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_a_malformed_row_is_skipped_and_counted_where_the_recipe_says_so(
    tmp_path: Path, bad: bytes, message: str
) -> None:
    written(tmp_path, bad)
    lenient = source(on_bad_row="skip", max_bad_share=0.2)
    report = check_source(lenient, tmp_path, form="prompts")
    assert (report.rows, report.skipped) == (5, 1)
    counted = BadRows(lenient)
    (prompts,) = load_prompts([lenient], locations=Locations(recipe_dir=tmp_path), seed=0, bad=[counted])
    assert len(prompts) == 5
    assert message in str(counted)
    assert "rows.jsonl:3" in str(counted)


def test_more_malformed_rows_than_the_cap_are_an_error_that_shows_some(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([GOOD, b"{", GOOD, b"[]", GOOD]))
    with pytest.raises(DataError, match=r"2 of 5 rows are malformed.*max_bad_share=0\.3.*jsonl:2.*jsonl:4"):
        check_source(source(on_bad_row="skip", max_bad_share=0.3), tmp_path, form="prompts")
    assert check_source(source(on_bad_row="skip", max_bad_share=0.4), tmp_path, form="prompts").skipped == 2


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf", b"\r\n"])
def test_no_row_at_all_is_an_error_whatever_is_skipped(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    for on_bad_row in ("refuse", "skip"):
        with pytest.raises(DataError, match="there isn't a single row"):
            check_source(source(on_bad_row=on_bad_row), tmp_path, form="prompts")


def test_only_malformed_rows_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"{\n{\n")
    with pytest.raises(DataError, match=r"isn't a single row: all 2 are malformed.*jsonl:1"):
        check_source(source(on_bad_row="skip", max_bad_share=1.0), tmp_path, form="prompts")


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD + b"\r\n" + GOOD + b"\r\n\r\n")
    assert load_rows(source(), locations=Locations(recipe_dir=tmp_path), seed=0) == [json.loads(GOOD)] * 2


@pytest.mark.parametrize("response", [b"null", b"3", b"[]", b'"\\u0000"'])
def test_a_response_that_teaches_nothing_is_skipped_in_training_data(tmp_path: Path, response: bytes) -> None:
    written(tmp_path, b'{"prompt": "x", "response": ' + response + b"}")
    with pytest.raises(DataError, match=r"rows\.jsonl:3"):
        check_source(source(), tmp_path, form="conversations")
    report = check_source(source(on_bad_row="skip", max_bad_share=0.5), tmp_path, form="conversations")
    assert (report.rows, report.skipped) == (5, 1)


def test_a_file_that_is_utf16_is_told_to_be_converted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD.decode().encode("utf-16"))
    with pytest.raises(DataError, match="iconv"):
        check_source(source(), tmp_path, form="prompts")


def test_malformed_rows_of_parquet_have_a_number_and_are_skipped_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", None, "", "d"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"rows\.parquet:2"):
        check_source(source("rows.parquet"), tmp_path, form="prompts")
    report = check_source(source("rows.parquet", on_bad_row="skip", max_bad_share=0.5), tmp_path, form="prompts")
    assert (report.rows, report.skipped) == (2, 2)


def test_a_row_as_long_as_is_allowed_is_read(tmp_path: Path) -> None:
    line = b'{"prompt": "' + b"x " * (LONGEST_LINE // 2 - 20) + b'"}'
    (tmp_path / "rows.jsonl").write_bytes(line)
    assert check_source(source(), tmp_path, form="prompts").rows == 1


def test_rows_that_are_asked_for_are_counted_without_the_skipped(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([b"{", GOOD, GOOD, b"{"]))
    rows = load_rows(
        source(n=2, on_bad_row="skip", max_bad_share=0.5), locations=Locations(recipe_dir=tmp_path), seed=0
    )
    assert len(rows) == 2


def test_a_column_that_a_row_lacks_makes_it_malformed(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"question": "x"}\n{"q": "y"}\n{"question": "z"}')
    mapped = source(columns={"prompt": "question"}, on_bad_row="skip", max_bad_share=0.5)
    (prompts,) = load_prompts([mapped], locations=Locations(recipe_dir=tmp_path), seed=0)
    assert [p.messages[0]["content"] for p in prompts] == ["x", "z"]
