"""distvae: train variational autoencoders, embed Parquet and generate synthetic rows on Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distvae.saved import Model

__all__ = ["__version__", "load"]

__version__ = "0.1.0"


def load(path: str) -> Model:
    """The model in the directory ``path`` (a local path or a URI), without Ray.

    Raises:
        StorageError: the directory is missing or cannot be read.
        DataError: a file in it is damaged.
    """
    from distvae.saved import load as load_model

    return load_model(path)
