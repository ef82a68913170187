"""F and its gradient as one function, for outer loops that are not ours."""

from collections.abc import Callable

from jaxtyping import PyTree

from invhyper.bilevel import Bilevel
from invhyper.hypergradient.implicit import Implicit
from invhyper.hypergradient.run import warm_start
from invhyper.parameters import Parameters
from invhyper.search.tune import as_parameters


def value_and_gradient(
    problem: Bilevel,
    hypergradient: Callable | None = None,
    *,
    like: Parameters | PyTree | None = None,
    tol: float = 1e-8,
) -> Callable:
    """F and its gradient as one function, for scipy.optimize and the like; each call starts from the last.

    **Arguments**: `like`: None for a function of the theta tree that returns (F, gradient tree), natural scale; a theta
    tree for a function of the flat vector of its entries (in the order of sorted keys); `Parameters` for a function of
    the search vector, whose start and bounds `minimize(f, p.start, jac=True, bounds=Bounds(*p.bounds))` then takes.
    `tol`: of the lower level. What the lower level raises is raised.

    >>> import numpy as np, scipy.optimize, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> f = ih.value_and_gradient(problem, like={"l2": 1.0})
    >>> found = scipy.optimize.minimize(f, [1.0], jac=True, bounds=[(0, None)])
    >>> round(found.x.item(), 3)
    0.25
    """
    hypergradient = Implicit() if hypergradient is None else hypergradient
    last = None

    def at(theta):
        nonlocal last
        last = hypergradient(problem, theta, warm=warm_start(hypergradient, last), tol=tol)
        return last.value, last.gradient

    if like is None:
        return at
    parameters = as_parameters(problem, like)

    def at_vector(u):
        value, gradient = at(parameters.natural(u))
        return value, parameters.pull(u, gradient)

    return at_vector
