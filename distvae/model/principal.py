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
from torch import Tensor

from distvae.errors import DataError
from distvae.model.architecture import Architecture, element_values
from distvae.model.closed import ClosedForm
from distvae.model.latent import Terms
from distvae.model.linear import Pca
from distvae.model.posteriors import Diagonal, Posterior
from distvae.model.principal_density import Figures, PrincipalDensity
from distvae.model.priors import Prior

__all__ = ["PcaModel", "Scores"]

_LOG_TWO_PI = math.log(2 * math.pi)
# A component that varies no more than the noise does keeps this share of the noise's variance: it
# changes no likelihood by 1e-6 nats, and spares every formula its division by zero.
_LEAST_SIGNAL = 1e-6
# Rows are float32: at ten standard deviations their rounding is 1e-6 of one.
_LEAST_NOISE = 1e-12
_LARGEST_SCORE = 1e20


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

        s2 is the mean of the discarded variances; where nothing is left of them, the variance of
        rounding to the finest resolution of an element, and no less than float32 rows can tell.

        Raises:
            DataError: scores beyond what float32 can hold.
        """
        model = cls(architecture)
        if math.sqrt(pca.variances[0]) > _LARGEST_SCORE:
            found = f"has a standard deviation of {math.sqrt(pca.variances[0]):.3g}"
            rule = f"scores are float32, at most {_LARGEST_SCORE:g}"
            raise DataError("first principal component", found, rule, "rescale the columns")
        noise, variances = _noise_variance(architecture, pca), torch.from_numpy(pca.variances)
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

    def decode(self, z: Tensor) -> Tensor:
        """Return E[y|z] ``(..., D)`` = (U^T z + mean - shift) / scale."""
        centred = (z.double() / self.unit) @ self._components()
        return ((centred + self.offset) / self.weight).to(z)

    def sample_data(self, params: Tensor, noise: Tensor) -> Tensor:
        """Add noise of variance s2, the same for every element in raw units."""
        return params + (self.noise_variance.sqrt() / self.weight).to(params) * noise

    def elementwise(self, y: Tensor, observed: Tensor | None, params: Tensor) -> Tensor:
        """Return log N(x_j; E[x_j|z], s2) by element ``(..., D)``, 0 where missing, float64."""
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


def _noise_variance(architecture: Architecture, pca: Pca) -> float:
    """s2 in raw units; see ``PcaModel.from_pca``."""
    discarded = len(pca.mean) - len(pca.variances)
    left = max(pca.total_variance - float(pca.variances.sum()), 0.0)
    finest = float(element_values(architecture.features, "resolution").min())
    floor = max(finest**2 / 12, _LEAST_NOISE * float(pca.variances[0]))
    return max(left / discarded if discarded else 0.0, floor)
