"""One streaming pass over the training rows: mergeable summaries, merged in fragment order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distvae.cluster.passes import pass_over
from distvae.cluster.session import Resources
from distvae.console import Console
from distvae.data.draw import Drawn, draw, merge_draws
from distvae.data.fragments import Fragment
from distvae.data.inputs import InputFile
from distvae.data.profile import (
    Profile,
    Profiler,
    merge_profiles,
    profile_from_bytes,
    profile_to_bytes,
)
from distvae.data.roles import Feature
from distvae.data.sampling import mix
from distvae.data.selection import Split, read_batches, split_rows
from distvae.data.sketch import (
    Sketch,
    merge_sketches,
    sketch_from_bytes,
    sketch_table,
    sketch_to_bytes,
)
from distvae.data.statistics import Summary, merge, summarise, summary_from_bytes, summary_to_bytes
from distvae.errors import DataError
from distvae.planning import DataPlan, sources

__all__ = ["Pass", "Wanted", "summarise_input"]

_ROWS_PER_BATCH = 16_384
_STREAM_DRAW, _STREAM_PROFILE = 5, 6


@dataclass(frozen=True)
class Wanted:
    """What the pass is to find beside the summary.

    Attributes:
        sketch: directions to keep of rows too wide for a covariance; 0 for no sketch.
        rows: training rows to draw; 0 for none.
        of_rows: rows of the whole input.
        profile: whether to count categories and sample values, column by column.
        sampled: categories whose values are to be sampled too.
        skip_infinite: whether infinite values are no error.
    """

    sketch: int = 0
    rows: int = 0
    of_rows: int = 0
    profile: bool = False
    sampled: tuple[str, ...] = ()
    skip_infinite: bool = False


@dataclass(frozen=True)
class Pass:
    """What the pass found.

    Attributes:
        summary: of all training rows, the elements of the measured features.
        training_rows: training rows of each fragment.
        validation_rows: held-out rows of each fragment.
        sketch: of all training rows, if wanted.
        drawn: training rows drawn by the seed, if wanted.
        profile: of all training rows, if wanted.
    """

    summary: Summary
    training_rows: tuple[int, ...]
    validation_rows: tuple[int, ...]
    sketch: Sketch | None = None
    drawn: Drawn | None = None
    profile: Profile | None = None


@dataclass(frozen=True)
class _Found:
    """Of one fragment: the summary's bytes, the row counts, and what else was wanted."""

    summary: bytes
    training_rows: int
    validation_rows: int
    sketch: bytes | None = None
    drawn: Drawn | None = None
    profile: bytes | None = None


class _Summariser:
    """Summarises whole fragments in a worker process."""

    def __init__(
        self,
        files: Sequence[InputFile],
        features: Sequence[Feature],
        split: Split,
        where: str | None,
        wanted: Wanted | None = None,
    ) -> None:
        self.files, self.features, self.split, self.where = files, features, split, where
        self.wanted = wanted or Wanted()

    def run(self, fragment: Fragment) -> _Found:
        """The summary of the fragment's training rows."""
        names = sources(self.features)
        total = _Total(self.wanted, self.split.seed)
        profiler = None
        if self.wanted.profile:
            key = mix(self.split.seed, _STREAM_PROFILE)
            wanted = self.wanted
            profiler = Profiler(self.features, wanted.of_rows, key, sampled=wanted.sampled)
        counts = [0, 0]
        try:
            for batch in read_batches(self.files, fragment, names, _ROWS_PER_BATCH, self.where):
                masks = split_rows(batch.rows, self.split)
                for index, mask in enumerate(masks):
                    counts[index] += int(mask.sum())
                rows, table = batch.rows[masks[0]], batch.table.filter(masks[0])
                total.add(table, rows, self.features)
                if profiler is not None:
                    profiler.add(table, rows)
        except DataError as error:
            raise self._located(error, fragment) from None
        assert total.summary is not None
        return _Found(
            summary_to_bytes(total.summary),
            counts[0],
            counts[1],
            None if total.sketch is None else sketch_to_bytes(total.sketch),
            total.drawn,
            None if profiler is None else profile_to_bytes(profiler.result()),
        )

    def _located(self, error: DataError, fragment: Fragment) -> DataError:
        """The same error with the file's name, when it does not have it."""
        names = list(dict.fromkeys(self.files[piece.file].relative for piece in fragment.pieces))
        what, value, rule, remedy = error.args
        if any(name in what for name in names):
            return error
        shown = names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
        return DataError(f"{shown}: {what}", value, rule, remedy)


class _Total:
    """What has been found so far; parts are merged in the order in which they come."""

    def __init__(self, wanted: Wanted, seed: int) -> None:
        self.wanted, self.key = wanted, mix(seed, _STREAM_DRAW)
        self.summary: Summary | None = None
        self.sketch: Sketch | None = None
        self.drawn: Drawn | None = None
        self.profile: Profile | None = None

    def add(self, table: pa.Table, rows: np.ndarray, features: Sequence[Feature]) -> None:
        """Add training rows; ``rows`` (n,) are their absolute numbers."""
        wanted = self.wanted
        sketch = sketch_table(table, features, wanted.sketch) if wanted.sketch else None
        drawn = draw(rows, wanted.of_rows, wanted.rows, self.key) if wanted.rows else None
        measured = [feature for feature in features if feature.is_measured]
        summary = summarise(table, measured, wanted.skip_infinite)
        self.merge(summary, sketch, drawn, None)

    def merge(
        self,
        summary: Summary,
        sketch: Sketch | None,
        drawn: Drawn | None,
        found: Profile | None,
    ) -> None:
        """Add what was found of other rows."""
        self.summary = summary if self.summary is None else merge(self.summary, summary)
        if sketch is not None:
            self.sketch = sketch if self.sketch is None else merge_sketches(self.sketch, sketch)
        if drawn is not None:
            count = self.wanted.rows
            self.drawn = drawn if self.drawn is None else merge_draws(self.drawn, drawn, count)
        if found is not None:
            self.profile = found if self.profile is None else merge_profiles(self.profile, found)


def summarise_input(
    plan: DataPlan,
    features: Sequence[Feature],
    split: Split,
    where: str | None,
    resources: Resources,
    console: Console,
    wanted: Wanted | None = None,
) -> Pass:
    """Summarise the training rows of ``plan``; small inputs in this process, others on workers.

    Raises:
        DataError: a value that training cannot use, or no training row at all.
    """
    wanted = wanted or Wanted()
    total = _Total(wanted, split.seed)
    rows: list[tuple[int, int]] = []
    arguments = {
        "files": plan.inputs.files,
        "features": tuple(features),
        "split": split,
        "where": where,
        "wanted": wanted,
    }
    found: _Found
    with console.stage("statistics", plan.rows) as advance:
        for fragment, found in pass_over(
            _Summariser, arguments, plan.fragments, plan.bytes, resources
        ):
            sketch = None if found.sketch is None else sketch_from_bytes(found.sketch)
            part = None if found.profile is None else profile_from_bytes(found.profile)
            total.merge(summary_from_bytes(found.summary), sketch, found.drawn, part)
            rows.append((found.training_rows, found.validation_rows))
            advance(fragment.rows)
    assert total.summary is not None
    if total.summary.rows == 0:
        raise DataError(
            "DATA",
            "leaves no training row",
            "at least one is needed",
            "loosen --where or --sample-rows",
        )
    training, validation = zip(*rows, strict=True)
    return Pass(total.summary, training, validation, total.sketch, total.drawn, total.profile)
