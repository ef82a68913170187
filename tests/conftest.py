"""What every test shares: a headless matplotlib, the order of the files, a limit on what stays compiled, the quick runs
of the case studies."""

import gc
import os
from pathlib import Path

import jax
import pytest
import studies

os.environ.setdefault("MPLBACKEND", "Agg")

# The files that take longest, these first: a worker that begins one of them last keeps the others waiting.
LONGEST = (
    "test_case_studies",
    "test_case_studies_ode",
    "test_case_studies_runs",
    "test_docstrings",
    "test_mixed_effects_ode",
    "test_theophylline",
    "test_identifiability",
    "test_laws",
    "test_ode_model",
    "test_ode",
    "test_population",
    "test_rosenbrock",
)


# Every compiled program holds memory maps, of which Linux grants a process 65,530: without more, LLVM crashes.
MAPS = Path("/proc/self/maps")
MOST_MAPS = 15_000


@pytest.fixture(scope="module", autouse=True)
def few_maps():
    """After a file, compiled programs are dropped once they hold many memory maps."""
    yield
    if MAPS.exists() and len(MAPS.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


def pytest_collection_modifyitems(items):
    """Files in the order of LONGEST, then as they were found; tests of a file stay as they stand there."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_generate_tests(metafunc):
    """The tests of a class of studies, once for each of them."""
    if metafunc.cls is not None and issubclass(metafunc.cls, studies.Studies) and "name" in metafunc.fixturenames:
        metafunc.parametrize("name", metafunc.cls.pictures)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """study name -> its report, run once with --quick, from a folder that is not the checkout."""
    return studies.quickly(tmp_path_factory.mktemp("elsewhere"))
