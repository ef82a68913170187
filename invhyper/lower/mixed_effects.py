"""The modes of the random effects of a population: one small problem a subject, all solved at once."""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PyTree

from invhyper.criteria.likelihood import Around, Method, density, expected, hessian, surroundings
from invhyper.criteria.subjects import Prior, Subject, Subjects
from invhyper.criteria.taylor import Expansion
from invhyper.lower import levenberg_marquardt as lm
from invhyper.problem import (
    ABOVE_TOLERANCE,
    CONVERGED,
    INDEFINITE,
    NOT_FINITE,
    Linearisation,
    LowerLevel,
    Solution,
)

# The modes are sought until here; rounding may end it before. Steps that stall above ENOUGH are taken up again with the
# exact curvature of where they stalled, so many times.
TARGET, ENOUGH, TURNS = 1e-14, 1e-13, 3
SHOWN = 5


class Memo(NamedTuple):
    """What a solve leaves: predictions around the modes, A (N, d, d), the error and the code of each subject.

    `rest` is A less its expected part: the next solve adds it to the expected curvature where it is.
    """

    around: Around
    A: Float[Array, "N d d"]
    rest: Float[Array, "N d d"]
    errors: Float[Array, " N"]
    codes: Array


class RandomEffects(LowerLevel):
    """The most probable random effects of every subject, x = eta (N, d).

        eta_i*(theta) = argmin_eta 1/2 Phi_i(eta),
        Phi_i(eta) = sum_j [ (y_ij - f_ij)^2 / V_ij + log V_ij ] + eta^T Omega^-1 eta

    Gauss-Newton steps from the last modes (else from 0), damped where they do not help, each subject until it has
    converged. The system of the adjoint is block-diagonal: the exact Hessians (N, d, d), and never more.

    **Arguments**: `subjects`; `method`: says whether V is taken at eta or at 0, whether eta is sought at all, and which
    derivatives of the prediction a solve keeps for the criterion; `max_steps`: of each subject.

    The error of a subject is |D^-1/2 g| over the larger of the residual's norm and |D^1/2 eta|, with g the slope and D
    the diagonal of the curvature; that of a solution is the largest. A subject that fails is named.
    """

    keys: ClassVar = ("fixed", "omega", "sigma")
    constant: ClassVar = ("subjects.times", "subjects.covariates", "subjects.predict", "subjects.individual")
    tags: ClassVar = lx.symmetric_tag

    subjects: Subjects
    method: Method
    max_steps: int = eqx.field(static=True, default=100)

    def check(self, theta):
        theta = super().check(theta)
        omega = theta["omega"]
        if np.ndim(omega) != 2 or np.shape(omega)[0] != np.shape(omega)[1] or not np.size(omega):
            raise ValueError(f"theta 'omega' has shape {np.shape(omega)}: a square covariance matrix is wanted")
        if not isinstance(omega, jax.core.Tracer):
            if not np.array_equal(omega, omega.T) and not np.allclose(omega, omega.T, rtol=1e-10, atol=0.0):
                raise ValueError(f"theta 'omega' = {omega.tolist()} is not symmetric: a covariance matrix is wanted")
            smallest = np.linalg.eigvalsh(omega)[0]
            if not smallest > 0:
                raise ValueError(
                    f"theta 'omega' = {omega.tolist()} is not positive definite (smallest eigenvalue {smallest:.2g}): "
                    "give each random effect a variance above 0, or leave the effect out of `individual`"
                )
        self.subjects.error.check(theta["sigma"])
        return theta

    def shape(self, theta):
        rows = (len(self.subjects), np.shape(theta["omega"])[0])
        return jax.ShapeDtypeStruct(rows, jnp.result_type(float))

    def cold_start(self, theta):
        # The shapes of `surroundings`, without tracing the derivatives of the prediction.
        (n, d), method = self.shape(theta).shape, self.method
        at = jax.eval_shape(
            lambda theta: self.subjects.each(lambda subject, eta: subject.phi(theta, eta), jnp.zeros((n, d))), theta
        )
        (_, m), rows = at.shape, self.subjects.times.shape

        def blank(order):
            return Expansion(jnp.zeros(at.shape), tuple(jnp.zeros(rows + (m,) * k) for k in range(order + 1)))

        around = Around(blank(method.order), blank(1) if method.frozen else None)
        none = jnp.zeros((n, d, d))
        return Solution(jnp.zeros((n, d)), memo=Memo(around, none, none, jnp.zeros(n), jnp.zeros(n, int)))

    def objective(self, x, theta):
        """The sum of Phi_i / 2."""
        return 0.5 * jnp.sum(self._densities(x, theta, surroundings(self.subjects, theta, x, self.method)))

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        n, d = self.shape(theta).shape
        prior, method = self.subjects.prior(theta), self.method
        x = jnp.zeros((n, d)) if start is None else jax.lax.stop_gradient(start.x)

        def kept(x, errors):
            around = surroundings(self.subjects, theta, x, method)
            A = self._curvatures(x, theta, around)
            rest = A - self._expected(x, theta, around) if method.modes else jnp.zeros_like(A)
            return Memo(around, A, rest, errors, jnp.zeros(n, int))

        def go(carry):
            x, steps, turn, memo = carry
            return (turn == 0) | ((turn < TURNS) & jnp.any(memo.errors > ENOUGH))

        def descend(carry):
            x, steps, turn, memo = carry
            x, errors, taken = self.subjects.each(lambda s, *row: self._descend(s, theta, prior, *row), x, memo.rest)
            return x, steps + jnp.max(taken), turn + 1, kept(x, errors)

        if method.modes:
            memo = self.cold_start(theta).memo if start is None or start.memo is None else start.memo
            carry = (x, jnp.asarray(0), jnp.asarray(0), strong(memo))
            x, steps, _, memo = jax.lax.while_loop(go, lambda carry: strong(descend(carry)), carry)
        else:
            x, steps = jnp.zeros((n, d)), jnp.asarray(0)
            memo = kept(x, jnp.zeros(n))
        definite = jnp.all(jnp.isfinite(jnp.linalg.cholesky(memo.A)), axis=(1, 2))
        codes = jnp.where(memo.errors <= tol, CONVERGED, ABOVE_TOLERANCE)
        codes = jnp.where(definite, codes, INDEFINITE)
        finite = jnp.isfinite(memo.errors) & jnp.isfinite(self._densities(x, theta, memo.around))
        codes = jnp.where(finite, codes, NOT_FINITE)
        worst = jnp.where(jnp.any(codes == NOT_FINITE), NOT_FINITE, jnp.max(codes))
        return strong(Solution(x, jnp.max(memo.errors), steps, worst, memo._replace(codes=codes)))

    def _descend(self, subject: Subject, theta: PyTree, prior: Prior, eta: Float[Array, " d"], rest):
        frozen = subject.expand(theta, jnp.zeros_like(eta), 0) if self.method.frozen else None

        def model(eta):
            around = Around(subject.expand(theta, eta, 1), frozen)
            phi, slope = jax.value_and_grad(lambda eta: density(subject, theta, prior, eta, around))(eta)
            f = around.mode.terms[0]
            variance = subject.variance(theta, f if frozen is None else frozen.terms[0])
            size = jnp.sqrt(jnp.sum(subject.deviations(f) ** 2 / variance) + eta @ prior.precision @ eta)
            curvature = expected(subject, theta, prior, eta, around) + rest
            return lm.Local(eta, 0.5 * phi, 0.5 * slope, curvature, size)

        unbounded = jnp.full(eta.shape, jnp.inf)
        found = lm.descend(model, lm.blank(eta), -unbounded, unbounded, 0.0, TARGET, self.max_steps)
        return found.local.x, found.error, found.steps

    def _expected(self, x, theta, around):
        prior = self.subjects.prior(theta)
        return self.subjects.each(lambda subject, *row: expected(subject, theta, prior, *row), x, around)

    def _densities(self, x, theta, around):
        prior = self.subjects.prior(theta)
        return self.subjects.each(lambda subject, *row: density(subject, theta, prior, *row), x, around)

    def _slopes(self, x, theta, around):
        """Half the gradient of Phi_i in eta, as a function of x and theta: R."""
        prior = self.subjects.prior(theta)

        def slope(subject, eta, around):
            return 0.5 * jax.grad(lambda eta: density(subject, theta, prior, eta, around))(eta)

        return self.subjects.each(slope, x, around) if self.method.modes else x

    def _curvatures(self, x, theta, around):
        if not self.method.modes:
            return jnp.broadcast_to(jnp.eye(x.shape[1]), (*x.shape, x.shape[1]))
        prior = self.subjects.prior(theta)
        return self.subjects.each(lambda subject, *row: hessian(subject, theta, prior, *row), x, around)

    def residual(self, x, theta):
        return self._slopes(x, theta, surroundings(self.subjects, theta, x, self.method))

    def linearise(self, solution, theta):
        x = solution.x
        if solution.memo is None:
            around = surroundings(self.subjects, theta, x, self.method)
            A = self._curvatures(x, theta, around)
        else:
            around, A = solution.memo.around, solution.memo.A

        def along(theta):
            return self._slopes(x, theta, around)

        return Linearisation(
            A=lx.FunctionLinearOperator(lambda v: _products(A, v), jax.eval_shape(lambda: x), self.tags),
            P=lambda c: c,
            P_transpose=lambda v: v,
            B=lambda dtheta: jax.jvp(along, (theta,), (dtheta,))[1],
            B_transpose=lambda z: jax.vjp(along, theta)[1](z)[0],
            solve=lambda rhs, transpose: jnp.linalg.solve(A, rhs[..., None])[..., 0],
        )

    def explain(self, solution):
        """Which subjects failed, and why."""
        said = [f"subject {name!r} {why}" for name, why in self.failures(solution).items()]
        if not said:
            return None
        more = f"; and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
        return "; ".join(said[:SHOWN]) + more

    def failures(self, solution: Solution) -> dict[str, str]:
        """{subject: why its random effects were not found}"""
        codes, errors = np.asarray(solution.memo.codes), np.asarray(solution.memo.errors)
        return {
            self.subjects.names[i]: _why(self.subjects, i, int(codes[i]), float(errors[i]), solution)
            for i in np.flatnonzero(codes != CONVERGED)
        }


def strong(x: PyTree) -> PyTree:
    """The same arrays, none of a weak type: cold and warm solves are one program."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), x)


def _products(A, v):
    return jnp.einsum("nij,nj->ni", A, v)


def _why(subjects: Subjects, i: int, code: int, error: float, solution: Solution) -> str:
    eta = np.array2string(np.asarray(solution.x[i]), precision=4, separator=", ")
    if code == NOT_FINITE:
        f = np.asarray(solution.memo.around.mode.terms[0][i])
        mask = np.asarray(subjects.mask[i])
        bad = np.flatnonzero(mask & ~np.isfinite(f))
        if bad.size:
            time = float(np.asarray(subjects.times[i])[bad[0]])
            return f"is predicted as {f[bad[0]]} at time {time:g} with eta = {eta}: check predict, covariates and theta"
        zero = np.flatnonzero(mask & (f == 0))
        if zero.size:
            time = float(np.asarray(subjects.times[i])[zero[0]])
            return (
                f"is predicted as 0 at time {time:g}, where a proportional error has no variance: leave that record "
                "out, or use CombinedError"
            )
        return f"has a density that is not finite at eta = {eta}: check its records and theta"
    if code == INDEFINITE:
        return (
            f"has no strict mode: at eta = {eta} the second derivative is not positive definite; lower omega, or use "
            "FOCEI"
        )
    return f"stopped at {error:.1e} with eta = {eta}, above the tolerance: start nearer, or raise max_steps"
