"""Gaussian heads with a covariance between elements, N(mean(z), Sigma(z)), for at most 64 of them.

Both work in float64 inside: their factorisations then succeed for any finite decoder outputs, and
bf16 autocast leaves them alone. Numbers are kept within float32 on the way out (log p >= -1e30 an
element, gradients within 1e15). A training step of 64 elements behind 512 hidden units takes one
core 1.3 (full) or 1.8 (low-rank) times as long again as the layer that feeds the head; to the full
head a row with holes is six rows.
Shapes: ``y (..., w)``, ``params (..., p)``, r = y - mean the residual, e a standard normal.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from distvae.errors import UsageError
from distvae.model.heads import Elements, Head, row_log_sigma
from distvae.model.posteriors import bounded_log_sigma

__all__ = ["LARGEST_JOINT_WIDTH", "FullGaussian", "JointGaussian", "LowRankGaussian"]

LARGEST_JOINT_WIDTH = 64
DEFAULT_RANK = 8
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_LOWEST_LOG_PROB = -1e30
_LARGEST_GRADIENT = 1e15
# Bounds of what the decoder can say. Slopes, times sqrt(w): columns in step, slope 1, are within
# reach, and 64 substitutions grow by (1 + 10 / 8)^63 = 1e22 at most. Loadings: I + B B^T stays
# below 5e13: rounding its Cholesky factorisation (65 units of 1e-16 of the trace) spares the I.
_LARGEST_SLOPE = 10.0
_LARGEST_LOADING = 1e5
_FIRST_LOADING = 0.1


class JointGaussian(Head):
    """N(mean, Sigma) over all w elements together; the decoder gives mean and Sigma row by row.

    Its first 2w outputs are the mean and the raw logarithm of the row's factor on a learned sigma
    per element, as in ``RowGaussian``; subclasses say what Sigma is made of besides.
    """

    is_joint = True
    name: ClassVar[str]

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Start the learned sigmas at 1; refuse what has no joint density.

        Raises:
            UsageError: too many elements, or discrete ones.
        """
        super().configure(elements, argument)
        self.scaled_log_sigma = nn.Parameter(torch.zeros(self.width))
        members = ", ".join(elements.names[:5]) + (", ..." if len(elements.names) > 5 else "")
        if elements.discrete:
            found = f"'{self.name}' for {members or 'bytes'}"
            rule = "a uint8 vector has a probability for each byte, not a joint density"
            raise UsageError("likelihood", found, rule, "cast the column to float, or use gaussian")
        if self.width > LARGEST_JOINT_WIDTH:
            found = f"'{self.name}' over {self.width} elements" + (members and f" ({members})")
            rule = f"a joint covariance takes at most {LARGEST_JOINT_WIDTH} elements"
            remedy = "give some of these columns another head, e.g. gaussian-row"
            raise UsageError("likelihood", found, rule, remedy)

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return shares of log N(x; mean, Sigma), in raw units; missing ones are marginalised.

        With a square root Q of the observed elements' covariance, e = Q^-1 r and
        ``log p = sum_i(-e_i^2 / 2 - log(2 pi) / 2) - log |Q|``.
        """
        mean, log_sigma, rest = self._split(params)
        residual = _widen(y) - mean
        if observed is not None:
            observed = None if observed.all() else observed.expand(residual.shape)
        if observed is not None:
            residual = torch.where(observed, residual, 0)
        white, log_det = self._whiten(residual, log_sigma, rest, observed)
        log_prob = -0.5 * white.square() - log_det - _HALF_LOG_TWO_PI - torch.log(self.scale)
        return log_prob.clamp(min=_LOWEST_LOG_PROB).to(y.dtype)

    def mean(self, params: Tensor) -> Tensor:
        """Return the mean."""
        return params[..., : self.width]

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return mean + Q noise for a square root Q of Sigma."""
        mean, log_sigma, rest = self._split(params)
        drawn: Tensor = mean + self._colour(noise.double(), log_sigma, rest)
        return drawn.to(noise.dtype)

    def _split(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w = self.width
        mean, raw, rest = _widen(params).split([w, w, params.shape[-1] - 2 * w], -1)
        scaled = _widen(self.scaled_log_sigma)
        return mean, row_log_sigma(scaled, raw, self.floor.double()), rest

    def _whiten(
        self, residual: Tensor, log_sigma: Tensor, rest: Tensor, observed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return e ``(..., w)`` and shares of log |Q| ``(..., w)`` over the observed elements."""
        raise NotImplementedError

    def _colour(self, noise: Tensor, log_sigma: Tensor, rest: Tensor) -> Tensor:
        """Return Q noise, ``(..., w)``."""
        raise NotImplementedError


class FullGaussian(JointGaussian):
    """N(mean, L L^T) with the Cholesky factor L = M diag(sigma) from the decoder.

    r = M u with independent u_i ~ N(0, sigma_i^2): sigma_i is the standard deviation of element i
    given those before it, and M, unit lower triangular, holds its slopes on their innovations u_j.
    Slopes stand for themselves whatever the scale of the noise, so they need not follow while
    training narrows it. Their raw values are bounded smoothly to (-10, 10) and divided by sqrt(w):
    random ones leave L^-1 r of the size of r for any w. So given z a column follows a single
    earlier one by at most 10 / sqrt(w) standard deviations per standard deviation; what is
    steeper is for the means to learn.

    ``log_prob`` is the chain rule: element i gives log p(x_i | observed x_1 ... x_(i-1), z).
    """

    name = "gaussian-full"
    parameters_per_element = None

    rows: Tensor
    columns: Tensor

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Take no argument; note where the slopes stand."""
        super().configure(elements, argument)
        rows, columns = torch.tril_indices(self.width, self.width, offset=-1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)

    @property
    def outputs(self) -> int:
        """Means, log sigmas and slopes: 2 w + w (w - 1) / 2."""
        return 2 * self.width + len(self.rows)

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the mean, and 0 for the rest: Sigma starts at I, for every row."""
        return torch.cat([mean, mean.new_zeros(self.outputs - self.width)])

    def _slopes(self, rest: Tensor) -> Tensor:
        """Return M - I, ``(..., w, w)``."""
        packed = bounded_log_sigma(rest, _LARGEST_SLOPE) / math.sqrt(self.width)
        slopes = rest.new_zeros(*rest.shape[:-1], self.width, self.width)
        slopes[..., self.rows, self.columns] = packed
        return slopes

    def _colour(self, noise: Tensor, log_sigma: Tensor, rest: Tensor) -> Tensor:
        innovation = log_sigma.exp() * noise
        return innovation + (self._slopes(rest) @ innovation[..., None])[..., 0]

    def _whiten(
        self, residual: Tensor, log_sigma: Tensor, rest: Tensor, observed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        slopes = self._slopes(rest)
        white = _substitute(slopes, residual[..., None])[..., 0] * torch.exp(-log_sigma)
        if observed is None:
            return white, log_sigma
        holed = ~observed.all(-1)
        log_sigma = log_sigma.expand(residual.shape)
        slopes = slopes.expand(*residual.shape, self.width)
        rows = (residual[holed], log_sigma[holed], slopes[holed], observed[holed])
        parts = _whiten_around_holes(*rows)
        return white.index_put((holed,), parts[0]), log_sigma.index_put((holed,), parts[1])


def _whiten_around_holes(
    residual: Tensor, log_sigma: Tensor, slopes: Tensor, observed: Tensor
) -> tuple[Tensor, Tensor]:
    """Return e and the logarithm of Q's diagonal, ``(h, w)``, for rows with missing elements.

    The rows of r = M u that are observed (o) read r_o = M_oo u_o + M_om u_m: a missing element
    leaves its innovation, N(0, sigma_m^2), as a hidden cause. So v = M_oo^-1 r_o has the covariance
    diag(sigma_o) (I + B B^T) diag(sigma_o), B = diag(1 / sigma_o) M_oo^-1 M_om diag(sigma_m), and
    Q = M_oo diag(sigma_o) chol(I + B B^T), and Sigma itself, whose smallest eigenvalues rounding
    would swallow, is never formed. Missing elements have identity rows. Exact while no loading
    passes 1e5, about the ratio of two sigmas.
    """
    seen = observed[..., None]
    own = torch.where(seen & observed[..., None, :], slopes, 0)
    hidden = torch.where(seen & ~observed[..., None, :], slopes, 0)
    both = _substitute(own, torch.cat([hidden, residual[..., None]], -1))
    sigma = log_sigma.exp()
    loadings = both[..., :-1] / sigma[..., None] * sigma[..., None, :]
    loadings = loadings.clamp(-_LARGEST_LOADING, _LARGEST_LOADING)
    factor = _cholesky_above_identity(loadings @ loadings.mT)
    white = torch.linalg.solve_triangular(factor, both[..., -1:] / sigma[..., None], upper=False)
    return white[..., 0], log_sigma + torch.log(factor.diagonal(dim1=-2, dim2=-1))


class LowRankGaussian(JointGaussian):
    """N(mean, diag(sigma^2) + U U^T), U ``(w, R)``, all from the decoder: factor analysis per row.

    With loadings B = diag(1 / sigma) U (bounded smoothly), C = I + B^T B ``(R, R)`` and its
    Cholesky factor F, Sigma = S (I + B B^T) S for S = diag(sigma), and a square root of it is

        Q = S (I + B (I + F)^-1 B^T),   Q^-1 = (I - B (F (I + F^T))^-1 B^T) S^-1,

    since X X^T - X - X^T + I = C for X = I + F; |Q| = |S| |F| by the determinant lemma and Q^-1 by
    Woodbury's identity. So w normals draw a row and only R x R matrices are factorised. Missing
    elements are marginalised by taking their rows out of B.

    ``log_prob`` gives element i its whitened residual e_i and sigma_i; log |F| belongs to no
    element and is spread evenly over the observed ones.
    """

    name = "gaussian-low-rank"

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Take the rank from ``gaussian-low-rank:R``; at most w.

        Raises:
            UsageError: not a whole number above 0.
        """
        super().configure(elements, None)
        rank = DEFAULT_RANK
        if argument is not None:
            if not (argument.isascii() and argument.isdigit() and int(argument) > 0):
                rule = "the rank must be a whole number above 0"
                raise UsageError("likelihood", f"'gaussian-low-rank:{argument}'", rule)
            rank = int(argument)
        self.rank = min(rank, self.width)
        self.parameters_per_element = 2 + self.rank

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the mean, 0 for log sigma, and small cosines for U.

        At U = 0 its gradient is 0, and equal columns would stay equal.
        """
        place = (torch.arange(self.width, device=mean.device, dtype=mean.dtype) + 0.5) / self.width
        column = torch.arange(self.rank, device=mean.device, dtype=mean.dtype)
        waves = _FIRST_LOADING * torch.cos(math.pi * column[:, None] * place)
        return torch.cat([mean, torch.zeros_like(mean), waves.flatten()])

    def output_gain(self) -> Tensor:
        """Return 1, but 0 for log sigma: U only adds variance, and learns sooner from a start."""
        gain = self.scale.new_ones(self.outputs)
        gain[self.width : 2 * self.width] = 0
        return gain

    def _loadings_and_factor(
        self, log_sigma: Tensor, rest: Tensor, observed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return B ``(..., w, R)`` and F ``(..., R, R)``."""
        u = rest.unflatten(-1, (self.rank, self.width)).mT / math.sqrt(self.rank)
        b = bounded_log_sigma(u * torch.exp(-log_sigma)[..., None], _LARGEST_LOADING)
        if observed is not None:
            b = torch.where(observed[..., None], b, 0)
        return b, _cholesky_above_identity(b.mT @ b)

    def _colour(self, noise: Tensor, log_sigma: Tensor, rest: Tensor) -> Tensor:
        b, f = self._loadings_and_factor(log_sigma, rest)
        inner = b.mT @ noise[..., None]
        common = torch.linalg.solve_triangular(_plus_identity(f), inner, upper=False)
        drawn: Tensor = log_sigma.exp() * (noise + (b @ common)[..., 0])
        return drawn

    def _whiten(
        self, residual: Tensor, log_sigma: Tensor, rest: Tensor, observed: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        b, f = self._loadings_and_factor(log_sigma, rest, observed)
        own = residual * torch.exp(-log_sigma)
        inner = torch.linalg.solve_triangular(f, b.mT @ own[..., None], upper=False)
        common = torch.linalg.solve_triangular(_plus_identity(f).mT, inner, upper=True)
        log_det = torch.log(f.diagonal(dim1=-2, dim2=-1)).sum(-1, keepdim=True)
        count = self.width if observed is None else observed.sum(-1, keepdim=True).clamp(min=1)
        white: Tensor = own - (b @ common)[..., 0]
        return white, log_sigma + log_det / count


def _widen(x: Tensor) -> Tensor:
    """Return x as float64, with a gradient that float32 can hold."""
    wide = x.double()
    if wide.requires_grad and x.dtype != torch.float64:
        wide.register_hook(lambda g: g.clamp(-_LARGEST_GRADIENT, _LARGEST_GRADIENT))
    return wide


def _substitute(slopes: Tensor, right: Tensor) -> Tensor:
    """Solve (I + slopes) x = right for strictly lower triangular ``slopes``."""
    solved: Tensor = torch.linalg.solve_triangular(slopes, right, upper=False, unitriangular=True)
    return solved


def _plus_identity(matrix: Tensor) -> Tensor:
    return matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def _cholesky_above_identity(gram: Tensor) -> Tensor:
    """Return the lower Cholesky factor of I + ``gram``, which is positive definite.

    Without a check: a NaN goes through, for the training loop to name the columns.
    """
    factor: Tensor = torch.linalg.cholesky_ex(_plus_identity(gram))[0]
    return factor
