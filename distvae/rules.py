"""Options of training that contradict each other, told before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distvae.train_options import TrainConfig

__all__ = ["refuse_contradictions"]

_LARGEST_FULL = 1024
_MOST_SAMPLES = 10_000
# Options that a kind does not have; their defaults pass.
_ENCODED = (
    "posterior",
    "objective",
    "kl",
    "kl_weight",
    "kl_schedule",
    "column_weights",
    "free_bits",
    "mc_samples",
)
_MEANINGLESS = {
    "autoencoder": (*_ENCODED, "kl_warmup", "inference"),
    "pca": (*_ENCODED, "kl_warmup", "inference", "likelihood", "binarize", "image"),
    "kernel-pca": (*_ENCODED, "kl_warmup", "inference", "likelihood", "binarize", "image"),
}


def refuse_contradictions(config: TrainConfig) -> None:
    """Refuse what cannot be meant together.

    Raises:
        ValueError: ``FIELD: got VALUE; RULE; REMEDY``.
    """
    for field in _MEANINGLESS.get(config.kind, ()):
        if getattr(config, field) != type(config).model_fields[field].default:
            _refuse(field, config, f"kind {config.kind} has no such choice", "leave it out")
    fitted = config.prior in ("gaussian", "mixture", "flow")
    if fitted and config.kind not in ("vae", "autoencoder"):
        rule = f"kind {config.kind} has a prior of its own"
        _refuse("prior", config, rule, "use --kind vae, or leave it out")
    if config.prior == "normal" and config.kind == "autoencoder":
        _refuse("prior", config, "an autoencoder has no prior", "use gaussian, mixture or flow")
    if config.condition_on and config.kind != "vae":
        _refuse("condition_on", config, "needs kind vae", "leave out --kind")
    if config.on_infinite == "clip" and config.kind not in ("vae", "autoencoder"):
        _refuse("on_infinite", config, "needs kind vae or autoencoder", "leave it out")
    _refuse_objective(config)
    _refuse_sizes(config)
    _refuse_idle(config)
    if config.image and not config.channels:
        _refuse("channels", config, "a picture needs at least one stage", "give --channels 32,64")
    if config.kl_schedule == "cyclic" and not 0 < (config.kl_warmup or 0) <= config.kl_cycle:
        rule = "needs 0 < kl_warmup <= kl_cycle"
        _refuse("kl_schedule", config, rule, "add --kl-warmup 5 --kl-cycle 10")
    if config.kl_schedule == "linear" and config.kl_cycle:
        _refuse("kl_cycle", config, "belongs to a cyclic schedule", "add --kl-schedule cyclic")


def _refuse_objective(config: TrainConfig) -> None:
    if config.objective == "elbo":
        for field in ("importance_samples", "doubly_reparameterized"):
            if getattr(config, field) != type(config).model_fields[field].default:
                _refuse(field, config, "belongs to objective iwae", "add --objective iwae")
    else:
        if config.inference != "amortised":
            _refuse("inference", config, "needs objective elbo", "leave out --objective iwae")
        if config.column_weights == "entropy":
            _refuse("column_weights", config, "needs objective elbo", "leave it out")
        if config.kl != "analytic":
            _refuse("kl", config, "objective iwae has no KL term of its own", "leave it out")
    if config.free_bits and (config.objective == "iwae" or config.kl == "sampled"):
        rule = "needs the KL of each dimension in closed form"
        _refuse("free_bits", config, rule, "use --objective elbo --kl analytic")


def _refuse_sizes(config: TrainConfig) -> None:
    """Sizes that no machine can hold."""
    if config.posterior == "full" and config.latent_dim > _LARGEST_FULL:
        rule = f"a full posterior has k (k + 3) / 2 numbers per row: at most {_LARGEST_FULL}"
        _refuse("latent_dim", config, rule, "use --posterior diagonal, or fewer dimensions")
    samples = config.mc_samples * config.importance_samples
    if samples > _MOST_SAMPLES:
        rule = f"with importance_samples they make {samples:,} samples a row: at most 10,000"
        _refuse("mc_samples", config, rule, "lower one of the two")
    fitted = config.kind == "autoencoder" or config.prior in ("gaussian", "mixture", "flow")
    if fitted and config.latent_dim > 4096:
        rule = "a prior fitted to the codes has k^2 numbers per component: at most 4096"
        _refuse("latent_dim", config, rule, "use fewer dimensions")


def _refuse_idle(config: TrainConfig) -> None:
    """Options that would be read by nothing."""
    owners = {
        "channels": (bool(config.image), "belongs to a picture", "add --image COL"),
        "landmarks": (config.kind == "kernel-pca", "belongs to kernel-pca", "leave it out"),
        "kernel_gamma": (config.kind == "kernel-pca", "belongs to kernel-pca", "leave it out"),
        "prior_components": (
            config.kind in ("vae", "autoencoder") and config.prior in ("auto", "mixture"),
            "belongs to a mixture fitted to the codes",
            "leave it out",
        ),
        "prior_spread": (
            config.kind == "vae" and config.prior != "normal",
            "belongs to a prior fitted to the codes of a vae",
            "leave it out",
        ),
        "inference_steps": (
            config.inference != "amortised",
            "belongs to another inference than amortised",
            "add --inference semi-amortised",
        ),
    }
    for field, (is_used, rule, remedy) in owners.items():
        if not is_used and getattr(config, field) != type(config).model_fields[field].default:
            _refuse(field, config, rule, remedy)


def _refuse(field: str, config: TrainConfig, rule: str, remedy: str) -> None:
    raise ValueError(f"{field}: got {getattr(config, field)}; {rule}; {remedy}")
