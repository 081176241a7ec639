"""A trained model as users hold it: Arrow tables in, arrays or tables out, no Ray needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.codec import Codec, Encoded, decode, encode
from distvae.data.storage import kind, read_bytes
from distvae.errors import DataError
from distvae.model import noise
from distvae.model.files import (
    CODEC,
    CONFIG,
    HISTORY,
    METRICS,
    README,
    WEIGHTS,
    ModelFiles,
    build,
    parse_json,
    unpack,
)
from distvae.model.inference import decode_rows, encode_rows
from distvae.model.vae import VAE
from distvae.planning import require_model

__all__ = ["Model", "check_columns", "load", "read_model"]

_FILES = (CODEC, WEIGHTS, HISTORY, METRICS, README)

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Model:
    """A trained model; k latent dimensions, D elements over all features.

    Attributes:
        id: the model id, sha256 over config, codec and weights.
        files: what its directory holds, unpacked.
        codec: table to arrays and back.
        vae: the network, on ``device``, in evaluation mode.
        device: where it computes.
    """

    id: str
    files: ModelFiles
    codec: Codec
    vae: VAE
    device: str = "cpu"

    @classmethod
    def from_files(
        cls, content: Mapping[str, bytes], where: str = "model", device: str = "cpu"
    ) -> Model:
        """Build from the bytes of a model directory's files, by name.

        Raises:
            DataError: a file is missing or damaged.
        """
        files = unpack(content, where)
        vae = build(files).to(device)
        identity = str(parse_json(content[CONFIG], where, CONFIG)["model_id"])
        return cls(identity, files, Codec.from_json(files.codec), vae, device)

    @property
    def latent_dim(self) -> int:
        """Latent dimensions, k."""
        return self.files.architecture.latent_dim

    @property
    def schema(self) -> pa.Schema:
        """Schema of the training table's feature columns, and of synthetic rows."""
        return self.codec.schema

    def encode(self, table: pa.Table) -> tuple[Float32, Float32]:
        """Posterior mean and standard deviation of each row, (n, k) each.

        Raises:
            DataError: a column is absent or of another type, or a row cannot be used.
        """
        return self.encode_arrays(self.encode_table(table))

    def encode_table(self, table: pa.Table) -> Encoded:
        """The table as arrays; a row that cannot be used is an error here.

        Raises:
            DataError: see `encode`.
        """
        encoded = encode(self.codec, table)
        if encoded.rejected.any():
            row = int(np.flatnonzero(encoded.rejected)[0])
            raise DataError(
                f"row {row}", encoded.reasons[0], "it cannot be encoded", "drop it or mend it"
            )
        return encoded

    def encode_arrays(self, encoded: Encoded, precision: str = "fp32") -> tuple[Float32, Float32]:
        """Posterior mean and standard deviation of encoded rows, (n, k) each."""
        return encode_rows(
            self.vae, encoded.blocks, encoded.masks, device=self.device, precision=precision
        )

    def decode(self, z: npt.NDArray[Any]) -> pa.Table:
        """The expected row E[x|z] of each latent vector, z (n, k), in the training schema.

        Raises:
            DataError: z has another width.
        """
        latents = np.ascontiguousarray(z, dtype=np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise DataError("z", f"has shape {latents.shape}", f"must be (n, {self.latent_dim})")
        return decode(self.codec, decode_rows(self.vae, latents, device=self.device))

    def sample(self, n: int, seed: int = 0, offset: int = 0) -> pa.Table:
        """Rows [offset, offset + n) of the synthetic table of ``seed``, as ``generate`` writes."""
        return self.sample_rows(offset, n, seed)[0]

    def sample_rows(
        self, first_row: int, rows: int, seed: int, precision: str = "fp32"
    ) -> tuple[pa.Table, Float32]:
        """Synthetic rows and their latents z (n, k); row i depends on (model, seed, i) alone.

        The network sees rows in blocks counted from row 0 of the endless table, so that a slice
        has the bits of the whole.
        """
        step = noise.ROWS_PER_NOISE_BLOCK
        start, stop = first_row // step * step, -(-(first_row + rows) // step) * step
        width = self.files.architecture.width
        z = noise.normal_rows(seed, "generate-z", start, stop - start, self.latent_dim)
        draws = noise.normal_rows(seed, "generate-x", start, stop - start, width)
        y = decode_rows(self.vae, z, draws, device=self.device, precision=precision)
        inside = slice(first_row - start, first_row - start + rows)
        return decode(self.codec, y[inside]), z[inside]

    def log_likelihood(
        self, table: pa.Table, k: int = 100, seed: int = 0
    ) -> npt.NDArray[np.float64]:
        """Importance-weighted estimate of ln p(x) per row with ``k`` samples, (n,), in nats.

        Burda et al. 2016, equation 8. Bernoulli columns are binarised by the seed.

        Raises:
            DataError: see `encode`.
        """
        from distvae.scoring import log_likelihood_rows

        encoded = self.encode_table(table)
        return log_likelihood_rows(self, encoded, np.arange(table.num_rows), k, seed)


def load(path: str, device: str = "cpu") -> Model:
    """The model in the directory ``path`` (a local path or a URI).

    Raises:
        StorageError: the directory is missing or cannot be read.
        DataError: a file in it is damaged.
    """
    return Model.from_files(read_model(path), path, device)


def read_model(path: str) -> dict[str, bytes]:
    """The bytes of a model directory's files, by name.

    Raises:
        StorageError: the directory is missing or cannot be read.
        DataError: it is no whole model directory.
    """
    place = require_model(path)
    names = [name for name in _FILES if kind(place.child(name)) == "file"]
    return {name: read_bytes(place.child(name)) for name in (*names, CONFIG)}


def check_columns(model: Model, schema: pa.Schema, data: Sequence[str]) -> None:
    """Refuse data that lacks a column of the model or has it in another type.

    Raises:
        DataError: naming the column.
    """
    named = ", ".join(data[:3])
    for field in model.schema:
        if field.name not in schema.names:
            raise DataError(
                named,
                f"has no column {field.name!r}",
                "the model was trained on it",
                f"its columns are {', '.join(schema.names[:10])}",
            )
        found = schema.field(field.name).type
        if not _compatible(found, field.type):
            raise DataError(
                named,
                f"column {field.name!r} has type {found}",
                f"the model was trained on {field.type}",
                "cast the column, or train on this data",
            )


def _compatible(found: pa.DataType, trained: pa.DataType) -> bool:
    """Equal but for nullability and names inside lists."""
    if pa.types.is_nested(found) != pa.types.is_nested(trained):
        return False
    if not pa.types.is_nested(found):
        return bool(found == trained)
    same = type(found) is type(trained) and found.value_type == trained.value_type
    sizes = [t.list_size for t in (found, trained) if pa.types.is_fixed_size_list(t)]
    return same and len(set(sizes)) <= 1
