from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distvae.errors import UsageError
from distvae.model.architecture import Architecture
from distvae.model.inference import ROWS_PER_BLOCK, as_tensor, decode_rows, encode_rows
from distvae.model.vae import VAE
from tests.model.helpers import block, spec

WIDTH, LATENT = 33, 5
Arrays = tuple[list[NDArray[np.float32]], list[NDArray[np.bool_] | None]]


@pytest.fixture(scope="module")
def model() -> VAE:
    features = (
        spec("a", 0, 1, has_missing=True),
        spec("v", 1, WIDTH, 1, raw=True, scale=3.0, shift=[0.5] * (WIDTH - 1), has_missing=True),
    )
    blocks = (block(1), block(WIDTH - 1, raw=True))
    return VAE.from_architecture(
        Architecture(LATENT, features, blocks, hidden_dims=(64, 48))
    ).eval()


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    generator = np.random.default_rng(0)
    values = [generator.normal(size=(5000, w)).astype(np.float32) for w in (1, WIDTH - 1)]
    return values, [None, generator.uniform(size=(5000, WIDTH - 1)) < 0.9]


def encode(
    model: VAE, arrays: Arrays, rows: slice = slice(None), **options: Any
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    blocks, masks = arrays
    return encode_rows(
        model, [b[rows] for b in blocks], [m if m is None else m[rows] for m in masks], **options
    )


def test_values_are_those_of_the_model_run_plainly(model: VAE, arrays: Arrays) -> None:
    mu, sigma = encode(model, arrays)
    blocks = [torch.from_numpy(b) for b in arrays[0]]
    masks = [m if m is None else torch.from_numpy(m) for m in arrays[1]]
    with torch.no_grad():
        expected = model.encode(*model.prepare(blocks, masks))
    np.testing.assert_allclose(mu, expected.mu.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sigma, expected.sigma.numpy(), rtol=1e-4, atol=1e-5)
    assert mu.shape == sigma.shape == (5000, LATENT)
    assert mu.dtype == sigma.dtype == np.float32


@pytest.mark.parametrize("rows", [1, 2, 31, 1000, 1023, 1024, 1025, 2048, 4999])
def test_bits_do_not_depend_on_the_number_of_rows(model: VAE, arrays: Arrays, rows: int) -> None:
    for whole, part in zip(encode(model, arrays), encode(model, arrays, slice(rows)), strict=True):
        assert np.array_equal(whole[:rows], part)


def test_bits_of_a_row_are_those_of_its_own_aligned_block(model: VAE, arrays: Arrays) -> None:
    whole = encode(model, arrays)
    for row in (0, 1500, 4999):
        start = row - row % ROWS_PER_BLOCK
        alone = encode(model, arrays, slice(start, row + 1))
        assert all(
            np.array_equal(w[row], a[row - start]) for w, a in zip(whole, alone, strict=True)
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bits_do_not_depend_on_thread_counts_which_are_restored(
    model: VAE, arrays: Arrays, precision: str
) -> None:
    before = torch.get_num_threads()
    rows = slice(0, 2500)
    try:
        results = []
        for intra_op in (1, 2, 3):
            for threads in (None, 1, 2, 5):
                torch.set_num_threads(intra_op)
                result = encode(model, arrays, rows, threads=threads, precision=precision)
                results.append(result)
                assert torch.get_num_threads() == intra_op
    finally:
        torch.set_num_threads(before)
    for mu, sigma in results[1:]:
        assert np.array_equal(mu, results[0][0])
        assert np.array_equal(sigma, results[0][1])


def test_bits_do_not_depend_on_concurrent_calls(model: VAE, arrays: Arrays) -> None:
    expected = encode(model, arrays)
    found: list[tuple[NDArray[np.float32], ...]] = []
    threads = [
        threading.Thread(target=lambda: found.append(encode(model, arrays))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(np.array_equal(f, e) for pair in found for f, e in zip(pair, expected, strict=True))


def test_bits_do_not_depend_on_memory_alignment_or_write_protection(
    model: VAE, arrays: Arrays
) -> None:
    expected = encode(model, arrays)
    shifted = []
    for array in arrays[0]:
        memory = np.empty(array.nbytes + 4, np.uint8)
        moved = memory[4:].view(np.float32).reshape(array.shape)
        moved[:] = array
        moved.flags.writeable = False
        shifted.append(moved)
    found = encode_rows(model, shifted, arrays[1])
    assert all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))
    plain = VAE.from_architecture(Architecture(2, (spec("v", 0, 32),), (block(32),)))
    values = np.ascontiguousarray(arrays[0][1])
    odd = shifted[1]
    assert np.array_equal(
        encode_rows(plain, [values], [None])[0], encode_rows(plain, [odd], [None])[0]
    )


def test_no_rows_give_empty_results(model: VAE, arrays: Arrays) -> None:
    assert [part.shape for part in encode(model, arrays, slice(0))] == [(0, LATENT)] * 2


def test_a_failing_block_raises_and_restores_threads(model: VAE, arrays: Arrays) -> None:
    before = torch.get_num_threads()
    with pytest.raises(UsageError, match="precision: 'fp16'; must be fp32 or bf16"):
        encode(model, arrays, precision="fp16")
    with pytest.raises(ValueError, match="arrays have lengths"):
        encode_rows(model, [arrays[0][0][:3], arrays[0][1]], arrays[1])
    with pytest.raises(RuntimeError):
        decode_rows(model, np.zeros((3000, LATENT + 1), np.float32), threads=2)
    assert torch.get_num_threads() == before


def test_bf16_is_close_to_fp32(model: VAE, arrays: Arrays) -> None:
    fine, coarse = (encode(model, arrays, slice(500), precision=p)[0] for p in ("fp32", "bf16"))
    assert 0 < np.abs(fine - coarse).max() < 0.1


def test_decoding_means_and_samples(model: VAE) -> None:
    generator = np.random.default_rng(1)
    z = generator.normal(size=(1500, LATENT)).astype(np.float32)
    noise = generator.normal(size=(1500, WIDTH)).astype(np.float32)
    means, draws = decode_rows(model, z), decode_rows(model, z, noise)
    with torch.no_grad():
        params = model.decode(torch.from_numpy(z))
        expected = model.sample_data(params, torch.from_numpy(noise))
    np.testing.assert_allclose(means, model.reconstruction_mean(params).numpy(), atol=1e-5)
    np.testing.assert_allclose(draws, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(decode_rows(model, z[:1100], noise[:1100], threads=1), draws[:1100])


def test_as_tensor_shares_memory_even_when_write_protected() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    assert as_tensor(array).data_ptr() == array.ctypes.data
    assert as_tensor(array.T).tolist() == array.T.tolist()
    assert as_tensor(np.array([[True, False]])).dtype == torch.bool
