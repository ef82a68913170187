"""The elastic net, solved on its active set without cvxpy."""

from typing import ClassVar

from invhyper.lower.l1_regression import L1Regression


class ElasticNet(L1Regression):
    """Least squares with an l1 and a squared penalty.

        x*(theta) = argmin_x  1/2 |A x - y|^2 + sum_j l1_j |x_j| + 1/2 sum_j l2_j x_j^2,
        theta = {"l1", "l2"}: each a scalar or one weight per coefficient, zero or more (l1_j = l2_j = 0: unpenalised)

    **Arguments**: `A` (n, p), an array or any scipy sparse matrix (kept sparse); `y` (n,). With options it minimises

        1/2 sum_i w_i (a_i.x + b - y_i)^2 + sum_j l1_j s_j |x_j| + 1/2 sum_j l2_j s_j^2 x_j^2.

    `intercept`: fits b, unpenalised; x then has p + 1 entries, the last is b. `standardise`: s_j is the standard
    deviation of column j (weighted by w, divisor sum w; 1 for a constant column), else 1. `sample_weight` (n,): w, as
    given, not normalised; None is ones. x is always in the units of A and y.

    Raises ValueError for NaN or infinity, shapes, negative weights, and where x* is not unique (dependent columns on
    the support and no l2): it has no derivative there. At a weight of zero the slope is that towards positive weights.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.ElasticNet(np.diag([2.0, 1.0]), np.array([3.0, 1.0]))
    >>> print(ih.solve(lower, {"l1": 2.0, "l2": 1.0}).x)
    [0.8 0. ]

    Zou and Hastie (2005), doi:10.1111/j.1467-9868.2005.00503.x.
    """

    keys: ClassVar = ("l1", "l2")
    l1_key: ClassVar = "l1"
    l2_key: ClassVar = "l2"
