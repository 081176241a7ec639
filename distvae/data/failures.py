"""What a file system's error says, as one line: the cause, and what to do about it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pyarrow as pa

from distvae.errors import DistvaeError, StorageError

__all__ = ["first_line", "is_storage_failure", "translated"]

_REMOTE_MARKS = re.compile(r"AWS Error|curlCode|google::cloud|GCS|Azure|HDFS|HTTP response|libjvm")

# (what the message of the file system holds, what to say, what to do about it)
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (r"libjvm|libhdfs", "HDFS needs Java on this machine", "set JAVA_HOME and HADOOP_HOME"),
    (
        (
            r"SIGNATURE|INVALID_ACCESS_KEY|InvalidAccessKeyId|INVALID_CLIENT_TOKEN"
            r"|UNRECOGNIZED_CLIENT|No credentials|MISSING_AUTHENTICATION|EXPIRED_TOKEN"
            r"|UNAUTHENTICATED|HTTP status 401"
        ),
        "the credentials were not accepted",
        "set the credentials of this storage (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for s3)",
    ),
    (
        r"ACCESS_DENIED|AccessDenied|PERMISSION_DENIED|Permission denied|HTTP status 403|forbidden",
        "access is forbidden",
        "check the credentials and the permissions on it",
    ),
    (
        r"NO_SUCH_BUCKET|Bucket '.*' not found|[Bb]ucket does not exist",
        "the bucket does not exist",
        "create it first, or check its name and AWS_ENDPOINT_URL",
    ),
    (
        (
            r"NETWORK_CONNECTION|REQUEST_TIMEOUT|curlCode|resolve host|[Cc]onnection|timed out"
            r"|UNAVAILABLE|SLOW_DOWN|SERVICE_UNAVAILABLE"
        ),
        "the storage cannot be reached",
        "check the network, the host name and AWS_ENDPOINT_URL",
    ),
    (
        r"RESOURCE_NOT_FOUND|NO_SUCH_KEY|does not exist|[Nn]ot found|No such file",
        "not found",
        "check the path",
    ),
    (r"No space left", "no space left", "free space there, or name another place"),
    (r"is a directory|Is a directory", "is a directory, not a file", "name a file"),
)


def is_storage_failure(error: BaseException) -> bool:
    """Return whether an error of a read came from the storage, and not from what was stored.

    Arrow raises OSError for both: the storage's carry an errno or the words of a remote service.
    """
    if isinstance(error, StorageError):
        return True
    if not isinstance(error, OSError):
        return False
    return error.errno is not None or _REMOTE_MARKS.search(str(error)) is not None


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn errors of the file systems about ``what`` into one-line StorageErrors in a ``with``.

    Errors of the package's own family pass unchanged.
    """
    try:
        yield
    except DistvaeError:
        raise
    except (OSError, pa.ArrowNotImplementedError) as error:
        raise _storage_error(what, error) from error


def _storage_error(what: str, error: Exception) -> StorageError:
    text = str(error)
    if isinstance(error, FileNotFoundError):
        return StorageError(what, "not found", "it must exist", "check the path")
    for pattern, value, remedy in _CAUSES:
        if re.search(pattern, text):
            return StorageError(what, value, f"({first_line(error)})", remedy)
    return StorageError(what, first_line(error), "", "check the path and the storage")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 200 characters of it."""
    text = re.sub(r" *:? *\(Request ID:.*", "", str(error)).strip().splitlines()
    line = text[0] if text else type(error).__name__
    return line if len(line) <= 200 else line[:197] + "..."
