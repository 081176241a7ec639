"""One frozen configuration per command: types, defaults, units and the rules between fields.

The command line, the YAML files of ``--config``, ``--set`` and ``distvae schema`` are all made from
these classes, so that there is one place where an option is described.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from distvae.errors import UsageError

__all__ = [
    "COMMANDS",
    "Config",
    "EmbedConfig",
    "EvaluateConfig",
    "GenerateConfig",
    "JobConfig",
    "QuickstartConfig",
    "ReportConfig",
    "StatusConfig",
    "TrainConfig",
    "VerifyConfig",
    "build",
    "parse_bytes",
    "worker_range",
]

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_bytes(text: str) -> int:
    """Bytes of a size such as ``4GiB``, ``500MB`` or ``1000000``.

    Raises:
        ValueError: the text is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]i?)?b?\s*", text.lower())
    if not match:
        raise ValueError("must be a size such as 4GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2] or ""])


def worker_range(text: str) -> tuple[int, int]:
    """``"4"`` → (4, 4) and ``"2..8"`` → (2, 8).

    Raises:
        ValueError: the text is neither a number nor a range of positive numbers.
    """
    match = re.fullmatch(r"\s*(\d+)(?:\.\.(\d+))?\s*", text)
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise ValueError("must be a positive number of workers, or a range such as 2..8")
    return low, high


def _check_workers(value: object) -> object:
    if isinstance(value, int | str) and value != "auto":
        worker_range(str(value))
    return str(value) if isinstance(value, int) else value


def _check_bytes(value: object) -> object:
    if value is not None:
        parse_bytes(str(value))
    return None if value is None else str(value)


def _split_numbers(value: object) -> object:
    return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _pairs(value: object) -> object:
    """``["pixels=bernoulli"]`` → ``{"pixels": "bernoulli"}``; the last ``=`` separates."""
    if isinstance(value, list | tuple):
        wrong = [item for item in value if "=" not in str(item)]
        if wrong:
            raise ValueError(f"must be COLUMN=VALUE, got {wrong[0]!r}")
        return dict(str(item).rsplit("=", 1) for item in value)
    return value


def _one_or_many(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
Mode = Literal["error", "resume", "overwrite"]
_REQUIRED = "must be given"


class Config(BaseModel):
    """What every command's configuration shares: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class JobConfig(Config):
    """Options of every job that runs on Ray."""

    workers: Annotated[str, BeforeValidator(_check_workers)] = Field(
        "auto",
        description="Worker processes: N, or MIN..MAX to let it grow (auto: fill the cluster).",
    )
    gpus_per_worker: float = Field(
        0.0, ge=0, description="GPUs that each worker reserves and uses."
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores that each worker reserves.")
    memory_per_worker: Annotated[str | None, BeforeValidator(_check_bytes)] = Field(
        None, description="Memory that each worker reserves, such as 4GiB (none: not reserved)."
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Arithmetic of the matrix products; results are stored as float32."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of every random choice.")
    address: str | None = Field(
        None,
        description="Ray cluster, such as 10.0.0.1:6379 (none: $RAY_ADDRESS, else a local Ray).",
    )


class TrainConfig(JobConfig):
    """Fits the column codec, trains a VAE data-parallel and writes the model directory."""

    data: Names = Field((), description="Parquet files, folders, globs, URIs or @list.txt.")
    model: str = Field("", description="Model directory to write (path or URI).")
    kind: Literal["vae"] = Field("vae", description="Model family.")
    latent_dim: int = Field(16, ge=1, le=65536, description="Latent dimensions.")
    hidden_dims: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split_numbers)
    ] = Field(
        (512, 512),
        description="Widths of the encoder's hidden layers, as 512,512; the decoder mirrors them.",
    )
    activation: Literal["relu", "tanh", "silu", "gelu", "leaky_relu"] = Field(
        "relu", description="Activation of the hidden layers."
    )
    posterior: Literal["diagonal"] = Field("diagonal", description="Family of q(z|x).")
    prior: Literal["normal"] = Field("normal", description="Prior p(z): N(0, I).")
    likelihood: Annotated[dict[str, str], BeforeValidator(_pairs)] = Field(
        {},
        description="COLUMN=HEAD (or *=HEAD for all): gaussian (one learned sigma per element), "
        "gaussian-row (sigma per row), gaussian-fixed[:SIGMA], bernoulli (values in [0, 1], "
        "or uint8).",
    )
    binarize: Literal["none", "dynamic"] = Field(
        "none", description="dynamic: draw fresh 0/1 values from Bernoulli columns at each step."
    )
    objective: Literal["elbo"] = Field("elbo", description="What is maximised.")
    mc_samples: int = Field(1, ge=1, description="Monte-Carlo samples of z per row and step.")
    kl_weight: float = Field(1.0, ge=0, description="Weight of the KL term (lambda).")
    kl_warmup: float = Field(
        0.0, ge=0, description="Epochs over which the KL weight rises linearly from 0."
    )
    epochs: int = Field(20, ge=1, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimiser steps.")
    batch_size: int = Field(512, ge=1, description="Rows per step over all workers together.")
    learning_rate: float = Field(1e-3, gt=0, description="Adam's step size.")
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="Share of rows held out of training."
    )
    patience: int = Field(
        0,
        ge=0,
        description="Stop after this many epochs without a better validation loss (0: never).",
    )
    include: Names = Field((), description="Columns to use (default: all).")
    exclude: Names = Field((), description="Columns to leave out.")
    where: str | None = Field(
        None, description="Use only rows that fit, such as \"age >= 18 and country == 'NL'\"."
    )
    sample_rows: float = Field(
        1.0, gt=0, le=1, description="Share of the rows to train on, drawn by the seed."
    )
    checkpoint_seconds: float = Field(60.0, gt=0, description="Seconds between checkpoints.")
    fragment_rows: int = Field(
        262_144, ge=1, description="Rows per unit of reading, cut at row groups."
    )
    resume: bool = Field(False, description="Go on with a broken-off training of the same options.")
    overwrite: bool = Field(
        False, description="Replace an existing model directory once the new one is whole."
    )

    @model_validator(mode="after")
    def _rules(self) -> TrainConfig:
        _need(self, "data", "model")
        _no_empty("likelihood", [k for k, v in self.likelihood.items() if not k or not v])
        if self.resume and self.overwrite:
            raise ValueError("resume: cannot be combined with overwrite; give one of the two")
        return self


class _OutputConfig(JobConfig):
    """Options of the jobs that write a dataset."""

    out: str = Field("", description="Dataset directory to write (path or URI).")
    mode: Mode = Field("error", description="What to do when the directory is not empty.")
    fragment_rows: int = Field(
        262_144, ge=1, description="Rows per part, about; parts are cut at row groups."
    )


class EmbedConfig(_OutputConfig):
    """Streams every row through the encoder and writes the posterior's mu and sigma as Parquet."""

    data: Names = Field((), description="Parquet files, folders, globs, URIs or @list.txt.")
    model: str = Field("", description="Model directory (path or URI).")
    key: Names = Field(
        (), description="Key columns to copy (none: _file and _row locate each row)."
    )
    keep: Names = Field((), description="Further columns to copy.")
    with_elbo: bool = Field(
        False, description="Add columns elbo (nats) and reconstruction_error (raw units)."
    )
    no_sigma: bool = Field(False, description="Leave out the sigma column.")
    layout: Literal["fixed", "list", "columns"] = Field(
        "fixed", description="mu and sigma as fixed-size lists, lists, or one column per dimension."
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="Type of the stored mu and sigma."
    )
    where: str | None = Field(None, description="Embed only rows that fit the expression.")
    max_rejected: float = Field(0.0, ge=0, le=1, description="Share of rows that may be rejected.")

    @model_validator(mode="after")
    def _rules(self) -> EmbedConfig:
        _need(self, "data", "model", "out")
        return self


class GenerateConfig(_OutputConfig):
    """Writes synthetic rows in the training table's own schema."""

    model: str = Field("", description="Model directory (path or URI).")
    rows: int = Field(0, ge=0, description="Rows to generate.")
    offset: int = Field(0, ge=0, description="First row of the endless synthetic table to write.")
    source: Literal["normal"] = Field("normal", description="Distribution that z is drawn from.")
    with_latents: bool = Field(False, description="Add the latent column z.")

    @model_validator(mode="after")
    def _rules(self) -> GenerateConfig:
        _need(self, "model", "out")
        if self.rows < 1:
            raise ValueError(f"rows: got {self.rows}; must be at least 1; give --rows N")
        if self.rows + self.offset >= 2**62:
            raise ValueError(
                f"rows: got {self.rows}; offset + rows must be below 2^62; ask for fewer rows"
            )
        return self


class EvaluateConfig(JobConfig):
    """Held-out metrics of a model on DATA, as JSON on standard output."""

    data: Names = Field((), description="Parquet files, folders, globs, URIs or @list.txt.")
    model: str = Field("", description="Model directory (path or URI).")
    importance_samples: int = Field(
        100, ge=1, description="Samples per row of the likelihood estimate."
    )
    where: str | None = Field(None, description="Evaluate only rows that fit the expression.")
    fragment_rows: int = Field(
        262_144, ge=1, description="Rows per unit of work, cut at row groups."
    )

    @model_validator(mode="after")
    def _rules(self) -> EvaluateConfig:
        _need(self, "data", "model")
        return self


class ReportConfig(Config):
    """One self-contained HTML page of pictures and figures."""

    model: str = Field("", description="Model directory (path or URI).")
    embeddings: str | None = Field(None, description="Dataset that embed wrote.")
    synthetic: str | None = Field(None, description="Dataset that generate wrote.")
    data: Names = Field((), description="Real rows: for reconstructions and marginals.")
    color: str | None = Field(
        None, description="Column of the embeddings that colours the latent space."
    )
    out: str = Field("", description="HTML file to write (path or URI).")

    @model_validator(mode="after")
    def _rules(self) -> ReportConfig:
        _need(self, "model", "out")
        return self


class VerifyConfig(Config):
    """Re-checks an output dataset against its manifest, to the byte."""

    directory: str = Field("", description="Dataset directory (path or URI).")

    @model_validator(mode="after")
    def _rules(self) -> VerifyConfig:
        _need(self, "directory")
        return self


class StatusConfig(Config):
    """What is done and what is left of a dataset being written or broken off."""

    directory: str = Field("", description="Dataset directory (path or URI).")

    @model_validator(mode="after")
    def _rules(self) -> StatusConfig:
        _need(self, "directory")
        return self


class QuickstartConfig(JobConfig):
    """The whole story on scikit-learn's handwritten digits, in one folder."""

    dir: str = Field("distvae-quickstart", description="Folder to work in.")
    epochs: int = Field(150, ge=1, description="Passes over the training rows.")
    overwrite: bool = Field(
        False, description="Replace what an earlier quickstart left in the folder."
    )


COMMANDS: dict[str, type[Config]] = {
    "quickstart": QuickstartConfig,
    "train": TrainConfig,
    "embed": EmbedConfig,
    "generate": GenerateConfig,
    "evaluate": EvaluateConfig,
    "report": ReportConfig,
    "verify": VerifyConfig,
    "status": StatusConfig,
}


def _need(config: Config, *fields: str) -> None:
    """Fields without which a command means nothing, named before anything starts."""
    for field in fields:
        if not getattr(config, field):
            shown = {"data": "DATA", "directory": "DIR"}.get(field, f"--{field}")
            raise ValueError(f"{field}: got nothing; {_REQUIRED}; add {shown}")


def _no_empty(field: str, wrong: list[str]) -> None:
    if wrong:
        raise ValueError(
            f"{field}: got {wrong[0]!r}; column and value may not be empty; see --help"
        )


ConfigT = TypeVar("ConfigT", bound=Config)


def build(cls: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """The configuration of ``values``; the first thing wrong with them as one line.

    Raises:
        UsageError: unknown key, wrong type or value, or fields that contradict each other.
    """
    try:
        return cls(**values)
    except ValidationError as error:
        raise _usage(cls, error) from None


def _usage(cls: type[Config], error: ValidationError) -> UsageError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, list(cls.model_fields), n=1)
        remedy = f"did you mean {close[0]}?" if close else f"known: {', '.join(cls.model_fields)}"
        return UsageError(field, "unknown key", "", remedy)
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    if not field:  # a rule between fields: its message is whole already
        name, _, rest = message.partition(": ")
        return UsageError(name, *rest.split("; ", 2))
    top = str(first["loc"][0])
    default = cls.model_fields[top].default
    remedy = f"the default is {default}" if default not in ("", (), None, {}) else "see --help"
    return UsageError(field, f"got {first['input']!r}", message, remedy)
