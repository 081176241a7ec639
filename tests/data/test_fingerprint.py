from __future__ import annotations

import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distvae.data.fingerprint import canonical, fingerprint, first_difference

_scalars = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["", "x", 0.5, -0.0])
_keys = st.sampled_from(string.ascii_lowercase[:4])
_values = _scalars | st.lists(_scalars, max_size=3) | st.dictionaries(_keys, _scalars, max_size=3)
_items = st.dictionaries(_keys, _values, max_size=3)


def test_the_value_is_pinned() -> None:
    # A change of this hash makes every unfinished output of every user refuse to resume.
    items = {"b": [1, 2.5, None], "a": {"x": "é", "y": True}}
    assert canonical(items) == '{"a":{"x":"\\u00e9","y":true},"b":[1,2.5,null]}'
    expected = "939075563d1fec2997dd324b5476211902d0a036c3ff5736d55db2282ca668f3"
    assert fingerprint(items) == expected


@given(_items)
def test_order_of_keys_makes_no_difference(items: dict[str, Any]) -> None:
    turned = dict(reversed(list(items.items())))
    assert fingerprint(items) == fingerprint(turned)
    assert first_difference(items, turned) == ""


@given(_items, _items)
def test_a_difference_is_named_exactly_when_the_hashes_differ(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    differ = fingerprint(old) != fingerprint(new)
    assert differ == bool(first_difference(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ({"a": 1}, {"a": 2}, "a was 1, is 2"),
        ({"a": 1}, {"a": 1.0}, "a was 1, is 1.0"),
        ({"a": 1}, {"a": True}, "a was 1, is true"),
        ({"a": 1}, {"a": 1, "b": "x"}, 'b was (absent), is "x"'),
        ({"e": {"torch": "2.12"}}, {"e": {"torch": "2.13"}}, 'e.torch was "2.12", is "2.13"'),
        (
            {"inputs": [["a.parquet", 3], ["b.parquet", 4]]},
            {"inputs": [["a.parquet", 3], ["b.parquet", 5]]},
            "inputs[1][1] was 4, is 5",
        ),
        ({"i": list(range(9))}, {"i": [0]}, "i was a list of 9, is [0]"),
        ({"a": "x" * 99}, {"a": ""}, f'a was "{"x" * 56}..., is ""'),
    ],
)
def test_the_difference_is_told(old: dict[str, Any], new: dict[str, Any], message: str) -> None:
    assert first_difference(old, new) == message


def test_tuples_equal_lists() -> None:
    assert fingerprint({"a": (1, (2, 3))}) == fingerprint({"a": [1, [2, 3]]})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_without_json_text_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        fingerprint({"a": [number]})


@pytest.mark.parametrize("value", [b"x", {1: 2}, object()])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="fingerprint"):
        fingerprint({"a": value})
