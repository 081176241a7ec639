from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from distvae.data.arrow_values import read_values
from distvae.data.flatten import flatten_table
from distvae.data.roles import infer_features
from distvae.errors import DataError
from tests.data.scalar_cases import numbers


@pytest.mark.parametrize("name", numbers())
def test_every_number_is_read_as_it_is(name: str) -> None:
    column = numbers()[name]
    table = pa.table({"c": column})
    (feature,) = infer_features(table.schema)
    found = read_values(table, feature)
    assert found.values.dtype == feature.element
    valid = column.is_valid().to_numpy()
    assert (np.ones(4, np.bool_) if found.valid is None else found.valid).tolist() == valid.tolist()
    kind = column.type
    if pa.types.is_decimal(kind):
        expected = [float(value) for value in column.drop_null().to_pylist()]
    elif pa.types.is_temporal(kind):
        whole = pa.int32() if kind.bit_width == 32 else pa.int64()
        expected = [c for chunk in column.chunks for c in chunk.view(whole).drop_null().to_pylist()]
    else:
        expected = column.drop_null().to_numpy()
    assert np.array_equal(found.values[valid], np.array(expected, feature.element), equal_nan=True)
    sliced = read_values(table.slice(2, 1), feature)
    assert np.array_equal(sliced.values, found.values[2:3], equal_nan=True)
    none = pa.table({"c": pa.chunked_array([], kind)})
    assert read_values(none, feature).values.dtype == feature.element
    assert read_values(none, feature).values.shape == (0,)


def test_truth_values_are_0_and_1() -> None:
    table = pa.table({"c": pa.array([True, None, False, True] * 5).slice(3)})
    (feature,) = infer_features(table.schema)
    found = read_values(table, feature)
    assert found.valid is not None
    assert found.values[found.valid].tolist() == table.column("c").drop_null().to_pylist()


def test_columns_inside_structs_are_found_flat_or_nested() -> None:
    kind = pa.struct([("x", pa.decimal128(5, 1)), ("v", pa.list_(pa.int8(), 2))])
    rows = [{"x": Decimal("1.5"), "v": [1, 2]}, None, {"x": None, "v": [3, None]}]
    table = pa.table({"s": pa.array(rows, kind)})
    present, x, v = infer_features(table.schema)
    for each in (table, flatten_table(table)):
        assert read_values(each, present).values.tolist() == [1, 0, 1]
        found = read_values(each, x)
        assert found.valid is not None
        assert found.values[0] == 1.5
        assert found.valid.tolist() == [True, False, False]
        found = read_values(each, v)
        assert found.valid is not None
        assert found.valid.tolist() == [[True, True], [False, False], [True, False]]
        assert found.values[0].tolist() == [1, 2]
    with pytest.raises(DataError, match=r"column 's.x': is not in the data; the model was trained"):
        read_values(pa.table({"t": [1]}), x)


def test_units_of_time_stand_for_one_another_where_nothing_is_lost() -> None:
    table = pa.table(
        {"t": pa.array([1, None], pa.timestamp("ms", "UTC")), "d": pa.array([1, 2], pa.date32())}
    )
    when, day = infer_features(table.schema)
    fine = pa.table(
        {
            "t": pa.array([5_000_000, None], pa.timestamp("ns", "Asia/Tokyo")),
            "d": pa.array([86_400_000, 0], pa.date64()),
        }
    )
    assert read_values(fine, when).values[0] == 5
    assert read_values(fine, day).values.tolist() == [1, 0]
    for other in (
        pa.array([5_000_001, None], pa.timestamp("ns", "UTC")),
        pa.array([1, 2], pa.timestamp("ms")),
        pa.array([1, 2], pa.date32()),
        pa.array([1, 2], pa.duration("ms")),
        pa.array([1, 2], pa.int64()),
        pa.array(["1", "2"]),
    ):
        with pytest.raises(
            DataError, match=r"column 't': has type .*; in training it was timestamp"
        ):
            read_values(pa.table({"t": other}), when)
    for wrong in (pa.array([1, 2]), pa.array(["a", "b"])):
        table = pa.table({"c": [True, False]})
        with pytest.raises(DataError, match=r"column 'c': has type .*; in training it was bool"):
            read_values(pa.table({"c": wrong}), infer_features(table.schema)[0])


def test_texts_are_no_numbers() -> None:
    table = pa.table({"c": ["a", "b"]})
    with pytest.raises(TypeError, match="column 'c' of type string holds no numbers"):
        read_values(table, infer_features(table.schema)[0])
