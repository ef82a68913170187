"""Least squares with an l1 penalty: what `ElasticNet` and `BPDN` share."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as ssl
from jaxtyping import Array, Float

from invhyper.iterations.proximal import ProximalGradient, soft_threshold
from invhyper.linear_solvers import largest_eigenvalue
from invhyper.lower import l1_kinks
from invhyper.lower.data import host_matrix, host_vector, host_weight
from invhyper.lower.smoothed import SmoothedRegression
from invhyper.operators.design import Design
from invhyper.operators.sparse import Sparse
from invhyper.problem import Linearisation, LowerLevel, NotConverged, Solution
from invhyper.strata.active_set import ActiveSet, Minimiser, refuse_ties
from invhyper.theta import check_theta


class Memo:
    """What a solve leaves for `linearise` and for the next start: its data, their `Design`, the `Minimiser`."""

    def __init__(self, lower: "L1Regression", design: Design, found: Minimiser):
        self.fields = lower._fields
        self.design, self.found = design, found

    def about(self, lower: "L1Regression") -> bool:
        return all(a is b for a, b in zip(self.fields, lower._fields, strict=True))


class L1Regression(LowerLevel):
    """x*(theta) = argmin_x  1/2 sum_i w_i (a_i.x + b - y_i)^2 + sum_j l1_j |s_j x_j| + 1/2 sum_j l2_j (s_j x_j)^2.

    Subclasses say which keys of theta are l1 and l2 (`l1_key`, `l2_key`).
    """

    host: ClassVar[bool] = True
    l1_key: ClassVar[str] = "l1"
    l2_key: ClassVar[str | None] = None
    A: Float[Array, "n p"] | Sparse
    y: Float[Array, " n"]
    intercept: bool
    standardise: bool
    sample_weight: Float[Array, " n"] | None

    def __init__(self, A, y, *, intercept: bool = False, standardise: bool = False, sample_weight=None):
        self.A = host_matrix(type(self).__name__, A)
        self.y = host_vector(type(self).__name__, "y", y, self.A.shape[0])
        self.intercept, self.standardise = bool(intercept), bool(standardise)
        self.sample_weight = None
        if sample_weight is not None:
            self.sample_weight = host_weight(type(self).__name__, sample_weight, self.A.shape[0])

    @property
    def data(self):
        """Fields whose derivative `layer` gives: A too, unless its columns' scales depend on it."""
        return ("y",) if self.standardise else ("A", "y")

    @property
    def _fields(self):
        return (self.A, self.y, self.sample_weight, self.intercept, self.standardise)

    def check(self, theta):
        theta = check_theta(self, theta)
        p = self.A.shape[1]
        for key, value in theta.items():
            if np.shape(value) not in ((), (p,)):
                name = type(self).__name__
                raise ValueError(f"theta {key!r} has shape {np.shape(value)}: {name} wants a scalar or ({p},)")
        return theta

    def bounds(self, theta):
        floor = {key: np.zeros(np.shape(value)) for key, value in theta.items()}
        return floor, {key: np.full(np.shape(value), np.inf) for key, value in theta.items()}

    def shape(self, theta):
        return jax.ShapeDtypeStruct((self.A.shape[1] + self.intercept,), jnp.zeros(()).dtype)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        return solve(self, theta, start, tol, throw)

    def linearise(self, solution, theta):
        return linearise(self, solution, theta)

    def objective(self, x, theta):
        scaled = self._scales() * x[: self.A.shape[1]]
        l2 = 0.0 if self.l2_key is None else theta[self.l2_key]
        misfit = 0.5 * jnp.sum(self._sample_weight() * self._misfit(x) ** 2)
        return misfit + jnp.sum(theta[self.l1_key] * jnp.abs(scaled)) + 0.5 * jnp.sum(l2 * scaled**2)

    def residual(self, x, theta):
        """h_j x_j - soft(h_j x_j - g_j, l1_j s_j), h_j = sum_i w_i a_ij^2 + l2_j s_j^2, g the smooth gradient.

        Zero at x* and nowhere else; where x_j is far from zero it is the gradient's entry. For the intercept: sum w r.
        """
        scales, inner = self._scales(), x[: self.A.shape[1]]
        l2 = (0.0 if self.l2_key is None else theta[self.l2_key]) * scales**2
        weighted = self._sample_weight() * self._misfit(x)
        gradient = self._traced_A().T @ weighted + l2 * inner
        height = self._squares() + l2
        inner = height * inner - soft_threshold(height * inner - gradient, theta[self.l1_key] * scales)
        return jnp.append(inner, jnp.sum(weighted)) if self.intercept else inner

    def iteration(self):
        """Proximal gradient steps (ISTA) of length 1/L, L the largest eigenvalue of A^T W A."""
        scales = self._scales()
        weight, A = self._sample_weight(), self._traced_A()

        def curvature(x):
            image = weight * (A @ x[: A.shape[1]] + (x[-1] if self.intercept else 0.0))
            pulled = A.T @ image
            return jnp.append(pulled, jnp.sum(image)) if self.intercept else pulled

        start = jnp.zeros(A.shape[1] + self.intercept)
        step = 1.0 / largest_eigenvalue(curvature, start)

        def gradient(x, theta):
            weighted = weight * self._misfit(x)
            pulled = A.T @ weighted
            return jnp.append(pulled, jnp.sum(weighted)) if self.intercept else pulled

        def prox(x, theta):
            l2 = 0.0 if self.l2_key is None else theta[self.l2_key]
            inner = soft_threshold(x[: A.shape[1]], step * theta[self.l1_key] * scales) / (1.0 + step * l2 * scales**2)
            return jnp.append(inner, x[-1]) if self.intercept else inner

        return ProximalGradient(gradient, prox, start, step)

    def smoothed(self, eps) -> SmoothedRegression:
        """The same with |s_j x_j| replaced by sqrt(s_j^2 x_j^2 + eps^2) - eps.

        >>> import numpy as np, invhyper as ih
        >>> lower = ih.ElasticNet(np.eye(1), np.array([2.0])).smoothed(3.0)
        >>> float(ih.solve(lower, {"l1": 1.0, "l2": 0.0}).x[0].round(6))
        1.542691
        """
        return SmoothedRegression(self, eps)

    def _traced_A(self):
        return self.A if isinstance(self.A, Sparse) else jnp.asarray(self.A)

    def _sample_weight(self):
        return jnp.ones(self.A.shape[0]) if self.sample_weight is None else jnp.asarray(self.sample_weight)

    def _squares(self):
        if isinstance(self.A, Sparse):
            squared = Sparse(jnp.asarray(self.A.data) ** 2, self.A.indices, self.A.indptr, self.A.shape)
            return squared.T @ self._sample_weight()
        return self._sample_weight() @ jnp.asarray(self.A) ** 2

    def _scales(self):
        """s_j: the weighted standard deviations, as `Design.spread` says them."""
        if not self.standardise:
            return jnp.ones(self.A.shape[1])
        weight = self._sample_weight()
        means = self._traced_A().T @ weight / weight.sum()
        variance = self._squares() / weight.sum() - means**2
        return jnp.sqrt(jnp.where(variance > 1e-14 * means**2, variance, 1.0))

    def _misfit(self, x):
        p = self.A.shape[1]
        return self._traced_A() @ jnp.asarray(x)[:p] + (x[p] if self.intercept else 0.0) - jnp.asarray(self.y)


# Functions, not methods: an equinox Module wraps a method anew each time it is looked up, which a solve of a
# millisecond notices.


def solve(lower: L1Regression, theta, start: Solution | None, tol: float, throw: bool) -> Solution:
    """x*(theta) by the active set, from `start` (its memo if it is about the same data, else its x) or from zero."""
    memo = start.memo if start is not None and isinstance(start.memo, Memo) and start.memo.about(lower) else None
    design = Design(lower.A, lower.sample_weight, lower.intercept) if memo is None else memo.design
    l1, l2 = _weights(lower, theta, design)
    p = design.shape[1]
    guess = None if start is None else np.asarray(start.x, float)[:p]
    if guess is not None and not np.all(np.isfinite(guess)):
        guess = None
    search = ActiveSet(design, lower.y, l1, l2, guess, None if memo is None else memo.found)
    found = search.run()
    refuse_ties(search.gram, found)
    x = np.zeros(p + lower.intercept)
    x[found.support.indices] = found.values
    if lower.intercept:
        x[p] = design.mean_of(lower.y) - design.means[found.support.indices] @ found.values
    result = _sentence(lower, found, theta, tol)
    if throw and not found.error <= tol:
        raise NotConverged(result)
    return Solution(x, found.error, found.steps, result, Memo(lower, design, found))


def linearise(lower: L1Regression, solution: Solution, theta) -> Linearisation:
    """The normal equations on the support; solved for again if `solution` is not from here or is of another theta."""
    memo = solution.memo
    if isinstance(memo, Memo) and memo.about(lower):
        l1, l2 = _weights(lower, theta, memo.design)
        if np.array_equal(l1, memo.found.l1) and np.array_equal(l2, memo.found.l2):
            return _linearisation(lower, theta, memo.design, memo.found)
    memo = solve(lower, theta, solution, np.inf, False).memo
    return _linearisation(lower, theta, memo.design, memo.found)


def _weights(lower, theta, design) -> tuple[np.ndarray, np.ndarray]:
    """l1_j s_j and l2_j s_j^2, full length."""
    p = design.shape[1]
    l1 = np.broadcast_to(np.asarray(theta[lower.l1_key], float), (p,))
    l2 = np.zeros(p) if lower.l2_key is None else np.broadcast_to(np.asarray(theta[lower.l2_key], float), (p,))
    return (l1 * design.spread, l2 * design.spread**2) if lower.standardise else (l1, l2)


def _sentence(lower, found, theta, tol) -> str:
    name, p, k = type(lower).__name__, found.l1.size, found.support.indices.size
    if not found.error <= tol:
        return (
            f"{name} stopped at {found.error:.1e}, above tol {tol:.1e}, after {found.steps} steps: "
            "scale the columns of A alike, or loosen tol"
        )
    if k:
        return f"{name} converged to {found.error:.1e} in {found.steps} steps, with {k} of {p} coefficients active"
    zero, key = "x = 0 but for its intercept" if lower.intercept else "x = 0", lower.l1_key
    if not found.scale:
        return f"{zero}: A^T y = 0, so the hypergradient is zero"
    if np.ndim(theta[key]) or lower.standardise:
        factor = 1.0 / np.max(np.abs(found.correlation) / found.l1)
        return f"{zero}: {key} is {factor:.4g} times what makes x zero, so the hypergradient is zero"
    return f"{zero}: {key} {float(theta[key]):.6g} is above weight_max {found.scale:.6g}, so the hypergradient is zero"


def _linearisation(lower, theta, design, found) -> Linearisation:
    p, S = design.shape[1], found.support.indices
    k, b = S.size, int(lower.intercept)
    scales = design.spread[S] if lower.standardise else np.ones(k)
    means = design.means[S] if b else None

    def P(c):
        x = np.zeros(p + b)
        x[S] = c[:k]
        x[p:] = c[k:]
        return x

    def P_transpose(v):
        v = np.asarray(v, float)
        return np.concatenate([v[S], v[p:]])

    def solve(rhs, transpose=False):
        if not b:
            return found.equations.solve(rhs)
        c = found.equations.solve(rhs[:k] - means * rhs[k])
        return np.append(c, rhs[k] / design.total - means @ c)

    slopes = {lower.l1_key: np.sign(found.values) * scales}
    if lower.l2_key is not None:
        slopes[lower.l2_key] = found.values * scales**2

    def B(dtheta):
        parts = (slope * np.broadcast_to(dtheta[key], (p,))[S] for key, slope in slopes.items())
        return np.concatenate([sum(parts), np.zeros(b)])

    def B_transpose(z):
        return {key: _gather(slope * z[:k], S, np.shape(theta[key])) for key, slope in slopes.items()}

    spread = design.spread if lower.standardise else None
    margin, margin_of = l1_kinks.conditions(design, lower.y, found, spread).margin()
    bordered = _bordered(found.equations.matrix, means, design.total) if b else found.equations.matrix
    return Linearisation(
        A=bordered,
        P=P,
        P_transpose=P_transpose,
        B=B,
        B_transpose=B_transpose,
        solve=solve,
        stratum=found.support.sorted(),
        margin=margin,
        margin_of=margin_of,
        degenerate=lambda tolerance, thorough=False: l1_kinks.critical_cone(lower, design, found, tolerance),
        data_transpose=lambda z: _data_transpose(lower, design, found, z),
        residual=np.concatenate([found.defect, np.zeros(b)]),
    )


def _gather(values, S, shape):
    if shape == ():
        return np.asarray(values.sum())
    full = np.zeros(shape)
    full[S] = values
    return full


def _bordered(matrix, means, total):
    """The system in (x_S, b) whose Schur complement in b is `matrix`."""
    k = means.size
    if isinstance(matrix, np.ndarray):
        side = total * means[:, None]
        return np.block([[matrix + side * means, side], [side.T, np.full((1, 1), total)]])

    def apply(c):
        c = np.ravel(c)
        mean = means @ c[:k] + c[k]
        return np.append(matrix @ c[:k] + total * mean * means, total * mean)

    return ssl.LinearOperator((k + 1, k + 1), matvec=apply, rmatvec=apply, dtype=float)


def _data_transpose(lower, design, found, z):
    """D^T z for R = A_S^T W (A x + b - y): -W A z for y, W r z^T + W A z x^T for A (at its nonzeros if sparse)."""
    S, k = found.support.indices, found.support.indices.size
    image = design.predict(found.columns, S, z[:k])
    if lower.intercept:
        image = image + design.means[S] @ z[:k] + z[k]
    image = design.weigh(image)
    cotangent = {"y": -image}
    if "A" in lower.data:
        misfit = -design.weigh(found.misfit)
        if isinstance(lower.A, Sparse):
            full_z, full_x = np.zeros(design.shape[1]), np.zeros(design.shape[1])
            full_z[S], full_x[S] = z[:k], found.values
            rows = np.repeat(np.arange(design.shape[0]), np.diff(lower.A.indptr))
            columns = lower.A.indices
            cotangent["A"] = misfit[rows] * full_z[columns] + image[rows] * full_x[columns]
        else:
            cotangent["A"] = np.zeros(design.shape)
            cotangent["A"][:, S] = np.outer(misfit, z[:k]) + np.outer(image, found.values)
    return cotangent
