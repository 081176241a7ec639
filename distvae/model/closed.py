"""What the kinds fitted in closed form share: numbers in buffers, no heads, no training."""

from __future__ import annotations

from torch import Tensor

from distvae.model.architecture import Architecture
from distvae.model.latent import LatentModel

__all__ = ["ClosedForm"]


class ClosedForm(LatentModel):
    """A model whose numbers are solved for, and whose decoder gives E[y|z] itself.

    Its noise is its own, so there is no likelihood head per feature, and no loss is split by
    feature.

    Args:
        architecture: what it is made of.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        del self.observation
        self.register_load_state_dict_post_hook(_set_prior)  # type: ignore[no-untyped-call]

    def set_prior(self) -> None:
        """Take the prior of the codes from the fitted numbers; after they are set or loaded."""
        raise NotImplementedError

    @property
    def parameter_count(self) -> int:
        """Numbers that the fit has found."""
        return sum(values.numel() for values in self.state_dict().values())

    def reconstruction_mean(self, params: Tensor) -> Tensor:
        """Return the decoder's output as it is: it is E[y | z]."""
        return params

    def binarize(self, y: Tensor, u: Tensor) -> Tensor:
        """Return y: no feature is Bernoulli."""
        del u
        return y


def _set_prior(module: ClosedForm, _: object) -> None:
    module.set_prior()
