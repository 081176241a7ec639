"""Codecs with cells as JSON: damage is found, and pickles stay small."""

from __future__ import annotations

import copy
import json
import pickle
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from distvae.data.codec import (
    Codec,
    encode,
)
from distvae.errors import DataError
from tests.data.codec_cases import celled

GAP = float("nan")
INF = float("inf")


def test_pickled_codecs_leave_what_is_derived_behind() -> None:
    codec = celled(pa.table({"s": ["a", "b"], "n": [1, 70_000]}))
    before = len(pickle.dumps(codec))
    encode(codec, pa.table({"s": ["a"], "n": [5]}))
    assert len(pickle.dumps(codec)) == before
    assert pickle.loads(pickle.dumps(codec)).to_json() == codec.to_json()


TRAIN = pa.table(
    {
        "n": [5, None, 7],
        "f": [0.123456, 1.5, 2.5],
        "s": ["a", "b", "a"],
        "d": pa.array([Decimal("1.5"), Decimal("2.5"), None]).dictionary_encode(),
    }
)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["columns", 0, "coding"], "histogram"),
        (["columns", 0, "coding"], "standard"),
        (["columns", 0, "scale"], 2.0),
        (["columns", 0, "cells"], None),
        (["columns", 0, "cells", "rows"], 0),
        (["columns", 0, "cells", "lo", 0], 6),
        (["columns", 0, "cells", "lo", 2], 7),
        (["columns", 0, "cells", "hi", 0], 2**63),
        (["columns", 0, "cells", "hi", 0], 1.5),
        (["columns", 0, "cells", "grid", "step"], 0),
        (["columns", 0, "cells", "grid", "rest"], 1),
        (["columns", 0, "cells", "grid", "unsigned"], True),
        (["columns", 0, "cells", "grid", "unit"], 0.1),
        (["columns", 0, "cells", "grid", "digits"], 1),
        (["columns", 0, "cells", "counts", 1], 0),
        (["columns", 0, "cells", "counts", 1], -1),
        (["columns", 0, "cells", "counts"], [1]),
        (["columns", 0, "cells", "cell_class", 0], 1),
        (["columns", 0, "cells", "cell_class", 0], -1),
        (["columns", 0, "cells", "outside"], [True]),
        (["columns", 0, "cells", "values"], ["a"]),
        (["columns", 1, "cells", "ends", 0], [1.0]),
        (["columns", 1, "cells", "ends", 1, 1], -1.0),
        (["columns", 1, "cells", "ends", 1, 0], 1),
        (["columns", 2, "cells", "values"], ["a", "a"]),
        (["columns", 2, "cells", "values"], ["a", 1]),
        (["columns", 2, "cells", "values"], ["a"]),
        (["columns", 2, "cells", "outside"], [True, False]),
        (["columns", 2, "feature", "role"], "datetime"),
        (["columns", 2, "coding"], "count"),
        (["columns", 3, "cells", "values"], "AAAA"),
        (["columns", 3, "cells", "values"], "?"),
        (["columns", 4, "states"], ["present", "nan"]),
        (["columns", 4, "companion_of"], "q"),
        (["columns", 4, "companion_of"], None),
        (["columns", 5, "companion_of"], "n"),
        (["columns", 0, "states"], ["present"]),
    ],
)
def test_damaged_cells_are_refused(path: list[Any], value: Any) -> None:
    held = json.loads(celled(TRAIN).to_json())
    inner = held
    for step in path[:-1]:
        inner = inner[step]
    before = copy.deepcopy(inner)
    inner[path[-1]] = value
    assert inner != before
    with pytest.raises(DataError, match="codec: is damaged"):
        Codec.from_json(json.dumps(held))


def test_codecs_of_before_are_refused() -> None:
    held = json.loads(celled(TRAIN).to_json()) | {"format": 1}
    with pytest.raises(DataError, match="codec: has format 1; must be 3; train again"):
        Codec.from_json(json.dumps(held))
