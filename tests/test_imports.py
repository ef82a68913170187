"""Importing stays cheap, every import is declared, and each heavy package has one home."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

import invhyper as ih

CHECKOUT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
HEAVY = {"cvxpy", "clarabel", "diffrax", "matplotlib", "petab", "libsbml", "sklearn", "skimage", "pandas", "numba"}
# Declared and used without an import statement yet: the ODE lower levels will be written on diffrax.
NOT_IMPORTED = {"diffrax"}


def loaded_after(code: str) -> set[str]:
    """Top-level modules in sys.modules of a fresh interpreter after `code`."""
    code += "\nimport sys; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    return set(out.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import invhyper",
        # The lasso family and a whole hypergradient must never need cvxpy, nor a plotting library.
        "import numpy as np, invhyper as ih\n"
        "ih.Implicit()(ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2))), {'l2': 1.0})",
    ],
    ids=["import", "hypergradient"],
)
def test_heavy_packages_stay_out(code):
    assert loaded_after(code) & HEAVY == set()


def test_every_public_name_loads():
    for name in ih.__all__:
        assert getattr(ih, name) is not None, name
    assert set(ih.__all__) <= set(dir(ih))
    with pytest.raises(AttributeError, match="no attribute 'NoSuchName'"):
        _ = ih.NoSuchName


def test_import_contracts():
    """The floors and the homes that pyproject.toml declares."""
    assert lint_imports(config_filename=str(CHECKOUT / "pyproject.toml"), no_cache=True) == 0


def imported(*folders: str) -> dict[str, str]:
    """Distributions that the files of these folders import, each with one file that does.

    A module that is neither Python's, nor ours, nor installed counts under its own name: nobody declared it.
    """
    homes = importlib.metadata.packages_distributions()
    paths = [path for folder in folders for path in sorted((CHECKOUT / folder).rglob("*.py"))]
    ours = {"invhyper", "case_studies", *(path.stem for path in paths), *(path.parent.name for path in paths)}
    found = {}
    for path in paths:
        for module in _modules(ast.parse(path.read_text())):
            if module not in sys.stdlib_module_names and module not in ours:
                distribution = homes.get(module, [module])[0]
                found.setdefault(_normal(distribution), str(path.relative_to(CHECKOUT)))
    return found


def _modules(syntax):
    for node in ast.walk(syntax):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def _normal(name: str) -> str:
    return re.split(r"[<>=!~\[; ]", name, maxsplit=1)[0].lower().replace("_", "-")


def declared(*extras: str) -> set[str]:
    """What pyproject.toml asks for: the core and these extras."""
    wanted = [*PROJECT["dependencies"], *(d for extra in extras for d in PROJECT["optional-dependencies"][extra])]
    return {_normal(dependency) for dependency in wanted} | {"invhyper"}


@pytest.mark.parametrize(
    "folders, extras",
    [
        (("invhyper", "case_studies"), ("imaging",)),
        (("tests", "docs"), ("imaging", "test", "docs", "bench")),
    ],
)
def test_what_is_imported_is_declared(folders, extras):
    missing = {name: path for name, path in imported(*folders).items() if name not in declared(*extras)}
    assert missing == {}


def test_what_is_declared_is_imported():
    assert declared() - set(imported("invhyper", "case_studies")) - NOT_IMPORTED - {"invhyper"} == set()
