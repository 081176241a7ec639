from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distvae.errors import UsageError
from distvae.model import convolution
from distvae.model.convolution import ConvDecoder, ConvEncoder, reproducible_cudnn
from distvae.model.inference import run_blocks

SHAPES = [(4, 4, 1), (8, 8, 1), (5, 7, 3), (9, 4, 2), (17, 15, 3)]
CHANNELS = (6, 8)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def disturb(net: nn.Module, seed: int = 0) -> None:
    """Move every weight, so that no block is the identity any more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.add_(0.1 * noise.to(parameter))


def block_by_hand(x: Tensor, weights: Mapping[str, Tensor], path: str) -> Tensor:
    inner = functional.conv2d(
        x.relu(), weights[f"{path}.first.weight"], weights[f"{path}.first.bias"], padding=1
    )
    return x + functional.conv2d(
        inner.relu(), weights[f"{path}.second.weight"], weights[f"{path}.second.bias"], padding=1
    )


def picture_batch(pictures: Tensor) -> Tensor:
    """``(n, H, W, C)`` to rows ``(n, H * W * C)``, element by element."""
    n, height, width, colours = pictures.shape
    rows = torch.empty(n, height * width * colours, dtype=pictures.dtype)
    for h, w, c in np.ndindex(height, width, colours):
        rows[:, (h * width + w) * colours + c] = pictures[:, h, w, c]
    return rows


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("planes", [1, 2])
def test_the_encoder_is_its_formula(shape: tuple[int, int, int], planes: int) -> None:
    net = ConvEncoder(shape, CHANNELS, 5, planes=planes).double()
    disturb(net)
    parts = [numbers(3, *shape, seed=plane).double() for plane in range(planes)]
    found = net(torch.cat([picture_batch(part) for part in parts], dim=1))
    weights = net.state_dict()
    x = torch.cat([part.permute(0, 3, 1, 2) for part in parts], dim=1).contiguous()
    x = functional.conv2d(x, weights["stem.weight"], weights["stem.bias"], padding=1)
    for i in range(len(CHANNELS)):
        weight, bias = weights[f"stages.{i}.conv.weight"], weights[f"stages.{i}.conv.bias"]
        x = functional.conv2d(x.relu(), weight, bias, stride=2, padding=1)
        x = block_by_hand(x, weights, f"stages.{i}.block")
    flat = x.relu().permute(0, 2, 3, 1).reshape(3, -1)
    torch.testing.assert_close(found, flat @ weights["last.weight"].T + weights["last.bias"])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_element", [1, 2])
def test_the_decoder_is_its_formula(shape: tuple[int, int, int], per_element: int) -> None:
    net = ConvDecoder(5, shape, CHANNELS, per_element).double()
    disturb(net)
    features = numbers(3, 5).double()
    weights = net.state_dict()
    sides = [shape[:2]]
    for _ in CHANNELS:
        sides.append((-(-sides[-1][0] // 2), -(-sides[-1][1] // 2)))
    x = features @ weights["first.weight"].T + weights["first.bias"]
    x = x.reshape(3, *sides[-1], CHANNELS[-1]).permute(0, 3, 1, 2).contiguous()
    for i, (height, width) in enumerate(sides[-2::-1]):
        x = block_by_hand(x, weights, f"stages.{i}.block")
        weight, bias = weights[f"stages.{i}.conv.weight"], weights[f"stages.{i}.conv.bias"]
        x = functional.conv_transpose2d(x.relu(), weight, bias, stride=2, padding=1)
        x = x[..., :height, :width].contiguous()
    x = functional.conv2d(x.relu(), weights["last.weight"], padding=1)
    found = net(features) - weights["bias"]
    for p, part in enumerate(found.chunk(per_element, dim=-1)):
        pictures = x[:, p * shape[2] : (p + 1) * shape[2]].permute(0, 2, 3, 1)
        torch.testing.assert_close(part, picture_batch(pictures))


@pytest.mark.parametrize("shape", SHAPES)
def test_leading_dimensions_are_kept(shape: tuple[int, int, int]) -> None:
    width = int(np.prod(shape))
    encoder, decoder = ConvEncoder(shape, CHANNELS, 5), ConvDecoder(5, shape, CHANNELS, 2)
    disturb(encoder)
    disturb(decoder)
    for leading in ((), (4,), (2, 4), (0,), (2, 0)):
        x = numbers(*leading, width)
        assert encoder(x).shape == (*leading, 5)
        assert decoder(encoder(x)).shape == (*leading, 2 * width)
    z = numbers(2, 4, 5)
    torch.testing.assert_close(decoder(z)[1], decoder(z[1]))


def test_a_decoder_started_at_a_picture_gives_that_picture() -> None:
    shape = (5, 4, 3)
    decoder = ConvDecoder(2, shape, CHANNELS, 2)
    first = torch.arange(60.0)
    decoder.set_output_bias(torch.cat([first, -first]))
    decoder.last.weight.data.zero_()
    means, others = decoder(numbers(3, 2)).chunk(2, dim=-1)
    assert torch.equal(means, first.expand(3, -1))
    assert torch.equal(others, -first.expand(3, -1))
    assert torch.equal(means[0].reshape(shape)[1, 2], torch.tensor([18.0, 19.0, 20.0]))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh"])
def test_gradients_are_right(activation: str) -> None:
    shape = (4, 5, 1)
    encoder = ConvEncoder(shape, (2, 3), 3, activation).double()
    decoder = ConvDecoder(3, shape, (2, 3), 2, activation).double()
    disturb(encoder)
    disturb(decoder)
    assert torch.autograd.gradcheck(encoder, [numbers(2, 20).double().requires_grad_()])
    assert torch.autograd.gradcheck(decoder, [numbers(2, 3).double().requires_grad_()])


def test_names_in_the_model_file() -> None:
    encoder, decoder = ConvEncoder((8, 8, 1), (4,), 3), ConvDecoder(3, (8, 8, 1), (4,))
    block = [f"stages.0.block.{c}.{w}" for c in ("first", "second") for w in ("weight", "bias")]
    conv = ["stages.0.conv.weight", "stages.0.conv.bias"]
    ends = [[f"{layer}.weight", f"{layer}.bias"] for layer in ("stem", "last", "first")]
    assert list(encoder.state_dict()) == [*ends[0], *conv, *block, *ends[1]]
    assert list(decoder.state_dict()) == ["bias", *ends[2], *block, *conv, "last.weight"]
    assert all(v.is_contiguous() for v in {**encoder.state_dict(), **decoder.state_dict()}.values())


def test_weights_are_a_function_of_seed_and_name_or_left_to_be_loaded() -> None:
    state = torch.get_rng_state()
    x = numbers(2, 64)

    def outputs(seed: int | None, name: str) -> tuple[ConvEncoder, ConvDecoder]:
        return (
            ConvEncoder((8, 8, 1), CHANNELS, 3, seed=seed, name=name),
            ConvDecoder(3, (8, 8, 1), CHANNELS, seed=seed, name=name),
        )

    nets = [outputs(1, "a"), outputs(1, "a"), outputs(2, "a"), outputs(1, "b")]
    results = [decoder(encoder(x)) for encoder, decoder in nets]
    assert [torch.equal(results[0], r) for r in results] == [True, True, False, False]
    empty = outputs(None, "a")
    for net, source in zip(empty, nets[0], strict=True):
        net.load_state_dict(source.state_dict())
    assert torch.equal(empty[1](empty[0](x)), results[0])
    assert torch.equal(torch.get_rng_state(), state)
    firsts = {net.stages[i].conv.weight.flatten()[0].item() for net in nets[0] for i in (0, 1)}
    assert len(firsts) == 4


def test_signals_start_neither_dead_nor_huge() -> None:
    for shape in ((28, 28, 1), (32, 32, 3)):
        encoder, decoder = ConvEncoder(shape, (32, 64), 64), ConvDecoder(64, shape, (32, 64))
        x = numbers(32, int(np.prod(shape)))
        features = encoder(x)
        assert 0.3 < features.std().item() < 3
        assert 0.1 < decoder(features).std().item() < 1


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_finite_far_out(activation: str) -> None:
    shape = (8, 8, 1)
    encoder = ConvEncoder(shape, (8, 8, 8), 4, activation)
    decoder = ConvDecoder(4, shape, (8, 8, 8), 2, activation)
    disturb(encoder)
    disturb(decoder)
    for value in (1e4, -1e4):
        x = torch.full((2, 64), value, requires_grad=True)
        result = decoder(encoder(x))
        result.sum().backward()
        z = decoder(torch.full((2, 4), value))
        grads = [p.grad for net in (encoder, decoder) for p in net.parameters()]
        for tensor in (result, z, x.grad, *grads):
            assert tensor is not None and tensor.isfinite().all()


# Rows as ``encode_rows`` and ``decode_rows`` take them: blocks of one size, padded.


def through(net: nn.Module, rows: np.ndarray, outputs: int, **options: int) -> np.ndarray:
    def function(arrays: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        assert arrays[0] is not None
        return (net(arrays[0]),)

    return run_blocks(function, [rows], (outputs,), **options)[0]


@pytest.mark.parametrize(
    ("shape", "rows_per_block"), [((8, 8, 1), 32), ((7, 9, 3), 32), ((8, 8, 1), 72)]
)
def test_bits_of_a_row_do_not_depend_on_its_company(
    shape: tuple[int, int, int], rows_per_block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_ELEMENTS_PER_CHUNK", 32 * 32 * 64)  # 32 rows
    width = int(np.prod(shape))
    nets = [ConvEncoder(shape, (32, 64), 16), ConvDecoder(16, shape, (32, 64), 2)]
    for net, inputs, outputs in ((nets[0], width, 16), (nets[1], 16, 2 * width)):
        disturb(net)
        generator = np.random.default_rng(0)
        rows = generator.normal(size=(2 * rows_per_block + 7, inputs)).astype(np.float32)
        whole = through(net, rows, outputs, rows_per_block=rows_per_block, threads=1)
        again = through(net, rows, outputs, rows_per_block=rows_per_block, threads=2)
        assert np.array_equal(whole, again)
        # Padding instead of neighbours.
        for count in (1, rows_per_block - 1, rows_per_block + 3):
            part = through(net, rows[:count], outputs, rows_per_block=rows_per_block)
            assert np.array_equal(part, whole[:count])
        # Other neighbours, among them huge ones, at the same place of the block.
        others = 1e4 * generator.permutation(rows)
        others[5::11] = rows[5::11]
        mixed = through(net, others, outputs, rows_per_block=rows_per_block)
        assert np.array_equal(mixed[5::11], whole[5::11])


def test_chunks_give_the_same_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_ELEMENTS_PER_CHUNK", 32 * 8 * 64)  # 32 rows
    encoder = ConvEncoder((8, 8, 1), (8, 8), 4)
    disturb(encoder)
    x = numbers(100, 64)
    whole = encoder(x)
    with torch.no_grad():
        chunks = encoder(x)
    torch.testing.assert_close(chunks, whole, rtol=1e-4, atol=1e-4)
    assert whole.requires_grad and not chunks.requires_grad


def test_cudnn_is_told_to_be_reproducible_for_a_while() -> None:
    cudnn = torch.backends.cudnn
    before = (cudnn.deterministic, cudnn.allow_tf32, cudnn.enabled, cudnn.benchmark)
    with reproducible_cudnn():
        assert cudnn.deterministic and not cudnn.allow_tf32 and not cudnn.benchmark
        assert cudnn.enabled == before[2]
    assert (cudnn.deterministic, cudnn.allow_tf32, cudnn.enabled, cudnn.benchmark) == before


def test_bf16_is_close_to_fp32() -> None:
    encoder, decoder = ConvEncoder((8, 8, 1), CHANNELS, 5), ConvDecoder(5, (8, 8, 1), CHANNELS)
    x = numbers(20, 64)
    with torch.no_grad():
        fine = decoder(encoder(x))
        with torch.autocast("cpu", torch.bfloat16):
            coarse = decoder(encoder(x)).float()
    assert 0 < (fine - coarse).abs().max() < 0.1 * fine.abs().max()


def test_no_stage_is_refused() -> None:
    message = "channels: none; a picture needs at least one stage; give --channels 32,64"
    for make in (lambda: ConvEncoder((4, 4, 1), (), 2), lambda: ConvDecoder(2, (4, 4, 1), ())):
        with pytest.raises(UsageError, match=message):
            make()


def test_an_autoencoder_learns_handwritten_digits() -> None:
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().data.astype(np.float32)) / 16
    order = np.random.default_rng(0).permutation(len(pixels))
    train, test = pixels[order[:1500]], pixels[order[1500:]]
    mean, spread = train.mean(0), train.std()
    train, test = (train - mean) / spread, (test - mean) / spread
    encoder, decoder = ConvEncoder((8, 8, 1), (8, 16), 16), ConvDecoder(16, (8, 8, 1), (8, 16))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 3e-3)

    def error(y: Tensor) -> Tensor:
        return functional.mse_loss(decoder(encoder(y)), y)

    start = error(test).item()
    for rows in np.random.default_rng(1).integers(0, len(train), (200, 50)):
        optimizer.zero_grad()
        error(train[rows]).backward()
        optimizer.step()
    axes = torch.linalg.svd(train.double(), full_matrices=False)[2].float()
    principal = functional.mse_loss(test @ axes[:8].T @ axes[:8], test).item()
    assert error(test).item() < min(start / 3, principal)
