"""What the commands' configurations are made of: field types, shared options, shared rules."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "Config",
    "JobConfig",
    "Mode",
    "Names",
    "Numbers",
    "need",
    "no_empty",
    "pairs",
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


def check_workers(value: object) -> object:
    if isinstance(value, int | str) and value != "auto":
        worker_range(str(value))
    return str(value) if isinstance(value, int) else value


def check_bytes(value: object) -> object:
    if value is not None:
        parse_bytes(str(value))
    return None if value is None else str(value)


def split_numbers(value: object) -> object:
    """``"512,256"`` → two numbers; ``"none"`` and nothing → none."""
    if not isinstance(value, str):
        return value
    return [part for part in value.split(",") if part.strip() not in ("", "none")]


def pairs(value: object) -> object:
    """``["pixels=bernoulli"]`` → ``{"pixels": "bernoulli"}``; the last ``=`` separates."""
    if isinstance(value, list | tuple):
        wrong = [item for item in value if "=" not in str(item)]
        if wrong:
            raise ValueError(f"must be COLUMN=VALUE, got {wrong[0]!r}")
        return dict(str(item).rsplit("=", 1) for item in value)
    return value


def one_or_many(value: object) -> object:
    """One name or many; ``{"pixels": "28x28"}`` → ``["pixels=28x28"]``."""
    if isinstance(value, dict):
        return [f"{name}={choice}" for name, choice in value.items()]
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(one_or_many)]
Numbers = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(split_numbers)]
Mode = Literal["error", "resume", "overwrite"]
_REQUIRED = "must be given"


class Config(BaseModel):
    """What every command's configuration shares: frozen, and unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


class JobConfig(Config):
    """Options of every job that runs on Ray."""

    workers: Annotated[str, BeforeValidator(check_workers)] = Field(
        "auto",
        description="Worker processes: N, or MIN..MAX to let it grow (auto: fill the cluster).",
    )
    gpus_per_worker: float = Field(
        0.0, ge=0, description="GPUs that each worker reserves and uses."
    )
    cpus_per_worker: int = Field(1, ge=1, description="CPU cores that each worker reserves.")
    memory_per_worker: Annotated[str | None, BeforeValidator(check_bytes)] = Field(
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


def need(config: Config, *fields: str) -> None:
    """Fields without which a command means nothing, named before anything starts."""
    for field in fields:
        if not getattr(config, field):
            shown = {"data": "DATA", "directory": "DIR"}.get(field, f"--{field}")
            raise ValueError(f"{field}: got nothing; {_REQUIRED}; add {shown}")


def no_empty(field: str, wrong: list[str]) -> None:
    """Entries of a field of COLUMN=VALUE that lack one of the two."""
    if wrong:
        raise ValueError(
            f"{field}: got {wrong[0]!r}; column and value may not be empty; see --help"
        )
