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

from distvae.model.architecture import FeatureSpec
from distvae.model.categorical import Softmax
from distvae.model.cells import Cells
from distvae.model.vae import VAE

__all__ = ["calibrate", "can_calibrate"]

_STEPS = 12
_LEAST_SHARE = 1e-9
_LARGEST_SHIFT = 3.0  # a class that codes hardly reach is not forced on others
_ROWS_AT_ONCE = 4096


def can_calibrate(network: VAE) -> bool:
    """Whether there is something to shift: columns with classes, and none that is given."""
    return bool(not network.architecture.conditions and _columns(network))


def calibrate(network: VAE, z: Tensor) -> None:
    """Shift the output biases of columns with classes, in place.

    A column is counted where it is not missing, and what a struct holds where the struct is there.
    Columns with a hierarchical softmax, and models that are given columns, stay as they are.

    Args:
        network: whose decoder.
        z: ``(n, k)`` codes drawn from its prior.
    """
    if not can_calibrate(network):
        return
    columns = _columns(network)
    with torch.no_grad():
        parts = [_logits(network, part, columns) for part in z.split(_ROWS_AT_ONCE)]
        logits = [torch.cat(held) for held in zip(*parts, strict=True)]
        shift = torch.zeros(network.observation.outputs, dtype=torch.float64)
        for place, found in _shifts(network.architecture.features, columns, logits).items():
            shift[columns[place][1]] = found
        weight = next(network.decoder.parameters())
        network.decoder.add_output_bias(shift.to(weight))


def _columns(network: VAE) -> list[tuple[Cells, slice]]:
    """The columns of softmax heads whose shares are known, and their part of the P outputs."""
    found = []
    for head, group in zip(network.observation.heads, network.observation.groups, strict=True):
        if isinstance(head, Softmax):
            start = group.outputs.start
            for cells in head.columns:
                if cells.mass is not None:
                    found.append((cells, slice(start, start + cells.classes)))
                start += cells.classes
    return found


def _logits(network: VAE, z: Tensor, columns: list[tuple[Cells, slice]]) -> list[Tensor]:
    params = network.decode(z)
    return [params[:, stretch].cpu() for _, stretch in columns]


def _shifts(
    features: tuple[FeatureSpec, ...], columns: list[tuple[Cells, slice]], logits: list[Tensor]
) -> dict[int, Tensor]:
    """Return the shift ``(K,)`` of each column.

    What tells whether a struct, then a value, is there comes first: it weighs the rows of others.
    """
    specs = {spec["name"]: spec for spec in features}
    companions = {s["companion_of"]: n for n, s in specs.items() if s.get("companion_of")}
    around = {s["inside"]["column"] for s in specs.values() if s.get("inside")}
    names = [cells.name for cells, _ in columns]

    def rank(place: int) -> int:
        spec = specs[names[place]]
        return 0 if spec["name"] in around else 1 if spec.get("companion_of") else 2

    shifts: dict[int, Tensor] = {}
    shown: dict[str, Tensor] = {}
    for place in sorted(range(len(columns)), key=rank):
        name, own = names[place], logits[place].double()
        weights = own.new_ones(len(own))
        inside = specs[name].get("inside")
        if inside and inside["column"] in shown:
            weights = shown[inside["column"]][:, inside["class"]]
        if companions.get(name) in shown:
            weights = weights * shown[companions[name]][:, 0]
        mass = columns[place][0].mass
        assert mass is not None
        shifts[place] = _shift(own, torch.from_numpy(mass).double(), weights)
        if name in around or specs[name].get("companion_of"):
            shown[name] = torch.softmax(own + shifts[place], 1)
    return shifts


def _shift(logits: Tensor, share: Tensor, weights: Tensor) -> Tensor:
    """Return b ``(K,)``, of mean 0, for logits ``(n, K)`` and weights ``(n,)`` of the rows."""
    shift = logits.new_zeros(len(share))
    wanted = torch.log(share.clamp(min=_LEAST_SHARE))
    weights = weights / weights.sum().clamp(min=_LEAST_SHARE)
    for _ in range(_STEPS):
        found = weights @ torch.softmax(logits + shift, 1)
        shift = shift + wanted - torch.log(found.clamp(min=_LEAST_SHARE))
        shift = (shift - shift.mean()).clamp(-_LARGEST_SHIFT, _LARGEST_SHIFT)
    return shift
