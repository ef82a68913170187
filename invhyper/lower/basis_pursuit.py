"""Basis pursuit with a noise level: the smallest l1 norm within a ball of data."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as ssl
from jaxtyping import Array, Float

from invhyper.lower import l1_kinks
from invhyper.lower.bpdn import BPDN
from invhyper.lower.conic import undefined
from invhyper.lower.data import host_matrix, host_vector, traced
from invhyper.operators.sparse import Sparse
from invhyper.problem import Linearisation, LowerLevel, NotConverged, Solution
from invhyper.theta import check_theta

EPS = np.finfo(float).eps
SMALLEST = 1e-6  # epsilon / |y| below which the misfit is a difference of rounding errors
FAINTEST = 1e-13  # mu / max |A^T y| below which the ball cannot be told from the least-squares distance


class Memo(NamedTuple):
    """What a solve leaves: the lasso with the same solution, its `Solution`, its weight mu, and the noise level."""

    lasso: BPDN
    solution: Solution
    mu: float
    epsilon: float

    @property
    def found(self):
        return self.solution.memo.found


class BasisPursuit(LowerLevel):
    """Basis pursuit: the x of smallest l1 norm that explains the data to a given misfit.

        x*(theta) = argmin_x |x|_1   subject to   |A x - y|_2 <= epsilon,   theta = {"epsilon"}: a scalar

    It is the lasso whose weight mu makes the misfit epsilon: with x on its support S and signs s,

        A_S^T (A_S x_S - y) + mu s = 0,   |A_S x_S - y| = epsilon,

    and mu is found by Newton's method (one lasso a step, exact as soon as the support is right).

    **Arguments**: `A` (n, p), an array or any scipy sparse matrix (kept sparse); `y` (n,), in whose units epsilon is.

    Raises ValueError for NaN or infinity, shapes, an epsilon below 1e-6 |y| (use a small one: at zero the slope is
    one-sided) and where x* is not unique; `solve` raises `NotConverged` if no x comes within epsilon of y. For
    epsilon >= |y| the solution is zero and so is the hypergradient.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.BasisPursuit(np.eye(2), np.array([3.0, 1.0]))
    >>> print(ih.solve(lower, {"epsilon": np.sqrt(2.0)}).x)
    [2. 0.]

    Chen, Donoho and Saunders (1998), doi:10.1137/S1064827596304010; van den Berg and Friedlander (2008),
    doi:10.1137/080714488.
    """

    host: ClassVar[bool] = True
    keys: ClassVar = ("epsilon",)
    data: ClassVar = ("y",)
    A: Float[Array, "n p"] | Sparse
    y: Float[Array, " n"]

    def __init__(self, A, y):
        self.A = host_matrix("BasisPursuit", A)
        self.y = host_vector("BasisPursuit", "y", y, self.A.shape[0])

    def check(self, theta):
        theta = check_theta(self, theta)
        if np.shape(theta["epsilon"]) != ():
            raise ValueError(f"theta 'epsilon' has shape {np.shape(theta['epsilon'])}: BasisPursuit wants a scalar")
        return theta

    def bounds(self, theta):
        shape = np.shape(theta["epsilon"])
        floor = 0.0 if traced(self.y) else SMALLEST * float(np.linalg.norm(self.y))
        return {"epsilon": np.full(shape, floor)}, {"epsilon": np.full(shape, np.inf)}

    def shape(self, theta):
        return jax.ShapeDtypeStruct((self.A.shape[1],), jnp.zeros(()).dtype)

    def objective(self, x, theta):
        """|x|_1; infinite where the misfit exceeds epsilon by more than rounding."""
        A = self.A if isinstance(self.A, Sparse) else jnp.asarray(self.A)
        misfit = jnp.linalg.norm(A @ jnp.asarray(x) - jnp.asarray(self.y))
        return jnp.where(misfit <= theta["epsilon"] * (1 + 1e-9), jnp.sum(jnp.abs(x)), jnp.inf)

    def residual(self, x, theta):
        raise TypeError("BasisPursuit has its residual in x and the multiplier mu: use linearise")

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        epsilon = float(theta["epsilon"])
        before = start.memo if start is not None and isinstance(start.memo, Memo) else None
        if before is None or before.lasso.A is not self.A or before.lasso.y is not self.y:
            before = None
        guess = start if start is not None and np.all(np.isfinite(start.x)) else None
        memo, error, steps = self._search(epsilon, before, guess)
        x = np.full(self.A.shape[1], np.nan) if memo is None else memo.solution.x
        result = self._sentence(epsilon, memo, error, steps, tol)
        if throw and not error <= tol:
            raise NotConverged(result)
        return Solution(x, error, steps, result, memo)

    def _sentence(self, epsilon, memo, error, steps, tol) -> str:
        if memo is None:
            distance = _distance(self.A, self.y)
            if distance > epsilon:
                said = (
                    f"is infeasible: no x comes within epsilon = {epsilon:.6g} of y, the nearest is {distance:.6g} away"
                )
            else:
                said = f"cannot tell epsilon = {epsilon:.6g} from the least-squares distance {distance:.6g}"
            return f"BasisPursuit {said}; raise epsilon"
        if memo.mu == np.inf:
            size = float(np.linalg.norm(self.y))
            return f"x = 0: epsilon {epsilon:.6g} is at least |y| = {size:.6g}, so the hypergradient is zero"
        if not error <= tol:
            return (
                f"BasisPursuit stopped at {error:.1e}, above tol {tol:.1e}: scale the columns of A alike, or loosen tol"
            )
        k, p = memo.found.values.size, self.A.shape[1]
        return f"BasisPursuit converged to {error:.1e} in {steps} steps, with {k} of {p} coefficients active"

    def _search(self, epsilon, before, start) -> tuple[Memo | None, float, int]:
        """The root of |A x(mu) - y| = epsilon, increasing in mu: Newton's in mu^2 on the support, in a bracket."""
        size, lasso = float(np.linalg.norm(self.y)), before.lasso if before else BPDN(self.A, self.y)
        if epsilon >= size:
            x = Solution(np.zeros(self.A.shape[1]))
            return Memo(lasso, x, np.inf, epsilon), 0.0, 0
        largest = float(np.max(np.abs(self.A.T @ self.y)))
        low, high = 0.0, largest
        known = before is not None and np.isfinite(before.mu)
        solution = before.solution if known else None if start is None else Solution(np.asarray(start.x, float))
        mu = _next(before.found, before.mu, epsilon)[0] if known else largest * epsilon / size
        steps, best = 0, None
        for _ in range(200):
            if not low < mu < high:
                mu = np.sqrt(low * high) if low > 0 else high / 10
            if not mu > FAINTEST * largest:
                return None, float("inf"), steps
            solution = lasso.solve({"weight": np.asarray(mu)}, start=solution, tol=np.inf)
            steps += solution.steps
            found = solution.memo.found
            target, misfit = _next(found, mu, epsilon)
            off = abs(misfit - epsilon) / size
            if best is None or off < best[1]:
                best = Memo(lasso, solution, mu, epsilon), off, max(off, found.error)
            if off <= 2 * EPS or abs(target - mu) <= EPS * mu:
                break
            low, high = (low, mu) if misfit > epsilon else (mu, high)
            if high - low <= 4 * EPS * high:
                break
            mu = target
        return best[0], float(best[2]), steps

    def linearise(self, solution, theta):
        memo = solution.memo
        if np.any(np.isnan(solution.x)):
            return undefined(theta)
        if not isinstance(memo, Memo) or memo.epsilon != float(theta["epsilon"]) or memo.lasso.y is not self.y:
            memo = self.solve(theta, start=solution).memo
        return _at_zero(self, memo) if memo.mu == np.inf else _on_sphere(self, memo)


def _next(found, mu, epsilon) -> tuple[float, float]:
    """(the mu that makes the misfit epsilon if the support stays, the misfit): |r|^2 grows by s.M^-1 s on mu^2."""
    misfit = float(np.linalg.norm(found.misfit))
    signs = found.support.signs
    slope = float(signs @ found.equations.solve(signs)) if signs.size else 0.0
    if slope <= 0:
        return -1.0, misfit
    square = mu**2 + (epsilon - misfit) * (epsilon + misfit) / slope
    return (float(np.sqrt(square)) if square > 0 else -1.0), misfit


def _distance(A, y) -> float:
    """The least-squares distance of y from the range of A."""
    if isinstance(A, Sparse):
        return float(ssl.lsqr(A.to_scipy(), y, atol=1e-14, btol=1e-14, iter_lim=20 * max(A.shape))[3])
    x = np.linalg.lstsq(A, y)[0]
    return float(np.linalg.norm(A @ x - y))


def _at_zero(lower, memo) -> Linearisation:
    p, n, size = lower.A.shape[1], lower.A.shape[0], float(np.linalg.norm(lower.y))
    margin = (memo.epsilon - size) / size if size else np.inf
    return Linearisation(
        A=np.zeros((0, 0)),
        P=lambda c: np.zeros(p),
        P_transpose=lambda v: np.zeros(0),
        B=lambda dtheta: np.zeros(0),
        B_transpose=lambda z: {"epsilon": np.zeros(())},
        solve=lambda rhs, transpose=False: rhs,
        stratum=(np.zeros(0, int), np.zeros(0)),
        margin=margin,
        margin_of="epsilon is about to fall below |y|",
        data_transpose=lambda z: {"y": np.zeros(n)},
        residual=np.zeros(0),
    )


def _on_sphere(lower, memo) -> Linearisation:
    """Unknowns (x_S, mu), K = [[M, s], [s^T, 0]]: the second equation is (epsilon^2 - |r|^2) / (2 mu) = 0."""
    found, mu, epsilon = memo.found, memo.mu, memo.epsilon
    p, S, signs = lower.A.shape[1], found.support.indices, found.support.signs
    k, misfit = S.size, found.misfit
    along = found.equations.solve(signs)
    slope = float(signs @ along)

    def P(c):
        x = np.zeros(p)
        x[S] = c[:k]
        return x

    def apply(c):
        c = np.ravel(c)
        return np.append(found.equations.matrix @ c[:k] + signs * c[k], signs @ c[:k])

    def solve(rhs, transpose=False):
        inner = found.equations.solve(rhs[:k])
        dmu = (signs @ inner - rhs[k]) / slope
        return np.append(inner - along * dmu, dmu)

    def data_transpose(z):
        return {"y": -(found.columns @ z[:k]) - misfit * (z[k] / mu)}

    margin, margin_of = l1_kinks.conditions(memo.solution.memo.design, lower.y, found, None).margin()
    if mu / found.scale < margin:
        margin, margin_of = mu / found.scale, "the ball is about to lose its last point: epsilon nears its least"
    excess = (epsilon - np.linalg.norm(misfit)) * (epsilon + np.linalg.norm(misfit))
    return Linearisation(
        A=ssl.LinearOperator((k + 1, k + 1), matvec=apply, rmatvec=apply, dtype=float),
        P=P,
        P_transpose=lambda v: np.append(np.asarray(v, float)[S], 0.0),
        B=lambda dtheta: np.append(np.zeros(k), epsilon / mu * float(dtheta["epsilon"])),
        B_transpose=lambda z: {"epsilon": np.asarray(epsilon / mu * z[k])},
        solve=solve,
        stratum=found.support.sorted(),
        margin=margin,
        margin_of=margin_of,
        data_transpose=data_transpose,
        residual=np.append(found.defect, excess / (2 * mu)),
    )
