"""What users get wrong: the real command ends at once with one helpful line and writes nothing.

Every mistake is a command line as it would be typed in the folder that ``mistakes`` makes. The
contract's exit codes are in ``distvae --help``.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distvae.errors import DistvaeError
from tests.conftest import SECONDS, Run, tiny_table
from tests.mistakes import make_world

# (command line, exit code, what the line must say)
OPTIONS = [
    ("tarin", 2, ["No such command", "tarin", "train"]),
    ("--jsn", 2, ["--jsn", "--help"]),
    ("schema tarin", 2, ["tarin", "quickstart", "verify"]),
    ("schema", 2, ["COMMAND", "--help"]),
    ("train rows.parquet --model", 2, ["--model", "requires an argument"]),
    ("train rows.parquet", 2, ["model", "must be given", "--model"]),
    ("train --model new", 2, ["data", "must be given", "DATA"]),
    ("train rows.parquet --model new --latnt-dim 3", 2, ["--latnt-dim", "--latent-dim"]),
    (
        "train rows.parquet --model new --latent-dim -3",
        2,
        ["latent_dim", "-3", "or equal to 1", "16"],
    ),
    ("train rows.parquet --model new --latent-dim many", 2, ["latent_dim", "many", "integer"]),
    ("train rows.parquet --model new --hidden-dims 8,-8", 2, ["hidden_dims.1", "-8"]),
    ("train rows.parquet --model new --hidden-dims 8,x", 2, ["hidden_dims.1", "'x'", "integer"]),
    ("train rows.parquet --model new --activation cube", 2, ["activation", "cube", "relu"]),
    ("train rows.parquet --model new --kl-weight inf", 2, ["kl_weight", "inf", "finite"]),
    ("train rows.parquet --model new --learning-rate nan", 2, ["learning_rate", "nan"]),
    ("train rows.parquet --model new --validation-fraction 1", 2, ["validation_fraction", "'1'"]),
    ("train rows.parquet --model new --workers 0", 2, ["workers", "'0'", "positive", "2..8"]),
    ("train rows.parquet --model new --workers 4..2", 2, ["workers", "4..2", "2..8"]),
    ("train rows.parquet --model new --memory-per-worker lots", 2, ["memory_per_worker", "4GiB"]),
    ("train rows.parquet --model new --gpus-per-worker -1", 2, ["gpus_per_worker", "-1"]),
    ("train rows.parquet --model new --precision fp64", 2, ["precision", "fp64", "bf16"]),
    ("train rows.parquet --model new --seed -1", 2, ["seed", "-1", "or equal to 0"]),
    (
        "train rows.parquet --model new --likelihood pixels",
        2,
        ["likelihood", "COLUMN=VALUE", "pixels"],
    ),
    ("train rows.parquet --model new --likelihood =gaussian", 2, ["likelihood", "empty"]),
    ("train rows.parquet --model new --role height", 2, ["role", "COLUMN=VALUE", "height"]),
    ("train rows.parquet --model new --role =count", 2, ["role", "empty"]),
    ("train rows.parquet --model new --prior cubic", 2, ["prior", "cubic", "'mixture'", "'flow'"]),
    ("train rows.parquet --model new --kind pca --prior flow", 2, ["prior", "flow", "kind pca"]),
    (
        "train rows.parquet --model new --kind pca --condition-on height",
        2,
        ["condition_on", "height", "needs kind vae"],
    ),
    ("train rows.parquet --model new --resume --overwrite", 2, ["resume", "overwrite", "one of"]),
    ("train rows.parquet --model new --set latent_dim", 2, ["--set", "KEY=VALUE", "seed=3"]),
    (
        "train rows.parquet --model new --set latent_dim=-2",
        2,
        ["latent_dim", "-2", "or equal to 1"],
    ),
    ("train rows.parquet --model new --set latnt_dim=2", 2, ["latnt_dim", "unknown", "latent_dim"]),
    ("train rows.parquet --model new --set latent_dim.x=2", 2, ["latent_dim.x", "no parts"]),
    (
        "train rows.parquet --model new --config unknown.yaml",
        2,
        ["latnet_dims", "unknown", "latent_dim"],
    ),
    ("train rows.parquet --model new --config negative.yaml", 2, ["latent_dim", "-3"]),
    ("train rows.parquet --model new --config broken.yaml", 2, ["broken.yaml", "not YAML", "line"]),
    ("train rows.parquet --model new --config binary.yaml", 2, ["binary.yaml", "not YAML"]),
    ("train rows.parquet --model new --config list.yaml", 2, ["list.yaml", "list", "KEY: VALUE"]),
    ("train rows.parquet --model new --config gone.yaml", 2, ["gone.yaml", "No such file"]),
    ("train rows.parquet --model new --config empty", 2, ["empty", "directory"]),
    ("embed rows.parquet --model model --out out --mode later", 2, ["mode", "later", "resume"]),
    ("embed rows.parquet --model model --out out --max-rejected 2", 2, ["max_rejected", "'2'"]),
    ("embed rows.parquet --model model", 2, ["out", "must be given", "--out"]),
    (
        "embed rows.parquet --model model --out out --on-unseen bogus",
        2,
        ["on_unseen", "bogus", "'error', 'reject' or 'other'"],
    ),
    (
        "embed rows.parquet --model model --out out --on-wrong-type clip",
        2,
        ["on_wrong_type", "clip", "'error' or 'reject'"],
    ),
    ("generate --model model --out out", 2, ["rows", "0", "at least 1", "--rows"]),
    ("generate --model model --out out --rows 5000000000000000000", 2, ["rows", "2^62", "fewer"]),
    (
        "generate --model model --out out --rows 5 --given height",
        2,
        ["given", "COLUMN=VALUE", "height"],
    ),
    ("generate --model model --out out --rows 5 --given =170", 2, ["given", "empty"]),
    (
        "generate --model model --out out --rows 5 --given-from rows.parquet",
        2,
        ["rows", "given_from", "one of the two"],
    ),
    (
        "generate --model model --out out --given-from rows.parquet --given height=3",
        2,
        ["given", "given_from", "one of the two"],
    ),
    ("evaluate rows.parquet --model model --importance-samples 0", 2, ["importance_samples"]),
    ("evaluate rows.parquet --model model --target height", 2, ["target", "--synthetic"]),
    (
        "evaluate rows.parquet --model model --training-data rows.parquet",
        2,
        ["training_data", "--synthetic"],
    ),
    ("report model", 2, ["out", "must be given", "--out"]),
    ("report model --out full", 5, ["out", "full", "is a directory", "must be a file"]),
    ("report model --out file/page.html", 4, ["out", "file is a file", "must be a folder"]),
    ("verify", 2, ["directory", "must be given", "DIR"]),
    ("verify gone", 4, ["gone", "not found", "check the path"]),
    ("verify full", 7, ["full", "_run.json", "dataset that distvae wrote"]),
    ("verify file", 7, ["file", "_run.json"]),
    ("verify begun_out", 7, ["begun_out", "not finished", "--mode resume"]),
    ("verify changed", 7, ["changed/data/part-", "sha256", "overwrite"]),
    ("verify short", 7, ["short/data/part-", "is missing", "overwrite"]),
    ("verify foreign", 7, ["foreign/data/more.parquet", "not in the manifest"]),
    ("verify no_manifest", 7, ["_manifest.parquet", "is missing"]),
    ("verify bad_manifest", 7, ["bad_manifest/_manifest.parquet"]),
    ("status gone", 4, ["gone", "not found"]),
    ("status full", 5, ["full", "_run.json"]),
    ("status file", 4, ["file", "directory"]),
    ("status bad_run", 5, ["bad_run/_run.json", "cannot be read"]),
    ("quickstart --dir file/new", 4, ["dir", "file is a file", "must be a folder"]),
    ("quickstart --epochs 0", 2, ["epochs", "'0'"]),
]
# These import torch: seconds each.
DATA = [
    ("train gone.parquet --model new", 4, ["gone.parquet", "not found", "check the path"]),
    ("train 'gone*.parquet' --model new", 4, ["gone*.parquet", "matches no file"]),
    ("train empty --model new", 3, ["empty", "no Parquet file", "*.parquet"]),
    ("train csv --model new", 3, ["csv", "no Parquet file"]),
    ("train text.parquet --model new", 3, ["text.parquet", "not Parquet", "PAR1"]),
    (
        "train truncated.parquet --model new",
        3,
        ["truncated.parquet", "truncated", "fetch it again"],
    ),
    ("train none.parquet --model new", 3, ["none.parquet", "0 bytes"]),
    ("train footer.parquet --model new", 3, ["footer.parquet", "damaged footer"]),
    ("train zero.parquet --model new", 3, ["zero.parquet", "no rows", "at least one"]),
    ("train two --model new", 3, ["'height'", "missing in two/b.parquet", "two/a.parquet"]),
    ("train types --model new", 3, ["'height'", "float", "string", "types/b.parquet"]),
    ("train @list.txt --model new", 3, ["list.txt", "names no file"]),
    ("train @gone.txt --model new", 4, ["gone.txt", "not found"]),
    ("train @stale.txt --model new", 4, ["gone.parquet", "not found"]),
    ("train @binary.txt --model new", 3, ["binary.txt", "UTF-8"]),
    (
        "train binary.parquet --model new --include height,blob",
        3,
        ["'blob'", "binary", "--exclude blob"],
    ),
    (
        "train untyped.parquet --model new --include height,pixels",
        3,
        ["'height'", "null", "--exclude height"],
    ),
    ("train no_lists.parquet --model new", 3, ["'pixels'", "--exclude pixels"]),
    ("train ftp://host/rows.parquet --model new", 4, ["ftp://host/rows.parquet", "s3://"]),
    ("train rows.parquet s3://b/rows.parquet --model new", 4, ["s3://b", "cannot be reached"]),
    (
        "train s3://bucket/rows.parquet --model new",
        4,
        ["s3://bucket", "reached", "AWS_ENDPOINT_URL"],
    ),
    ("train rows.parquet --model s3://bucket/new", 4, ["s3://bucket/new", "cannot be reached"]),
    ("train rows.parquet --model new --include hieght", 2, ["include", "hieght", "'height'"]),
    ("train rows.parquet --model new --include id --exclude id", 2, ["exclude", "'id'", "include"]),
    (
        "train rows.parquet --model new --exclude id,height,pixels",
        3,
        ["no column is left", "--include"],
    ),
    ("train rows.parquet --model new --where height", 2, ["--where", "'height'", "no condition"]),
    ("train rows.parquet --model new --where 'hieght > 3'", 2, ["--where", "hieght", "'height'"]),
    (
        "train rows.parquet --model new --where 'height = 3'",
        2,
        ["--where", "write == for equality"],
    ),
    ("train rows.parquet --model new --where 'eval(\"1\")'", 2, ["--where", "no condition"]),
    (
        "train rows.parquet --model new --likelihood weight=gaussian",
        2,
        ["'weight'", "'height'"],
    ),
    ("train rows.parquet --model new --kind pca --posterior full", 2, ["posterior", "kind pca"]),
    ("train rows.parquet --model new --objective iwae --kl sampled", 2, ["kl", "sampled", "iwae"]),
    ("train rows.parquet --model new --kind pca --latent-dim 9", 2, ["latent_dim", "9"]),
    ("train rows.parquet --model new --likelihood pixels=gaussian-full", 2, ["pixels", "uint8"]),
    ("train rows.parquet --model new --image height", 2, ["height", "vector"]),
    ("train rows.parquet --model new --image pixels=3x3", 2, ["pixels", "3x3"]),
    (
        "train rows.parquet --model new --mc-samples 10000 --hidden-dims 100000",
        2,
        ["batch_size", "GiB"],
    ),
    ("embed rows.parquet --model autoencoder --out out --refine 3", 2, ["refine", "autoencoder"]),
    ("evaluate rows.parquet --model autoencoder --refine 3", 2, ["refine", "autoencoder"]),
    ("evaluate rows.parquet --model autoencoder --refine 3 --dry-run", 2, ["refine"]),
    (
        "generate --model model --rows 1073741825 --out out --source sobol",
        2,
        ["source", "sobol", "1,073,741,823"],
    ),
    ("train rows.parquet --model new --likelihood pixels=poisson", 2, ["poisson", "bernoulli"]),
    (
        "train rows.parquet --model new --likelihood height=categorical",
        2,
        ["likelihood.height", "categorical", "continuous column of float", "histogram"],
    ),
    (
        "train rows.parquet --model new --likelihood pixels=histogram",
        2,
        ["likelihood.pixels", "histogram", "vector column", "gaussian"],
    ),
    (
        "train named.parquet --model new --likelihood name=gaussian",
        2,
        ["likelihood.name", "gaussian", "categorical column of string"],
    ),
    ("train rows.parquet --model new --role hieght=count", 2, ["role", "hieght", "'height'"]),
    ("train rows.parquet --model new --role height=tall", 2, ["role", "height=tall", "count"]),
    ("train rows.parquet --model new --role pixels=count", 2, ["role", "pixels=count", "vector"]),
    (
        "train rows.parquet --model new --condition-on hieght",
        2,
        ["condition_on", "hieght", "'height'"],
    ),
    (
        "train rows.parquet --model new --include id,height --condition-on id,height",
        2,
        ["condition_on", "id, height", "at least one", "name fewer"],
    ),
    (
        "train rows.parquet --model new --condition-on pixels",
        2,
        ["condition_on", "'pixels'", "scalar columns"],
    ),
    (
        "train named.parquet --model new --kind pca --include name",
        3,
        ["no column holds numbers", "--kind vae"],
    ),
    (
        "generate --model model --rows 5 --out out --given height=170",
        2,
        ["given", "'height'", "not conditioned", "--condition-on height"],
    ),
    (
        "generate --model conditional --rows 5 --out out --given height=170",
        2,
        ["given", "'height'", "conditioned on name"],
    ),
    (
        "generate --model conditional --rows 5 --out out --given name=c",
        2,
        ["given.name", "'c'", "2 values", "a, b"],
    ),
    (
        "generate --model conditional --rows 5 --out out --given name=",
        2,
        ["given.name", "''", "2 values", "a, b"],
    ),
    (
        "generate --model model --out out --given-from rows.parquet",
        2,
        ["given_from", "not conditioned", "--condition-on"],
    ),
    ("generate --model conditional --out out --given-from gone.parquet", 4, ["gone.parquet"]),
    (
        "generate --model conditional --out out --given-from text.parquet",
        3,
        ["text.parquet", "not Parquet"],
    ),
    (
        "generate --model conditional --out out --given-from rows.parquet",
        3,
        ["rows.parquet", "no column 'name'", "conditioned on it"],
    ),
    ("evaluate rows.parquet --model model --synthetic gone", 4, ["gone", "not found"]),
    ("evaluate rows.parquet --model model --synthetic empty", 3, ["empty", "no Parquet file"]),
    (
        "evaluate rows.parquet --model model --synthetic text.parquet",
        3,
        ["text.parquet", "not Parquet"],
    ),
    (
        "evaluate rows.parquet --model model --synthetic rows.parquet --target hieght=3",
        2,
        ["target", "hieght", "'height'"],
    ),
    (
        "train rows.parquet --model new --likelihood pixels=gaussian-fixed:-1",
        2,
        ["pixels", "above 0"],
    ),
    ("train rows.parquet --model new --likelihood pixels=bernoulli:2", 2, ["':2'", "no argument"]),
    ("train rows.parquet --model new --set likelihood.weight=gaussian", 2, ["'weight'"]),
    (
        "train rows.parquet --model new --binarize dynamic",
        2,
        ["binarize", "dynamic", "bernoulli"],
    ),
    ("train rows.parquet --model file", 5, ["file", "is a file", "--model"]),
    ("train rows.parquet --model file/new", 4, ["file/new"]),
    ("train rows.parquet --model full", 5, ["full", "not empty", "--model"]),
    ("train rows.parquet --model model", 5, ["model", "holds a model", "--overwrite"]),
    ("train rows.parquet --model begun", 5, ["begun", "broken-off", "--resume"]),
    (
        "train rows.parquet --model begun --resume",
        5,
        ["begun", "other options", "latent_dim was 3, is 16"],
    ),
    ("train rows.parquet --model bad_note --resume", 3, ["bad_note/_train/run.json"]),
    ("train rows.parquet --model new --address ray://127.0.0.1:1", 8, ["--address", "HOST:PORT"]),
    (
        "train rows.parquet --model new --address http://127.0.0.1:1",
        8,
        ["http://", "ray job submit"],
    ),
    ("train rows.parquet --model new --address 127.0.0.1", 8, ["--address", "HOST:PORT"]),
    ("train rows.parquet --model new --address 127.0.0.1:1", 8, ["127.0.0.1:1", "nothing answers"]),
    (
        "train rows.parquet --model new --address host.invalid:6379",
        8,
        ["host.invalid", "nothing answers"],
    ),
    ("train rows.parquet --model new --gpus-per-worker 99", 8, ["gpus_per_worker", "99", "lower"]),
    (
        "train rows.parquet --model new --cpus-per-worker 9999",
        8,
        ["cpus_per_worker", "9999", "lower"],
    ),
    (
        "embed rows.parquet --model model --out out --memory-per-worker 900000GiB",
        8,
        ["memory", "TiB"],
    ),
    ("embed rows.parquet --model gone --out out", 4, ["gone", "no such model", "distvae train"]),
    ("embed rows.parquet --model file --out out", 4, ["file", "no such model", "distvae train"]),
    ("embed rows.parquet --model empty --out out", 3, ["empty", "holds no config.json"]),
    ("embed rows.parquet --model begun --out out", 3, ["begun", "not finished", "--resume"]),
    (
        "embed rows.parquet --model no_weights --out out",
        3,
        ["no_weights/model.safetensors", "missing"],
    ),
    (
        "embed rows.parquet --model bad_weights --out out",
        3,
        ["bad_weights/model.safetensors", "SHA"],
    ),
    ("embed rows.parquet --model bad_codec --out out", 3, ["bad_codec/codec.json", "SHA-256"]),
    ("embed rows.parquet --model not_json --out out", 3, ["not_json/config.json", "not JSON"]),
    (
        "embed rows.parquet --model future --out out",
        3,
        ["future/config.json", "99", "reads format 1"],
    ),
    ("embed rows.parquet --model forged --out out", 3, ["forged/config.json", "model id"]),
    ("embed rows.parquet --model old_codec --out out", 3, ["codec", "format 0", "must be 3"]),
    (
        "embed wrong_columns.parquet --model model --out out",
        3,
        ["wrong_columns", "no column 'height'"],
    ),
    (
        "embed wrong_type.parquet --model model --out out",
        3,
        ["wrong_type", "'height'", "string", "cast"],
    ),
    ("embed wrong_length.parquet --model model --out out", 3, ["'pixels'", "[3]", "[4]"]),
    ("embed rows.parquet --model model --out out --key idd", 2, ["key", "idd", "'id'"]),
    ("embed mu.parquet --model model --out out --keep mu", 2, ["keep", "'mu'", "rename"]),
    ("embed rows.parquet --model model --out full", 5, ["full", "not empty", "another folder"]),
    ("embed rows.parquet --model model --out full --mode overwrite", 5, ["notes.txt", "another"]),
    ("embed rows.parquet --model model --out file", 5, ["file", "must be a folder"]),
    ("embed rows.parquet --model model --out file/out", 4, ["file/out"]),
    ("embed rows.parquet --model model --out whole --key id", 5, ["whole", "--mode resume"]),
    ("embed rows.parquet --model model --out begun_out --mode resume", 5, ["another run", "keys"]),
    ("generate --model model --out whole --rows 9 --mode resume", 5, ["another run", "command"]),
    ("evaluate zero.parquet --model model", 3, ["zero.parquet", "no rows"]),
    ("report gone --out page.html", 4, ["gone", "no such model", "distvae train"]),
    (
        "report model --out page.html --embeddings rows.parquet",
        3,
        ["rows.parquet", "'mu'", "embed"],
    ),
    ("report model --out page.html --embeddings whole --color hue", 2, ["color", "hue"]),
    ("report model --out page.html --synthetic wrong_columns.parquet", 3, ["no column 'height'"]),
    ("quickstart --dir full", 5, ["--dir", "notes.txt", "must be empty"]),
    ("quickstart --dir file", 5, ["--dir", "file", "a folder"]),
]
# Known only once rows are read, which takes Ray.
VALUES = [
    (
        "train infinite.parquet --model new --workers 1",
        3,
        ["'height'", "infinite", "--exclude height"],
    ),
    ("train huge.parquet --model new --workers 1", 3, ["'height'", "1e+101", "--exclude height"]),
    (
        "train nan.parquet --model new --workers 1 --include height,pixels",
        3,
        ["'height'", "no value", "--exclude height"],
    ),
    (
        "train null.parquet --model new --workers 1 --include height,pixels",
        3,
        ["'height'", "no value", "--exclude height"],
    ),
    (
        "train nan.parquet --model new --workers 1 --kind pca --latent-dim 2",
        3,
        ["'height'", "no value", "--exclude height"],
    ),
    (
        "train nan.parquet --model new --workers 1 --exclude id,pixels",
        3,
        ["no column is left", "'height' has no value", "add columns with values"],
    ),
    (
        "train rows.parquet --model new --workers 1 --role height=count",
        3,
        ["'height'", "not all whole", "use histogram"],
    ),
    ("train ragged.parquet --model new --workers 1", 3, ["'pixels'", "length 3", "first, 2"]),
    (
        "train rows.parquet --model new --workers 1 --likelihood height=bernoulli",
        3,
        ["[0, 1]", "rescale"],
    ),
    (
        "train rows.parquet --model new --workers 1 --where 'id < 0'",
        3,
        ["no training row", "--where"],
    ),
    ("train rows.parquet --model new --address auto", 8, ["--address auto", "cannot join"]),
]
NOWHERE = {  # nothing listens on port 1
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ACCESS_KEY_ID": "nobody",
    "AWS_SECRET_ACCESS_KEY": "nothing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    make_world(folder, tiny_model)
    return folder


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    found = {p: p.stat() for p in sorted(folder.rglob("*"))}
    return {str(p): (s.st_size if p.is_file() else -1, s.st_mtime_ns) for p, s in found.items()}


def _check(
    command: Run, world: Path, line: str, code: int, words: list[str], ray: bool = False
) -> None:
    before = {name: size for name, (size, _) in _listing(world).items()}
    result = command(*shlex.split(line), cwd=world, ray=ray, **NOWHERE)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    told = [text for text in result.stderr.splitlines() if not ray or text.startswith("error: ")]
    assert len(told) == 1, result.stderr
    assert told[0].startswith("error: ")
    assert [word for word in words if word not in told[0]] == [], told[0]
    assert "Traceback" not in result.stderr
    assert {name: size for name, (size, _) in _listing(world).items()} == before


@pytest.mark.parametrize(("line", "code", "words"), OPTIONS, ids=[m[0] for m in OPTIONS])
def test_a_wrong_option_is_told_at_once(
    command: Run, world: Path, line: str, code: int, words: list[str]
) -> None:
    _check(command, world, line, code, words)


@pytest.mark.slow
@pytest.mark.parametrize(("line", "code", "words"), DATA, ids=[m[0] for m in DATA])
def test_what_does_not_fit_is_told_before_ray_starts(
    command: Run, world: Path, line: str, code: int, words: list[str]
) -> None:
    _check(command, world, line, code, words)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize(("line", "code", "words"), VALUES, ids=[m[0] for m in VALUES])
def test_values_that_cannot_be_used_leave_nothing_behind(
    command: Run, world: Path, line: str, code: int, words: list[str]
) -> None:
    _check(command, world, line, code, words, ray=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_folder_that_may_not_be_written_is_told(command: Run, world: Path) -> None:
    line = "report model --out read_only/page.html"
    _check(command, world, line, 4, ["out", "read_only", "must be writable"])


def test_there_are_mistakes_of_every_kind() -> None:
    codes = {code for _, code, _ in (*OPTIONS, *DATA, *VALUES)}
    assert len({line for line, _, _ in (*OPTIONS, *DATA, *VALUES)}) >= 100
    # 6 has a test of its own below; 70 is ours and 130 the user's.
    family = {kind.exit_code for kind in DistvaeError.__subclasses__()}
    assert codes == family - {6}


@pytest.mark.slow
def test_debug_shows_where_it_was_told(command: Run, world: Path) -> None:
    result = command("verify", "gone", "--debug", cwd=world)
    assert result.returncode == 4
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: gone: not found")


@pytest.mark.slow
@pytest.mark.ray
def test_rejected_rows_stop_a_run_that_a_larger_limit_finishes(
    command: Run, tiny_model: Path, tmp_path: Path
) -> None:
    table = tiny_table()
    height = table.column("height").to_numpy().copy()
    height[5] = np.inf
    pq.write_table(table.set_column(1, "height", pa.array(height)), tmp_path / "rows.parquet")
    shutil.copytree(tiny_model, tmp_path / "model")
    line = "embed rows.parquet --model model --out out --key id --workers 1 --quiet"
    refused = command(*shlex.split(line), cwd=tmp_path, ray=True)
    assert refused.returncode == 6, refused.stderr
    told = refused.stderr.splitlines()
    assert len(told) == 1 and told[0].startswith("error: max_rejected: 1 of 64 rows")
    assert "--mode resume" in told[0] and "--max-rejected" in told[0]
    (rejected,) = (tmp_path / "out" / "_rejected").iterdir()
    assert rejected.name in told[0]
    (row,) = pq.read_table(rejected).to_pylist()
    assert (row["id"], row["_file"], row["_row"]) == (5, "rows.parquet", 5)
    assert "height" in row["reason"]
    assert not (tmp_path / "out" / "_SUCCESS").exists()

    line += " --mode resume --max-rejected 0.05"
    resumed = command(*shlex.split(line), cwd=tmp_path, ray=True)
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "out" / "_SUCCESS").exists()
    assert pq.read_table(tmp_path / "out" / "data").num_rows == 63


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_an_address_that_is_no_ray_head_is_told_at_once(
    command: Run, tiny_model: Path, tmp_path: Path, greeting: bytes
) -> None:
    def serve() -> None:
        client, _ = server.accept()
        client.sendall(greeting)
        client.recv(64)
        closed.wait(SECONDS)
        client.close()

    closed = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        line = f"generate --model {tiny_model} --rows 5 --out out --address {address}"
        told = command(*shlex.split(line), cwd=tmp_path)
        closed.set()
    assert told.returncode == 8, told.stderr
    (only,) = told.stderr.splitlines()
    assert only.startswith("error: --address: got 127.0.0.1:")
    assert not (tmp_path / "out").exists()


def test_columns_that_the_layout_would_double_are_refused(
    command: Run, tiny_model: Path, tmp_path: Path
) -> None:
    table = tiny_table().append_column("mu_0", pa.array(range(64)))
    pq.write_table(table, tmp_path / "rows.parquet")
    line = f"embed rows.parquet --model {tiny_model} --out out --key mu_0 --layout columns"
    told = command(*shlex.split(line), cwd=tmp_path)
    assert told.returncode == 2, told.stderr
    assert told.stderr.startswith("error: key: got 'mu_0'")
    assert not (tmp_path / "out").exists()


def test_a_report_on_rows_that_cannot_be_used_is_refused(
    command: Run, tiny_model: Path, tmp_path: Path
) -> None:
    table = tiny_table()
    infinite = pa.array(np.full(64, np.inf, np.float32))
    pq.write_table(table.set_column(1, "height", infinite), tmp_path / "rows.parquet")
    line = f"report {tiny_model} --data rows.parquet --out r.html"
    told = command(*shlex.split(line), cwd=tmp_path)
    assert told.returncode == 3, told.stderr
    assert "no row that the model can use" in told.stderr
    assert not (tmp_path / "r.html").exists()
