"""The held-out rows' bound at the end of an epoch, summed over ranks."""

from __future__ import annotations

from dataclasses import replace

import torch

from distvae.cluster.batches import Batches, objective_of
from distvae.cluster.own import RowPosteriors
from distvae.cluster.shards import Rows
from distvae.cluster.world import World, sum_over_ranks
from distvae.model.noise import normal_of
from distvae.model.objectives import lower_bound
from distvae.model.posteriors import Posterior
from distvae.model.refinement import Climb, ascend
from distvae.model.vae import VAE

__all__ = ["validate"]

_ROWS = 4096  # samples of rows in memory at a time


def validate(
    model: VAE,
    batches: Batches,
    rows: Rows,
    world: World,
    own: RowPosteriors | None,
    epoch: int,
) -> dict[str, float]:
    """The objective's mean over the held-out rows and its terms, nats per row.

    With the final KL weight and the same noise in every epoch.

    Args:
        model: as it stands.
        batches: makes tensors of rows.
        rows: this rank's held-out rows.
        world: this rank.
        own: their own posteriors where there is no encoder; they climb on from the last epoch.
        epoch: number of this one, 0 first.
    """
    config, objective = batches.job.config, objective_of(batches.job)
    sums = torch.zeros(4, dtype=torch.float64)
    count = max(1, _ROWS // objective.samples)
    for start in range(0, len(rows), count):
        index = slice(start, start + count)
        part = rows.take(index)
        batch = batches.held_out(part)
        with torch.no_grad():
            posterior = (
                model.encode(batch.y, batch.observed)
                if own is None
                else _climbed(model, batches, part, own, index, epoch)
            )
            bound = lower_bound(
                model,
                posterior,
                batch.y,
                batch.observed,
                batch.eps,
                objective,
                config.kl_weight,
            )
        parts = (bound.value, bound.reconstruction, bound.kl)
        figures = (*(each.sum() for each in parts), torch.tensor(len(part)))
        sums += torch.stack([figure.double().cpu() for figure in figures])
    total = sum_over_ranks(sums.to(world.device), world).tolist()
    return {
        "validation_loss": -total[0] / total[3],
        "validation_reconstruction": total[1] / total[3],
        "validation_kl": total[2] / total[3],
    }


def _climbed(
    model: VAE, batches: Batches, part: Rows, own: RowPosteriors, index: slice, epoch: int
) -> Posterior:
    """Posteriors of held-out rows after this epoch's steps, which are kept."""
    config, device = batches.job.config, batches.world.device
    steps = config.inference_steps
    raw, moments = own.take(index, epoch * steps, device)
    batch = batches.held_out(part)

    def noise(step: int) -> torch.Tensor:
        stream = f"validate-own/{epoch * steps + step}"
        drawn = normal_of(config.seed, stream, part.numbers, config.latent_dim)
        return torch.from_numpy(drawn)[None].to(batch.y)

    rates = [config.rate_of_inference] * steps
    objective = replace(objective_of(batches.job), mc_samples=1)
    climb = Climb(objective, config.kl_weight, moments)
    raw, moments = ascend(model, batch.y, batch.observed, raw, noise, rates, climb)
    own.put(index, raw, moments)
    return model.posterior(raw)
