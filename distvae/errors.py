"""The error family: what a user's mistake is called, and the exit code that it ends with.

Every message is one line of the form ``what: value; rule; remedy``. The exit codes are a contract.
"""

from __future__ import annotations

__all__ = [
    "ClusterError",
    "DamageError",
    "DataError",
    "DistvaeError",
    "OutputError",
    "RejectedError",
    "StorageError",
    "UsageError",
]


class DistvaeError(Exception):
    """A failure with a one-line message and an exit code (70: a fault of ours).

    Args:
        what: the field, column, file or folder that is wrong.
        value: what was found there.
        rule: what it must be.
        remedy: what to do about it.
    """

    exit_code = 70

    def __init__(self, what: str, value: str, rule: str = "", remedy: str = "") -> None:
        super().__init__(what, value, rule, remedy)
        parts = "; ".join(part for part in (value, rule, remedy) if part)
        self.message = " ".join(f"{what}: {parts}".split())

    def __str__(self) -> str:
        return self.message


class UsageError(DistvaeError, ValueError):
    """An option, a config field or a combination of them is wrong."""

    exit_code = 2


class DataError(DistvaeError, ValueError):
    """The data does not fit: schema, types, values, or a corrupt file."""

    exit_code = 3


class StorageError(DistvaeError, OSError):
    """Storage is unreachable, missing or forbidden."""

    exit_code = 4

    def __str__(self) -> str:
        return self.message


class OutputError(DistvaeError, RuntimeError):
    """The output is in the way, held by another run, or a resume does not match it."""

    exit_code = 5


class RejectedError(DistvaeError, RuntimeError):
    """More rows were rejected than ``max_rejected`` allows."""

    exit_code = 6


class DamageError(DistvaeError, RuntimeError):
    """``verify`` found an output dataset that differs from its manifest."""

    exit_code = 7


class ClusterError(DistvaeError, RuntimeError):
    """The cluster cannot run this: resources, authentication, lost nodes."""

    exit_code = 8
