"""The decoder's output biases, set right for the prior that synthetic rows are drawn from.

Training sees codes of real rows; a prior fitted afterwards is not quite their distribution, and
what is generated has slightly other frequencies than the data. The class probabilities of a column
under the prior are E_z[softmax(l(z) + b)]; b is found so that they equal the shares in the data, by
b <- b + log(share) - log(E_z[softmax(l(z) + b)]) (iterative proportional fitting: Deming & Stephan
1940), over codes drawn from the prior. The model stays one of the same kind, with exact densities.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distvae.model.categorical import Softmax
from distvae.model.vae import VAE

__all__ = ["calibrate"]

_STEPS = 12
_LEAST_SHARE = 1e-9
_LARGEST_SHIFT = 3.0  # a class that codes hardly reach is not forced on others


def calibrate(network: VAE, z: Tensor) -> None:
    """Shift the output biases of columns with classes, in place.

    A column is counted where it is not missing. Columns with a hierarchical softmax, and models
    that are given columns, stay as they are.

    Args:
        network: whose decoder.
        z: ``(n, k)`` codes drawn from its prior.
    """
    if network.architecture.conditions:
        return
    names = {spec["name"]: spec for spec in network.architecture.features}
    missing = {s["companion_of"]: n for n, s in names.items() if s.get("companion_of")}
    with torch.no_grad():
        params = network.decode(z)
        shift = torch.zeros(params.shape[-1], dtype=torch.float64)
        held: dict[str, tuple[Tensor, slice, Tensor]] = {}
        for head, group in zip(network.observation.heads, network.observation.groups, strict=True):
            if isinstance(head, Softmax):
                start = group.outputs.start
                for cells in head.columns:
                    stretch = slice(start, start + cells.classes)
                    if cells.mass is not None:
                        share = torch.from_numpy(cells.mass).double()
                        held[cells.name] = (params[:, stretch].double().cpu(), stretch, share)
                    start = stretch.stop
        # What tells whether a value is there comes first: it weighs the rows of the others.
        present: dict[str, Tensor] = {}
        for name in sorted(held, key=lambda n: not names[n].get("companion_of")):
            logits, stretch, share = held[name]
            weights = present.get(missing.get(name, ""), logits.new_ones(len(z)))
            found = _shift(logits, share, weights)
            shift[stretch] = found
            if names[name].get("companion_of"):
                present[name] = torch.softmax(logits + found, 1)[:, 0]
        network.decoder.add_output_bias(shift.to(params))


def _shift(logits: Tensor, share: Tensor, weights: Tensor) -> Tensor:
    """Return b ``(K,)``, of mean 0, for logits ``(n, K)`` and weights ``(n,)`` of the rows."""
    shift = logits.new_zeros(len(share))
    wanted = torch.log(share.clamp(min=_LEAST_SHARE))
    weights = weights / weights.sum()
    for _ in range(_STEPS):
        found = weights @ torch.softmax(logits + shift, 1)
        shift = shift + wanted - torch.log(found.clamp(min=_LEAST_SHARE))
        shift = (shift - shift.mean()).clamp(-_LARGEST_SHIFT, _LARGEST_SHIFT)
    return shift
