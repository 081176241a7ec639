"""A trained model as users hold it: Arrow tables in, arrays or tables out, no Ray needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.codec import Codec, Encoded, Policies, decode, encode, fills
from distvae.data.schemas import common_type
from distvae.data.storage import kind, read_bytes
from distvae.errors import DataError, UsageError
from distvae.model import noise
from distvae.model.files import (
    CODEC,
    CONDITIONS,
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
from distvae.model.inference import decode_rows, rows_per_draw
from distvae.model.latent import LatentModel
from distvae.model.sources import source_points
from distvae.planning import require_model

__all__ = ["Model", "check_columns", "load", "read_model"]

_FILES = (CODEC, WEIGHTS, HISTORY, METRICS, README, CONDITIONS)

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

    def decode(self, z: npt.NDArray[Any], given: pa.Table | None = None) -> pa.Table:
        """The row that each latent vector z (n, k) stands for, in the training schema.

        Numbers are the expected value E[x|z], the median where they have classes (histogram);
        categories, and whether a value is missing, are the most likely one.

        Args:
            z: latent vectors.
            given: the columns that a conditional model is given, n rows; None draws them.

        Raises:
            DataError: z has another width, or ``given`` does not fit.
        """
        latents = np.ascontiguousarray(z, dtype=np.float32)
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise DataError("z", f"has shape {latents.shape}", f"must be (n, {self.latent_dim})")
        rows = self._given(given, 0, 0, len(latents))
        return decode(
            self.codec, decode_rows(self.network, latents, device=self.device, given=rows)
        )

    def impute(self, table: pa.Table, seed: int | None = None) -> pa.Table:
        """The table with its missing values filled in; everything else stays as it is.

        Columns that a conditional model is given stay as they are, too.

        A missing value becomes the one that the decoder holds most likely at the posterior's mean
        (see `decode`) or, with a seed, a draw from p(x | z) at a draw of z: then n imputations of
        several seeds differ as much as the model is unsure.

        Args:
            table: rows with the columns of the training table, null or NaN where missing.
            seed: of the draws; None for the most likely values.

        Raises:
            DataError: a column is absent or of another type, or a row cannot be used.
        """
        from distvae.given import given_rows
        from distvae.inferring import codes, infer_raw, posterior_sample, refining_steps

        encoded, rows = self.encode_table(table), np.arange(table.num_rows)
        raw = infer_raw(self, encoded, rows, seed or 0, refining_steps(self, 0))
        found = codes(self, encoded, raw)
        z, draws = found.mu, None
        if seed is not None:
            z = posterior_sample(found, noise.normal_rows(seed, "impute-z", 0, *z.shape))
            draws = noise.normal_rows(seed, "impute-x", 0, len(z), self.codec.width)
        given = None
        if self.files.architecture.conditions:
            given = given_rows(self, table, frozenset(), Policies())
        y = decode_rows(self.network, z, draws, device=self.device, given=given)
        for column in self.codec.columns:
            if column.feature.is_presence:  # a struct that is null stays so
                y[:, column.start] = encoded.blocks[0][:, column.start]
        whole = fills(self.codec, table, decode(self.codec, y, missing=False))
        for name in self.files.architecture.conditions:  # given, not modelled: nothing is known
            if name in table.column_names:
                place = table.column_names.index(name)
                whole = whole.set_column(place, table.schema.field(name), table.column(name))
        return whole

    def sample(
        self,
        n: int,
        seed: int = 0,
        offset: int = 0,
        source: str = "normal",
        given: pa.Table | None = None,
    ) -> pa.Table:
        """Rows [offset, offset + n) of the synthetic table of ``seed``, as ``generate`` writes.

        Args:
            n: rows.
            seed: of the table.
            offset: first row.
            source: see ``generate --source``.
            given: the columns that a conditional model is given, n rows; None draws them from
                training rows.

        Raises:
            UsageError: an unknown source, or more rows than it has.
            DataError: ``given`` does not fit.
        """
        rows = self._given(given, seed, offset, n)
        return self.sample_rows(offset, n, seed, source=source, given=rows)[0]

    def _given(self, table: pa.Table | None, seed: int, first_row: int, n: int) -> Float32 | None:
        """The given rows (n, D): the table's, or drawn; None for an unconditional model."""
        from distvae.given import given_rows, make_pool

        if table is None:
            pool = make_pool(self)
            return None if pool is None else pool.draw(seed, first_row, n)
        if table.num_rows != n:
            raise DataError("given", f"has {table.num_rows} rows", f"must have {n}", "one per row")
        return given_rows(self, table)

    def sample_rows(
        self,
        first_row: int,
        rows: int,
        seed: int,
        precision: str = "fp32",
        source: str = "normal",
        given: Float32 | None = None,
    ) -> tuple[pa.Table, Float32]:
        """Synthetic rows and their latents z (n, k); row i depends on (model, seed, i) alone.

        The network sees rows in blocks counted from row 0 of the endless table, so that a slice
        has the bits of the whole. A conditional model needs the ``given`` rows (n, D) of these
        rows, see `distvae.given`.
        """
        step = rows_per_draw(self.network)
        start, stop = first_row // step * step, -(-(first_row + rows) // step) * step
        width = self.files.architecture.width
        prior = self.network.prior
        points = source_points(source, seed, start, stop - start, self.latent_dim, prior.chooses)
        z = prior.sample(*points)
        draws = noise.normal_rows(seed, "generate-x", start, stop - start, width)
        inside = slice(first_row - start, first_row - start + rows)
        padded = None
        if given is not None:
            padded = np.full((stop - start, width), np.nan, np.float32)
            padded[inside] = given
        y = decode_rows(
            self.network, z, draws, device=self.device, precision=precision, given=padded
        )
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
    """Equal but for nullability, widths, names inside lists, and how text is stored."""
    if pa.types.is_nested(found) != pa.types.is_nested(trained):
        return False
    if pa.types.is_struct(trained):
        return pa.types.is_struct(found) and all(
            found.get_field_index(field.name) >= 0
            and _compatible(found.field(field.name).type, field.type)
            for field in trained
        )
    if not pa.types.is_nested(found):
        plain = (t.value_type if pa.types.is_dictionary(t) else t for t in (found, trained))
        return common_type(*plain) is not None
    same = type(found) is type(trained) and found.value_type == trained.value_type
    sizes = [t.list_size for t in (found, trained) if pa.types.is_fixed_size_list(t)]
    return same and len(set(sizes)) <= 1
