"""Rows come back from the disk as they were written, whatever they hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.errors import DataError
from posttrain.stages.data.store import read_rows, write_rows

AWKWARD: dict[str, list[Any]] = {
    "numbers beside text": [5, "x"],
    "an empty object": [{}],
    "an empty object inside": [{"a": {}}, {"a": {"b": 1}}, [{}]],
    "integers beside fractions": [5, 2.5],
    "integers beside fractions inside": [{"a": 5}, {"a": 2.5}],
    "integers that no float holds": [2**53 + 1, 0.5],
    "huge integers": [2**70, 1],
    "truth beside numbers": [True, 1],
    "lists beside objects": [[1], {"a": 1}],
    "a null inside an object": [{"a": None, "b": 1}],
    "half a surrogate pair": ["\ud83d", "x"],
    "a NUL": ["a\0b"],
    "a list of everything": [[1, "x", None, {}, [2.5]]],
}


@pytest.mark.parametrize("values", AWKWARD.values(), ids=AWKWARD)
def test_values_of_any_kind_come_back_as_they_were_with_their_types(tmp_path: Path, values: list[Any]) -> None:
    rows = [{"id": str(i), "value": value} for i, value in enumerate(values)] + [{"id": "without"}]
    assert repr(read_rows(write_rows(tmp_path, rows))) == repr(rows)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=4))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=4))
def test_any_json_comes_back(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    rows = [{"id": i, "value": value} for i, value in enumerate(values)]
    read = read_rows(write_rows(tmp_path_factory.mktemp("rows"), rows))
    assert read == [{k: v for k, v in row.items() if v is not None} for row in rows]


def test_not_a_number_comes_back(tmp_path: Path) -> None:
    (row,) = read_rows(write_rows(tmp_path, [{"mixed": [math.nan, "x"], "plain": math.nan}]))
    assert math.isnan(row["plain"])
    assert math.isnan(row["mixed"][0])


def test_columns_of_one_type_stay_plain_parquet(tmp_path: Path) -> None:
    rows = [{"answer": "5", "messages": [{"role": "user", "content": "?"}]}, {"pass_rate": 0.5}]
    schema = pq.read_schema(write_rows(tmp_path, rows))
    assert schema.metadata is None
    assert pa.types.is_list(schema.field("messages").type)


def test_a_text_that_looks_like_json_stays_a_text(tmp_path: Path) -> None:
    rows = [{"entry": '{"a": 1}', "mixed": '"x"'}, {"entry": "5", "mixed": 5}]
    assert read_rows(write_rows(tmp_path, rows)) == rows


def test_a_broken_parquet_file_is_refused_by_its_name(tmp_path: Path) -> None:
    path = write_rows(tmp_path, [{"a": 1}])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"data\.parquet: can't be read as Parquet"):
        read_rows(path)
