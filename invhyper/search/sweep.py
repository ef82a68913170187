"""Criterion curves and maps: F and its gradient over many thetas."""

import math
import warnings
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree

from invhyper.bilevel import Bilevel
from invhyper.hypergradient.implicit import Implicit
from invhyper.hypergradient.run import warm_start
from invhyper.search.objective import FAILURES


def sweep(
    problem: Bilevel,
    thetas: PyTree,
    hypergradient: Callable | None = None,
    *,
    axes: int | None = None,
    tol: float = 1e-8,
) -> tuple[np.ndarray, PyTree]:
    """F and its gradient over many thetas, each solve started from its neighbour's.

    **Arguments**: `thetas`: a list of theta trees, or one theta tree whose leaves all begin with the same axes, those
    of the sweep: `{"l1": (50,), "l2": (50,)}` is a curve, two `meshgrid` arrays are a map; `axes`: how many axes these
    are (None: all those of the leaf with the fewest; say 1 for a curve of weights of shape (50, p)); `tol`: of the
    lower level.

    Returns `values` and a tree of `gradients` (natural scale), which begin with the axes of the sweep. The thetas are
    visited in order, every other row of a map backwards. Where the lower level fails, F and the gradient are NaN and a
    RuntimeWarning says how many failed, where, and why. Raises ValueError for thetas that the lower level would not
    accept, and what the lower level raises if it fails everywhere.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> values, gradients = ih.sweep(problem, {"l2": np.array([0.0, 1.0, 3.0])})
    >>> values.round(12).tolist(), gradients["l2"].round(12).tolist()
    ([0.0, 0.25, 0.5625], [0.0, 0.25, 0.09375])
    """
    hypergradient = Implicit() if hypergradient is None else hypergradient
    shape, points = _points(thetas, axes)
    points = [problem.check(theta) for theta in points]
    values, gradients = np.full(len(points), np.nan), [None] * len(points)
    warm, failures = None, []
    for i in _serpentine(shape):
        try:
            evaluation = hypergradient(problem, points[i], warm=warm, tol=tol)
        except FAILURES as failure:
            failures.append((i, failure))
            if len(failures) == len(points):
                raise
            continue
        warm = warm_start(hypergradient, evaluation)
        values[i], gradients[i] = evaluation.value, evaluation.gradient
    missing = jax.tree.map(lambda leaf: np.full(np.shape(leaf), np.nan), points[0])
    rows = [missing if gradient is None else gradient for gradient in gradients]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves).reshape(shape + np.shape(leaves[0])), *rows)
    if failures:
        i, failure = failures[0]
        warnings.warn(
            f"sweep: {len(failures)} of {len(points)} points failed and are NaN; first at {points[i]}: {failure}",
            RuntimeWarning,
            stacklevel=2,
        )
    return values.reshape(shape), stacked


def _points(thetas, axes) -> tuple[tuple[int, ...], list]:
    """The shape of the sweep and its thetas in row-major order."""
    if isinstance(thetas, list):
        if not thetas:
            raise ValueError("sweep was given an empty list: at least one theta is wanted")
        return (len(thetas),), thetas
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(thetas)]
    if not leaves:
        raise ValueError("sweep was given a tree without leaves: at least one array of thetas is wanted")
    depth = min(leaf.ndim for leaf in leaves) if axes is None else axes
    shapes = {leaf.shape[:depth] for leaf in leaves}
    if depth < 1 or len(shapes) > 1 or any(leaf.ndim < depth for leaf in leaves):
        listed = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(
            f"sweep wants leaves that begin with the same axes, or a list of thetas; it was given {listed}"
        )
    (shape,) = shapes
    if math.prod(shape) == 0:
        raise ValueError(f"sweep was given no points: the leaves begin with {shape}")
    flat = jax.tree.map(lambda leaf: np.asarray(leaf, float).reshape(-1, *np.shape(leaf)[depth:]), thetas)
    return shape, [jax.tree.map(lambda leaf, i=i: leaf[i], flat) for i in range(math.prod(shape))]


def _serpentine(shape) -> list[int]:
    order = np.arange(math.prod(shape)).reshape(-1, shape[-1])
    order[1::2] = order[1::2, ::-1]
    return order.ravel().tolist()
