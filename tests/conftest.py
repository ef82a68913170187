"""What every test shares: a headless matplotlib."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
