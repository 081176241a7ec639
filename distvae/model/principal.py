"""Principal component analysis as a model: exact least squares, and a density in closed form.

min over E, D of |X - X E D|_F^2 has the solution D = E^T = U, the leading eigenvectors of the
covariance (Eckart & Young 1936). Probabilistic PCA (Tipping & Bishop 1999, "Probabilistic principal
component analysis") is the same subspace with a density,

    x ~ N(mean, U^T (L - s2 I) U + s2 I),   s2 = mean of the discarded variances (their eq. 8),

in the data's own units: PCA centres and never scales. Arithmetic is float64, in raw units over
``unit``, the root mean square of the scales of what varies, so that no unit of measurement is too
large or too small.
Shapes: n rows, D elements, k components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distvae.errors import DataError
from distvae.model.architecture import Architecture, element_values
from distvae.model.closed import ClosedForm
from distvae.model.latent import Terms
from distvae.model.linear import Pca
from distvae.model.posteriors import Diagonal, Posterior
from distvae.model.principal_density import Figures, PrincipalDensity
from distvae.model.priors import Prior

__all__ = ["Noise", "PcaModel", "Scores", "noise_of"]

Floats = NDArray[np.float64]

_LOG_TWO_PI = math.log(2 * math.pi)
# A component that varies no more than the noise does keeps this share of the noise's variance: it
# changes no likelihood by 1e-6 nats, and spares every formula its division by zero.
_LEAST_SIGNAL = 1e-6
# Rows are float32: the variance of rounding a value at one to two standard deviations, as a share
# of the element's.
_ROUNDING = 2.0**-46 / 12
# What is left of a variance below so many times the rounding's is nothing but rounding.
_ROUNDINGS = 8.0
# Components are held to 2^-48: at so many of the first one's variance their rounding shows.
_LEAST_NOISE = 1e-24
# Fractions far from 0 have a coarse resolution; it stands in for at most this share of the scale.
_CONTINUOUS = 1e-3
_LARGEST_SCORE = 1e20


@dataclass(frozen=True)
class Noise:
    """The noise's variance.

    Attributes:
        variance: s2, in the square of raw units, > 0.
        stands_in: whether the rows leave none, so that it is made up.
    """

    variance: float
    stands_in: bool


@dataclass(frozen=True)
class Scores(Diagonal):
    """N(scores, sigma^2) over the prior N(0, s_j^2) that the scores themselves have.

    Attributes:
        log_prior_sigma: ``(k,)`` log s_j.
    """

    log_prior_sigma: Tensor

    def kl(self) -> Tensor:
        """KL(N(mu, sigma^2) || N(0, s^2)) per dimension ``(..., k)``, in nats."""
        log_ratio = self.log_sigma - self.log_prior_sigma
        shift = self.mu * torch.exp(-self.log_prior_sigma)
        return 0.5 * (shift.square() + torch.expm1(2 * log_ratio) - 2 * log_ratio)

    def log_ratio(self, z: Tensor, eps: Tensor) -> Tensor:
        """Return log p(z) - log q(z|x) at z = mu + sigma eps, summed over dimensions."""
        whitened = z * torch.exp(-self.log_prior_sigma)
        log_scales = (self.log_sigma - self.log_prior_sigma).sum(-1)
        return 0.5 * (eps.square() - whitened.square()).sum(-1) + log_scales

    def detach(self) -> Scores:
        """Return the same values without history."""
        return Scores(self.mu.detach(), self.log_sigma.detach(), self.log_prior_sigma.detach())


class PcaModel(ClosedForm):
    """Probabilistic PCA; z are the principal scores, in raw units.

    Values are densities in raw units for bytes too: x is continuous here. A row with missing
    elements has the exact marginal likelihood of what it has, and its posterior; its scores are
    those of the row with each missing element at its conditional mean.

    Args:
        architecture: what it is made of; the numbers are to be loaded, or use ``from_pca``.
    """

    offset: Tensor
    components: Tensor
    components_rest: Tensor
    signal: Tensor
    noise_variance: Tensor
    weight: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        k, width = architecture.latent_dim, architecture.width
        self.unit = _unit(architecture)
        self.register_buffer("weight", self.element_scale / self.unit, False)
        # Stored as float32: components, of which every digit counts, as the sum of two.
        shapes = {"offset": (width,), "components": (k, width), "components_rest": (k, width)}
        for name, shape in (shapes | {"signal": (k,), "noise_variance": ()}).items():
            self.register_buffer(name, torch.ones(shape, dtype=torch.float64))

    @classmethod
    def from_pca(cls, architecture: Architecture, pca: Pca) -> PcaModel:
        """Return the model of a fitted PCA with k = latent_dim components.

        s2 is the mean of the discarded variances, and where nothing is left of them a stand-in;
        see ``noise_of``.

        Raises:
            DataError: scores beyond what float32 can hold.
        """
        model = cls(architecture)
        if math.sqrt(pca.variances[0]) > _LARGEST_SCORE:
            found = f"has a standard deviation of {math.sqrt(pca.variances[0]):.3g}"
            rule = f"scores are float32, at most {_LARGEST_SCORE:g}"
            raise DataError("first principal component", found, rule, "rescale the columns")
        noise = noise_of(architecture, pca).variance
        variances = torch.from_numpy(np.maximum(pca.variances, _rounding(pca, noise)[0]))
        components = torch.from_numpy(np.array(pca.components))
        shift = element_values(architecture.features, "shift")
        signal = (variances - noise).clamp(min=_LEAST_SIGNAL * noise)
        values = {
            "offset": torch.from_numpy((pca.mean - shift) / model.unit),
            "components": components.float(),
            "components_rest": components - components.float(),
            "signal": signal / model.unit**2,
            "noise_variance": torch.tensor(noise / model.unit**2, dtype=torch.float64),
        }
        model.load_state_dict({name: value.float() for name, value in values.items()})
        return model.eval()

    def set_prior(self) -> None:
        """Let z ~ N(0, diag(L - s2))."""
        sigma = (self.signal.sqrt() * self.unit).cpu().numpy()
        factors = np.diag(np.maximum(sigma, np.finfo(np.float32).tiny)).astype(np.float32)
        zero = np.zeros((1, len(sigma)), np.float32)
        self.prior = Prior(np.ones(1, np.float32), zero, factors[None])

    @property
    def parameter_count(self) -> int:
        """Mean, components, their variances and the noise's."""
        return super().parameter_count - self.components_rest.numel()

    def active_units(self) -> int:
        """Count components whose posterior mean varies by more than 0.01 of the prior's variance.

        That of component j varies by 1 - s2 / L_j (Burda et al. 2016, section 5.2, for whitened z).
        """
        return int((self.signal > 0.01 * (self.signal + self.noise_variance)).sum())

    def encode(self, y: Tensor, observed: Tensor | None = None) -> Posterior:
        """Return the scores, so that decoding them is PCA's reconstruction, and p(z|x)'s sigma.

        The posterior's mean is (1 - s2 / L_j) times the score.
        """
        scores, variances = self._density().codes(self._centred(y, observed), observed)
        log_sigma = 0.5 * variances.log() + math.log(self.unit)
        log_prior = 0.5 * self.signal.log() + math.log(self.unit)
        return Scores((scores * self.unit).to(y), log_sigma.to(y), log_prior.to(y))

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return E[y|z] ``(..., D)`` = (U^T z + mean - shift) / scale."""
        del context
        centred = (z.double() / self.unit) @ self._components()
        return ((centred + self.offset) / self.weight).to(z)

    def sample_data(self, params: Tensor, noise: Tensor) -> Tensor:
        """Add noise of variance s2, the same for every element in raw units."""
        return params + (self.noise_variance.sqrt() / self.weight).to(params) * noise

    def elementwise(self, y: Tensor, observed: Tensor | None, params: Tensor) -> Tensor:
        """Return log N(x_j; E[x_j|z], s2) by element ``(..., D)``, 0 where missing, float64.

        ``params`` are float32: 1e-7 of an element's scale, which must be small beside sqrt(s2).
        ``exact_log_likelihood`` has no such limit.
        """
        squares = ((y.double() - params.double()) * self.weight).square() / self.noise_variance
        log_noise = _LOG_TWO_PI + self.noise_variance.log() + 2 * math.log(self.unit)
        log_prob = -0.5 * (squares + log_noise)
        return log_prob if observed is None else torch.where(observed, log_prob, 0)

    def terms_of(
        self,
        posterior: Posterior,
        y: Tensor,
        observed: Tensor | None,
        eps: Tensor,
        per_feature: bool = False,
    ) -> Terms:
        """Return the terms under the exact p(z|x), whose ELBO is ln p(x); nothing is drawn."""
        del posterior, eps, per_feature
        found = self._figures(y, observed)
        unit = self._log_units(y, observed)
        return Terms(reconstruction=found.reconstruction - unit, kl=found.kl)

    def exact_log_likelihood(self, y: Tensor, observed: Tensor | None) -> Tensor:
        """Return ln p(x_observed) ``(n,)`` in float64: log N(mean, U^T (L - s2 I) U + s2 I)."""
        return self._figures(y, observed).log_likelihood - self._log_units(y, observed)

    def _components(self) -> Tensor:
        return self.components + self.components_rest

    def _density(self) -> PrincipalDensity:
        return PrincipalDensity(self._components(), self.signal, self.noise_variance)

    def _centred(self, y: Tensor, observed: Tensor | None) -> Tensor:
        """(x - mean) / unit, 0 where missing."""
        centred = y.double() * self.weight - self.offset
        return centred if observed is None else torch.where(observed, centred, 0)

    def _figures(self, y: Tensor, observed: Tensor | None) -> Figures:
        return self._density().figures(self._centred(y, observed), observed)

    def _log_units(self, y: Tensor, observed: Tensor | None) -> Tensor:
        """What the density loses on the way to raw units, ``(n,)`` or ``()``."""
        count = torch.tensor(y.shape[-1]) if observed is None else observed.sum(-1)
        return count * math.log(self.unit)


def _unit(architecture: Architecture) -> float:
    features = architecture.features
    varying = tuple(spec for spec in features if spec["minimum"] < spec["maximum"])
    return float(np.sqrt(np.square(element_values(varying or features, "scale")).mean()))


def noise_of(architecture: Architecture, pca: Pca) -> Noise:
    """Return s2, the mean of the discarded variances, in the square of raw units.

    Rows are float32, centred and scaled element by element, so each element is told to 1e-7 of its
    own standard deviation. What that rounding adds to the discarded directions is the limit: where
    columns are not collinear, 1e-15 of the finest one's variance, whatever the others' scale;
    where they are, 1e-15 of the variance of those that cancel. Where no more is left than that
    (collinear or constant columns, or all components kept), the likelihood has no maximum, and the
    variance of rounding to the finest resolution of an element stands in. Arithmetic in float64
    adds a limit of 1e-24 of the first component's variance: the likelihood holds for standard
    deviations eleven orders apart.
    """
    kept, width = len(pca.variances), len(pca.mean)
    left = pca.left_over / (width - kept) if kept < width else 0.0
    along, outside = _rounding(pca, left)
    least = max(outside, _LEAST_NOISE * float(pca.variances[0]))
    if left > _ROUNDINGS * least:
        return Noise(left, False)
    steps = element_values(architecture.features, "resolution")
    fine = _CONTINUOUS * element_values(architecture.features, "scale")
    stand_in = float(np.where(steps == 1, 1, np.minimum(steps, fine)).min()) ** 2 / 12
    smallest = float(pca.variances[-1])
    if kept == width and smallest > _ROUNDINGS * float(along[-1]):
        # Nothing is discarded and nothing lost: any s2 will do that raises no variance.
        return Noise(max(min(stand_in, smallest), least), False)
    return Noise(max(stand_in, least), True)


def _rounding(pca: Pca, left: float) -> tuple[Floats, float]:
    """Variance of the rows' rounding along each component ``(k,)``, and its mean outside them."""
    shares = np.square(pca.components)
    others = np.maximum(1 - shares.sum(0), 0)
    each = _ROUNDING * (pca.variances @ shares + left * others)
    return shares @ each, float((each * others).sum()) / max(1, len(others) - len(shares))
