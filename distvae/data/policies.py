"""What becomes of values that training did not see: named policies, counted wherever they act."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from distvae.errors import DataError, UsageError

__all__ = ["ALLOWED", "COUNTED", "Policies", "Verdicts"]

Bools = npt.NDArray[np.bool_]

ALLOWED = {
    "unseen": ("error", "reject", "other"),
    "out_of_range": ("error", "reject", "clip"),
    "infinite": ("error", "reject", "clip"),
    "wrong_type": ("error", "reject"),
}
"""The policies there are, per kind of value; the mildest stands last."""

COUNTED = tuple(ALLOWED)
"""The kinds of values that are counted, whatever the policy."""


@dataclass(frozen=True)
class Policies:
    """What to do with values that do not fit.

    Attributes:
        unseen: a category that training never saw: ``other`` takes it for one of the rare ones.
        out_of_range: a number outside the range seen in training: ``clip`` keeps it where the
            column's coding can, at the far end of what it can hold where not; or one between the
            numbers of training's grid: ``clip`` takes a neighbour.
        infinite: an infinite number: ``clip`` takes the largest (smallest) value seen.
        wrong_type: a column of another type in some table, where no safe cast exists.

    ``error`` ends the job, ``reject`` sets the row (for ``wrong_type`` all rows of the table)
    aside.

    Raises:
        UsageError: a policy that there is not.
    """

    unseen: str = "other"
    out_of_range: str = "clip"
    infinite: str = "reject"
    wrong_type: str = "error"

    def __post_init__(self) -> None:
        for entry in fields(self):
            told, allowed = getattr(self, entry.name), ALLOWED[entry.name]
            if told not in allowed:
                raise UsageError(entry.name, f"is {told!r}", f"must be one of {', '.join(allowed)}")


@dataclass
class Verdicts:
    """Collects what was met and the first reason of each rejected row, without a loop over rows.

    Attributes:
        codes: (n,) index of the row's message, -1 where the row is fine.
        policies: what to do.
        messages: one per reason met.
        counts: values met per kind (rows for ``wrong_type``).
    """

    codes: npt.NDArray[np.int32]
    policies: Policies = field(default_factory=Policies)
    messages: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))

    def part(self, rows: slice) -> Verdicts:
        """The same collection, seen through some of the rows."""
        return Verdicts(self.codes[rows], self.policies, self.messages, self.counts)

    def reject(self, rows: Bools, message: str) -> None:
        """Reject ``rows`` (n,) that are not rejected yet."""
        self.codes[rows & (self.codes < 0)] = len(self.messages)
        self.messages.append(message)

    def meet(self, kind: str, values: Bools, label: str, found: str, rule: str) -> bool:
        """Count ``values`` (n,) or (n, width) of a kind and act; whether their rows are kept.

        Raises:
            DataError: where the policy is ``error``.
        """
        self.counts[kind] += int(values.sum())
        rows = values if values.ndim == 1 else np.asarray(values.any(axis=1))
        policy = getattr(self.policies, kind)
        if policy == "error":
            row = int(np.flatnonzero(rows)[0])
            option = kind.replace("_", "-")
            remedy = f"mend it, or use the policy {ALLOWED[kind][-1]!r} for {option} values"
            raise DataError(label, f"{found} (row {row} of its batch)", rule, remedy)
        if policy == "reject":
            self.reject(rows, f"{label}: {found}")
        return bool(policy != "reject")

    def reasons(self) -> list[str]:
        """One line per rejected row, in row order."""
        told = np.array(self.messages, dtype=object)
        return list(told[self.codes[self.codes >= 0]].tolist()) if len(told) else []
