from __future__ import annotations

import errno
import os
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest

from distvae.data import placing, storage
from distvae.data.storage import Found, Location, locate
from distvae.errors import DataError, StorageError


@pytest.fixture(params=["local", "remote"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A folder by its local path, and the same through a file system that is not local."""
    if request.param == "local":
        return locate(str(tmp_path))
    return Location(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "", "sub://root")


def test_a_file_is_written_read_listed_and_deleted(folder: Location) -> None:
    place = folder.child("a/b", "c.bin")
    storage.write_bytes(place, b"first")
    storage.write_bytes(place, b"second")
    assert storage.read_bytes(place) == b"second"
    assert storage.kind(place) == "file"
    assert storage.kind(folder.child("a")) == "directory"
    assert storage.kind(folder.child("x")) == "absent"
    assert storage.exists(place)
    found = storage.list_files(folder.child("a"))
    assert [(file.relative, file.size) for file in found] == [("b/c.bin", 6)]
    assert storage.list_files(folder.child("a"), recursive=False) == []
    storage.delete_file(place)
    storage.delete_file(place)
    assert not storage.exists(place)
    storage.delete_tree(folder.child("a"))
    storage.delete_tree(folder.child("a"))
    assert storage.list_files(folder) == []


def test_listing_is_sorted_and_an_absent_folder_is_empty(folder: Location) -> None:
    for name in ("b/1", "a/2", "a-/3", "c"):
        storage.write_bytes(folder.child(name), b"")
    assert [file.relative for file in storage.list_files(folder)] == ["a-/3", "a/2", "b/1", "c"]
    assert storage.list_files(folder.child("absent")) == []
    assert isinstance(storage.list_files(folder)[0], Found)


def test_publishing_moves_the_file(
    folder: Location, tmp_path_factory: pytest.TempPathFactory
) -> None:
    finished = tmp_path_factory.mktemp("elsewhere") / "part"
    finished.write_bytes(b"x" * 100_000)
    storage.make_directory(folder.child("data"))
    storage.publish(str(finished), folder.child("data/part"))
    assert storage.read_bytes(folder.child("data/part")) == b"x" * 100_000
    assert not finished.exists()
    assert [file.relative for file in storage.list_files(folder)] == ["data/part"]


def test_publishing_from_another_disk_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed = os.replace

    def refuses_source(source: str, target: str) -> None:
        if source == str(tmp_path / "source"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        renamed(source, target)

    (tmp_path / "source").write_bytes(b"content")
    monkeypatch.setattr(os, "replace", refuses_source)
    storage.publish(str(tmp_path / "source"), locate(str(tmp_path / "new" / "target")))
    assert (tmp_path / "new" / "target").read_bytes() == b"content"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "target"]


def test_an_upload_that_arrives_short_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = Location(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "", "sub://root")
    (tmp_path / "source").write_bytes(b"content")
    monkeypatch.setattr(placing, "upload", lambda *to: (tmp_path / to[-1]).write_bytes(b"con"))
    with pytest.raises(
        StorageError, match=r"sub://root/target: arrived with 3 bytes; must be 7 bytes"
    ):
        storage.publish(str(tmp_path / "source"), far.child("target"))
    assert (tmp_path / "source").exists()


def test_a_failed_local_write_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = locate(str(tmp_path / "file"))
    storage.write_bytes(place, b"old")

    def fails(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StorageError, match="no space left"):
        storage.write_bytes(place, b"new")
    assert storage.read_bytes(place) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_remote_write_runs_where_no_interrupt_lands(tmp_path: Path) -> None:
    threads: list[bool] = []

    def opened(path: str) -> object:
        threads.append(threading.current_thread() is threading.main_thread())
        return pafs.LocalFileSystem().open_output_stream(path)

    fs = SimpleNamespace(type_name="s3", open_output_stream=opened)
    far = Location(fs, str(tmp_path / "file"), "s3://file")
    storage.write_bytes(far, b"content")
    assert threads == [False]
    assert (tmp_path / "file").read_bytes() == b"content"


def test_paths_are_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("x/y").path == str(tmp_path / "x" / "y")
    assert locate("x/y").uri == "x/y"
    assert locate("~/z").path == str(tmp_path / "z")
    assert locate("x/").child("a", "b/c").uri == "x/a/b/c"
    assert locate("x").child("") == locate("x")
    assert locate("/").child("a").path == "/a"
    assert locate(f"file://{tmp_path}/a%20b").path == str(tmp_path / "a b")
    assert locate(f"file://{tmp_path}/a b").is_local
    assert locate("x/y/").name == "y"
    assert str(locate("x")) == "x"


def test_a_uri_keeps_its_options_and_hides_its_secrets() -> None:
    options = "?endpoint_override=127.0.0.1%3A1&region=eu"
    place = locate(f"s3://key:pass@bucket/a b/c%20d{options}")
    assert place.path == "bucket/a b/c%20d"
    assert place.uri == f"s3://***@bucket/a b/c%20d{options}"
    assert place.child("e").uri == f"s3://***@bucket/a b/c%20d/e{options}"
    assert not place.is_local
    assert locate(f"s3://bucket{options}").child("e").uri == f"s3://bucket/e{options}"
    again = pickle.loads(pickle.dumps(place))
    assert again == place


def test_uris_of_one_bucket_share_a_file_system() -> None:
    options = "?endpoint_override=127.0.0.1%3A1&region=eu"
    one, two = storage.locate_all([f"s3://bucket/a{options}", f"s3://bucket/b{options}"])
    assert one.fs is two.fs
    assert (one.path, two.path) == ("bucket/a", "bucket/b")


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("a/b?.parquet", ("", "a/b?.parquet", "")),
        ("s3://b/a/?.parquet", ("s3://b", "/a/?.parquet", "")),
        ("s3://b/*.parquet?region=eu", ("s3://b", "/*.parquet", "?region=eu")),
        ("s3://b?region=eu", ("s3://b", "", "?region=eu")),
        ("s3://b/year=?/*", ("s3://b", "/year=?/*", "")),
    ],
)
def test_uris_are_split(uri: str, parts: tuple[str, str, str]) -> None:
    assert storage.split_uri(uri) == parts


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "path: is empty; a path or URI is needed; name one"),
        ("foo://x/y", "foo://x/y: Unrecognized filesystem type in URI: foo://x/"),
        ("s3:///key", "s3:///key: Missing bucket name in S3 URI"),
    ],
)
def test_what_cannot_be_located(uri: str, message: str) -> None:
    with pytest.raises(StorageError) as caught:
        locate(uri)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 4


def test_unreachable_storage_is_one_line() -> None:
    once = pafs.AwsStandardS3RetryStrategy(max_attempts=1)
    far = pafs.S3FileSystem(
        access_key="k", secret_key="s", endpoint_override="127.0.0.1:1", retry_strategy=once
    )
    with pytest.raises(StorageError) as caught:
        storage.write_bytes(Location(far, "bucket/x", "s3://bucket/x"), b"x")
    assert str(caught.value).startswith("s3://bucket/x: the storage cannot be reached; ")
    assert "check the network" in str(caught.value)


def test_missing_and_wrong_places(tmp_path: Path) -> None:
    place = locate(str(tmp_path / "absent"))
    with pytest.raises(StorageError, match="absent: not found; it must exist; check the path"):
        storage.read_bytes(place)
    with pytest.raises(StorageError, match="is a directory, not a file"):
        storage.read_bytes(locate(str(tmp_path)))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        storage.make_directory(locate(str(tmp_path / "file" / "x")))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "access is forbidden"),
        (OSError("AWS Error ACCESS_DENIED during PutObject operation: x"), "access is forbidden"),
        (
            OSError("AWS Error INVALID_ACCESS_KEY_ID during HeadBucket operation"),
            "the credentials were not accepted",
        ),
        (
            OSError("AWS Error SIGNATURE_DOES_NOT_MATCH during GetObject operation"),
            "the credentials were not accepted",
        ),
        (OSError("AWS Error NO_SUCH_BUCKET during x"), "the bucket does not exist"),
        (OSError("Unable to load libjvm\nmore"), "HDFS needs Java on this machine"),
        (OSError(5, "Input/output error"), r"\[Errno 5\] Input/output error"),
        (OSError("a\nb"), "a; check the path and the storage"),
    ],
)
def test_errors_are_translated(error: OSError, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught, storage.storage_errors(locate("x")):
        raise error
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x: ")
    assert pickle.loads(pickle.dumps(caught.value)).message == caught.value.message


def test_errors_of_our_own_pass_unchanged() -> None:
    mine = DataError("x", "y")
    with pytest.raises(DataError) as caught, storage.storage_errors(locate("x")):
        raise mine
    assert caught.value is mine


def test_a_failure_of_storage_is_told_from_a_damaged_file() -> None:
    assert storage.is_storage_failure(OSError(5, "Input/output error"))
    assert storage.is_storage_failure(OSError("AWS Error NETWORK_CONNECTION during GetObject"))
    assert not storage.is_storage_failure(OSError("Corrupt snappy compressed data."))
    assert not storage.is_storage_failure(ValueError("x"))
