"""One streaming pass over the training rows: mergeable summaries, merged in fragment order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distvae.cluster.pool import run_fragments
from distvae.cluster.session import Resources
from distvae.console import Console
from distvae.data.fragments import Fragment
from distvae.data.inputs import InputFile
from distvae.data.roles import Feature
from distvae.data.selection import Split, read_batches, split_rows
from distvae.data.statistics import Summary, merge, summarise, summary_from_bytes, summary_to_bytes
from distvae.errors import DataError
from distvae.planning import DataPlan

__all__ = ["Pass", "summarise_input"]

_ROWS_PER_BATCH = 16_384
_SMALL_BYTES = 256 << 20


@dataclass(frozen=True)
class Pass:
    """What the pass found.

    Attributes:
        summary: of all training rows.
        training_rows: training rows of each fragment.
        validation_rows: held-out rows of each fragment.
    """

    summary: Summary
    training_rows: tuple[int, ...]
    validation_rows: tuple[int, ...]


@dataclass(frozen=True)
class _Found:
    """Of one fragment: the summary's bytes and the row counts."""

    summary: bytes
    training_rows: int
    validation_rows: int


class _Summariser:
    """Summarises whole fragments in a worker process."""

    def __init__(
        self,
        files: Sequence[InputFile],
        features: Sequence[Feature],
        split: Split,
        where: str | None,
    ) -> None:
        self.files, self.features, self.split, self.where = files, features, split, where

    def run(self, fragment: Fragment) -> _Found:
        """The summary of the fragment's training rows."""
        names = [feature.name for feature in self.features]
        total: Summary | None = None
        counts = [0, 0]
        try:
            for batch in read_batches(self.files, fragment, names, _ROWS_PER_BATCH, self.where):
                masks = split_rows(batch.rows, self.split)
                for index, mask in enumerate(masks):
                    counts[index] += int(mask.sum())
                part = summarise(batch.table.filter(masks[0]), self.features)
                total = part if total is None else merge(total, part)
        except DataError as error:
            raise self._located(error, fragment) from None
        assert total is not None
        return _Found(summary_to_bytes(total), counts[0], counts[1])

    def _located(self, error: DataError, fragment: Fragment) -> DataError:
        """The same error with the file's name, when it does not have it."""
        names = list(dict.fromkeys(self.files[piece.file].relative for piece in fragment.pieces))
        what, value, rule, remedy = error.args
        if any(name in what for name in names):
            return error
        shown = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        return DataError(f"{shown}: {what}", value, rule, remedy)


def summarise_input(
    plan: DataPlan,
    features: Sequence[Feature],
    split: Split,
    where: str | None,
    resources: Resources,
    console: Console,
) -> Pass:
    """Summarise the training rows of ``plan``; small inputs in this process, others on workers.

    Raises:
        DataError: a value that training cannot use, or no training row at all.
    """
    found: dict[int, _Found] = {}
    total: Summary | None = None
    with console.stage("statistics", plan.rows) as advance:
        for fragment, result in _results(plan, features, split, where, resources):
            found[fragment.index] = result
            advance(fragment.rows)
    for index in sorted(found):  # in fragment order, so that the sum is the same bits every time
        part = summary_from_bytes(found[index].summary)
        total = part if total is None else merge(total, part)
    assert total is not None
    if total.rows == 0:
        raise DataError(
            "DATA",
            "leaves no training row",
            "at least one is needed",
            "loosen --where or --sample-rows",
        )
    ordered = [found[index] for index in sorted(found)]
    return Pass(
        total,
        tuple(result.training_rows for result in ordered),
        tuple(result.validation_rows for result in ordered),
    )


def _results(
    plan: DataPlan,
    features: Sequence[Feature],
    split: Split,
    where: str | None,
    resources: Resources,
) -> Iterator[tuple[Fragment, _Found]]:
    arguments = {
        "files": plan.inputs.files,
        "features": tuple(features),
        "split": split,
        "where": where,
    }
    if plan.bytes <= _SMALL_BYTES:
        worker = _Summariser(**arguments)  # type: ignore[arg-type]
        for fragment in plan.fragments:
            yield fragment, worker.run(fragment)
        return
    yield from run_fragments(_Summariser, arguments, plan.fragments, resources)
