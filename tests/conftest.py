"""What every test shares: a headless matplotlib and the folder of shared data."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data: INVHYPER_SHARED, or ../shared beside the checkout."""
    folder = Path(os.environ.get("INVHYPER_SHARED", CHECKOUT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}: set INVHYPER_SHARED")
    return folder
