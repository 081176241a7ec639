"""Rows through the network in fixed blocks, so that a row's bits never depend on its company.

Rows go in blocks of B, aligned to row 0 of the call, always padded to B and sliced after: every
matrix product has one shape, and a row of it is a function of that row and its place in the block.
On a CPU each block runs on one intra-op thread (how a product is cut among threads may change its
bits), and several blocks run side by side instead. Shapes: n rows, D elements, k latent dimensions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from distvae.errors import UsageError

if TYPE_CHECKING:
    from distvae.model.latent import LatentModel

__all__ = [
    "ROWS_PER_BLOCK",
    "ROWS_PER_BLOCK_CUDA",
    "as_tensor",
    "decode_rows",
    "encode_rows",
    "one_intra_op_thread",
    "rows_per_draw",
    "run_blocks",
]

# Rows per second of the encoder 256-512-512-64, float32, two blocks side by side on a two-core
# AVX2 CPU, against 1024: 256 0.83, 512 0.83, 2048 0.88, 4096 0.66; and 0.85 for blocks of 1024
# one after the other with two intra-op threads. The best of four runs each; noise is about 0.1.
ROWS_PER_BLOCK = 1024
ROWS_PER_BLOCK_CUDA = 16_384
_ALIGNMENT_BYTES = 64

Float32Array = NDArray[np.float32]
Block = tuple[Tensor | None, ...]


def encode_rows(
    model: LatentModel,
    blocks: Sequence[NDArray[np.generic]],
    masks: Sequence[NDArray[np.bool_] | None],
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    rows_per_block: int | None = None,
    threads: int | None = None,
) -> tuple[Float32Array, Float32Array]:
    """Encode rows to the posterior's mean and standard deviation.

    The bits of row i depend on the row, i mod B, precision and the kind of machine alone.

    Args:
        model: on ``device`` already.
        blocks: input arrays ``(n, w)``, see ``VAE.prepare``.
        masks: ``(n, w)`` True where observed, or None, per block.
        device: where the model is.
        precision: ``"fp32"`` or ``"bf16"`` (matrix products only; outputs are float32).
        rows_per_block: B; default ``ROWS_PER_BLOCK``, on CUDA ``ROWS_PER_BLOCK_CUDA``.
        threads: blocks side by side on a CPU; default the caller's intra-op threads.

    Returns:
        ``mu (n, k)`` and ``sigma (n, k)``, float32.
    """

    def encode(arrays: Block) -> tuple[Tensor, ...]:
        values = [part for part in arrays[: len(blocks)] if part is not None]
        y, observed = model.prepare(values, arrays[len(blocks) :])
        posterior = model.encode(_aligned(y), observed)
        return posterior.mu, posterior.sigma

    k = model.architecture.latent_dim
    mu, sigma = run_blocks(
        encode, [*blocks, *masks], (k, k), device, precision, rows_per_block, threads
    )
    return mu, sigma


def decode_rows(
    model: LatentModel,
    z: Float32Array,
    noise: Float32Array | None = None,
    given: Float32Array | None = None,
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    threads: int | None = None,
) -> Float32Array:
    """Decode latents to standardised elements: E[y|z], or a draw when noise is given.

    Args:
        model: on ``device`` already.
        z: ``(n, k)`` float32.
        noise: standard normal ``(n, D)`` float32, or None.
        given: ``(n, D)`` float32, the conditions' elements; NaN where a condition is missing and
            at all other elements, which are not read. Needed where the model has conditions.
        device: where the model is.
        precision: ``"fp32"`` or ``"bf16"``.
        threads: as for ``encode_rows``.

    Returns:
        ``(n, D)`` float32, the conditions' elements as given, 0 where they are missing.

    Raises:
        ValueError: the model has conditions and none are given.
    """
    # Kinds in closed form have neither heads nor conditions.
    conditions: list[int] = []
    if model.architecture.conditions:
        conditions = model.observation.given_elements.tolist()
    if given is None and len(conditions):
        names = ", ".join(model.architecture.conditions)
        raise ValueError(f"decode_rows: this model needs its conditions given: {names}")

    def decode(arrays: Block) -> tuple[Tensor, ...]:
        latents, draw, told = arrays
        assert latents is not None
        context, known = None, None
        if told is not None and len(conditions):
            known = torch.nan_to_num(told)
            context = model.context(known, ~torch.isnan(told))
        if draw is None:
            result = model.reconstruction_mean(model.decode(_aligned(latents), context))
        else:
            result = model.sample_data(model.decode_to_draw(_aligned(latents), context), draw)
        if known is not None:
            result[:, conditions] = known[:, conditions]
        return (result,)

    widths, arrays = (model.architecture.width,), [z, noise, given]
    size = None if noise is None or torch.device(device).type != "cpu" else rows_per_draw(model)
    return run_blocks(decode, arrays, widths, device, precision, size, threads)[0]


def rows_per_draw(model: LatentModel) -> int:
    """Return the rows of a block that draws on a CPU: 2 B, or B for a model of pictures.

    Heads over cells make a call for every level of their classes, whatever the rows.
    """
    return ROWS_PER_BLOCK if model.architecture.images else 2 * ROWS_PER_BLOCK


def run_blocks(
    function: Callable[[Block], tuple[Tensor, ...]],
    arrays: Sequence[NDArray[np.generic] | None],
    widths: Sequence[int],
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    rows_per_block: int | None = None,
    threads: int | None = None,
) -> list[Float32Array]:
    """Apply a function of row blocks to arrays of n rows, gradients off unless it asks for them.

    Args:
        function: takes one padded block of each array (None where the array is None) on
            ``device`` and returns one ``(B, width)`` tensor per entry of ``widths``.
        arrays: ``(n, ...)`` each, or None; at least one array.
        widths: widths of the results.
        device: where the function works.
        precision: ``"fp32"`` or ``"bf16"``.
        rows_per_block: B, as for ``encode_rows``.
        threads: as for ``encode_rows``.

    Returns:
        One ``(n, width)`` float32 array per entry of ``widths``.

    Raises:
        UsageError: unknown precision.
        ValueError: arrays of different lengths.
    """
    if precision not in ("fp32", "bf16"):
        raise UsageError("precision", repr(precision), "must be fp32 or bf16")
    lengths = {len(array) for array in arrays if array is not None}
    if len(lengths) != 1:
        raise ValueError(f"arrays have lengths {sorted(lengths)}: must have one length")
    rows, where = lengths.pop(), torch.device(device)
    size = rows_per_block or (ROWS_PER_BLOCK if where.type == "cpu" else ROWS_PER_BLOCK_CUDA)
    results = [np.empty((rows, width), np.float32) for width in widths]

    def run(starts: range) -> None:
        with (
            torch.no_grad(),
            torch.autocast(where.type, torch.bfloat16, precision == "bf16"),
        ):
            for start in starts:
                parts = function(tuple(_block(array, start, size, where) for array in arrays))
                for result, part in zip(results, parts, strict=True):
                    count = min(size, rows - start)
                    torch.from_numpy(result[start : start + count]).copy_(part[:count])

    if where.type == "cpu":
        _run_side_by_side(run, rows, size, threads or torch.get_num_threads())
    else:
        run(range(0, rows, size))
    return results


def as_tensor(array: NDArray[np.generic]) -> Tensor:
    """Return a tensor over the same memory, read-only arrays (Arrow's) included.

    The tensor must not be written to.
    """
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return from_dlpack(array)


def _run_side_by_side(run: Callable[[range], None], rows: int, size: int, threads: int) -> None:
    blocks = -(-rows // size)
    workers = max(1, min(threads, blocks))
    shares = [range(first * size, rows, workers * size) for first in range(workers)]
    if workers == 1:
        with one_intra_op_thread():
            run(shares[0])
        return

    def run_alone(starts: range) -> None:
        with one_intra_op_thread():
            run(starts)

    with ThreadPoolExecutor(workers, "distvae-blocks") as pool:
        for _ in pool.map(run_alone, shares):
            pass


@contextlib.contextmanager
def one_intra_op_thread() -> Iterator[None]:
    """Let torch compute in one thread, so that the bits do not depend on how many there are."""
    # Torch keeps this number per thread (OpenMP, MKL), and a fresh thread takes it from a
    # process-wide default when first asked: asking first fixes it, then it is ours to set.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _block(
    array: NDArray[np.generic] | None, start: int, size: int, device: torch.device
) -> Tensor | None:
    if array is None:
        return None
    part = array[start : start + size]
    if len(part) < size:
        padded = np.zeros((size, *array.shape[1:]), array.dtype)
        padded[: len(part)] = part
        part = padded
    return as_tensor(part).to(device)


def _aligned(tensor: Tensor) -> Tensor:
    # Matrix kernels may take another path, with other bits, for memory that is not aligned.
    return tensor if tensor.data_ptr() % _ALIGNMENT_BYTES == 0 else tensor.clone()
