"""Linear solvers as values: `Direct()`, `CG()`, `GMRES()`, `Neumann(terms)`, for traced operators and for SciPy ones.

Every solver has two faces with the same arguments: `traced(operator, rhs, start, tol)` takes a lineax operator over
pytrees, `host(matrix, rhs, start, tol)` a NumPy array, a SciPy sparse matrix or a SciPy LinearOperator. Both stop at
|A z - rhs|_2 <= tol |rhs|_2 where they are iterative. The caller measures the residual that was reached.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.sparse.linalg as jsl
import lineax as lx
import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg as ssl
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from invhyper import tree

DENSE_LIMIT = 256


class LinearSolver(eqx.Module):
    """Solves A z = rhs."""

    def traced(self, operator: lx.AbstractLinearOperator, rhs: PyTree, start: PyTree | None, tol) -> PyTree:
        """z, inside traced code."""
        raise NotImplementedError

    def host(self, matrix, rhs: np.ndarray, start: np.ndarray | None, tol: float) -> np.ndarray:
        """z, in NumPy/SciPy."""
        raise NotImplementedError


class Direct(LinearSolver):
    """LU, or Cholesky where A is tagged positive semidefinite; A is written out, so for a few hundred unknowns.

    >>> import numpy as np, invhyper as ih
    >>> ih.Direct().host(np.diag([2.0, 4.0]), np.ones(2), None, 1e-8).tolist()
    [0.5, 0.25]
    """

    def traced(self, operator, rhs, start, tol):
        dense = lx.linearise(operator)
        matrix = lx.MatrixLinearOperator(dense.as_matrix(), _tags(operator))
        flat, unravel = ravel_pytree(rhs)
        solver = lx.Cholesky() if lx.is_positive_semidefinite(operator) else lx.LU()
        return unravel(lx.linear_solve(matrix, flat, solver, throw=False).value)

    def host(self, matrix, rhs, start, tol):
        if scipy.sparse.issparse(matrix):
            return ssl.splu(matrix.tocsc()).solve(rhs)
        dense = matrix if isinstance(matrix, np.ndarray) else matrix @ np.eye(rhs.size)
        return scipy.linalg.solve(dense, rhs)


class CG(LinearSolver):
    """Conjugate gradients, for A symmetric positive definite, to `tol` (None: the caller's), at most `max_steps`.

    >>> import numpy as np, invhyper as ih
    >>> ih.CG().host(np.diag([2.0, 4.0]), np.ones(2), None, 1e-8).round(8).tolist()
    [0.5, 0.25]

    Hestenes and Stiefel (1952), doi:10.6028/jres.049.044.
    """

    tol: float | None = None
    max_steps: int | None = None

    def __check_init__(self):
        _check_positive("CG", tol=self.tol)
        _check_whole("CG", max_steps=self.max_steps)

    def traced(self, operator, rhs, start, tol):
        tol = tol if self.tol is None else self.tol
        return jsl.cg(operator.mv, rhs, x0=start, tol=tol, maxiter=self.max_steps)[0]

    def host(self, matrix, rhs, start, tol):
        tol = tol if self.tol is None else self.tol
        return ssl.cg(matrix, rhs, x0=start, rtol=tol, maxiter=self.max_steps)[0]


class GMRES(LinearSolver):
    """GMRES restarted every `restart` steps, for any A, to `tol` (None: the caller's), at most `max_restarts` cycles.

    >>> import numpy as np, invhyper as ih
    >>> ih.GMRES().host(np.array([[0.0, 2.0], [4.0, 0.0]]), np.ones(2), None, 1e-8).round(8).tolist()
    [0.25, 0.5]

    Saad and Schultz (1986), doi:10.1137/0907058.
    """

    tol: float | None = None
    restart: int = 40
    max_restarts: int = 50

    def __check_init__(self):
        _check_positive("GMRES", tol=self.tol)
        _check_whole("GMRES", restart=self.restart, max_restarts=self.max_restarts)

    def traced(self, operator, rhs, start, tol):
        tol = tol if self.tol is None else self.tol
        restart = min(self.restart, tree.size(rhs))
        solve = jsl.gmres(operator.mv, rhs, x0=start, tol=tol, restart=restart, maxiter=self.max_restarts)
        return solve[0]

    def host(self, matrix, rhs, start, tol):
        tol = tol if self.tol is None else self.tol
        restart = min(self.restart, rhs.size)
        return ssl.gmres(matrix, rhs, x0=start, rtol=tol, restart=restart, maxiter=self.max_restarts)[0]


class Neumann(LinearSolver):
    """The truncated Neumann series z = step sum_{j < terms} (I - step A)^j rhs; step None: 1/L, L the top eigenvalue.

    Equal to `terms` steps of truncated backpropagation through gradient descent at its fixed point; it converges for
    0 < step < 2/L and is refused, with the numbers, where it diverges. The residual it leaves stands in the
    certificate; `ih.spectrum` says how many terms a wanted accuracy takes.

    >>> import numpy as np, invhyper as ih
    >>> [ih.Neumann(terms, step=0.25).host(np.diag([2.0, 4.0]), np.ones(2), None, 0).tolist() for terms in (1, 2, 9)]
    [[0.25, 0.25], [0.375, 0.25], [0.4990234375, 0.25]]

    Lorraine, Vicol and Duvenaud (2020), arXiv:1911.02590.
    """

    terms: int
    step: float | None = None

    def __check_init__(self):
        _check_whole("Neumann", terms=self.terms)
        _check_positive("Neumann", step=self.step)

    def traced(self, operator, rhs, start, tol):
        step = 1.0 / largest_eigenvalue(operator.mv, rhs) if self.step is None else self.step

        def term(carry, _):
            total, power = carry
            power = tree.axpy(-step, operator.mv(power), power)
            return (tree.axpy(1.0, total, power), power), None

        (total, _), _ = jax.lax.scan(term, (rhs, rhs), length=self.terms - 1)
        return tree.scale(step, total)

    def host(self, matrix, rhs, start, tol):
        step = 1.0 / largest_eigenvalue(lambda v: matrix @ v, rhs) if self.step is None else self.step
        total, power = rhs.copy(), rhs
        with np.errstate(over="ignore", invalid="ignore"):  # one that diverges is refused in words
            for _ in range(self.terms - 1):
                power = power - step * (matrix @ power)
                total += power
            return step * total


def largest_eigenvalue(matvec, like: PyTree, steps: int = 60, margin: float = 1.02):
    """An upper estimate of the largest |eigenvalue| of a symmetric operator: power iteration from a fixed random start.

    Power iteration approaches from below, so `margin` adds 2 %: a step 1/L that is a little short does no harm.
    """
    if isinstance(like, np.ndarray):
        v = np.random.default_rng(0).standard_normal(like.shape)
        for _ in range(steps):
            v = matvec(v / np.linalg.norm(v))
            if not np.any(v):
                return 1.0
        return margin * float(np.linalg.norm(v))
    flat, unravel = ravel_pytree(like)
    start = jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)

    def improve(_, v):
        size = jnp.linalg.norm(v)
        return ravel_pytree(matvec(unravel(v / jnp.where(size == 0, 1, size))))[0]

    size = jnp.linalg.norm(jax.lax.fori_loop(0, steps, improve, start))
    return margin * jnp.where(size == 0, 1, size)


def choose(operator: lx.AbstractLinearOperator, singular: bool = False) -> LinearSolver | lx.AbstractLinearSolver:
    """A solver from the operator's structure: direct when small, CG when positive semidefinite, GMRES else.

    If it may be singular, with a right-hand side in its range, direct is the singular value decomposition.
    """
    if operator.in_size() <= DENSE_LIMIT:
        return lx.SVD() if singular else Direct()
    return CG() if lx.is_positive_semidefinite(operator) else GMRES()


def solve_traced(
    solver, operator: lx.AbstractLinearOperator, rhs: PyTree, start: PyTree | None, tol, singular: bool = False
) -> PyTree:
    """A z = rhs in traced code by one of ours (None: chosen) or any lineax solver."""
    solver = choose(operator, singular) if solver is None else solver
    if isinstance(solver, lx.AbstractLinearSolver):
        options = {} if start is None else {"y0": start}
        return lx.linear_solve(operator, rhs, solver, options=options, throw=False).value
    return solver.traced(operator, rhs, start, tol)


def solve_host(solver, matrix, rhs: np.ndarray, start: np.ndarray | None, tol: float) -> np.ndarray:
    """A z = rhs in NumPy/SciPy by one of ours (None: direct)."""
    solver = Direct() if solver is None else solver
    if isinstance(solver, lx.AbstractLinearSolver):
        raise TypeError(
            f"{type(solver).__name__} is a lineax solver; this lower level is solved in NumPy/SciPy: "
            "use Implicit() or one of invhyper's Direct, CG, GMRES, Neumann"
        )
    return solver.host(matrix, rhs, start, tol)


def _tags(operator):
    return lx.positive_semidefinite_tag if lx.is_positive_semidefinite(operator) else ()


def _check_positive(solver: str, **values):
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ValueError(f"{solver} {name} = {value}: a positive number is wanted")


def _check_whole(solver: str, **values):
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{solver} {name} = {value!r}: a whole number, at least 1, is wanted")
