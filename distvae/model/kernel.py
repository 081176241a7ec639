"""Kernel principal component analysis as a model: nonlinear scores, and a learned way back.

The kernel is exp(-gamma |y - y'|^2) on standardised values; its features are Nystroem's (see
``kernel_fit``). There is no density: z has a prior, N(0, diag of the scores' variances), from which
synthetic rows are drawn, but p(x) has no closed form.
Shapes: n rows, D elements, k components, m landmarks.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from distvae.model.architecture import Architecture, element_values
from distvae.model.closed import ClosedForm
from distvae.model.kernel_fit import KernelFit, Landmarks, fit_pre_image
from distvae.model.latent import Terms
from distvae.model.posteriors import Point, Posterior
from distvae.model.priors import Prior

__all__ = ["KernelPcaModel", "kernel_gamma"]

_LOG_TWO_PI = math.log(2 * math.pi)
_LEAST_VARIANCE = 1e-12


def kernel_gamma(architecture: Architecture) -> float:
    """Return the kernel's gamma, by default 1 / D."""
    return architecture.kernel_gamma or 1 / architecture.width


class KernelPcaModel(ClosedForm):
    """Kernel PCA with a pre-image; z are the scores, a point per row.

    Missing elements are imputed by their mean, y = 0. Decoding is kernel ridge regression on the
    landmarks' codes; what it misses by on landmarks left out is the noise of synthetic rows.

    Args:
        architecture: what it is made of; the numbers are to be loaded, or use ``from_fit``.
    """

    has_sigma: ClassVar[bool] = False
    has_likelihood: ClassVar[bool] = False

    landmarks: Tensor
    projection: Tensor
    offset: Tensor
    variances: Tensor
    total_variance: Tensor
    codes: Tensor
    code_gamma: Tensor
    dual: Tensor
    mean: Tensor
    residual: Tensor
    floor: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        k, m, width = architecture.latent_dim, architecture.landmarks, architecture.width
        self.gamma = kernel_gamma(architecture)
        shapes = {
            "landmarks": (m, width),
            "projection": (k, m),
            "offset": (k,),
            "variances": (k,),
            "total_variance": (),
            "codes": (m, k),
            "code_gamma": (),
            "dual": (m, width),
            "mean": (width,),
            "residual": (width,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.ones(shape))
        features = architecture.features
        resolution = element_values(features, "resolution") / element_values(features, "scale")
        self.register_buffer("floor", torch.from_numpy(resolution / math.sqrt(12)).float(), False)

    @classmethod
    def from_fit(
        cls, architecture: Architecture, landmarks: Landmarks, fit: KernelFit
    ) -> KernelPcaModel:
        """Return the model of a fitted kernel PCA, its pre-image learned from the landmarks."""
        model = cls(architecture)
        numbers = {
            "landmarks": landmarks.rows,
            "projection": fit.projection,
            "offset": fit.offset,
            "variances": fit.variances,
            "total_variance": fit.total_variance,
        }
        state = model.state_dict() | {n: torch.tensor(v).float() for n, v in numbers.items()}
        model.load_state_dict(state)
        codes = model.encode(model.landmarks).mu
        back = fit_pre_image(codes.double().numpy(), landmarks.rows)
        numbers = {
            "codes": codes,
            "code_gamma": back.gamma,
            "dual": back.dual,
            "mean": back.mean,
            "residual": back.residual,
        }
        state |= {n: torch.as_tensor(v).float() for n, v in numbers.items()}
        model.load_state_dict(state)
        return model.eval()

    @property
    def captured_variance(self) -> float:
        """Share of the features' variance over the training rows that the components capture."""
        total = float(self.total_variance)
        return float(self.variances.sum()) / total if total > _LEAST_VARIANCE else 0.0

    def set_prior(self) -> None:
        """Let z ~ N(0, diag(variances)); a component without variance keeps a millionth of one."""
        sigma = self.variances.clamp(min=_LEAST_VARIANCE).sqrt().cpu().numpy()
        zero = np.zeros((1, len(sigma)), np.float32)
        self.prior = Prior(np.ones(1, np.float32), zero, np.diag(sigma).astype(np.float32)[None])

    def encode(self, y: Tensor, observed: Tensor | None = None) -> Posterior:
        """Return the scores; missing elements are 0 in y already."""
        del observed
        with torch.autocast(y.device.type, enabled=False):
            kernel = _rbf(y, self.landmarks.to(y), self.gamma)
            return Point(kernel @ self.projection.to(y).T - self.offset.to(y))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the pre-image ``(..., D)``."""
        del context
        with torch.autocast(z.device.type, enabled=False):
            kernel = _rbf(z, self.codes.to(z), self.code_gamma.to(z))
            return kernel @ self.dual.to(z) + self.mean.to(z)

    def sample_data(self, params: Tensor, noise: Tensor) -> Tensor:
        """Add noise with each element's residual standard deviation."""
        return params + self.residual.to(params) * noise

    def elementwise(self, y: Tensor, observed: Tensor | None, params: Tensor) -> Tensor:
        """Return log N(x_j; E[x_j|z], residual_j^2) ``(..., D)`` in raw units, 0 where missing.

        The residual's variance is raised by that of rounding to the element's resolution.
        """
        sigma = torch.hypot(self.residual, self.floor).to(params)
        squares = ((y - params) / sigma).square()
        log_scale = (sigma.double() * self.element_scale).log().to(params)
        log_prob = -0.5 * (squares + _LOG_TWO_PI) - log_scale
        return log_prob if observed is None else torch.where(observed, log_prob, 0)

    def terms_of(
        self,
        posterior: Posterior,
        y: Tensor,
        observed: Tensor | None,
        eps: Tensor,
        per_feature: bool = False,
    ) -> Terms:
        """Return log p(x|z) at the row's own code, and no KL."""
        del eps, per_feature
        reconstruction = self.elementwise(y, observed, self.decode(posterior.mu)).sum(-1)
        return Terms(reconstruction=reconstruction, kl=posterior.kl())


def _rbf(a: Tensor, b: Tensor, gamma: float | Tensor) -> Tensor:
    """exp(-gamma |a_i - b_j|^2) ``(..., n, m)`` for ``a (..., n, D)`` and ``b (m, D)``."""
    squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1) - 2 * (a @ b.T)
    return torch.exp(-gamma * squares.clamp(min=0))
