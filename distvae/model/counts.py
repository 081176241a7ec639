"""Heads for counts 0, 1, 2, ...: the negative binomial, and the same with further zeros.

P(y) = Gamma(y + r) / (Gamma(r) y!) (r / (r + m))^r (m / (r + m))^y with mean m and variance
m + m^2 / r; m from the decoder row by row, r learned for each element. It is the Poisson of a
gamma-distributed rate (Greenwood & Yule 1920), and tends to the Poisson as r grows. Zero-inflated,
a zero comes from elsewhere with probability pi (Lambert 1992). y is the count itself. All is
computed in float64: the difference of two log-gammas has no digits to lose.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from distvae.model.densities import normal_cdf
from distvae.model.heads import Elements, Head, column_log_sigma
from distvae.model.posteriors import bounded_log_sigma

__all__ = [
    "NegativeBinomial",
    "ZeroInflatedNegativeBinomial",
    "negative_binomial_cdf",
    "negative_binomial_log_prob",
    "negative_binomial_quantile",
]

_LARGEST_LOG_MEAN = 30.0
_LEAST_MEAN = 1e-3
_FIRST_LOGIT = -2.0
# Terms that are added up one by one; what needs more goes through the distribution function.
_MOST_TERMS = 256
_MOST_FRACTIONS = 2048
_FRACTION_ERROR = 1e-10
_SMALLEST = 1e-300
# Float32 holds no finer steps.
_RELATIVE_STEP = 2.0**-25


class NegativeBinomial(Head):
    """Counts with mean m(z) and a learned r per element; log m is the decoder's output.

    log m is bounded smoothly to +-30, see ``posteriors.bounded_log_sigma``.
    """

    codings = ("count",)

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Start at r = 1."""
        super().configure(elements, argument)
        self.scaled_log_r = nn.Parameter(torch.zeros(self.width))

    def log_mean_and_r(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return log m ``(..., w)`` and log r ``(w,)``, float64."""
        raw = params[..., : self.width].double()
        return bounded_log_sigma(raw, _LARGEST_LOG_MEAN), column_log_sigma(
            self.scaled_log_r.double()
        )

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return the log-probability of the count."""
        del observed
        found = negative_binomial_log_prob(_counts(y), *self.log_mean_and_r(params))
        return found.to(params.dtype)

    def mean(self, params: Tensor) -> Tensor:
        """Return m."""
        return self.log_mean_and_r(params)[0].exp().to(params.dtype)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return the smallest count whose distribution function is above Phi(noise)."""
        u = normal_cdf(noise.double())
        return negative_binomial_quantile(u, *self.log_mean_and_r(params)).to(params.dtype)

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return what log m is bounded from, with the mean kept above 0.001."""
        log_mean = mean.clamp(min=_LEAST_MEAN).log().clamp(max=_LARGEST_LOG_MEAN - 1)
        return log_mean * torch.rsqrt(1 - (log_mean / _LARGEST_LOG_MEAN).square())


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """A zero with probability pi(z), else a negative binomial; logits of pi after the log means."""

    parameters_per_element = 2

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return log((1 - pi) P(y) + pi [y = 0])."""
        del observed
        counts, logit = _counts(y), params[..., self.width :].double()
        inner = negative_binomial_log_prob(counts, *self.log_mean_and_r(params))
        # log(pi + (1 - pi) P) = log pi + log(1 + P (1 - pi) / pi)
        at_zero = softplus(inner - logit) - softplus(-logit)
        return torch.where(counts == 0, at_zero, inner - softplus(logit)).to(params.dtype)

    def mean(self, params: Tensor) -> Tensor:
        """Return (1 - pi) m."""
        return super().mean(params) * torch.sigmoid(-params[..., self.width :])

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return the smallest count whose distribution function is above Phi(noise)."""
        u, logit = normal_cdf(noise.double()), params[..., self.width :].double()
        # u = pi + (1 - pi) v
        v = (u - torch.sigmoid(logit)) / torch.sigmoid(-logit).clamp(min=_SMALLEST)
        found = negative_binomial_quantile(v.clamp(0, 1), *self.log_mean_and_r(params))
        return torch.where(v < 0, 0, found).to(params.dtype)

    def output_bias(self, mean: Tensor) -> Tensor:
        """Start at pi = 0.12 and the mean."""
        logits = torch.full_like(mean, _FIRST_LOGIT)
        return torch.cat([super().output_bias(mean * (1 + math.exp(_FIRST_LOGIT))), logits])


def negative_binomial_log_prob(y: Tensor, log_mean: Tensor, log_r: Tensor) -> Tensor:
    """Return log P(y), float64 in and out; arguments broadcast.

    ``lgamma(y + r) - lgamma(r) - lgamma(y + 1) - r log(1 + m / r) - y log(1 + r / m)``.
    """
    r, gap = log_r.exp(), log_mean - log_r
    ways = torch.lgamma(y + r) - torch.lgamma(r) - torch.lgamma(y + 1)
    return ways - r * softplus(gap) - y * softplus(-gap)


def negative_binomial_cdf(y: Tensor, log_mean: Tensor, log_r: Tensor) -> Tensor:
    """Return P(Y <= y) = I_{r / (r + m)}(r, y + 1), the regularised incomplete beta function.

    Its continued fraction is summed by Lentz's method on the side of the mean where it converges
    quickly (Press et al. 2007, "Numerical Recipes", section 6.4). Float64 in and out, all of one
    shape; 0 for y < 0.
    """
    r, b, gap = log_r.exp(), y.clamp(min=0) + 1, log_mean - log_r
    x, rest = torch.sigmoid(-gap), torch.sigmoid(gap)
    log_front = torch.lgamma(r + b) - torch.lgamma(r) - torch.lgamma(b)
    log_front = log_front - r * softplus(gap) - b * softplus(-gap)
    is_low = x < (r + 1) / (r + b + 2)
    first, second = torch.where(is_low, r, b), torch.where(is_low, b, r)
    at = torch.where(is_low, x, rest)
    value = log_front.exp() * _beta_fraction(first, second, at) / first
    value = torch.where(is_low, value, 1 - value)
    return torch.where(y < 0, 0, value).clamp(0, 1)


def negative_binomial_quantile(u: Tensor, log_mean: Tensor, log_r: Tensor) -> Tensor:
    """Return the smallest count y with P(Y <= y) > u, float64, for u in [0, 1].

    Small counts by adding up probabilities, others by bisection, to float32's precision.
    """
    log_mean, log_r = torch.broadcast_tensors(log_mean, log_r.expand(log_mean.shape))
    u = u.clamp(max=1 - 2.0**-53)
    r, odds = log_r.exp(), torch.sigmoid(log_mean - log_r)
    term = torch.exp(-r * softplus(log_mean - log_r))
    is_far = term < _SMALLEST
    upto, found = term, (u >= term).double()
    for y in range(1, _MOST_TERMS):
        # Beyond the others' reach: nobody waits for those that are far anyway.
        if not bool(((u >= upto) & ~is_far).any()):
            break
        term = term * odds * ((r + (y - 1)) / y)
        upto = upto + term
        found = found + (u >= upto)
    is_far = is_far | (u >= upto)
    if bool(is_far.any()):
        found[is_far] = _bisected(u[is_far], log_mean[is_far], log_r[is_far])
    return found


def _bisected(u: Tensor, log_mean: Tensor, log_r: Tensor) -> Tensor:
    """The quantile between bounds that hold it: P(Y <= low) <= u < P(Y <= high)."""
    mean = log_mean.exp()
    spread = 8 * torch.sqrt(mean + mean * torch.exp(log_mean - log_r)) + 8
    low = torch.floor(mean - spread).clamp(min=-1)
    low = torch.where(negative_binomial_cdf(low, log_mean, log_r) <= u, low, -1)
    high = torch.ceil(mean + spread)
    for _ in range(64):
        short = negative_binomial_cdf(high, log_mean, log_r) <= u
        if not bool(short.any()):
            break
        low, high = torch.where(short, high, low), torch.where(short, 2 * high, high)
    while bool((high - low > (high * _RELATIVE_STEP).clamp(min=1)).any()):
        middle = torch.floor((low + high) / 2)
        above = negative_binomial_cdf(middle, log_mean, log_r) > u
        open_ = high - low > (high * _RELATIVE_STEP).clamp(min=1)
        low = torch.where(open_ & ~above, middle, low)
        high = torch.where(open_ & above, middle, high)
    return high


def _beta_fraction(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    def away(value: Tensor) -> Tensor:
        return torch.where(value.abs() < _SMALLEST, _SMALLEST, value)

    c = torch.ones_like(x)
    d = 1 / away(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _MOST_FRACTIONS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / away(1 + even * d), away(1 + even / c)
        result = result * d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / away(1 + odd * d), away(1 + odd / c)
        step = d * c
        result = result * step
        if m % 8 == 0 and bool(((step - 1).abs() < _FRACTION_ERROR).all()):
            break
    return result


def _counts(y: Tensor) -> Tensor:
    return y.double().clamp(min=0)
