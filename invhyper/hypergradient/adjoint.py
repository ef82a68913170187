"""The adjoint system of a linearisation, A^T z = P^T grad_x C, and the criterion's gradients that enter it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from invhyper import linear_solvers, tree
from invhyper.problem import Linearisation, NotConverged


def solve_adjoint(linearisation: Linearisation, rhs, solver, start, tol, *, host: bool, transpose: bool = True):
    """z with A^T z = rhs (A z = rhs if not `transpose`), block by block, and |A^T z - rhs| / |rhs| as reached."""
    if linearisation.blocks:
        starts = (None,) * len(linearisation.blocks) if start is None else start
        parts = [
            solve_adjoint(block, part, solver, guess, tol, host=host, transpose=transpose)
            for block, part, guess in zip(linearisation.blocks, rhs, starts, strict=True)
        ]
        return tuple(z for z, _ in parts), _largest([residual for _, residual in parts], host)
    if solver is None and linearisation.solve is not None:
        z = linearisation.solve(rhs, transpose)
    elif host and isinstance(rhs, np.ndarray):
        matrix = linearisation.A.T if transpose else linearisation.A
        guess = start if start is not None and np.shape(start) == rhs.shape else None
        z = linear_solvers.solve_host(solver, matrix, rhs, guess, tol)
    else:
        operator = linearisation.A.T if transpose else linearisation.A
        z = linear_solvers.solve_traced(solver, operator, rhs, start, tol, linearisation.singular)
    image = apply_transpose(linearisation, z, host=host) if transpose else _apply(linearisation.A, z)
    size = tree.norm(rhs)
    defect = tree.norm(tree.subtract(image, rhs))
    if host:
        return z, float(defect / size) if size else 0.0
    return z, jnp.where(size == 0, 0.0, defect / jnp.where(size == 0, 1.0, size))


def adjoint_tol(solver, tol: float) -> float:
    """What the adjoint residual is held to; a truncated series leaves what it leaves, and the certificate shows it."""
    return np.inf if isinstance(solver, linear_solvers.Neumann) else max(10 * tol, 1e-11)


def check_adjoint(residual: float, most: float):
    """Raises NotConverged, in words, if an adjoint residual is above `most` or NaN."""
    if not np.isfinite(residual):
        raise NotConverged("the adjoint is not finite: A is singular on the stratum, so x* has no derivative there")
    if residual > most:
        raise NotConverged(
            f"the adjoint stopped at {residual:.1e}, above {most:.1e}: "
            "A is ill-conditioned or singular on the stratum; use Implicit(Direct()) or a solver with more steps"
        )


def apply_transpose(linearisation: Linearisation, z, *, host: bool):
    """A^T z."""
    if linearisation.blocks:
        return tuple(apply_transpose(b, part, host=host) for b, part in zip(linearisation.blocks, z, strict=True))
    return _apply(linearisation.A.T, z)


def apply(linearisation: Linearisation, c):
    """A c."""
    if linearisation.blocks:
        return tuple(apply(block, part) for block, part in zip(linearisation.blocks, c, strict=True))
    return _apply(linearisation.A, c)


def _apply(matrix, z):
    return matrix.mv(z) if hasattr(matrix, "mv") else matrix @ z


def _largest(residuals, host):
    return max(residuals, default=0.0) if host else jnp.max(jnp.stack(residuals))


def pull(criterion, x: PyTree, theta: PyTree):
    """C, (grad_x C, grad_theta C)."""
    value, pullback = jax.vjp(criterion, x, theta)
    if jnp.shape(value) != ():
        raise ValueError(f"the criterion returned shape {jnp.shape(value)}: a scalar is wanted")
    return value, pullback(jnp.ones_like(value))


_pull_arrays = jax.jit(pull)
_pull_compiled = eqx.filter_jit(pull)


def value_and_pull(criterion, x: PyTree, theta: PyTree):
    """C, (grad_x C, grad_theta C) at NumPy leaves, NumPy out."""
    held = jax.tree.leaves(criterion)
    # A criterion that holds arrays alone needs no sorting into traced and static parts at every call.
    run = _pull_arrays if all(isinstance(leaf, (np.ndarray, jax.Array)) for leaf in held) else _pull_compiled
    value, gradients = run(criterion, x, theta)
    return float(value), jax.tree.map(np.asarray, gradients)
