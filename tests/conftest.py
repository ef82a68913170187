"""What every test shares: a headless matplotlib, and the order of the files."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

# The files that take longest, these first: a worker that begins one of them last keeps the others waiting.
LONGEST = (
    "test_case_studies",
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


def pytest_collection_modifyitems(items):
    """Files in the order of LONGEST, then as they were found; tests of a file stay as they stand there."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))
