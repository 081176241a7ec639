from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distvae.data.images import image_shapes
from distvae.data.roles import Feature
from distvae.errors import UsageError


def vector(name: str, width: int) -> Feature:
    return Feature(name, "vector", pa.list_(pa.uint8(), width), nullable=False, width=width)


FEATURES = [
    Feature("age", "continuous", pa.int64(), nullable=False, width=1),
    vector("pixels", 784),
    vector("photo", 32 * 32 * 3),
    vector("wide", 6 * 10),
    vector("tiny", 9),
    vector("a=b", 64),
]


def test_shapes_are_inferred_or_given() -> None:
    assert image_shapes(["pixels", "photo"], FEATURES) == {
        "pixels": (28, 28, 1),
        "photo": (32, 32, 3),
    }
    assert image_shapes(["pixels=14x56", "photo=64x48", "wide=6x10"], FEATURES) == {
        "pixels": (14, 56, 1),
        "photo": (64, 48, 1),
        "wide": (6, 10, 1),
    }
    assert image_shapes(["photo=16x16x12", "wide=4x5x3"], FEATURES) == {
        "photo": (16, 16, 12),
        "wide": (4, 5, 3),
    }
    assert image_shapes([], FEATURES) == {}


def test_a_mapping_says_the_same() -> None:
    assert image_shapes({"pixels": "", "photo": "32x32x3"}, FEATURES) == image_shapes(
        ["pixels", "photo=32x32x3"], FEATURES
    )


def test_a_column_name_may_hold_an_equals_sign() -> None:
    assert image_shapes(["a=b"], FEATURES) == {"a=b": (8, 8, 1)}
    assert image_shapes(["a=b=4x16"], FEATURES) == {"a=b": (4, 16, 1)}


@given(st.integers(4, 200), st.sampled_from([1, 3]))
def test_every_square_is_found(side: int, colours: int) -> None:
    width = side * side * colours
    assert image_shapes(["v"], [vector("v", width)]) == {"v": (side, side, colours)}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("pixel", "image: no column 'pixel'; it must name a column; did you mean 'pixels'?"),
        ("Pixels=28x28", "image: no column 'Pixels'; it must name a column; did you mean 'pixels'"),
        (
            "age",
            (
                "image: 'age' holds one value per row; a picture is a vector column; "
                "leave out --image age"
            ),
        ),
        (
            "wide",
            (
                "image: 'wide' has 60 elements; which is no square and not 3 colours of one; "
                "give its shape, --image wide=HxW"
            ),
        ),
        (
            "pixels=28x29",
            "image: pixels=28x29 has 812 elements; the vector has 784; give --image pixels=28x28",
        ),
        (
            "photo=28x28",
            "image: photo=28x28 has 784 elements; the vector has 3072; give --image photo=32x32x3",
        ),
        (
            "wide=8x8",
            (
                "image: wide=8x8 has 64 elements; the vector has 60; "
                "give --image wide=HxW or HxWxC of that product"
            ),
        ),
        (
            "tiny",
            "image: 'tiny' is 3x3; sides must be at least 4; leave out --image tiny",
        ),
        (
            "wide=20x3",
            "image: 'wide' is 20x3; sides must be at least 4; leave out --image wide",
        ),
        *(
            (
                f"pixels={text}",
                (
                    f"image: pixels={text}; a shape is HxW or HxWxC in whole numbers above 0; "
                    "write 28x28 or 32x32x3"
                ),
            )
            for text in (
                "",
                "28",
                "28x",
                "28X28",
                "28x28x1x1",
                "0x784",
                "-28x-28",
                "28.0x28",
                "²x4",
            )
        ),
        (f"pixels={'9' * 5000}x1", "a shape is HxW or HxWxC in whole numbers above 0"),
    ],
)
def test_mistakes_are_told(request_: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        image_shapes([request_], FEATURES)
    assert message in str(caught.value)


def test_a_column_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="image: 'pixels' is given twice; a picture has one shape"):
        image_shapes(["pixels", "pixels=28x28"], FEATURES)
