"""Gradient steps under a decreasing lower-level tolerance: lands next."""

from invhyper.search.lbfgsb import LBFGSB


class Descent(LBFGSB):
    """Placeholder until the search in this file lands."""
