"""The command line itself: help, schemas, where options come from, what goes to which stream."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import distvae
from distvae.cli import main
from distvae.config import COMMANDS
from tests.conftest import REPOSITORY, Run, tiny_table

POSITIONAL = {"train": ["data"], "embed": ["data"], "evaluate": ["data"], "report": ["model"]}
POSITIONAL |= {name: ["directory"] for name in ("verify", "status")}
JOBS = sorted((REPOSITORY / "jobs").glob("*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """``rows.parquet``, 64 rows in two row groups, and ``model`` beside it."""
    place = tmp_path_factory.mktemp("cli")
    pq.write_table(tiny_table(), place / "rows.parquet", row_group_size=32)
    (place / "model").symlink_to(tiny_model)
    return place


def _files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def _dry(command: Run, folder: Path, line: str) -> dict[str, dict[str, object]]:
    """What ``--dry-run`` prints; Ray cannot be imported and nothing is written."""
    before = _files(folder)
    done = command(*shlex.split(line), "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert _files(folder) == before
    shown: dict[str, dict[str, object]] = json.loads(done.stdout)
    return shown


def test_the_public_surface_is_this() -> None:
    assert distvae.__all__ == ["__version__", "load"]
    assert all(hasattr(distvae, name) for name in distvae.__all__)
    assert re.fullmatch(r"\d+\.\d+\.\d+", distvae.__version__)


def test_the_commands_are_these() -> None:
    assert set(COMMANDS) >= {
        "quickstart",
        "train",
        "embed",
        "generate",
        "evaluate",
        "report",
        "verify",
        "status",
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_field(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown, told = capsys.readouterr()
    assert told == ""
    for field in COMMANDS[name].model_fields:
        positional = field in POSITIONAL.get(name, [])
        looked_for = {"directory": "DIR"}.get(field, field.upper())
        assert (looked_for if positional else f"--{field.replace('_', '-')}") in shown
    for option in ("--config", "--set", "--dry-run", "--json", "--quiet", "--debug"):
        assert option in shown
    assert "Exit codes: 0 done, 2 usage" in " ".join(shown.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_is_described_in_help_and_schema(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", name]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(COMMANDS[name].model_fields)
    for told in schema["properties"].values():
        assert len(told["description"]) > 10
        assert "default" in told


def test_the_root_lists_the_commands_and_is_no_command_itself(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in (*COMMANDS, "schema") if name not in shown] == []
    assert main([]) == 2
    shown, told = capsys.readouterr()
    assert shown == ""
    assert told == "error: Missing command. See distvae --help\n"


def test_the_version_is_printed(command: Run, tmp_path: Path) -> None:
    done = command("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert distvae.__version__ in done.stdout


def test_there_is_a_script_per_job() -> None:
    names = {script.stem for script in JOBS}
    assert {"train", "embed", "generate", "evaluate", "report", "verify", "quickstart"} <= names
    assert names <= set(COMMANDS)


@pytest.mark.parametrize("script", JOBS, ids=lambda script: script.stem)
def test_a_job_script_is_its_command(
    command: Run,
    tmp_path: Path,
    script: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    done = command("--help", cwd=tmp_path, script=str(script))
    assert (main([script.stem, "--help"]), done.returncode) == (0, 0)
    assert (done.stdout, done.stderr) == capsys.readouterr()


def test_a_job_script_ends_with_its_command_s_code(command: Run, tmp_path: Path) -> None:
    done = command("gone", cwd=tmp_path, script=str(REPOSITORY / "jobs" / "verify.py"))
    assert done.returncode == 4
    assert done.stderr.startswith("error: gone: not found")


def test_the_later_source_of_an_option_wins(folder: Path, tmp_path: Path) -> None:
    from distvae.cli import _merge

    file = tmp_path / "train.yaml"
    file.write_text("latent-dim: 4\nepochs: 5\nseed: 6\nlikelihood: {pixels: gaussian}\n")
    options = {"epochs": "7", "seed": "8", "data": ("rows.parquet",), "model": None}
    assignments = ["seed=9", "likelihood.height=gaussian-row", "hidden-dims=[8, 8]"]
    assert _merge(COMMANDS["train"], str(file), options, assignments) == {
        "latent_dim": 4,
        "epochs": "7",
        "seed": 9,
        "likelihood": {"pixels": "gaussian", "height": "gaussian-row"},
        "hidden_dims": [8, 8],
        "data": ("rows.parquet",),
    }


@pytest.mark.slow
def test_a_dry_run_resolves_file_options_and_assignments(
    command: Run, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("latent_dim: 4\nepochs: 5\nexclude: id\nhidden_dims: 8,8\n")
    line = f"train rows.parquet --model new --config {file} --epochs 6 --set latent_dim=3"
    shown = _dry(command, folder, line)
    resolved = shown["config"]
    assert (resolved["latent_dim"], resolved["epochs"]) == (3, 6)
    assert (resolved["exclude"], resolved["hidden_dims"]) == (["id"], [8, 8])
    assert set(resolved) == set(COMMANDS["train"].model_fields)
    plan = shown["plan"]
    assert (plan["files"], plan["rows"]) == (1, 64)
    assert plan["columns"] == {"height": "continuous (1)", "pixels": "vector (4)"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "embed rows.parquet --model model --out new --key id --fragment-rows 32",
            {"files": 1, "fragments": 2, "rows": 64, "columns": ["id", "mu", "sigma"]},
        ),
        (
            "generate --model model --out new --rows 100 --fragment-rows 32",
            {"rows": 100, "columns": ["height", "pixels"]},
        ),
        ("evaluate rows.parquet --model model", {"files": 1, "fragments": 1, "rows": 64}),
    ],
    ids=["embed", "generate", "evaluate"],
)
def test_a_dry_run_prints_the_plan_and_starts_nothing(
    command: Run, folder: Path, line: str, expected: dict[str, object]
) -> None:
    shown = _dry(command, folder, line)
    assert shown["command"] == line.split(maxsplit=1)[0]
    assert {name: shown["plan"][name] for name in expected} == expected


@pytest.mark.slow
@pytest.mark.ray
def test_streams(command: Run, folder: Path, tmp_path: Path) -> None:
    """``--json``: one object, last on standard output; ``--quiet``: nothing else at all."""
    out = tmp_path / "out"
    line = f"generate --model model --out {out} --rows 9 --workers 1"
    loud = command(*shlex.split(line), "--json", cwd=folder, ray=True)
    assert loud.returncode == 0, loud.stderr
    assert json.loads(loud.stdout.splitlines()[-1])["rows_out"] == 9
    assert len(loud.stdout.splitlines()) == 1
    assert "generate" in loud.stderr

    again = command(*shlex.split(line), "--mode", "resume", "--quiet", cwd=folder)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")

    for name in ("verify", "status"):
        checked = command(name, str(out), "--json", cwd=folder)
        assert checked.returncode == 0, checked.stderr
        assert checked.stderr == ""
        assert json.loads(checked.stdout)["rows"] == 9
    told = command("verify", str(out), cwd=folder).stdout
    assert told.startswith("verify: done\n")


def test_a_closed_pipe_is_no_fault() -> None:
    line = f"{shlex.quote(sys.executable)} -m distvae schema train | head -c 10"
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stdout), done.stderr) == (0, 10, "")
