"""Analysis penalties of the user's own, one or several at once."""

from collections.abc import Callable

from jaxtyping import Array, Float

from invhyper.lower.bregman import SumOfNorms, nonnegative_box
from invhyper.operators import Operator
from invhyper.penalties import L1, Penalty, Smoothed
from invhyper.problem import Iteration


class AnalysisL1(SumOfNorms):
    """Least squares with the l1 norm of a linear map, the generalised lasso.

        x*(theta) = argmin_x  1/2 |K x - y|^2 + sum_g weight_g |(D x)_g|_2,    theta = {"weight"}

    **Arguments**: `y`: the data. `analysis`: D, an `Operator` with a sparse matrix (`Differences(shape, order=2)`,
    `from_scipy(matrix, shape)`). `forward`: K, as in `TotalVariation`. `groups`: None, each entry of D x has a norm of
    its own; 0, entries along the first axis of D x share one; integer labels of the shape of D x, equal labels do.
    `nonnegative`: x >= 0. weight is a scalar, or one a group.

    >>> import numpy as np, invhyper as ih
    >>> line = ih.from_scipy(np.array([[1.0, -2.0, 1.0]]), (3,))
    >>> ih.solve(ih.AnalysisL1(np.array([0.0, 1.2, 2.0]), line), {"weight": 9.0}).x.round(9).tolist()
    [0.066666667, 1.066666667, 2.066666667]

    Tibshirani and Taylor (2011), doi:10.1214/11-AOS878.
    """

    def __init__(
        self,
        y: Float[Array, "..."],
        analysis: Operator,
        forward: Operator | Callable | None = None,
        groups=None,
        nonnegative: bool = False,
        *,
        solver: Iteration | None = None,
    ):
        if not isinstance(analysis, Operator):
            kind = type(analysis).__name__
            raise TypeError(f"AnalysisL1 analysis is a {kind}: an Operator is wanted (see from_scipy, from_functions)")
        box = nonnegative_box("AnalysisL1", nonnegative)
        self._set(y, {"weight": L1(analysis, groups)}, forward, box, solver)


class Composite(SumOfNorms):
    """Least squares with several analysis penalties, each with a weight, and bounds.

        x*(theta) = argmin_x  1/2 |K x - y|^2 + sum_k sum_g theta[k]_g h_k(|(D_k x)_g|),    lowest <= x <= highest

    **Arguments**: `y`: the data. `terms`: {name: penalty}, made by `TV(isotropic)`, `L1(operator, groups)` or
    `Huber(operator, delta)`; theta's keys are the names, its values scalars or one weight a group. `forward`: K, as in
    `TotalVariation`. `nonnegative`: x >= 0; `box`: a pair (lowest, highest) of numbers or images instead.

    >>> import numpy as np, invhyper as ih
    >>> terms = {"jumps": ih.TV(), "size": ih.L1(ih.Identity((4,)))}
    >>> lower = ih.Composite(np.array([0.0, 0.0, 1.0, 1.0]), terms)
    >>> ih.solve(lower, {"jumps": 0.2, "size": 0.1}).x.round(9).tolist()
    [0.0, 0.0, 0.8, 0.8]
    """

    def __init__(
        self,
        y: Float[Array, "..."],
        terms: dict[str, Penalty],
        forward: Operator | Callable | None = None,
        nonnegative: bool = False,
        *,
        box: tuple | None = None,
        solver: Iteration | None = None,
    ):
        if not isinstance(terms, dict) or not terms:
            raise ValueError("Composite terms: a dict {name: penalty} with at least one entry is wanted")
        for name, term in terms.items():
            if not isinstance(term, Penalty):
                kind = type(term).__name__
                raise TypeError(f"Composite term {name!r} is a {kind}: TV(), L1(operator) or Huber(operator) is wanted")
            if isinstance(term, Smoothed):
                raise TypeError(
                    f"Composite term {name!r} is smoothed: give the norm itself, TV() or L1(operator), and smooth the "
                    "whole by Composite(...).smoothed(eps)"
                )
        positive = nonnegative_box("Composite", nonnegative)
        if positive is not None and box is not None:
            raise ValueError("Composite was given nonnegative=True and a box: put the zero into the box")
        self._set(y, terms, forward, box if positive is None else positive, solver)
