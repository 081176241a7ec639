"""The floors are held apart by what their files import, and importing does nothing else."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "distvae"
STDLIB = frozenset(sys.stdlib_module_names)
FLOORS = {
    "data": {"numpy", "pyarrow", "distvae.data", "distvae.errors"},
    "model": {"numpy", "torch", "safetensors", "distvae.model", "distvae.errors"},
}
# Names that reach a module by a string, not by a statement.
BY_STRING = ("import_module", "__import__")


def _modules(folder: Path = PACKAGE) -> dict[str, Path]:
    """Dotted name → file, for every module of ``folder``."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def _imported(name: str, path: Path) -> Iterator[str]:
    """Every dotted name that the file imports, at any depth, type-checking blocks included."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -node.level + 1 or None] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from distvae import cli` names a module as much as `import distvae.cli` does.
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            called = called.id if isinstance(called, ast.Name) else called
            first = node.args[0]
            if called in BY_STRING and isinstance(first, ast.Constant):
                yield str(first.value)


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def _importers(module: str) -> set[str]:
    """The modules of the package that import ``module`` or something inside it."""
    return {
        name
        for name, path in _modules().items()
        if any(_within(target, module) for target in _imported(name, path))
    }


def _python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``code`` in a fresh interpreter whose directory and home are empty."""
    cwd, home, cache = folder / "cwd", folder / "home", folder / "cache"
    for place in (cwd, home, cache):
        place.mkdir()
    cwd.chmod(0o555)
    environment = {
        **os.environ,
        "HOME": str(home),
        "PYTHONPATH": str(PACKAGE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        # matplotlib keeps a list of fonts in its own folder when it is first imported.
        "MPLCONFIGDIR": str(cache),
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_walk_finds_the_package() -> None:
    modules = _modules()
    assert {"distvae", "distvae.cli", "distvae.__main__", "distvae.errors"} <= set(modules)
    for floor in (*FLOORS, "cluster"):
        assert len(_modules(PACKAGE / floor)) > 1
    # Each way to write an import is seen: absolute, late, and with a name from a package.
    assert "distvae.__main__" in _importers("distvae.cli")
    assert "distvae" in _importers("distvae.saved")
    assert len(_importers("numpy")) > 5


@pytest.mark.parametrize(
    "text", ["from . import cli", "from .cli import main", "import distvae.cli"]
)
def test_every_spelling_of_an_import_counts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(text, encoding="utf-8")
    assert any(_within(target, "distvae.cli") for target in _imported("distvae.module", path))


def test_an_import_two_levels_up_counts(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from ..model import vae\nimportlib.import_module('ray.data')", encoding="utf-8"
    )
    assert list(_imported("distvae.data.module", path)) == ["distvae.model.vae", "ray.data"]


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_its_own(floor: str) -> None:
    foreign = {
        f"{name} imports {target}"
        for name, path in _modules(PACKAGE / floor).items()
        for target in _imported(name, path)
        if target.partition(".")[0] not in STDLIB
        and not any(_within(target, allowed) for allowed in FLOORS[floor])
    }
    assert not foreign


def test_only_the_cluster_floor_imports_ray() -> None:
    importers = _importers("ray")
    assert importers
    assert {name for name in importers if not _within(name, "distvae.cluster")} == set()


def test_nothing_imports_the_command_line_but_main() -> None:
    assert _importers("distvae.cli") == {"distvae.__main__"}


def test_jobs_are_never_imported() -> None:
    assert _importers("jobs") == set()


@pytest.mark.ray
def test_importing_every_module_writes_nothing_and_says_nothing(tmp_path: Path) -> None:
    # A chmod does not stop root: what counts is that the folders are empty afterwards.
    names = sorted(_modules())
    done = _python("import " + ", ".join(names), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
    assert list((tmp_path / "cwd").iterdir()) == []
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.parametrize("module", ["distvae", "distvae.data", "distvae.model", "distvae.cli"])
def test_import_works_without_ray(tmp_path: Path, module: str) -> None:
    names = sorted(_modules(PACKAGE / module.partition(".")[2])) if "." in module else [module]
    names = [module] if module == "distvae.cli" else names
    block = "import sys; sys.modules['ray'] = None\n"
    done = _python(block + "import " + ", ".join(names), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["distvae", "distvae.cli"])
def test_the_command_line_starts_without_torch(tmp_path: Path, module: str) -> None:
    code = f"import sys, {module}\nprint(sorted({{'ray', 'torch', 'sklearn'}} & set(sys.modules)))"
    done = _python(code, tmp_path)
    assert done.stdout.strip() == "[]", done.stderr
