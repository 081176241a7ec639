"""Tables of every kind of column, with holes, whose columns depend on each other."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa

__all__ = ["SCHEMA", "many_categories", "mixed_table", "pictures", "with_views"]

_TOWNS = tuple(f"town {i:02d}" for i in range(40))
_ZONE = "Europe/Amsterdam"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("group", pa.dictionary(pa.int8(), pa.string())),
        pa.field("town", pa.string()),
        pa.field("age", pa.int64(), nullable=False),
        pa.field("gain", pa.float64()),
        pa.field("income", pa.float64()),
        pa.field("score", pa.float32()),
        pa.field("visits", pa.int32()),
        pa.field("member", pa.bool_()),
        pa.field("joined", pa.timestamp("us", _ZONE)),
        pa.field("born", pa.date32()),
        pa.field("price", pa.decimal128(10, 2)),
        pa.field(
            "address",
            pa.struct([pa.field("city", pa.large_string()), pa.field("zip", pa.int32())]),
        ),
        pa.field("shape", pa.list_(pa.field("item", pa.float32(), nullable=False), 3)),
        pa.field("note", pa.string()),
    ]
)


def mixed_table(rows: int, seed: int = 0) -> pa.Table:
    """The table: an identifier and a free text that are no features, 13 columns that are."""
    random = np.random.default_rng(seed)
    group = random.choice(4, rows, p=[0.5, 0.3, 0.15, 0.05])
    age = np.clip(random.normal(30 + 10 * group, 8), 17, 90).astype(np.int64)
    zipf = 1 / np.arange(1, len(_TOWNS) + 1) ** 1.5
    town = random.choice(len(_TOWNS), rows, p=zipf / zipf.sum())
    gain = np.where(random.random(rows) < 0.9, 0.0, random.lognormal(8, 1, rows))
    income = np.where(random.random(rows) < 0.1, np.nan, random.lognormal(9 + age / 50, 0.4))
    days = random.integers(0, 3000, rows).tolist()
    start = dt.datetime(2015, 1, 1, tzinfo=dt.UTC)
    zips = random.choice([1011, 1012, 2511, 3011, 3511], rows).tolist()
    absent = (random.random(rows) < 0.2).tolist()
    words = random.integers(0, 9999, (rows, 6)).tolist()
    columns = {
        "id": [f"{i:08x}-{seed}" for i in random.permutation(rows)],
        "group": pa.DictionaryArray.from_arrays(
            pa.array(group, pa.int8()), pa.array(["north", "south", "east", "west"])
        ),
        "town": pa.array([_TOWNS[i] for i in town], mask=random.random(rows) < 0.05),
        "age": age,
        "gain": gain,
        "income": pa.array(income, mask=random.random(rows) < 0.05),
        "score": np.where(group < 2, -2, 2) + 0.3 * random.normal(size=rows),
        "visits": random.negative_binomial(2, 0.1, rows) * (random.random(rows) > 0.3),
        "member": pa.array(age > 40, mask=random.random(rows) < 0.1),
        "joined": pa.array(
            [start + dt.timedelta(days=d, hours=d % 7) for d in days],
            pa.timestamp("us", _ZONE),
            mask=random.random(rows) < 0.1,
        ),
        "born": [dt.date(2020 - a, 1 + d % 12, 1) for a, d in zip(age, days, strict=True)],
        "price": [Decimal(int(v)) / 100 for v in random.gamma(2, 2000, rows)],
        "address": [
            None if gone else {"city": f"city {z % 5}", "zip": z}
            for z, gone in zip(zips, absent, strict=True)
        ],
        "shape": random.normal(size=(rows, 3)).astype(np.float32).tolist(),
        "note": [" ".join(f"w{w}" for w in line) for line in words],
    }
    arrays = [_array(columns[field.name], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _array(values: object, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def many_categories(rows: int, seed: int = 0, categories: int = 320) -> pa.Table:
    """A shop of many, one of four regions that it lies in, its sales, and prices in cents."""
    random = np.random.default_rng(seed)
    shares = 1 / np.arange(1, categories + 1) ** 0.1
    shop = random.choice(categories, rows, p=shares / shares.sum())
    region = (shop * 7) % 4
    return pa.table(
        {
            "shop": pa.array([f"shop {i:03d}" for i in shop], mask=random.random(rows) < 0.1),
            "region": [("north", "south", "east", "west")[i] for i in region],
            "sales": random.normal(10 * region, 1),
            "price": np.round(random.gamma(2, 10, rows), 2),
        }
    )


def pictures(rows: int, seed: int = 0) -> pa.Table:
    """Pictures of 8x8 bytes, dark or light, beside what is known of them, some of it missing."""
    random = np.random.default_rng(seed)
    light = random.random(rows) < 0.3
    pixels = np.where(light[:, None], 180, 60) + random.normal(0, 20, (rows, 64))
    flat = pa.array(np.clip(pixels, 0, 255).astype(np.uint8).ravel())
    owner = [{"name": f"owner {i}"} for i in random.integers(0, 5, rows).tolist()]
    gone = (random.random(rows) < 0.4).tolist()
    return pa.table(
        {
            "light": pa.array(light, mask=random.random(rows) < 0.25),
            "weight": pa.array(random.lognormal(0, 1, rows), mask=random.random(rows) < 0.15),
            "owner": [None if lost else one for one, lost in zip(owner, gone, strict=True)],
            "pixels": pa.FixedSizeListArray.from_arrays(flat, 64),
        }
    )


def with_views(rows: int, seed: int = 0) -> pa.Table:
    """String views, alone and in structs in structs, as some libraries write them."""
    random = np.random.default_rng(seed)
    words = [("ash", "birch", "cedar")[i] for i in random.integers(0, 3, rows).tolist()]
    inner = pa.StructArray.from_arrays(
        [pa.array(words, pa.string_view()), pa.array(random.integers(0, 9, rows))],
        fields=[pa.field("tree", pa.string_view()), pa.field("n", pa.int64())],
        mask=pa.array(random.random(rows) < 0.2),
    )
    outer = pa.StructArray.from_arrays([inner], ["inner"])
    plain = pa.array([word[0] for word in words], pa.string_view())
    return pa.table({"letter": plain, "outer": outer, "x": random.normal(size=rows)})
