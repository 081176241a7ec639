"""A normalising flow as a prior: affine coupling layers around a full Gaussian, fitted to codes.

z = m + L f^-1(e) with e ~ N(0, I) and f a chain of couplings (Dinh et al. 2017, "Density
estimation using Real NVP"): half of the numbers move the other half, x_b <- x_b exp(s(x_a)) +
t(x_a), so that the inverse is exact and ln p(z) = log N(f(x); 0, I) + sum s - log |L|. Between
layers the numbers are dealt out anew, even places first. Shapes: n rows, k dimensions, H hidden
units, h = k // 2 numbers that move the others.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from distvae.errors import DataError
from distvae.model import noise
from distvae.model.inference import Block, one_intra_op_thread, run_blocks
from distvae.model.posteriors import bounded_log_sigma, standard_normal_log_prob
from distvae.model.priors import VARIANCE_FLOOR, fit_gaussian

__all__ = ["PREFIX", "Coupling", "FlowPrior", "fit_flow"]

PREFIX = "prior.flow."
_LAYERS, _HIDDEN = 8, 64
_STEPS, _BATCH, _RATE = 1000, 512, 5e-3
_LARGEST_LOG_SCALE = 2.0
_LARGEST_GRADIENT = 10.0

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


class Coupling(NamedTuple):
    """The numbers of one layer: x_a to hidden units, and these to s and t of x_b.

    Attributes:
        inner_weight, inner_bias: ``(H, h)`` and ``(H,)``.
        outer_weight, outer_bias: ``(2 (k - h), H)`` and ``(2 (k - h),)``.
    """

    inner_weight: Tensor
    inner_bias: Tensor
    outer_weight: Tensor
    outer_bias: Tensor


@dataclass(frozen=True, eq=False)
class FlowPrior:
    """A distribution over codes, stored as float32 and computed in float64.

    Attributes:
        mean: ``(k,)`` m.
        scale_tril: ``(k, k)`` L, lower with a positive diagonal.
        layers: the couplings, from codes to noise.

    Raises:
        DataError: numbers that describe no such distribution.
    """

    mean: Tensor
    scale_tril: Tensor
    layers: tuple[Coupling, ...]

    def __post_init__(self) -> None:
        k = len(self.mean)
        given = [tuple(t.shape) for t in itertools.chain([self.scale_tril], *self.layers)]
        hidden = len(self.layers[0].inner_bias) if self.layers else 0
        each = [(hidden, k // 2), (hidden,), (2 * (k - k // 2), hidden), (2 * (k - k // 2),)]
        if not self.layers or given != [(k, k), *(each * len(self.layers))]:
            raise DataError("prior", f"has shapes {given}", f"a flow of {k} dimensions has others")
        tensors = (self.mean, self.scale_tril, *itertools.chain(*self.layers))
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            raise DataError("prior", "holds values that are not finite", "train again")
        if bool((self.scale_tril.diagonal() <= 0).any() or self.scale_tril.triu(1).any()):
            rule = "it is lower triangular with a positive diagonal"
            raise DataError("prior", "has a scale_tril that is no Cholesky factor", rule)

    @property
    def components(self) -> int:
        """Return 1."""
        return 1

    @property
    def chooses(self) -> bool:
        """Return False: a row needs no number but its k."""
        return False

    @property
    def is_standard(self) -> bool:
        """Return False: this is not N(0, I)."""
        return False

    def sample(self, eps: Float32Array, u: Float64Array | None = None) -> Float32Array:
        """Return codes ``(n, k)`` for standard normal ``eps (n, k)``; ``u`` is not read.

        Rows go in the fixed blocks of ``inference.run_blocks``: a row's bits depend on its own
        numbers and its place in the block.
        """
        del u

        def move(arrays: Block) -> tuple[Tensor, ...]:
            assert arrays[0] is not None
            return (self.codes(arrays[0].double()),)

        return run_blocks(move, [eps], (eps.shape[1],))[0]

    def codes(self, eps: Tensor) -> Tensor:
        """Return z for noise ``(..., k)`` float64, exactly what ``noise`` undoes."""
        mean, factor, layers = self._wide(eps.device)
        x = eps
        for layer in reversed(layers):
            x = x[..., torch.argsort(_deal(x.shape[-1]))]
            x_a, x_b, log_scale, shift = _parts(x, layer)
            x = torch.cat([x_a, (x_b - shift) * torch.exp(-log_scale)], -1)
        return mean + x @ factor.T

    def noise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return e ``(..., k)`` and log |de / dz| ``(...)`` for codes ``z (..., k)`` float64."""
        mean, factor, layers = self._wide(z.device)
        centred = (z - mean).reshape(-1, len(mean))
        x = torch.linalg.solve_triangular(factor, centred.T, upper=False).T.reshape(z.shape)
        e, log_det = _flow(x, layers)
        return e, log_det - factor.diagonal().log().sum()

    def log_density(self, z: Tensor) -> Tensor:
        """Return ln p(z) ``(...)`` float64 in nats for ``z (..., k)``, on its device."""
        e, log_det = self.noise(z.double())
        return standard_normal_log_prob(e) + log_det

    def log_prob(self, z: NDArray[np.floating]) -> Float64Array:
        """Return ln p(z) ``(n,)`` in nats for ``z (n, k)``."""
        return np.asarray(self.log_density(torch.from_numpy(np.asarray(z, np.float64))).numpy())

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the float32 tensors by name, for safetensors."""
        named = {f"{PREFIX}mean": self.mean, f"{PREFIX}scale_tril": self.scale_tril}
        for index, layer in enumerate(self.layers):
            items = layer._asdict().items()
            named |= {f"{PREFIX}{index}.{name}": tensor for name, tensor in items}
        return {name: tensor.float().contiguous() for name, tensor in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> FlowPrior:
        """Return the prior that ``to_tensors`` wrote; other names are ignored.

        Raises:
            DataError: a tensor is missing, or they describe no distribution.
        """
        count = sum(name.endswith(".inner_bias") for name in tensors)
        try:
            layers = tuple(
                Coupling(*(tensors[f"{PREFIX}{i}.{name}"] for name in Coupling._fields))
                for i in range(count)
            )
            return cls(tensors[f"{PREFIX}mean"], tensors[f"{PREFIX}scale_tril"], layers)
        except KeyError as error:
            raise DataError("prior", f"lacks {error.args[0]}", "a flow has it") from error

    @cached_property
    def _doubles(self) -> tuple[Tensor, Tensor, tuple[Coupling, ...]]:
        layers = tuple(Coupling(*(t.double() for t in layer)) for layer in self.layers)
        return self.mean.double(), self.scale_tril.double(), layers

    def _wide(self, device: torch.device) -> tuple[Tensor, Tensor, list[Coupling]]:
        mean, factor, layers = self._doubles
        moved = [Coupling(*(t.to(device) for t in layer)) for layer in layers]
        return mean.to(device), factor.to(device), moved


def fit_flow(codes: NDArray[np.floating], seed: int, steps: int = _STEPS) -> FlowPrior:
    """Fit a flow to ``codes (n, k)`` by maximum likelihood.

    It starts as the Gaussian of largest likelihood. Adam takes ``steps`` steps of 512 codes; every
    time they get noise of variance ``VARIANCE_FLOOR`` of the Gaussian's, so that repeated codes are
    no obstacle. The same codes and seed give the same prior on one kind of machine.

    Raises:
        DataError: no row, or a code that is not finite.
    """
    gaussian = fit_gaussian(codes)
    assert gaussian.means is not None
    assert gaussian.scale_trils is not None
    mean, factor = torch.tensor(gaussian.means[0]), torch.tensor(gaussian.scale_trils[0])
    centred = torch.from_numpy(np.asarray(codes, np.float64)) - mean.double()
    with one_intra_op_thread(), torch.enable_grad():
        rows = torch.linalg.solve_triangular(factor.double(), centred.T, upper=False).T.float()
        layers = [_fresh(seed, index, len(mean)) for index in range(_LAYERS)]
        parameters = [tensor.requires_grad_() for layer in layers for tensor in layer]
        optimizer = torch.optim.Adam(parameters, _RATE)
        random = noise.generator(seed, "code-flow", 0)
        for step in range(steps):
            batch = torch.from_numpy(random.integers(0, len(rows), min(_BATCH, len(rows))))
            drawn = random.standard_normal((len(batch), len(mean)), np.float32)
            x = rows[batch] + VARIANCE_FLOOR**0.5 * torch.from_numpy(drawn)
            for group in optimizer.param_groups:
                group["lr"] = _RATE * (1 - step / steps)
            optimizer.zero_grad()
            e, log_det = _flow(x, layers)
            (-(standard_normal_log_prob(e) + log_det).mean()).backward()
            torch.nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
            optimizer.step()
    fitted = tuple(Coupling(*(tensor.detach() for tensor in layer)) for layer in layers)
    return FlowPrior(mean, factor, fitted)


def _flow(x: Tensor, layers: Sequence[Coupling]) -> tuple[Tensor, Tensor]:
    log_det, dealt = x.new_zeros(x.shape[:-1]), _deal(x.shape[-1])
    for layer in layers:
        x_a, x_b, log_scale, shift = _parts(x, layer)
        x = torch.cat([x_a, x_b * log_scale.exp() + shift], -1)[..., dealt]
        log_det = log_det + log_scale.sum(-1)
    return x, log_det


def _parts(x: Tensor, layer: Coupling) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return x_a, x_b, s and t."""
    half = x.shape[-1] // 2
    x_a, x_b = x[..., :half], x[..., half:]
    hidden = torch.tanh(functional.linear(x_a, layer.inner_weight, layer.inner_bias))
    raw, shift = functional.linear(hidden, layer.outer_weight, layer.outer_bias).chunk(2, -1)
    return x_a, x_b, bounded_log_sigma(raw, _LARGEST_LOG_SCALE), shift


def _deal(k: int) -> Tensor:
    """Odd places first, then even ones: what has moved others is moved in the next layer."""
    return torch.cat([torch.arange(1, k, 2), torch.arange(0, k, 2)])


def _fresh(seed: int, index: int, k: int) -> Coupling:
    """A layer that changes nothing yet."""
    half, moved = k // 2, k - k // 2
    inner = noise.normal(seed, f"code-flow/{index}", 0, _HIDDEN, half) / np.sqrt(max(1, half))
    return Coupling(
        torch.from_numpy(inner.astype(np.float32)),
        torch.zeros(_HIDDEN),
        torch.zeros(2 * moved, _HIDDEN),
        torch.zeros(2 * moved),
    )
