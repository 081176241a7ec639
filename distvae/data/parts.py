"""The committing writer of one fragment: nothing is visible before it is whole.

A part is finished in a local file first and moved (or uploaded whole) to its place after: a stream
to an object store that is left through an exception publishes what it has.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from distvae.data import layout
from distvae.data.arrow_types import without_views
from distvae.data.digest import HashingFile
from distvae.data.fragments import Fragment
from distvae.data.manifest import FINGERPRINT_KEY, Receipt, receipt_to_json
from distvae.data.parquet_options import views_in_structs, writer_options
from distvae.data.storage import Location, publish, storage_errors, write_bytes
from distvae.errors import DistvaeError

__all__ = ["ROWS_PER_ROW_GROUP", "PartWriter"]

ROWS_PER_ROW_GROUP = 65_536


class PartWriter:
    """Writes one fragment's part, its rejected rows and its receipt, and commits them in order.

    Use in a ``with``; leaving it without ``commit``, by an exception or not, publishes nothing and
    removes the temporary files. The bytes depend on the rows alone, not on how they were cut into
    tables (dictionary columns: also on their dictionaries).

    Args:
        directory: the dataset.
        fragment: what is being written.
        fingerprint: the run's, 64 hexadecimal digits.
        schema: of the part; its metadata is not kept.
        footer: key-value metadata of the part, beside the fingerprint: model id and version.
        rows_per_row_group: rows of each row group, the last one excepted.
    """

    def __init__(
        self,
        directory: Location,
        fragment: Fragment,
        fingerprint: str,
        schema: pa.Schema,
        footer: Mapping[str, str],
        rows_per_row_group: int = ROWS_PER_ROW_GROUP,
    ) -> None:
        self._directory = directory
        self._fragment = fragment
        self._fingerprint = fingerprint
        self._footer = {**footer, FINGERPRINT_KEY: fingerprint}
        self._rows_per_row_group = rows_per_row_group
        self._name = layout.part_name(fragment.index, fingerprint)
        self._rejected: _StagedFile | None = None
        self._part = self._staged(self._name, schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._part.remove()
        if self._rejected is not None:
            self._rejected.remove()

    @property
    def rows_out(self) -> int:
        """Rows taken by ``write`` so far."""
        return self._part.rows

    @property
    def rows_rejected(self) -> int:
        """Rows taken by ``reject`` so far."""
        return 0 if self._rejected is None else self._rejected.rows

    def write(self, table: pa.Table) -> None:
        """Append rows to the part.

        Raises:
            DistvaeError: the table's schema is not the part's.
            StorageError: the temporary file cannot be written, e.g. a full disk.
        """
        self._part.write(table)

    def reject(self, table: pa.Table) -> None:
        """Append rows to ``_rejected``: key, source file, source row, reason.

        The first table gives the schema; the file is made only if there is a row.

        Raises:
            DistvaeError: the table's schema is not the first one's.
            StorageError: the temporary file cannot be written.
        """
        if table.num_rows == 0:
            return
        if self._rejected is None:
            self._rejected = self._staged(f"rejected-{self._name}", table.schema)
        self._rejected.write(table)

    def commit(
        self, rows_in: int, sources: str = "[]", summary: Mapping[str, float] | None = None
    ) -> Receipt:
        """Publish the rejected rows, then the receipt, then the part: the commit point.

        Args:
            rows_in: rows read; must be the rows written and rejected.
            sources: JSON list of ``[file, first row in the file, rows]``.
            summary: figures of the fragment by name.

        Raises:
            DistvaeError: rows are missing or too many; nothing is published.
            StorageError: the storage failed; without the part the fragment is not done.
        """
        if rows_in != self.rows_out + self.rows_rejected:
            value = f"{rows_in:,} rows in, {self.rows_out:,} out, {self.rows_rejected:,} rejected"
            raise DistvaeError(self._name, value, "rows in must be rows out + rows rejected")
        size, sha256 = self._part.finish()
        rejected = None if self._rejected is None else self._rejected.finish()
        receipt = Receipt(
            fragment=self._fragment.index,
            fingerprint=self._fingerprint,
            part=self._name,
            first_row=self._fragment.first_row,
            rows_in=rows_in,
            rows_out=self.rows_out,
            rows_rejected=self.rows_rejected,
            bytes=size,
            sha256=sha256,
            rejected_part=None if rejected is None else self._name,
            rejected_bytes=0 if rejected is None else rejected[0],
            rejected_sha256=None if rejected is None else rejected[1],
            sources=sources,
            summary={name: float(value) for name, value in (summary or {}).items()},
        )
        self._publish(receipt)
        return receipt

    def _publish(self, receipt: Receipt) -> None:
        if self._rejected is not None:
            publish(self._rejected.path, self._directory.child(layout.REJECTED, self._name))
        name = layout.receipt_name(receipt.fragment, self._fingerprint)
        write_bytes(self._directory.child(layout.RECEIPTS, name), receipt_to_json(receipt))
        publish(self._part.path, self._directory.child(layout.DATA, self._name))

    def _staged(self, name: str, schema: pa.Schema) -> _StagedFile:
        return _StagedFile(self._directory, name, schema, self._footer, self._rows_per_row_group)


class _StagedFile:
    """A Parquet file in the making, in ``DIR/_staging`` or, for a remote DIR, a temporary one."""

    def __init__(
        self,
        directory: Location,
        name: str,
        schema: pa.Schema,
        footer: Mapping[str, str],
        rows_per_row_group: int,
    ) -> None:
        self.rows = 0
        self._name = name
        self._schema = schema.remove_metadata()
        self._rows_per_row_group = rows_per_row_group
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        folder = _staging_folder(directory)
        self.path = os.path.join(folder, f"{name}.{os.getpid()}.{secrets.token_hex(4)}")
        self._place = Location(directory.fs, directory.path, self.path)
        with storage_errors(self._place):
            os.makedirs(folder, exist_ok=True)
            self._file = HashingFile(self.path)
        try:
            options = writer_options(self._schema)
            self._writer = pq.ParquetWriter(self._file, self._schema, **options)
            self._writer.add_key_value_metadata(dict(sorted(footer.items())))
        except BaseException:
            self._file.remove()
            raise

    def write(self, table: pa.Table) -> None:
        if not table.schema.equals(self._schema):
            found, expected = _difference(table.schema, self._schema)
            raise DistvaeError(self._name, f"has {found}", f"must have {expected}")
        self.rows += table.num_rows
        self._pending.append(table)
        self._pending_rows += table.num_rows
        while self._pending_rows >= self._rows_per_row_group:
            self._write_row_group(self._rows_per_row_group)

    def finish(self) -> tuple[int, str]:
        if self._pending_rows:
            self._write_row_group(self._pending_rows)
        with storage_errors(self._place):
            self._writer.close()
            return self._file.finish()

    def remove(self) -> None:
        self._file.discard()
        # Closed, so that the garbage collector does not: what it writes now goes nowhere.
        with contextlib.suppress(pa.ArrowException, OSError):
            self._writer.close()
        self._writer.is_open = False
        self._file.remove()

    def _write_row_group(self, rows: int) -> None:
        joined = pa.concat_tables(self._pending)
        # One chunk per column: pages end where chunks do, and the bytes must not depend on it.
        group = joined.slice(0, rows).combine_chunks()
        if views_in_structs(self._schema):  # by way of strings they become views without an offset
            group = group.cast(without_views(self._schema)).combine_chunks().cast(self._schema)
        rest = joined.slice(rows)
        self._pending_rows -= rows
        self._pending = [rest] if self._pending_rows else []
        with storage_errors(self._place):
            self._writer.write_table(group, row_group_size=rows)


def _staging_folder(directory: Location) -> str:
    if directory.is_local:
        return directory.child(layout.STAGING).path
    return tempfile.gettempdir()


def _difference(found: pa.Schema, expected: pa.Schema) -> tuple[str, str]:
    if found.names != expected.names:
        return f"columns {found.names}", f"columns {expected.names}"
    pairs = zip(found, expected, strict=True)
    return next((_shown(a), _shown(b)) for a, b in pairs if not a.equals(b))


def _shown(field: pa.Field) -> str:
    return f"{field.name}: {field.type}{'' if field.nullable else ' not null'}"
