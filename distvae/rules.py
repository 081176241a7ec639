"""Options of training that contradict each other, told before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distvae.train_options import TrainConfig

__all__ = ["refuse_contradictions"]

# Options that a kind does not have; their defaults pass.
_ENCODED = ("posterior", "objective", "kl", "kl_weight", "kl_schedule", "free_bits", "mc_samples")
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
    fitted = config.prior in ("gaussian", "mixture")
    if fitted and config.kind != "autoencoder":
        rule = f"kind {config.kind} has a prior of its own"
        _refuse("prior", config, rule, "use --kind autoencoder, or leave it out")
    if config.prior == "normal" and config.kind == "autoencoder":
        _refuse("prior", config, "an autoencoder has no prior", "use gaussian or mixture")
    _refuse_objective(config)
    if config.image and not config.channels:
        _refuse("channels", config, "a picture needs at least one stage", "give --channels 32,64")
    if config.kl_schedule == "cyclic" and not 0 < config.kl_warmup <= config.kl_cycle:
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
        if config.kl != "analytic":
            _refuse("kl", config, "objective iwae has no KL term of its own", "leave it out")
    if config.free_bits and (config.objective == "iwae" or config.kl == "sampled"):
        rule = "needs the KL of each dimension in closed form"
        _refuse("free_bits", config, rule, "use --objective elbo --kl analytic")


def _refuse(field: str, config: TrainConfig, rule: str, remedy: str) -> None:
    raise ValueError(f"{field}: got {getattr(config, field)}; {rule}; {remedy}")
