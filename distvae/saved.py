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
from distvae.errors import DataError, UsageError
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
from distvae.model.inference import decode_rows
from distvae.model.latent import LatentModel
from distvae.model.sources import source_points
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
        network: the model itself, on ``device``, in evaluation mode.
        device: where it computes.
    """

    id: str
    files: ModelFiles
    codec: Codec
    network: LatentModel
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
        network = build(files).to(device)
        identity = str(parse_json(content[CONFIG], where, CONFIG)["model_id"])
        return cls(identity, files, Codec.from_json(files.codec), network, device)

    @property
    def latent_dim(self) -> int:
        """Latent dimensions, k."""
        return self.files.architecture.latent_dim

    @property
    def schema(self) -> pa.Schema:
        """Schema of the training table's feature columns, and of synthetic rows."""
        return self.codec.schema

    def encode(self, table: pa.Table, refine: int = 0, seed: int = 0) -> tuple[Float32, Float32]:
        """Posterior mean and standard deviation of each row, (n, k) each.

        Args:
            table: rows with the columns of the training table.
            refine: gradient steps per row that raise its ELBO, from the encoder's answer.
            seed: of their noise.

        Returns:
            mu and sigma, (n, k) float32; sigma is NaN for kinds whose code has no spread.

        Raises:
            DataError: a column is absent or of another type, or a row cannot be used.
            UsageError: ``refine`` for a kind that has nothing to refine.
        """
        from distvae.inferring import codes, infer_raw, refining_steps

        steps = refining_steps(self, refine)
        encoded = self.encode_table(table)
        raw = infer_raw(self, encoded, np.arange(table.num_rows), seed, steps)
        found = codes(self, encoded, raw)
        return found.mu, found.sigma if self.network.has_sigma else found.sigma * np.nan

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

    def decode(self, z: npt.NDArray[Any]) -> pa.Table:
        """The expected row E[x|z] of each latent vector, z (n, k), in the training schema.

        Raises:
            DataError: z has another width.
        """
        latents = np.ascontiguousarray(z, dtype=np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise DataError("z", f"has shape {latents.shape}", f"must be (n, {self.latent_dim})")
        return decode(self.codec, decode_rows(self.network, latents, device=self.device))

    def sample(self, n: int, seed: int = 0, offset: int = 0, source: str = "normal") -> pa.Table:
        """Rows [offset, offset + n) of the synthetic table of ``seed``, as ``generate`` writes.

        Raises:
            UsageError: an unknown source, or more rows than it has.
        """
        return self.sample_rows(offset, n, seed, source=source)[0]

    def sample_rows(
        self,
        first_row: int,
        rows: int,
        seed: int,
        precision: str = "fp32",
        source: str = "normal",
    ) -> tuple[pa.Table, Float32]:
        """Synthetic rows and their latents z (n, k); row i depends on (model, seed, i) alone.

        The network sees rows in blocks counted from row 0 of the endless table, so that a slice
        has the bits of the whole.
        """
        step = noise.ROWS_PER_NOISE_BLOCK
        start, stop = first_row // step * step, -(-(first_row + rows) // step) * step
        width = self.files.architecture.width
        prior = self.network.prior
        points = source_points(source, seed, start, stop - start, self.latent_dim, prior.chooses)
        z = prior.sample(*points)
        draws = noise.normal_rows(seed, "generate-x", start, stop - start, width)
        y = decode_rows(self.network, z, draws, device=self.device, precision=precision)
        inside = slice(first_row - start, first_row - start + rows)
        return decode(self.codec, y[inside]), z[inside]

    def log_likelihood(
        self, table: pa.Table, k: int = 100, seed: int = 0
    ) -> npt.NDArray[np.float64]:
        """Importance-weighted estimate of ln p(x) per row with ``k`` samples, (n,), in nats.

        Burda et al. 2016, equation 8; the closed form where there is one (pca), NaN where a kind
        has no density. Bernoulli columns are binarised by the seed.

        Raises:
            DataError: see `encode`.
            UsageError: ``k`` below 1.
        """
        from distvae.inferring import infer_raw, log_likelihood_rows, refining_steps

        if k < 1:
            raise UsageError("k", f"got {k}", "at least one sample per row is needed")
        encoded, steps = self.encode_table(table), refining_steps(self, 0)
        rows = np.arange(table.num_rows)
        raw = infer_raw(self, encoded, rows, seed, steps, binarized=True)
        return log_likelihood_rows(self, encoded, rows, k, seed, raw)


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
