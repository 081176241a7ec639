from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import distvae.model

ALLOWED = {"torch", "numpy", "safetensors", *sys.stdlib_module_names}
ALLOWED_OWN = ("distvae.model", "distvae.errors")
FILES = sorted(Path(distvae.model.__file__).parent.glob("*.py"))


def test_the_floor_imports_nothing_but_torch_and_numpy() -> None:
    assert len(FILES) >= 12
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, file
                names = [str(node.module)]
            for name in names:
                own = name.startswith(ALLOWED_OWN)
                assert own or name.split(".")[0] in ALLOWED, (file.name, name)


def test_every_module_names_its_public_surface() -> None:
    for file in FILES:
        name = "distvae.model" if file.stem == "__init__" else f"distvae.model.{file.stem}"
        module = importlib.import_module(name)
        assert all(hasattr(module, public) for public in module.__all__), name


def test_the_public_surface_is_this() -> None:
    assert distvae.model.__all__ == [
        "ROWS_PER_BLOCK",
        "VAE",
        "Architecture",
        "FeatureSpec",
        "ModelFiles",
        "Pca",
        "Terms",
        "active_units",
        "as_tensor",
        "build",
        "decode_rows",
        "elbo",
        "encode_rows",
        "fit_pca",
        "kl_weight_at",
        "log_likelihood",
        "pack",
        "row_noise",
        "squared_error",
        "unpack",
    ]
