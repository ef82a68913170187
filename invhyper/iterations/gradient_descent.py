"""Gradient descent with a constant step."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from invhyper import tree
from invhyper.problem import Iteration, LowerLevel


class GradientDescent(Iteration):
    """Steps against the residual of a lower level.

        x_{t+1} = x_t - step(theta) R(x_t, theta)

    **Arguments**: `lower`: gives R and the first x; `step`: a number, or a function of theta (below 2/L, L the largest
    eigenvalue of dR/dx, for convergence).

    >>> import numpy as np, invhyper as ih
    >>> descent = GradientDescent(ih.Ridge(np.eye(2), np.ones(2)), step=0.25)
    >>> print(descent.step(np.zeros(2), {"l2": 1.0}, 0))
    [0.25 0.25]

    Cauchy (1847), Comptes rendus 25, 536.
    """

    lower: LowerLevel
    step_size: float | Array | Callable

    def __init__(self, lower: LowerLevel, step: Any):
        self.lower, self.step_size = lower, step

    def init(self, theta, start=None):
        x = self.lower.cold_start(theta).x if start is None else start.x
        return jax.tree.map(jax.numpy.asarray, x)

    def step(self, state, theta, t):
        size = self.step_size(theta) if callable(self.step_size) else self.step_size
        return tree.axpy(-size, self.lower.residual(state, theta), state)

    def output(self, state):
        return state
