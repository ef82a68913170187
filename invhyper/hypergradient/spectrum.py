"""How fast Neumann series and unrolled steps converge at a solution, or that they do not."""

import equinox as eqx
import jax
import numpy as np
import scipy.sparse.linalg as ssl
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from invhyper import tree
from invhyper.bilevel import Bilevel
from invhyper.eigenvalues import Spectrum, spectrum_of
from invhyper.fixed_point import FixedPoint, as_lower
from invhyper.hypergradient.adjoint import apply
from invhyper.linear_solvers import Neumann
from invhyper.problem import Evaluation, Iteration, LowerLevel, NotConverged, Solution, solve


def spectrum(
    lower: LowerLevel | Iteration | Bilevel,
    theta: PyTree,
    step: float | None = None,
    *,
    solution: Solution | None = None,
    tol: float = 1e-8,
) -> Spectrum:
    """The spectrum of A at x*(theta), and of I - step A: is `Neumann(k, step)` any good, and how large must k be?

    **Arguments**: `lower`: a lower level, an iteration with a fixed point or a `Bilevel`; `step`: None takes 1 / the
    largest eigenvalue, and 1 for a fixed point, where A = I - J and the radius is that of the iteration's J;
    `solution`: an earlier one, None solves to `tol`.

    >>> import numpy as np, invhyper as ih
    >>> found = ih.spectrum(ih.Ridge(np.diag([1.0, 3.0]), np.ones(2)), {"l2": 1.0})
    >>> print(round(found.radius, 6), found.terms(1e-3))
    0.8 31
    >>> ih.spectrum(ih.Ridge(np.diag([1.0, 3.0]), np.ones(2)), {"l2": 1.0}, step=0.3).converges
    False

    Lanczos (1950), doi:10.6028/jres.045.026; Lorraine, Vicol and Duvenaud (2020), arXiv:1911.02590.
    """
    lower = as_lower(lower.lower if isinstance(lower, Bilevel) else lower)
    theta = lower.check(theta)
    solution = solve(lower, theta, tol=tol) if solution is None else solution
    if step is None and isinstance(lower, FixedPoint):
        step = 1.0
    A, symmetric = _on_vectors(lower, theta, Solution(solution.x, memo=solution.memo))
    return spectrum_of(A, step, symmetric=symmetric)


def refuse_divergence(solver: Neumann, problem: Bilevel, theta: PyTree, warm: Evaluation | None, found: Evaluation):
    """NotConverged, with the numbers, where a Neumann series diverges.

    A step that was chosen here can only diverge where A is not positive definite, and then the residual grows; one that
    was given is looked at before it is used, and again when the residual grows. A radius of 1 passes: it is that of
    directions which do not show in x, where the residual has no part.
    """
    grows = not found.certificate.adjoint_residual <= 1
    if grows or (warm is None and solver.step is not None):
        spectrum_there = spectrum(problem.lower, theta, solver.step, solution=found.solution)
        if spectrum_there.radius > 1 + 1e-6:
            raise NotConverged(spectrum_there.refusal)


def _on_vectors(lower, theta, solution):
    """A on flat vectors, and whether it is symmetric."""
    if lower.host:
        linearisation = lower.linearise(solution, theta)
        flat, unravel = tree.ravel(linearisation.P_transpose(solution.x))
        n = flat.size

        def product(v):
            return tree.ravel(apply(linearisation, unravel(v)))[0]

    else:
        n = tree.size(jax.eval_shape(lambda: lower.linearise(solution, theta).P_transpose(solution.x)))

        def product(v):
            return np.asarray(_product(lower, theta, solution, v))

    if n == 0:
        return np.zeros((0, 0)), True
    A = ssl.LinearOperator((n, n), matvec=lambda v: product(np.ravel(v)), dtype=float)
    u, v = np.random.default_rng(0).standard_normal((2, n))
    image = A @ v
    return A, bool(abs(u @ image - (A @ u) @ v) <= 1e-8 * np.linalg.norm(u) * np.linalg.norm(image))


@eqx.filter_jit
def _product(lower, theta, solution, v):
    linearisation = lower.linearise(solution, theta)
    _, unravel = ravel_pytree(linearisation.P_transpose(solution.x))
    return ravel_pytree(apply(linearisation, unravel(v)))[0]
