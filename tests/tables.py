"""A made-up table with a column of every kind, for the tests of fidelity and report."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa

__all__ = ["mixed_table"]


def mixed_table(rows: int, seed: int) -> pa.Table:
    """Rows of one distribution, others for each seed; ``salary`` follows ``age`` and ``member``."""
    random = np.random.default_rng(seed)
    age = random.integers(18, 90, rows)
    member = random.random(rows) < np.where(age > 50, 0.9, 0.1)
    salary = age * 100.0 + np.where(member, 3000.0, 0.0) + random.normal(0.0, 300.0, rows)
    salary[random.random(rows) < 0.1] = np.nan
    gap = random.random(rows)
    city = random.choice(["Roma", "Oslo", "Bern", "身長"], rows, p=[0.4, 0.3, 0.2, 0.1])
    address = pa.StructArray.from_arrays(
        [pa.array(city, mask=gap < 0.1), pa.array(random.integers(1000, 1050, rows))],
        ["city", "zip"],
        mask=pa.array(gap > 0.95),
    )
    cents = random.integers(0, 10_000, rows)
    return pa.table(
        {
            "age": pa.array(age.astype(np.int16)),
            "salary": pa.array(salary, mask=gap < 0.05),
            "member": pa.array(member, mask=gap > 0.9),
            "grade": pa.array(np.array(["a", "b", "c"])[age // 30 - (age == 90)])
            .dictionary_encode()
            .cast(pa.dictionary(pa.int8(), pa.string())),
            "price": pa.array([Decimal(int(c)).scaleb(-2) for c in cents], pa.decimal128(10, 2)),
            "born": pa.array((20_000 - 365 * age).astype(np.int32)).cast(pa.date32()),
            "seen": pa.array(random.integers(0, 2**40, rows)).cast(
                pa.timestamp("us", "Europe/Rome")
            ),
            "wakes": pa.array(random.integers(0, 86_400, rows).astype(np.int32)).cast(
                pa.time32("s")
            ),
            "sleeps": pa.array(random.integers(0, 86_400, rows)).cast(pa.duration("ms")),
            "address": address,
            "pixels": pa.FixedSizeListArray.from_arrays(
                pa.array(random.integers(0, 17, 4 * rows).astype(np.uint8)), 4
            ),
            "empty": pa.nulls(rows, pa.float64()),
            "one": pa.array(np.ones(rows, np.float32)),
            "none": pa.nulls(rows, pa.string()),
        }
    )
