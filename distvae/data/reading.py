"""Rows of a fragment as tables of equal length, in input order and bounded memory."""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distvae.data.arrow_types import without_views
from distvae.data.failures import first_line, is_storage_failure
from distvae.data.footers import open_parquet
from distvae.data.fragments import Fragment, Piece
from distvae.data.inputs import InputFile
from distvae.data.schemas import partition_value
from distvae.data.storage import storage_errors
from distvae.errors import DataError

__all__ = ["read_fragment", "source_columns"]

_OPEN_AHEAD = 8
_HELD_BYTES = 32 << 20
_BUFFERED_BYTES = 64 << 20


@dataclass(frozen=True)
class _Span:
    """Row groups of one file, of which ``rows`` rows after the first ``dropped`` are wanted."""

    file: InputFile
    row_groups: tuple[int, ...]
    first_row: int
    dropped: int
    rows: int


def read_fragment(
    inputs_files: Sequence[InputFile],
    fragment: Fragment,
    columns: Sequence[str],
    rows_per_batch: int,
    skip: int = 0,
    limit: int | None = None,
    use_threads: bool = False,
) -> Iterator[pa.Table]:
    """Yield the rows of a fragment as tables of ``rows_per_batch`` rows; the last may be shorter.

    Columns come in the order asked for, in the types of the common schema (string views as large
    strings) and without metadata, Hive partition columns included; each has one chunk, except that
    dictionary columns have one for each dictionary met. Row groups before ``skip`` or after
    ``limit`` are not decoded, and a row group is decoded piecewise, so memory is bounded by batches
    and pages. Page checksums are verified where a file carries them.

    Args:
        inputs_files: ``Inputs.files``.
        fragment: one of ``plan_input`` on these files.
        columns: names, at least one.
        rows_per_batch: rows of each table.
        skip: rows of the fragment to leave out at its start.
        limit: the most rows to yield; None for all.
        use_threads: whether to decode columns in parallel.

    Raises:
        DataError: unknown column; a file that changed since it was planned; a damaged page.
        StorageError: missing, forbidden or unreachable.
    """
    spans = _spans(inputs_files, fragment, skip, limit)
    for file in {span.file.location.path: span.file for span in spans}.values():
        _check_columns(file, columns)
    batches = _batches(spans, columns, rows_per_batch, use_threads)
    return _rechunked(batches, rows_per_batch)


def source_columns(
    fragment: Fragment, inputs_files: Sequence[InputFile], start: int, rows: int
) -> tuple[pa.Array, pa.Array]:
    """Return where rows [start, start + rows) of a fragment come from: ``_file`` and ``_row``.

    Returns:
        The relative path of each row's file (string), and the row's number inside it (int64).
    """
    sizes = np.array([piece.rows for piece in fragment.pieces], dtype=np.int64)
    ends = np.cumsum(sizes)
    firsts = np.array([piece.first_row for piece in fragment.pieces], dtype=np.int64)
    wanted = np.arange(start, start + rows, dtype=np.int64)
    piece_of_row = np.searchsorted(ends, wanted, side="right")
    row_in_file = wanted - (ends - sizes)[piece_of_row] + firsts[piece_of_row]
    used, code = np.unique(piece_of_row, return_inverse=True)
    names = [inputs_files[fragment.pieces[index].file].relative for index in used]
    files = pa.array(names, pa.string()).take(pa.array(code.astype(np.int64)))
    return files, pa.array(row_in_file)


def _spans(
    files: Sequence[InputFile], fragment: Fragment, skip: int, limit: int | None
) -> list[_Span]:
    stop = fragment.rows if limit is None else min(fragment.rows, skip + limit)
    spans: list[_Span] = []
    piece_start = 0
    for piece in fragment.pieces:
        first, last = max(skip - piece_start, 0), min(stop - piece_start, piece.rows)
        if first < last:
            spans.append(_span(files[piece.file], piece, first, last))
        piece_start += piece.rows
    return spans


def _span(file: InputFile, piece: Piece, first: int, last: int) -> _Span:
    """Return rows [first, last) of a piece with the row groups that hold them."""
    taken: list[int] = []
    skipped = group_start = 0
    for index in piece.row_groups:
        group_stop = group_start + file.row_groups[index].rows
        if group_stop <= first:
            skipped = group_stop
        elif group_start < last:
            taken.append(index)
        group_start = group_stop
    return _Span(file, tuple(taken), piece.first_row + skipped, first - skipped, last - first)


def _check_columns(file: InputFile, columns: Sequence[str]) -> None:
    if not columns:
        raise DataError("columns", "none named", "at least one is read", "name a column")
    for name in columns:
        if name not in file.schema.names:
            close = difflib.get_close_matches(name, file.schema.names, 1)
            remedy = f"did you mean {close[0]!r}?" if close else "check its name"
            raise DataError(f"column {name!r}", f"is not in {file.location.uri}", "", remedy)


def _batches(
    spans: Sequence[_Span], columns: Sequence[str], rows_per_batch: int, use_threads: bool
) -> Iterator[pa.Table]:
    for span, parquet in _opened(spans, len(columns)):
        partition = dict(span.file.partition)
        schema = pa.schema([span.file.schema.field(name) for name in columns])
        stored = [name for name in columns if name not in partition]
        constants = {
            name: partition_value(text, schema.field(name).type)
            for name, text in partition.items()
            if name in columns
        }
        try:
            for batch in _decoded(span, parquet, stored, rows_per_batch, use_threads):
                yield _in_schema(batch, schema, constants, span.file.wrong)
        finally:
            parquet.close(force=True)


def _opened(spans: Sequence[_Span], columns: int) -> Iterator[tuple[_Span, pq.ParquetFile]]:
    """Open the files in turn; on remote storage some of them ahead of their use."""
    if len(spans) <= 1 or spans[0].file.location.is_local:
        for span in spans:
            yield span, _open(span, columns)
        return
    waiting: deque[tuple[_Span, Future[pq.ParquetFile]]] = deque()
    unopened = iter(spans)
    with ThreadPoolExecutor(_OPEN_AHEAD) as pool:
        try:
            for span in islice(unopened, _OPEN_AHEAD):
                waiting.append((span, pool.submit(_open, span, columns)))
            while waiting:
                first, future = waiting.popleft()
                for span in islice(unopened, 1):
                    waiting.append((span, pool.submit(_open, span, columns)))
                yield first, future.result()
        finally:
            for _, future in waiting:
                if not future.cancel() and future.exception() is None:
                    future.result().close(force=True)


def _open(span: _Span, columns: int) -> pq.ParquetFile:
    """Open a span's file with reads that suit its distance: far away, each read waits long."""
    file = span.file
    if file.location.is_local:
        return open_parquet(file.location, file.footer_sha256)
    small = sum(file.row_groups[i].bytes for i in span.row_groups) <= _HELD_BYTES
    buffer_bytes = min(8 << 20, max(1 << 20, _BUFFERED_BYTES // columns))
    return open_parquet(file.location, file.footer_sha256, buffer_bytes, whole=small)


def _decoded(
    span: _Span, parquet: pq.ParquetFile, stored: list[str], rows_per_batch: int, use_threads: bool
) -> Iterator[pa.RecordBatch]:
    """Yield exactly ``span.rows`` rows of the stored columns."""
    groups = [list(span.row_groups)]
    held = parquet.schema_arrow
    if any(_holds_dictionary(held.field(name).type) for name in stored):
        # Arrow cannot decode a dictionary inside a struct over a border of row groups.
        groups = [[group] for group in span.row_groups]
    batches = chain.from_iterable(
        parquet.iter_batches(
            batch_size=rows_per_batch, row_groups=each, columns=stored, use_threads=use_threads
        )
        for each in groups
    )
    position = 0
    end = span.dropped + span.rows
    while position < end:
        batch = _next(batches, span, position)
        first, last = max(span.dropped - position, 0), min(end - position, batch.num_rows)
        if first < last:
            yield batch if last - first == batch.num_rows else batch.slice(first, last - first)
        position += batch.num_rows


def _next(batches: Iterator[pa.RecordBatch], span: _Span, position: int) -> pa.RecordBatch:
    uri = span.file.location.uri
    place = f"{uri}, from row {span.first_row + position:,} on"
    try:
        with storage_errors(span.file.location):
            try:
                return next(batches)
            except MemoryError:
                raise
            except (pa.ArrowException, OSError) as error:
                if is_storage_failure(error):
                    raise
                value = f"cannot be decoded ({first_line(error)})"
                raise DataError(place, value, "", "fetch the file again or leave it out") from error
    except StopIteration as error:
        rule = "its footer says that there are more"
        raise DataError(place, "holds no rows", rule, "fetch the file again") from error


def _in_schema(
    batch: pa.RecordBatch,
    schema: pa.Schema,
    constants: dict[str, pa.Scalar],
    wrong: Sequence[str] = (),
) -> pa.Table:
    """Return the batch with the columns of ``schema``, partition columns filled in.

    Columns that the file holds in a ``wrong`` type are null.
    """
    schema = without_views(schema)
    arrays = []
    for field in schema:
        if field.name in constants:
            arrays.append(pa.repeat(constants[field.name], batch.num_rows))
            continue
        if field.name in wrong:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch.column(field.name)
        arrays.append(column if column.type.equals(field.type) else column.cast(field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _rechunked(tables: Iterator[pa.Table], rows_per_batch: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of ``rows_per_batch``; copies only rows beside a border."""
    held: list[pa.Table] = []
    rows = 0
    for table in tables:
        start = 0
        while rows + table.num_rows - start >= rows_per_batch:
            held.append(table.slice(start, rows_per_batch - rows))
            start += rows_per_batch - rows
            yield join_tables(held)
            held, rows = [], 0
        if start < table.num_rows:
            held.append(table.slice(start))
            rows += table.num_rows - start
    if held:
        yield join_tables(held)


def join_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of several, at least one; each column one array, but for those of dictionaries."""
    if len(tables) == 1:
        return tables[0]
    table = pa.concat_tables(tables)
    columns = [
        # Joining dictionaries could need more codes than their index type has.
        column
        if pa.types.is_dictionary(column.type) or _holds_dictionary(column.type)
        else pa.chunked_array([_whole(column)])
        for column in table.columns
    ]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _holds_dictionary(kind: pa.DataType) -> bool:
    """Whether a struct has a dictionary in it, at any depth."""
    if not pa.types.is_struct(kind):
        return False
    return any(pa.types.is_dictionary(f.type) or _holds_dictionary(f.type) for f in kind)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole
