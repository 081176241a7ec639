"""What a conditional model keeps of its training rows: the columns that it is given."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from distvae.cluster.shards import TrainJob
from distvae.cluster.summarise import Pass

__all__ = ["condition_rows"]


def condition_rows(job: TrainJob, passed: Pass) -> bytes:
    """Training rows of the given columns, drawn by the seed, as Parquet; empty without such.

    Synthetic rows draw their conditions from them, all columns of a row together.
    """
    given = [f for f in job.codec.features if f.name in job.architecture.conditions]
    if not given or passed.profile is None:
        return b""
    columns = {}
    for feature in given:
        sample = passed.profile.columns[feature.name].sample
        assert sample is not None  # conditions are scalar columns
        columns[feature.name] = sample
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()
