"""The wheel: what is in it, and that it works where the repository is not."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import distvae

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def _run(command: list[str | Path], cwd: Path) -> str:
    """Standard output of ``command``, run without a hint of where the repository is."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    _run([*pip, "--wheel-dir", folder, ROOT], cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A virtual environment's folder: the wheel, and the packages of this environment below it."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(_run([python, "-c", ask], folder).strip())
    # Plain paths: the .pth files inside them (an editable install of distvae) are not followed.
    below = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (purelib / "below.pth").write_text("\n".join(sorted(below)) + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    _run([*pip, wheel], cwd=folder)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"distvae-{distvae.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    info = f"distvae-{distvae.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"distvae", info}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "distvae").rglob("*.py")}
    assert sources
    assert sources <= set(names)
    assert {"distvae/py.typed", f"{info}/licenses/LICENSE", f"{info}/METADATA"} <= set(names)
    assert not [name for name in names if "cache" in name]


def test_the_installed_package_is_found_from_another_directory(
    elsewhere: Path, tmp_path: Path
) -> None:
    code = "import distvae; print(distvae.__file__, distvae.__version__)"
    place, version = _run([elsewhere / "bin" / "python", "-c", code], tmp_path).split()
    assert Path(place).is_relative_to(elsewhere)
    assert version == distvae.__version__


def test_the_console_command_runs_from_another_directory(elsewhere: Path, tmp_path: Path) -> None:
    assert "distvae" in _run([elsewhere / "bin" / "distvae", "--help"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_module_of_the_wheel_imports(elsewhere: Path, tmp_path: Path) -> None:
    code = (
        "import distvae, importlib, pkgutil;"
        "found = [m.name for m in pkgutil.walk_packages(distvae.__path__, 'distvae.')];"
        "modules = [importlib.import_module(name) for name in found];"
        "print(*{m.__file__ for m in modules}, sep='\\n')"
    )
    places = _run([elsewhere / "bin" / "python", "-c", code], tmp_path).split()
    assert len(places) > 10
    assert all(Path(place).is_relative_to(elsewhere) for place in places)
