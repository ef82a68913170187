"""Lower levels with their norms smoothed: kinks become bends, and every slope has one value.

    |v| -> sqrt(|v|^2 + eps^2) - eps

What `L1Regression.smoothed(eps)` and `SumOfNorms.smoothed(eps)` return. Solved by `lower.primal_dual` at any eps, down
to where it can't be told from zero.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array
from scipy.sparse import csr_array

from invhyper.lower import primal_dual
from invhyper.lower.bregman_slope import pulled, pushed
from invhyper.lower.bregman_solve import Structure, make_structure
from invhyper.operators.design import Design
from invhyper.penalties import is_positive, smoothed
from invhyper.problem import Linearisation, LowerLevel, NotConverged, Solution

# A forward operator without a sparse matrix is written out for so many unknowns.
WRITTEN_OUT = 2048
# From this share of entries on a matrix is better dense.
FULL = 0.3


class Memo(NamedTuple):
    """What a solve leaves for `linearise` and for the next start, at this eps or another."""

    lower: Any
    eps: float
    theta: Any
    parts: Any
    problem: primal_dual.Problem
    found: primal_dual.Found


class Smoothed(LowerLevel):
    """A lower level `of` which every norm h is replaced: h(t) = sqrt(t^2 + eps^2) - eps, eps in the units of D x.

    0 <= t - h(t) <= eps, and h is smooth. Without "- eps" the minimisers are the same; with it h(0) = 0.

    Subclasses say how the numbers of a problem come about (`parts`, `problem`) and how they move with theta.
    """

    host: ClassVar[bool] = True
    of: LowerLevel
    eps: float | Array

    def __init__(self, of: LowerLevel, eps):
        if not isinstance(eps, jax.core.Tracer) and (np.ndim(eps) or not is_positive(eps) or not np.isfinite(eps)):
            raise ValueError(
                f"{type(of).__name__}.smoothed eps = {eps}: a positive number is wanted, in the units of what the "
                "norms are taken of"
            )
        self.of, self.eps = of, jnp.asarray(eps, float) if isinstance(eps, jax.core.Tracer) else np.asarray(eps, float)

    @property
    def keys(self):
        return self.of.keys

    @property
    def loss(self):
        return self.of.loss

    def check(self, theta):
        return self.of.check(theta)

    def bounds(self, theta):
        return self.of.bounds(theta)

    def shape(self, theta):
        return self.of.shape(theta)

    def residual(self, x, theta):
        return jax.grad(self.objective)(jnp.asarray(x), theta)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        theta = jax.tree.map(np.asarray, theta)
        memo = start.memo if start is not None and isinstance(start.memo, Memo) else None
        memo = memo if memo is not None and memo.lower is self.of else None
        parts = self.parts() if memo is None else memo.parts
        problem = self.problem(theta, parts)
        begin = (None, None) if memo is None else (memo.found.point, memo.eps)
        found = primal_dual.solve(problem, *begin)
        name, eps = type(self.of).__name__, float(self.eps)
        result = f"{name} smoothed by {eps:.1e} converged to {found.error:.1e} in {found.steps} Newton steps"
        if not found.error <= tol:
            result = (
                f"{name} smoothed by {eps:.1e} stopped at {found.error:.1e}, above tol {tol:.1e}, after {found.steps} "
                "Newton steps: take a larger eps, scale the problem, or loosen tol"
            )
            if throw:
                raise NotConverged(result)
        kept = Memo(self.of, eps, theta, parts, problem, found)
        x = self.image(found.point.z, theta).astype(self.shape(theta).dtype)
        return Solution(x, found.error, found.steps, result, kept)

    def linearise(self, solution, theta):
        memo = solution.memo
        here = isinstance(memo, Memo) and memo.lower is self.of and memo.eps == float(self.eps)
        if not (here and all(map(np.array_equal, *map(jax.tree.leaves, (memo.theta, theta))))):
            memo = self.solve(theta, start=solution, tol=np.inf, throw=False).memo
        problem, found = memo.problem, memo.found
        system, directions = found.system, problem.directions(found.point.d)
        n, more = found.point.z.size, found.system.kept.size

        def bordered(v):
            return np.concatenate([v, np.zeros(more)])

        return Linearisation(
            A=system.matrix,
            P=lambda c: self.image(c[:n], theta),
            P_transpose=lambda v: bordered(self.embed(np.asarray(v, float), theta)),
            B=lambda dtheta: bordered(self.push(memo, directions, theta, dtheta)),
            B_transpose=lambda q: self.pull(memo, directions, theta, q[:n]),
            solve=lambda rhs, transpose=False: system.solve(rhs),
            residual=system.defect(found.point),
        )

    # --- what subclasses say -----------------------------------------------------------------------------------

    def parts(self) -> Any:
        """What does not depend on theta."""
        raise NotImplementedError

    def problem(self, theta, parts) -> primal_dual.Problem:
        """The numbers at theta."""
        raise NotImplementedError

    def image(self, z, theta) -> np.ndarray:
        """x in the flat unknowns."""
        return z

    def embed(self, v, theta) -> np.ndarray:
        """The adjoint of `image`."""
        return v

    def push(self, memo: Memo, directions, theta, dtheta) -> np.ndarray:
        """How the gradient of the objective at z moves with theta; `directions`: d / s, row by row."""
        raise NotImplementedError

    def pull(self, memo: Memo, directions, theta, q) -> dict:
        """The adjoint of `push`."""
        raise NotImplementedError


class SmoothedRegression(Smoothed):
    """`L1Regression` with |s_j x_j| smoothed.

        1/2 sum_i w_i (a_i.x + b - y_i)^2 + sum_j l1_j (sqrt(s_j^2 x_j^2 + eps^2) - eps) + 1/2 sum_j l2_j (s_j x_j)^2

    The system is one unknown a coefficient, dense where A is: for up to a few thousand coefficients.
    """

    def objective(self, x, theta):
        without = {**theta, self.of.l1_key: jnp.zeros_like(theta[self.of.l1_key])}
        scaled = self.of._scales() * jnp.asarray(x)[: self.of.A.shape[1]]
        bent = jnp.sqrt(scaled**2 + self.eps**2) - self.eps
        return self.of.objective(x, without) + jnp.sum(theta[self.of.l1_key] * bent)

    def parts(self):
        of = self.of
        design = Design(of.A, of.sample_weight)
        scales = Design(of.A, of.sample_weight, of.intercept).spread if of.standardise else np.ones(design.shape[1])
        weighted = design.weigh(np.ones(design.shape[0]))
        if design.sparse:
            gram = csr_array(design.matrix.T @ scipy.sparse.diags_array(weighted) @ design.matrix)
        else:
            gram = design.matrix.T @ design.weigh(design.matrix)
        pull = design.matrix.T @ design.weigh(of.y)
        if of.intercept:
            side, total = (design.matrix.T @ weighted)[:, None], np.array([[design.total]])
            stack = scipy.sparse.block_array if design.sparse else np.block
            gram, pull = stack([[gram, side], [side.T, total]]), np.append(pull, weighted @ of.y)
        return (csr_array(gram) if design.sparse else gram), pull, scales

    def problem(self, theta, parts):
        gram, pull, scales = parts
        p = scales.size
        squares = np.zeros(pull.size)
        squares[:p] = 0.0 if self.of.l2_key is None else theta[self.of.l2_key] * scales**2
        normal = gram + (scipy.sparse.diags_array(squares) if scipy.sparse.issparse(gram) else np.diag(squares))
        D = csr_array((scales, (np.arange(p), np.arange(p))), shape=(p, pull.size))
        weight = np.broadcast_to(np.asarray(theta[self.of.l1_key], float), (p,))
        return primal_dual.Problem(normal, pull, D, np.arange(p), weight, np.zeros(p), float(self.eps))

    def push(self, memo, directions, theta, dtheta):
        change = np.zeros(memo.found.point.z.size)
        for key, slope in self._slopes(memo, directions).items():
            change[: slope.size] += slope * dtheta[key]
        return change

    def pull(self, memo, directions, theta, q):
        along = {key: slope * q[: slope.size] for key, slope in self._slopes(memo, directions).items()}
        return {key: each if np.ndim(theta[key]) else np.asarray(each.sum()) for key, each in along.items()}

    def _slopes(self, memo, directions):
        scales = memo.parts[2]
        slopes = {self.of.l1_key: scales * directions}
        if self.of.l2_key is not None:
            slopes[self.of.l2_key] = scales**2 * memo.found.point.z[: scales.size]
        return slopes


class SmoothedSum(Smoothed):
    """`SumOfNorms` with its norms smoothed; Huber's norms stay as they are.

    1/2 |K x - y|^2 + sum_k sum_g theta_k,g (sqrt(|(D_k x)_g|^2 + eps^2) - eps)
    """

    def objective(self, x, theta, **more):
        penalties = {key: smoothed(penalty, self.eps) for key, penalty in self.of.penalties.items()}
        return eqx.tree_at(lambda lower: lower.penalties, self.of, penalties).objective(x, theta, **more)

    def parts(self) -> Structure:
        return make_structure(self.of)

    def problem(self, theta, parts):
        of, (shapes, weights) = self.of, (self.of.penalties.values(), [])
        for key, penalty in of.penalties.items():
            filled = penalty.fill(np.asarray(theta[key], float))
            weights.append(np.broadcast_to(filled, penalty.shape).ravel())
        delta = [np.broadcast_to(np.asarray(penalty.delta, float), penalty.shape).ravel() for penalty in shapes]
        normal, pull = self._data(of.forward_at(theta))
        weight, delta = np.concatenate(weights), np.concatenate(delta)
        return primal_dual.Problem(normal, pull, parts.D, parts.group, weight, delta, float(self.eps))

    def _data(self, forward):
        """K^T K and K^T y."""
        n = int(np.prod(forward.shape_in))
        pull = np.asarray(forward.rmv(np.asarray(self.of.y, float))).ravel()
        try:
            K = csr_array(forward.to_scipy())
        except TypeError:
            if n > WRITTEN_OUT:
                raise ValueError(
                    f"{type(self.of).__name__} smoothed: its forward operator has no sparse matrix, and {n} unknowns "
                    f"are too many to write it out ({WRITTEN_OUT} at most); give it as from_scipy(matrix, shape), or "
                    "take a smaller image"
                ) from None
            columns = [np.asarray(forward.mv(e.reshape(forward.shape_in))).ravel() for e in np.eye(n)]
            K = np.stack(columns, axis=1)
        normal = K.T @ K
        if scipy.sparse.issparse(normal) and normal.nnz > FULL * n * n:
            normal = normal.toarray()
        return normal, pull

    def image(self, z, theta):
        return np.asarray(self.of.image(z.reshape(self.of.unknowns(theta))))

    def embed(self, v, theta):
        return np.asarray(self.of.embed(v)).ravel()

    def push(self, memo, directions, theta, dtheta):
        spread = []
        for key, penalty in self.of.penalties.items():
            filled = penalty.fill(np.asarray(dtheta[key], float))
            spread.append(np.broadcast_to(filled, penalty.shape).ravel())
        change = memo.problem.D.T @ (np.concatenate(spread)[memo.problem.group] * directions)
        if self.of.moves:
            change = change + pushed(self.of, theta, dtheta, memo.found.point.z, self.of.unknowns(theta))
        return change

    def pull(self, memo, directions, theta, q):
        problem, shape = memo.problem, self.of.unknowns(theta)
        along = np.bincount(problem.group, directions * (problem.D @ q), problem.weight.size)
        gradient = pulled(self.of, theta, q, memo.found.point.z, shape) if self.of.moves else {}
        first = 0
        for (key, penalty), count in zip(self.of.penalties.items(), memo.parts.groups, strict=True):
            own = penalty.gather(along[first : first + count].reshape(penalty.shape), np.shape(theta[key]))
            gradient[key] = gradient.get(key, 0.0) + own
            first += count
        return gradient
