"""Global bracketing and derivative steps for one hyperparameter."""

from invhyper.search.lbfgsb import LBFGSB


class Bracket(LBFGSB):
    """Placeholder until the search in this file lands: L-BFGS-B from the start."""
