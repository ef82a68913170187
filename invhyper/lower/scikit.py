"""The smallest weight with a zero solution, and scikit-learn's way of writing the weights."""

import numpy as np

from invhyper.lower.l1_regression import L1Regression
from invhyper.operators.design import Design


def weight_max(A, y, *, intercept: bool = False, standardise: bool = False, sample_weight=None) -> float:
    """The smallest weight (`BPDN`) or l1 (`ElasticNet`) at which x* = 0.

        weight_max = max_j |a_j^T W (y - m)| / s_j,   m the weighted mean of y with an intercept, else 0

    **Arguments**: as of `ElasticNet`. Raises the same ValueErrors.

    >>> import numpy as np, invhyper as ih
    >>> ih.weight_max(np.diag([2.0, 1.0]), np.array([3.0, 1.0]))
    6.0

    Osborne, Presnell and Turlach (2000), doi:10.1093/imanum/20.3.389.
    """
    lower = L1Regression(A, y, intercept=intercept, standardise=standardise, sample_weight=sample_weight)
    design = Design(lower.A, lower.sample_weight, lower.intercept)
    pull = np.abs(design.correlate(design.centre(lower.y)))
    return float(np.max(pull / design.spread if standardise else pull))


def to_sklearn(theta: dict, n: float) -> dict[str, float]:
    """`alpha` and `l1_ratio` of scikit-learn's `ElasticNet` (`Lasso`: l1_ratio = 1) with the same minimiser.

        1/(2n) |Ax - y|^2 + alpha l1_ratio |x|_1 + 1/2 alpha (1 - l1_ratio) |x|^2

    **Arguments**: `theta`: {"l1", "l2"} or {"weight"}, scalars; `n`: the number of rows (sum of the sample weights).
    Raises ValueError for one weight per coefficient, which scikit-learn has not.

    >>> to_sklearn({"l1": 9.0, "l2": 3.0}, 60)
    {'alpha': 0.2, 'l1_ratio': 0.75}
    """
    for key in theta:
        if key not in ("l1", "l2", "weight"):
            raise ValueError(f"theta has an unknown key {key!r}: {{'l1', 'l2'}} or {{'weight'}} is wanted")
        if np.size(theta[key]) != 1:
            raise ValueError(
                f"theta {key!r} holds {np.size(theta[key])} weights: scikit-learn takes one for all coefficients"
            )
    l1, l2 = float(theta.get("weight", theta.get("l1", 0.0))), float(theta.get("l2", 0.0))
    if not min(l1, l2) >= 0 or not np.isfinite(l1 + l2):
        raise ValueError(f"theta holds l1 = {l1:g}, l2 = {l2:g}: finite weights of zero or more are wanted")
    return {"alpha": (l1 + l2) / _rows(n), "l1_ratio": l1 / (l1 + l2) if l1 + l2 else 1.0}


def from_sklearn(alpha: float, n: float, l1_ratio: float | None = None) -> dict[str, float]:
    """theta of `ElasticNet` from scikit-learn's `alpha` and `l1_ratio`, or of `BPDN` from `alpha` alone (its `Lasso`).

        l1 = n alpha l1_ratio,   l2 = n alpha (1 - l1_ratio);   weight = n alpha

    **Arguments**: `n`: the number of rows (sum of the sample weights). Raises ValueError outside alpha >= 0,
    0 <= l1_ratio <= 1.

    >>> from_sklearn(0.2, 60, l1_ratio=0.75), from_sklearn(0.5, 60)
    ({'l1': 9.0, 'l2': 3.0}, {'weight': 30.0})
    """
    if not (np.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"alpha = {alpha}: a finite number, zero or more, is wanted")
    if l1_ratio is None:
        return {"weight": float(_rows(n) * alpha)}
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"l1_ratio = {l1_ratio}: a number between 0 and 1 is wanted")
    return {"l1": float(_rows(n) * alpha * l1_ratio), "l2": float(_rows(n) * alpha * (1 - l1_ratio))}


def _rows(n) -> float:
    if not (np.isfinite(n) and n > 0):
        raise ValueError(f"n = {n}: the number of rows, a positive number, is wanted")
    return n
