"""One frozen configuration per command: types, defaults, units and the rules between fields.

The command line, the YAML files of ``--config``, ``--set`` and ``distvae schema`` are all made from
these classes, so that there is one place where an option is described.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from distvae.errors import UsageError
from distvae.options import (
    Config,
    JobConfig,
    Mode,
    Names,
    need,
    no_empty,
    pairs,
    parse_bytes,
    worker_range,
)
from distvae.train_options import TrainConfig

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


_ON_UNSEEN: Any = Field(
    "other",
    description="A category that training did not see: an error, a rejected row, or taken as one "
    "of the rarest (other).",
)
_ON_OUT_OF_RANGE: Any = Field(
    "clip",
    description="A number beyond the range of training, or between its steps: an error, a "
    "rejected row, or taken as outside, improbable, or as a neighbour (clip).",
)
_ON_INFINITE: Any = Field(
    "reject", description="An infinite number: an error, a rejected row, or the largest (clip)."
)
_ON_WRONG_TYPE: Any = Field(
    "error",
    description="A column of another type than in training, in one file of many: an error, or its "
    "rows are rejected. What can be cast without loss is.",
)


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
        False,
        description="Add columns elbo (nats; the lower, the odder the row) and "
        "reconstruction_error (raw units).",
    )
    no_sigma: bool = Field(False, description="Leave out the sigma column.")
    layout: Literal["fixed", "list", "columns"] = Field(
        "fixed", description="mu and sigma as fixed-size lists, lists, or one column per dimension."
    )
    dtype: Literal["float32", "float16"] = Field(
        "float32", description="Type of the stored mu and sigma."
    )
    where: str | None = Field(None, description="Embed only rows that fit the expression.")
    refine: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Gradient steps on each row's own posterior, from the encoder's answer; never "
        "lowers a row's ELBO.",
    )
    max_rejected: float = Field(0.0, ge=0, le=1, description="Share of rows that may be rejected.")
    on_unseen: Literal["error", "reject", "other"] = _ON_UNSEEN
    on_out_of_range: Literal["error", "reject", "clip"] = _ON_OUT_OF_RANGE
    on_infinite: Literal["error", "reject", "clip"] = _ON_INFINITE
    on_wrong_type: Literal["error", "reject"] = _ON_WRONG_TYPE

    @model_validator(mode="after")
    def _rules(self) -> EmbedConfig:
        need(self, "data", "model", "out")
        return self


class GenerateConfig(_OutputConfig):
    """Writes synthetic rows in the training table's own schema."""

    model: str = Field("", description="Model directory (path or URI).")
    rows: int = Field(0, ge=0, description="Rows to generate.")
    offset: int = Field(0, ge=0, description="First row of the endless synthetic table to write.")
    source: Literal["normal", "uniform", "sobol"] = Field(
        "normal",
        description="Points that become z: normal, uniform through the inverse Gaussian CDF, or "
        "scrambled Sobol points (up to 2^30 rows).",
    )
    given: Annotated[dict[str, str], BeforeValidator(pairs)] = Field(
        {},
        description="COLUMN=VALUE of a column that the model is conditioned on (train "
        "--condition-on); null for a missing value, COLUMN= for the empty text. Other conditions "
        "are drawn from training rows.",
    )
    given_from: str | None = Field(
        None,
        description="Parquet file, folder or URI of conditions: one synthetic row per row of it.",
    )
    with_latents: bool = Field(False, description="Add the latent column z.")

    @model_validator(mode="after")
    def _rules(self) -> GenerateConfig:
        need(self, "model", "out")
        no_empty("given", [k for k in self.given if not k])
        if self.given_from is not None:
            for field in ("given", "rows", "offset"):
                if getattr(self, field):
                    raise ValueError(
                        f"{field}: got {getattr(self, field)}; given_from tells every row; give "
                        "one of the two"
                    )
            return self
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
    refine: int = Field(
        0, ge=0, le=100_000, description="Gradient steps on each row's own posterior first."
    )
    synthetic: str | None = Field(
        None,
        description="Synthetic dataset to compare with DATA: fidelity and privacy figures.",
    )
    training_data: Names = Field(
        (),
        description="Rows that the model was trained on, for the privacy figures (none: DATA "
        "itself if the model was trained on it).",
    )
    target: str | None = Field(
        None,
        description="Column to predict, COL or COL=VALUE (the value of interest): train on "
        "synthetic, test on real.",
    )
    where: str | None = Field(None, description="Evaluate only rows that fit the expression.")
    fragment_rows: int = Field(
        262_144, ge=1, description="Rows per unit of work, cut at row groups."
    )

    @model_validator(mode="after")
    def _rules(self) -> EvaluateConfig:
        need(self, "data", "model")
        for field in ("target", "training_data"):
            if getattr(self, field) and self.synthetic is None:
                raise ValueError(
                    f"{field}: got {getattr(self, field)}; belongs to a comparison; add --synthetic"
                )
        return self


class ReportConfig(Config):
    """One self-contained HTML page of pictures and figures."""

    model: str = Field("", description="Model directory (path or URI).")
    embeddings: str | None = Field(None, description="Dataset that embed wrote.")
    synthetic: str | None = Field(None, description="Dataset that generate wrote.")
    data: Names = Field((), description="Real rows: for reconstructions and marginals.")
    training_data: Names = Field(
        (),
        description="Rows that the model was trained on, for the privacy figures (none: DATA "
        "itself if the model was trained on it).",
    )
    target: str | None = Field(
        None, description="Column to predict, COL or COL=VALUE: train on synthetic, test on real."
    )
    color: str | None = Field(
        None, description="Column of the embeddings that colours the latent space."
    )
    out: str = Field("", description="HTML file to write (path or URI).")

    @model_validator(mode="after")
    def _rules(self) -> ReportConfig:
        need(self, "model", "out")
        for field in ("target", "training_data"):
            if getattr(self, field) and not (self.synthetic and self.data):
                raise ValueError(
                    f"{field}: got {getattr(self, field)}; belongs to a comparison; add "
                    "--synthetic and --data"
                )
        return self


class VerifyConfig(Config):
    """Re-checks an output dataset against its manifest, to the byte."""

    directory: str = Field("", description="Dataset directory (path or URI).")

    @model_validator(mode="after")
    def _rules(self) -> VerifyConfig:
        need(self, "directory")
        return self


class StatusConfig(Config):
    """What is done and what is left of a dataset being written or broken off."""

    directory: str = Field("", description="Dataset directory (path or URI).")

    @model_validator(mode="after")
    def _rules(self) -> StatusConfig:
        need(self, "directory")
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
