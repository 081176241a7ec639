from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distvae.data.where import columns_of, parse_where
from distvae.errors import UsageError

TABLE = pa.table(
    {
        "row": pa.array([0, 1, 2, 3], pa.uint64()),
        "age": pa.array([1, 20, None, 40], pa.int8()),
        "city": ["a", "b", None, "it's"],
        "two words": pa.array([1.5, 0.1, 2, None], pa.float32()),
        "ok": [True, False, None, True],
        "day": pa.array([dt.date(2024, 1, day) for day in (1, 2, 3, 4)]),
        "at": pa.array([0, 86_400, 86_401, None], pa.timestamp("s")),
        "kind": pa.array(["x", "y", "x", None]).dictionary_encode(),
        "l": [[1]] * 4,
    }
)


def chosen(text: str) -> list[int]:
    """Return the numbers of the rows that a condition chooses."""
    numbers: list[int] = TABLE.filter(parse_where(text, TABLE.schema))["row"].to_pylist()
    return numbers


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("age >= 20", [1, 3]),
        ("age > 300", []),
        ("age > 19.5", [1, 3]),
        ("20 <= age", [1, 3]),
        ("1 < age <= 20", [1]),
        ("age != 1", [1, 3]),
        ("age > -5 and not ok", [1]),
        ("age == 1 or\n age == 40", [0, 3]),
        ("ok and (age < 3 or age > 30)", [0, 3]),
        ("ok == False", [1]),
        ("city == 'a'", [0]),
        ("not city == 'a'", [1, 3]),
        ("city in ('a', 'b')", [0, 1]),
        ("city not in ['a', 'b']", [3]),
        ("not city in ('a',)", [1, 3]),
        ('city == "it\'s"', [3]),
        ("city is None", [2]),
        ("city is not None", [0, 1, 3]),
        ("`two words` == 0.1", [1]),
        ("`two words` in (0.1, 2)", [1, 2]),
        ("city == '`two words`'", []),
        ("age in (1, 20.0, 7.5)", [0, 1]),
        ("age == row", []),
        ("row < age", [0, 1, 3]),
        ("row <= 18446744073709551615", [0, 1, 2, 3]),
        ("day >= '2024-01-03'", [2, 3]),
        ("at > '1970-01-02'", [2]),
        ("at in ('1970-01-02 00:00:01',)", [2]),
        ("kind == 'x'", [0, 2]),
        ("kind in ('y', 'z')", [1]),
    ],
)
def test_conditions(text: str, rows: list[int]) -> None:
    assert chosen(text) == rows


@given(st.sampled_from(["age", "city", "ok"]), st.booleans())
def test_a_condition_and_its_opposite_leave_out_the_missing(name: str, listed: bool) -> None:
    value = {"age": "20", "city": "'b'", "ok": "False"}[name]
    text = f"{name} in ({value},)" if listed else f"{name} == {value}"
    assert sorted(chosen(text) + chosen(f"not ({text})")) == chosen(f"{name} is not None")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("agee > 1", "'agee' is not a column; did you mean 'age'?"),
        ("zzzz > 1", "'zzzz' is not a column; columns are: row, age, city, two words, ok, day,"),
        ("`two wrods` > 1", "'two wrods' is not a column; did you mean 'two words'?"),
        ("age", "'age' alone is no condition"),
        ("age = 1", "cannot be read (invalid syntax)"),
        ("age = 1", "write == for equality"),
        ("", "cannot be read"),
        ("age >", "cannot be read"),
        ("`age > 1", "cannot be read"),
        ("age\0 > 1", "cannot be read"),
        ("(" * 5000 + "ok" + ")" * 5000, "cannot be read"),
        ("age > 'x'", "'x' does not fit column 'age' of type int8"),
        ("age > 99999999999999999999", "does not fit column 'age' of type int8"),
        ("city > 1", "1 does not fit column 'city' of type string"),
        ("ok == 1", "1 does not fit column 'ok' of type bool"),
        ("age == True", "True does not fit column 'age'"),
        ("at > 'soon'", "'soon' does not fit column 'at' of type timestamp[s]"),
        ("at > 5", "5 does not fit column 'at'"),
        ("l == 1", "1 does not fit column 'l'"),
        ("l in (1,)", "1 does not fit column 'l'"),
        ("age == None", "== None is never true"),
        ("age == None", "write is None or is not None"),
        ("age in (1, None)", "== None is never true"),
        ("age is 1", "'is' stands before something else than None"),
        ("age in ()", "after 'in' is no list"),
        ("age in 5", "after 'in' is no list"),
        ("age in city", "after 'in' is no list"),
        ("age < city", "does not fit the columns' types"),
        ("1 < 2", "'1' and '2' are compared, but no column"),
        ("two words > 1", "cannot be read"),
        ("capital-gain > 2", "'capital - gain' is no column"),
        ("capital-gain > 2", "in backticks"),
        ("2 < age + 1", "'age + 1' is no column"),
        ("(age > 1) & ok", "write and, or"),
        ("age == age2()", "'age2()' is no text, number, True or False"),
        ("1 is None", "'1' is no column"),
        ("__import__('os').system('true')", "is no condition"),
        ("city.x == 'a'", "'city.x' is no column"),
        ("lambda: 1", "is no condition"),
        ("ok if ok else ok", "is no condition"),
        ("True", "'True' is no condition"),
        ("not " * 3000 + "ok", "--where: "),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_where(text, TABLE.schema)
    assert str(caught.value).startswith("--where: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_columns_in_the_order_of_their_use() -> None:
    assert columns_of("b > 1 and (`a b` in (1, 2) or\n 3 < c) and b < 5") == ("b", "a b", "c")
    assert columns_of("`column0` == 'column0' and column00 is None") == ("column0", "column00")
    with pytest.raises(UsageError, match="cannot be read"):
        columns_of("a >")
