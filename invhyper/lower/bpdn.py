"""Basis pursuit denoising, also known as the lasso."""

from typing import ClassVar

import numpy as np

from invhyper.lower import constrained
from invhyper.lower.l1_regression import L1Regression, linearise, solve


class BPDN(L1Regression):
    """Basis pursuit denoising: least squares with an l1 penalty. `Lasso` is another name for it.

        x*(theta) = argmin_x  1/2 |A x - y|^2 + sum_j weight_j |x_j|   subject to   C x = d,   G x <= h,
        theta = {"weight"}: a scalar or one weight per coefficient, zero or more (weight_j = 0: unpenalised)

    **Arguments**: `A` (n, p), an array or any scipy sparse matrix (kept sparse); `y` (n,); `equality` (C, d) and
    `inequality` (G, h), each None or a pair. `intercept`, `standardise`, `sample_weight`: as in `ElasticNet`.

    Raises ValueError for NaN or infinity, shapes, negative weights, and where x* is not unique (dependent columns
    on the support): it has no derivative there. At a weight of zero the slope is that towards positive weights.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.BPDN(np.diag([2.0, 1.0]), np.array([3.0, 1.0]))
    >>> print(ih.solve(lower, {"weight": 2.0}).x)
    [1. 0.]

    Chen, Donoho and Saunders (1998), doi:10.1137/S1064827596304010; Tibshirani (1996),
    doi:10.1111/j.2517-6161.1996.tb02080.x.
    """

    keys: ClassVar = ("weight",)
    l1_key: ClassVar = "weight"
    equality: tuple | None
    inequality: tuple | None

    def __init__(self, A, y, equality=None, inequality=None, *, intercept=False, standardise=False, sample_weight=None):
        super().__init__(A, y, intercept=intercept, standardise=standardise, sample_weight=sample_weight)
        self.equality = _constraint(equality, "equality", "(C, d)", self.A.shape[1])
        self.inequality = _constraint(inequality, "inequality", "(G, h)", self.A.shape[1])
        if self.constrained and (intercept or standardise):
            raise ValueError(
                "BPDN with constraints has no intercept and no standardisation: centre and scale A and y first"
            )

    @property
    def constrained(self) -> bool:
        """True with an equality or an inequality: `lower.constrained` then solves and differentiates."""
        return self.equality is not None or self.inequality is not None

    @property
    def data(self):
        return ("y",) if self.constrained else super().data

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        if self.constrained:
            return constrained.solve(self, theta, start=start, tol=tol, throw=throw)
        return solve(self, theta, start, tol, throw)

    def linearise(self, solution, theta):
        if self.constrained:
            return constrained.linearise(self, solution, theta)
        return linearise(self, solution, theta)

    def residual(self, x, theta):
        if self.constrained:
            raise TypeError("BPDN with constraints has its residual in x and the multipliers: see the solution's error")
        return super().residual(x, theta)

    def smoothed(self, eps):
        if self.constrained:
            raise TypeError(
                "BPDN with constraints has no smoothed form: its inequalities have kinks of their own; leave them out"
            )
        return super().smoothed(eps)

    def iteration(self):
        if self.constrained:
            raise TypeError("Unrolled needs an Iteration (init, step); BPDN with constraints has none. Use Implicit.")
        return super().iteration()


Lasso = BPDN


def _constraint(pair, name, letters, p):
    if pair is None:
        return None
    try:
        matrix, bound = (np.asarray(part, dtype=float) for part in pair)
    except (TypeError, ValueError):
        raise ValueError(f"BPDN {name} wants a pair {letters} of arrays; it was given {type(pair).__name__}") from None
    matrix, bound = np.atleast_2d(matrix), np.atleast_1d(bound)
    if matrix.ndim != 2 or matrix.shape[1] != p or bound.shape != matrix.shape[:1]:
        raise ValueError(
            f"BPDN {name} wants {letters} of shapes (m, {p}) and (m,); it was given {matrix.shape} and {bound.shape}"
        )
    if not (np.all(np.isfinite(matrix)) and np.all(np.isfinite(bound))):
        raise ValueError(f"BPDN {name} holds NaN or infinity: finite numbers are wanted")
    return matrix, bound
