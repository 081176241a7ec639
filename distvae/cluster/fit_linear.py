"""The kinds that are solved, not trained: pca from the statistics, kernel-pca in one more pass."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.cluster.passes import pass_over
from distvae.cluster.session import Resources
from distvae.cluster.shards import TrainJob
from distvae.cluster.summarise import Pass
from distvae.console import Console
from distvae.data.codec import Encoded, encode
from distvae.data.fragments import Fragment
from distvae.data.selection import Batch, read_batches, split_rows
from distvae.model.closed import ClosedForm
from distvae.model.inference import as_tensor
from distvae.model.kernel import KernelPcaModel, kernel_gamma
from distvae.model.kernel_fit import FeatureSums, Landmarks, fit_kernel_pca, merge_sums
from distvae.model.linear import Pca
from distvae.model.observation import Standardise
from distvae.model.principal import PcaModel, noise_of

__all__ = ["CLOSED_FORM", "fit_linear"]

CLOSED_FORM = ("pca", "kernel-pca")
"""The kinds that need no training loop."""

_ROWS_PER_BATCH = 16_384
_NUMBERS_PER_SLICE = 1 << 22  # of the kernel matrix between rows and landmarks

Floats = npt.NDArray[np.float64]


def fit_linear(
    job: TrainJob,
    passed: Pass,
    pca: Pca | None,
    input_bytes: int,
    resources: Resources,
    console: Console,
) -> ClosedForm:
    """Return the fitted model; ``job.architecture`` says of which kind.

    Args:
        job: the training.
        passed: what the statistics pass found; the drawn rows are the landmarks.
        pca: of the training rows, for kind pca.
        input_bytes: uncompressed size of the input.
        resources: for the passes over the input.
        console: shows their progress, and says where the noise's variance is a stand-in.

    Raises:
        DataError: numbers that the model cannot hold, or a file that cannot be decoded.
        StorageError: a file that cannot be read.
    """
    if job.architecture.kind == "pca":
        assert pca is not None
        noise = noise_of(job.architecture, pca)
        if noise.stands_in:
            console.warn(
                f"pca: beyond the components the rows leave no variance but their rounding, as "
                f"constant and collinear columns do; a standard deviation of "
                f"{noise.variance**0.5:.3g} stands in for it in ln p(x)"
            )
        return PcaModel.from_pca(job.architecture, pca)
    assert passed.drawn is not None
    chosen = np.sort(passed.drawn.rows)
    rows = _read_rows(job, chosen, input_bytes, resources)
    landmarks = Landmarks.of_rows(rows, kernel_gamma(job.architecture))
    sums: FeatureSums | None = None
    arguments = {"job": job, "landmarks": landmarks}
    part: FeatureSums | None
    with console.stage("kernel", sum(job.training_rows)) as advance:
        passes = pass_over(_KernelWorker, arguments, job.fragments, input_bytes, resources)
        for fragment, part in passes:
            if part is not None:
                sums = part if sums is None else merge_sums(sums, part)
            advance(job.training_rows[fragment.index])
    assert sums is not None
    fit = fit_kernel_pca(landmarks, sums, job.architecture.latent_dim)
    return KernelPcaModel.from_fit(job.architecture, landmarks, fit)


def _read_rows(
    job: TrainJob, chosen: npt.NDArray[np.int64], input_bytes: int, resources: Resources
) -> Floats:
    """The rows of the given numbers, ascending, standardised; only their fragments are read."""
    holding = [
        fragment for fragment in job.fragments if len(_inside(chosen, fragment.first_row, fragment))
    ]
    arguments = {"job": job, "chosen": chosen}
    passes = pass_over(_RowWorker, arguments, holding, input_bytes, resources)
    return np.concatenate([rows for _, rows in passes]).astype(np.float64)


def _inside(chosen: npt.NDArray[np.int64], first: int, fragment: Fragment) -> npt.NDArray[np.int64]:
    """Those of the ascending row numbers that the fragment holds from row ``first`` on."""
    stop = fragment.first_row + fragment.rows
    low, high = np.searchsorted(chosen, (first, stop))
    return chosen[low:high]


class _RowWorker:
    """Reads chosen rows of whole fragments."""

    def __init__(self, job: TrainJob, chosen: npt.NDArray[np.int64]) -> None:
        self.job, self.chosen = job, chosen
        self.standardise = Standardise(job.architecture)

    def run(self, fragment: Fragment) -> npt.NDArray[np.float32]:
        """The fragment's chosen rows (c, D), as the model sees them."""
        found = []
        for batch in _batches(self.job, fragment):
            if len(batch.rows) == 0:
                continue
            places = np.flatnonzero(np.isin(batch.rows, self.chosen))
            if len(places):
                encoded = encode(self.job.codec, batch.table.take(pa.array(places)))
                found.append(_standardised(self.standardise, encoded))
            if not len(_inside(self.chosen, int(batch.rows[-1]) + 1, fragment)):
                break
        return np.concatenate(found)


class _KernelWorker:
    """Sums kernel features over the training rows of whole fragments."""

    def __init__(self, job: TrainJob, landmarks: Landmarks) -> None:
        self.job, self.landmarks = job, landmarks
        self.standardise = Standardise(job.architecture)

    def run(self, fragment: Fragment) -> FeatureSums | None:
        """The sums over the fragment, None without a training row."""
        total: FeatureSums | None = None
        for batch in _batches(self.job, fragment):
            training, _ = split_rows(batch.rows, self.job.split)
            if not training.any():
                continue
            encoded = encode(self.job.codec, batch.table.filter(training))
            y = _standardised(self.standardise, encoded)
            step = max(1, _NUMBERS_PER_SLICE // len(self.landmarks.rows))
            for start in range(0, len(y), step):
                part = self.landmarks.sums(y[start : start + step].astype(np.float64))
                total = part if total is None else merge_sums(total, part)
        return total


def _batches(job: TrainJob, fragment: Fragment) -> Iterator[Batch]:
    return read_batches(job.files, fragment, job.columns, _ROWS_PER_BATCH, job.config.where)


def _standardised(standardise: Standardise, encoded: Encoded) -> npt.NDArray[np.float32]:
    """(n, D), 0 where missing."""
    blocks = [as_tensor(block) for block in encoded.blocks]
    masks = [None if mask is None else as_tensor(mask) for mask in encoded.masks]
    y, _ = standardise(blocks, masks)
    values: npt.NDArray[np.float32] = y.numpy()
    return values
