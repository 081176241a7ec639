"""sha256 of files: while one is written, and of one that lies on a storage."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading

from distvae.data.storage import Location, storage_errors

__all__ = ["HashingFile", "file_sha256"]

_CHUNK = 4 << 20  # bytes
_QUEUED_WRITES = 16  # Parquet pages of about 1 MB


def file_sha256(location: Location) -> str:
    """Return the sha256 of a file's bytes, as 64 hexadecimal digits, in bounded memory.

    Raises:
        StorageError: missing, forbidden or unreachable.
    """
    digest = hashlib.sha256()
    with storage_errors(location), location.fs.open_input_stream(location.path) as stream:
        while (chunk := stream.read_buffer(_CHUNK)).size:
            digest.update(chunk)
    return digest.hexdigest()


class HashingFile:
    """A new local file, open for writing, that is hashed as it grows.

    Hashing and writing happen in a thread of their own (both release the GIL), so that whoever
    encodes the next page does not wait for them. What pyarrow asks of a Python file is there.

    Args:
        path: the file to make; it must not exist.

    Raises:
        OSError: from any method: the file cannot be made, or an earlier write failed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.closed = False
        self._stream = open(path, "xb")  # noqa: SIM115 - finish and remove close it
        self._digest = hashlib.sha256()
        self._size = 0
        self._discarding = False
        self._failure: OSError | None = None
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_QUEUED_WRITES)
        self._thread = threading.Thread(target=self._drain, name="hashing-file", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Take ``data``; it reaches the file later, in order."""
        if self._failure is not None and not self._discarding:
            raise self._failure
        self._size += len(data)
        self._chunks.put(bytes(data))
        return len(data)

    def tell(self) -> int:
        """Return the number of bytes taken so far."""
        return self._size

    def flush(self) -> None:
        """Do nothing: the file is whole after ``finish``, not before."""

    def close(self) -> None:
        """Do nothing: ``finish`` and ``remove`` close the file."""

    def readable(self) -> bool:
        """Return False."""
        return False

    def writable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return False."""
        return False

    def finish(self) -> tuple[int, str]:
        """Write what is left, close the file; return its size in bytes and its sha256."""
        self._stop()
        if self._failure is not None:
            raise self._failure
        return self._size, self._digest.hexdigest()

    def discard(self) -> None:
        """From now on, take writes and drop them."""
        self._discarding = True

    def remove(self) -> None:
        """Close and delete the file, whatever state it is in. Raises nothing."""
        self.discard()
        with contextlib.suppress(OSError):
            self._stop()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _stop(self) -> None:
        if not self.closed:
            self.closed = True
            self._chunks.put(None)
            self._thread.join()
            self._stream.close()

    def _drain(self) -> None:
        # Goes on taking after a failure: the writer would wait for ever on a full queue.
        while (chunk := self._chunks.get()) is not None:
            if self._failure is not None or self._discarding:
                continue
            try:
                self._digest.update(chunk)
                self._stream.write(chunk)
            except OSError as error:
                self._failure = error
            except Exception as error:  # noqa: BLE001 - a dead thread would hang the writer
                self._failure = OSError(str(error))
