"""Every example runs: in docstrings, in the README and on the pages of docs/."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import invhyper as ih
from invhyper import cli

CHECKOUT = Path(__file__).resolve().parent.parent
MODULES = ["invhyper", *(m.name for m in pkgutil.walk_packages(ih.__path__, "invhyper.") if "__main__" not in m.name)]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
CHECK = doctest.ELLIPSIS
# Shapes of data that are handed out, not called: their examples are those of the functions that return them.
RECORDS = {
    "Band",
    "Certificate",
    "Drawn",
    "Evaluation",
    "Fisher",
    "Fits",
    "Identifiability",
    "Iteration",
    "Linearisation",
    "LowerLevel",
    "NotConverged",
    "PopulationFit",
    "Profile",
    "Search",
    "Solution",
    "Step",
    "Verdict",
}


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_module(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    report = doctest.testmod(importlib.import_module(name), optionflags=CHECK)
    assert report.failed == 0


@pytest.mark.parametrize("name", sorted(set(ih.__all__) - RECORDS - {"__version__"}))
def test_public_name_has_an_example(name):
    thing = getattr(ih, name)
    if inspect.ismodule(thing):
        assert thing.__doc__
    else:
        assert thing.__doc__ and ">>>" in thing.__doc__, f"{name}: a sentence and a runnable example are wanted"


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """(line number, text) of the fenced python blocks of a page."""
    text = page.read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match.group(1)) for match in found]


def users_data() -> dict:
    """What the pages take for granted: numpy, the package, somebody's A, y and held-out rows, a clean image, a growth
    curve, the concentrations in ten patients."""
    rng = np.random.default_rng(0)
    truth = np.concatenate([rng.standard_normal(5), np.zeros(15)])
    A, A_val = rng.standard_normal((60, 20)), rng.standard_normal((40, 20))
    y, y_val = A @ truth + 0.1 * rng.standard_normal(60), A_val @ truth + 0.1 * rng.standard_normal(40)
    clean = np.kron(np.array([[0.0, 1.0], [0.5, 0.2]]), np.ones((8, 8)))
    early, late = np.linspace(0.5, 4, 8), np.linspace(4.5, 8, 8)
    y_early, y_late = (4 / (1 + 3 * np.exp(-0.9 * t)) + 0.05 * np.sin(7 * t) for t in (early, late))
    growth = {"early": early, "late": late, "y_early": y_early, "y_late": y_late}
    hours = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
    rates = 0.3 * np.exp(0.3 * rng.standard_normal(10))
    seen = 4 * np.exp(-rates[:, None] * hours) + 0.1 * rng.standard_normal((10, 5))
    given = {"A": A, "y": y, "A_val": A_val, "y_val": y_val, "clean": clean, "hours": hours, "concentrations": seen}
    return {"np": np, "jnp": jnp, "ih": ih, **given, **growth}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs_as_written(page, tmp_path, monkeypatch):
    """Blocks run from top to bottom in one namespace: `>>>` blocks are compared, others only have to run."""
    monkeypatch.chdir(tmp_path)
    names = users_data()
    for line, block in python_blocks(page):
        if ">>>" not in block:
            exec(compile("\n" * line + block, str(page), "exec"), names)
            continue
        example = doctest.DocTestParser().get_doctest(block, names, page.name, str(page), line)
        example.globs = names
        assert doctest.DocTestRunner(optionflags=CHECK).run(example, clear_globs=False).failed == 0


def test_readme_has_the_python_page():
    assert len(python_blocks(CHECKOUT / "README.md")) >= 1


def test_problem_file_of_the_start_page(tmp_path, monkeypatch):
    """The TOML that docs/start.md shows, through the commands that stand under it."""
    block = re.search(r"^```toml\n(.*?)^```", (CHECKOUT / "docs" / "start.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "problem.toml").write_text(block.group(1))
    data = users_data()
    np.savez(tmp_path / "rows.npz", A=data["A"], y=data["y"])
    monkeypatch.chdir(tmp_path)
    for command in ("check problem.toml", "tune problem.toml", "show runs/problem", "cite runs/problem"):
        assert cli.main(command.split()) == 0, command
    assert ih.Report.load("runs/problem").value < 1.0
