"""The held-out rows' bound at the end of an epoch, summed over ranks."""

from __future__ import annotations

import torch

from distvae.cluster.batches import Batches
from distvae.cluster.own import RowPosteriors
from distvae.cluster.shards import Rows
from distvae.cluster.world import World, sum_over_ranks
from distvae.model.noise import normal_of
from distvae.model.posteriors import Posterior
from distvae.model.refinement import ascend
from distvae.model.vae import VAE

__all__ = ["validate"]

_ROWS = 4096


def validate(
    model: VAE,
    batches: Batches,
    rows: Rows,
    world: World,
    own: RowPosteriors | None,
    epoch: int,
) -> dict[str, float]:
    """Mean ELBO terms of the held-out rows, nats per row, with the same noise in every epoch.

    Args:
        model: as it stands.
        batches: makes tensors of rows.
        rows: this rank's held-out rows.
        world: this rank.
        own: their own posteriors where there is no encoder; they climb on from the last epoch.
        epoch: number of this one, 0 first.
    """
    config = batches.job.config
    sums = torch.zeros(3, dtype=torch.float64)
    for start in range(0, len(rows), _ROWS):
        index = slice(start, start + _ROWS)
        part = rows.take(index)
        batch = batches.held_out(part)
        with torch.no_grad():
            posterior = (
                model.encode(batch.y, batch.observed)
                if own is None
                else _climbed(model, batches, part, own, index, epoch)
            )
            terms = model.terms_of(posterior, batch.y, batch.observed, batch.eps)
        figures = (terms.reconstruction.sum(), terms.kl.sum(), torch.tensor(len(part)))
        sums += torch.stack([figure.double().cpu() for figure in figures])
    total = sum_over_ranks(sums.to(world.device), world).tolist()
    reconstruction, kl = total[0] / total[2], total[1] / total[2]
    return {
        "validation_loss": config.kl_weight * kl - reconstruction,
        "validation_reconstruction": reconstruction,
        "validation_kl": kl,
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
    raw, moments = ascend(model, batch.y, batch.observed, raw, noise, rates, moments)
    own.put(index, raw, moments)
    return model.posterior(raw)
