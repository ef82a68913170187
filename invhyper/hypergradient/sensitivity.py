"""The whole derivative of the solution: dx*/dtheta and dx*/d(data) as arrays."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from invhyper import tree
from invhyper.hypergradient.adjoint import check_adjoint, solve_adjoint
from invhyper.problem import LowerLevel, Solution, restart, solve


def sensitivity(
    lower: LowerLevel, theta: PyTree, data: str | None = None, *, tol: float = 1e-8, start: Solution | None = None
) -> PyTree:
    """dx*/dtheta, or the derivative in a field of the lower level, as arrays.

        dx*/dtheta = -P A^-1 B

    **Arguments**: `theta`: where; `data`: None for theta, or the name of a field, such as "y"; `tol`, `start`: of the
    lower level's solve. The system is solved once for each number of theta (of the data) or, by its transpose, once for
    each number of x, whichever are fewer.

    **Returns** the tree of theta with, in place of each leaf, the array of shape x.shape + leaf.shape (a tree of such
    arrays if x is a tree); for `data` one of shape x.shape + data.shape. Raises ValueError for an unknown field or
    one that the lower level does not differentiate, `NotConverged` if a solve misses its tolerance.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.Ridge(np.eye(2), np.array([2.0, 4.0]))
    >>> print(ih.sensitivity(lower, {"l2": 1.0})["l2"])
    [-0.5 -1. ]
    >>> print(np.abs(ih.sensitivity(lower, {"l2": 1.0}, data="y")))
    [[0.5 0. ]
     [0.  0.5]]

    Griewank and Walther (2008), Evaluating Derivatives, chapter 15, doi:10.1137/1.9780898717761.
    """
    theta = lower.check(theta)
    wanted = theta if data is None else _field(lower, data)
    solution = solve(lower, theta, start=start, tol=tol)
    if lower.host:
        rows, residual = _on_host(lower, solution, theta, data, tol)
    else:
        rows, residual = _traced(lower, restart(lower, theta, solution), theta, data, tol)
    check_adjoint(float(residual), max(10 * tol, 1e-11))
    return _unflatten(np.asarray(rows) + 0.0, solution.x, wanted)  # no negative zeros


def _field(lower, name):
    known = [key for key in vars(lower) if not key.startswith("_")]
    value = vars(lower).get(name)
    if name not in known or not all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(value)):
        arrays = [key for key in known if eqx.is_inexact_array(vars(lower)[key])]
        raise ValueError(f"{type(lower).__name__} has no array {name!r} to differentiate in: it has {arrays}")
    if lower.host and name not in lower.data:
        raise ValueError(
            f"{type(lower).__name__} gives no derivative in {name!r}: it gives {list(lower.data) or 'none'} and theta"
        )
    return value


@eqx.filter_jit
def _traced(lower, solution, theta, data, tol):
    """The matrix dx/d(wanted), rows over x, columns over the numbers of theta or of the field."""
    linearisation = lower.linearise(solution, theta)
    along, back, columns = linearisation.B, linearisation.B_transpose, theta
    if data is not None:
        columns = getattr(lower, data)
        along, back = _field_derivative(lower, solution, theta, data)
    _, of_columns = ravel_pytree(jax.tree.map(jnp.asarray, columns))
    _, of_x = ravel_pytree(solution.x)
    many, few = tree.size(columns), tree.size(solution.x)

    def column(e):
        step, residual = solve_adjoint(
            linearisation, along(of_columns(e)), None, None, tol, host=False, transpose=False
        )
        return -ravel_pytree(linearisation.P(step))[0], residual

    def row(e):
        z, residual = solve_adjoint(linearisation, linearisation.P_transpose(of_x(e)), None, None, tol, host=False)
        return -ravel_pytree(back(z))[0], residual

    if many <= few:
        columns, residuals = jax.vmap(column)(jnp.eye(many))
        return columns.T, jnp.max(residuals)
    rows, residuals = jax.vmap(row)(jnp.eye(few))
    return rows, jnp.max(residuals)


def _field_derivative(lower, solution, theta, name) -> tuple[Callable, Callable]:
    """D and D^T: the derivative of R in a field of the lower level."""
    value = getattr(lower, name)

    def defect(value):
        return eqx.tree_at(lambda low: getattr(low, name), lower, value).defect(solution, theta)

    _, along = jax.linearize(defect, value)
    back = jax.linear_transpose(along, value)
    return along, lambda z: back(z)[0]


def _on_host(lower, solution, theta, data, tol):
    """The same in NumPy; the derivative in data is known by its transpose only."""
    linearisation = lower.linearise(solution, theta)
    flat, of_theta = tree.ravel(theta)
    x, of_x = tree.ravel(solution.x)
    residuals = [0.0]

    def solved(rhs, transpose):
        z, residual = solve_adjoint(linearisation, rhs, None, None, tol, host=True, transpose=transpose)
        residuals.append(residual)
        return z

    if data is None and flat.size <= x.size:
        steps = [linearisation.P(solved(linearisation.B(of_theta(e)), False)) for e in np.eye(flat.size)]
        return -np.stack([tree.ravel(step)[0] for step in steps], axis=1), max(residuals)
    rows = []
    for e in np.eye(x.size):
        z = solved(linearisation.P_transpose(of_x(e)), True)
        rows.append(
            tree.ravel(linearisation.B_transpose(z) if data is None else linearisation.data_transpose(z)[data])[0]
        )
    return -np.stack(rows), max(residuals)


def _unflatten(matrix, x, wanted):
    """A tree like `wanted` whose leaves are trees like x of blocks of the matrix."""

    def blocks(columns, leaf):
        shape, parts, first = np.shape(leaf), [], 0
        for part in jax.tree.leaves(x):
            size = int(np.prod(np.shape(part)))
            parts.append(columns[first : first + size].reshape(np.shape(part) + shape))
            first += size
        return jax.tree.unflatten(jax.tree.structure(x), parts)

    leaves, structure = jax.tree.flatten(wanted)
    ends = np.cumsum([int(np.prod(np.shape(leaf))) for leaf in leaves])[:-1]
    split = zip(np.split(matrix, ends, axis=1), leaves, strict=True)
    return jax.tree.unflatten(structure, [blocks(columns, leaf) for columns, leaf in split])
