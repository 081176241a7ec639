"""The model card: what was trained, on what, how good it is, how to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from distvae.cluster.batches import objective_of
from distvae.cluster.shards import TrainJob
from distvae.config import TrainConfig
from distvae.model.latent import LatentModel

__all__ = ["model_card"]

_MOST_COLUMNS = 20
_TITLES = {
    "vae": "A variational autoencoder",
    "autoencoder": "An autoencoder",
    "pca": "A probabilistic principal component analysis",
    "kernel-pca": "A kernel principal component analysis",
}
_FIGURES = (
    "rows",
    "elbo",
    "kl",
    "reconstruction",
    "log_likelihood",
    "active_units",
    "reconstruction_mse",
    "explained_variance",
)


def model_card(job: TrainJob, network: LatentModel, figures: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Args:
        job: the training.
        network: what came of it.
        figures: ``model_id``, ``rows_trained``, ``rows_held_out``, ``parameters``, ``metrics``.
    """
    kind = job.architecture.kind
    describe = {"pca": _principal, "kernel-pca": _kernel}.get(kind, _networks)
    lines = [
        f"# {_TITLES[kind]} by distvae",
        "",
        f"- model id `{figures['model_id']}`",
        f"- columns: {_columns(job)}",
        *_left_out(job),
        f"- {figures['rows_trained']:,} rows trained, {figures['rows_held_out']:,} held out",
        f"- latent dimensions {job.architecture.latent_dim}",
        *(f"- {line}" for line in describe(job, network)),
        f"- {figures['parameters']:,} parameters",
        "",
        *_table(figures["metrics"], kind),
        "```python",
        "import distvae, pyarrow.parquet as pq",
        'model = distvae.load("THIS DIRECTORY")',
        'mu, sigma = model.encode(pq.read_table("rows.parquet"))',
        "rows = model.sample(1000, seed=0)",
        "```",
        "",
    ]
    return "\n".join(lines)


def _columns(job: TrainJob) -> str:
    held = sorted(job.codec.features, key=lambda feature: feature.position)
    names = [
        f"`{f.name}` ({f.role}, {f.width})" if f.role == "vector" else f"`{f.name}` ({f.role})"
        for f in held
    ]
    more = len(names) - _MOST_COLUMNS
    return ", ".join(names[:_MOST_COLUMNS]) + (f" and {more} more" if more > 0 else "")


def _left_out(job: TrainJob) -> Iterator[str]:
    if job.left_out:
        yield "- left out: " + "; ".join(f"`{name}` ({why})" for name, why in job.left_out)
    if job.architecture.conditions:
        given = ", ".join(f"`{f.name}`" for f in job.codec.features if _is_given(job, f.name))
        yield f"- given, not modelled: {given}"


def _is_given(job: TrainJob, name: str) -> bool:
    return name in job.architecture.conditions


def _networks(job: TrainJob, network: LatentModel) -> Iterator[str]:
    del network
    config, architecture = job.config, job.architecture
    layers = ", ".join(map(str, config.hidden_dims)) or "none: a linear model"
    decoder = ", ".join(map(str, architecture.decoder_widths))
    shown = f"{layers}" if config.decoder_dims is None else f"{layers}; decoder {decoder}"
    yield f"hidden layers {shown}" + (f", {config.activation}" if config.hidden_dims else "")
    for name, shape in architecture.images.items():
        stages = ", ".join(map(str, architecture.channels))
        sides = " x ".join(map(str, shape))
        yield f"`{name}` is a picture of {sides}: residual convolutions with {stages} maps"
    yield f"likelihoods {', '.join(sorted(set(architecture.likelihoods.values())))}"
    fitted = f" of {architecture.prior_components} components at most"
    prior = architecture.prior + (fitted if architecture.prior == "mixture" else "")
    if architecture.kind == "autoencoder":
        yield f"codes are points; synthetic ones are drawn from a {prior}, fitted to them"
        return
    if architecture.prior == "normal":
        yield f"posterior {architecture.posterior}, prior N(0, I)"
    else:
        narrower = f", {config.prior_spread:g} of their spread" if config.prior_spread < 1 else ""
        yield (
            f"posterior {architecture.posterior}, trained against N(0, I); the prior is a {prior}, "
            f"fitted to samples of the posteriors{narrower}"
        )
    yield _objective(config, _is_weighted(job))
    if architecture.inference != "amortised":
        steps = f"{architecture.inference_steps} gradient steps per row and visit"
        yield f"inference {architecture.inference}, {steps} of size {architecture.inference_rate:g}"


def _objective(config: TrainConfig, is_weighted: bool) -> str:
    """What training maximised, in words."""
    if config.objective == "iwae":
        parts = [f"importance-weighted bound of {config.importance_samples} samples"]
        if config.doubly_reparameterized:
            parts.append("doubly reparameterised gradient")
    else:
        parts = [f"ELBO, {config.kl} KL"]
    if config.mc_samples > 1:
        parts.append(f"{config.mc_samples} Monte-Carlo samples")
    if is_weighted:
        parts.append("columns of high entropy weighted less")
    parts.append(f"KL weight {config.kl_weight:g}")
    if config.kl_warmup:
        how = f"rising over {config.kl_warmup:g} epochs"
        cyclic = f" of every {config.kl_cycle:g}" if config.kl_schedule == "cyclic" else ""
        parts.append(how + cyclic)
    if config.free_bits:
        parts.append(f"{config.free_bits:g} nats per dimension free")
    return "trained on the " + ", ".join(parts)


def _is_weighted(job: TrainJob) -> bool:
    """Whether some column counts less than others in the loss."""
    weights = objective_of(job).weights
    return weights is not None and bool((weights < 1).any())


def _principal(job: TrainJob, network: LatentModel) -> Iterator[str]:
    del job, network
    yield "exact least squares, centred and never scaled; signs: largest entry positive"
    yield "density N(mean, U^T (L - s2 I) U + s2 I); sigma is its posterior's, in score units"


def _kernel(job: TrainJob, network: LatentModel) -> Iterator[str]:
    from distvae.model.kernel import KernelPcaModel, kernel_gamma

    assert isinstance(network, KernelPcaModel)
    architecture = job.architecture
    gamma = kernel_gamma(architecture)
    yield f"kernel {architecture.kernel}, exp(-{gamma:.4g} |y - y'|^2) on standardised values"
    captured = f"{network.captured_variance:.1%} of the kernel's variance captured"
    yield f"{architecture.landmarks:,} landmarks, {captured}"
    yield "codes are points, without a density; synthetic ones are drawn from their Gaussian"


def _table(scored: Mapping[str, Any], kind: str) -> Iterator[str]:
    if not scored:
        return
    yield from ("| held out | |", "|---|---|")
    for name in _FIGURES:
        if scored.get(name) is not None:
            yield f"| {name} | {scored[name]:.6g} |"
    baseline = scored.get("pca_reconstruction_mse")
    if baseline is not None and kind != "pca":
        yield f"| pca_reconstruction_mse (same latent size) | {baseline:.6g} |"
    yield ""
    if scored.get("log_likelihood") is not None:
        samples = scored.get("importance_samples")
        how = "in closed form" if samples is None else f"with {samples} importance samples"
        yield f"Nats per row; log-likelihood {how}."
        yield ""
