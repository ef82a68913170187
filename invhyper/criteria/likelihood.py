"""The likelihood of a population with its random effects integrated out: first-order methods, Laplace, quadrature.

-2 log L = sum_i [ Phi_i(eta_i) + log det Omega + log det H_i ],   eta_i = argmin Phi_i,   H_i near Phi_i'' / 2
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from invhyper.criteria.subjects import Prior, Subject, Subjects
from invhyper.criteria.taylor import Expansion

LOG_TWO_PI = float(np.log(2 * np.pi))


class Around(NamedTuple):
    """The predictions of subjects around their modes, and around eta = 0 where the variance is frozen there."""

    mode: Expansion
    zero: Expansion | None


class Method(eqx.Module):
    """How the random effects are integrated out. A criterion of `Bilevel` over the modes of a population.

    Class attributes: `order`: derivatives of the prediction that an exact gradient takes; `modes`: whether eta is
    sought (else it is 0); `frozen`: whether the variance is that at eta = 0.
    """

    order: ClassVar[int] = 2
    modes: ClassVar[bool] = True
    frozen: ClassVar[bool] = False

    def subject(self, subject: Subject, theta: PyTree, prior: Prior, eta: Float[Array, " d"], around: Around) -> Array:
        """-2 log L of one subject, without log 2 pi."""
        raise NotImplementedError(f"{type(self).__name__} defines no subject")

    def bind(self, lower) -> "MarginalLikelihood":
        """The criterion over the modes that `lower` finds."""
        if getattr(lower, "method", None) != self:
            raise TypeError(
                f"{self!r} is a criterion over the modes of a population that were sought for it: "
                f"take MixedEffects(...).problem({self!r})"
            )
        return MarginalLikelihood(self, lower.subjects)


class MarginalLikelihood(eqx.Module):
    """-2 log L of a population by a method; `full` adds n log 2 pi. `around`: what a solve left (None: recomputed)."""

    method: Method
    subjects: Subjects
    around: Any = None
    full: bool = eqx.field(static=True, default=False)

    def given(self, solution) -> "MarginalLikelihood":
        """The same, told what the solve of the modes has left behind."""
        around = None if solution.memo is None else solution.memo.around
        return MarginalLikelihood(self.method, self.subjects, around, self.full)

    def __call__(self, x: Float[Array, "N d"], theta: PyTree) -> Array:
        return jnp.sum(self.each(x, theta)) + (LOG_TWO_PI * jnp.sum(self.subjects.mask) if self.full else 0.0)

    def each(self, x: Float[Array, "N d"], theta: PyTree) -> Float[Array, " N"]:
        """-2 log L of each subject, without log 2 pi."""
        prior, method = self.subjects.prior(theta), self.method
        around = surroundings(self.subjects, theta, x, method) if self.around is None else self.around

        def one(subject, eta, around):
            return method.subject(subject, theta, prior, eta, around)

        return self.subjects.each(one, x, around)


def surroundings(subjects: Subjects, theta: PyTree, x: Float[Array, "N d"], method: Method) -> Around:
    """All that a method ever needs to know of `predict`, computed once."""

    def one(subject, eta):
        zero = subject.expand(theta, jnp.zeros_like(eta), 1) if method.frozen else None
        return Around(subject.expand(theta, eta, method.order), zero)

    return subjects.each(one, x)


def terms(subject: Subject, theta: PyTree, eta: Float[Array, " d"], around: Around):
    """Prediction and variance as functions of (eta, theta), exact to the order of the expansions."""
    f = around.mode(subject.phi(theta, eta))
    seen = f if around.zero is None else around.zero(subject.phi(theta, jnp.zeros_like(eta)))
    return f, subject.variance(theta, seen)


def density(subject: Subject, theta: PyTree, prior: Prior, eta: Float[Array, " d"], around: Around) -> Array:
    """Phi as a function of (eta, theta)."""
    return subject.density(prior, eta, *terms(subject, theta, eta, around))


def expected(subject: Subject, theta: PyTree, prior: Prior, eta: Float[Array, " d"], around: Around):
    """f'^T V^-1 f' + 1/2 (V'/V)^T (V'/V) + Omega^-1, derivatives in eta: what Phi''/2 is on average over data."""
    _, variance = terms(subject, theta, eta, around)
    df, dV = jax.jacfwd(lambda eta: terms(subject, theta, eta, around))(eta)
    df = jnp.where(subject.mask[:, None], df, 0.0)
    relative = dV / variance[:, None]
    return df.T @ (df / variance[:, None]) + 0.5 * relative.T @ relative + prior.precision


def log_determinant(matrix: Float[Array, "d d"]) -> Array:
    """log det of a positive definite matrix, NaN of any other."""
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(matrix))))


class FO(Method):
    """First order: predictions are linear in eta around 0, and the data normal.

        -2 log L_i = r^T C^-1 r + log det C,   r = y - f(0),   C = f'(0) Omega f'(0)^T + V(0)

    >>> import jax.numpy as jnp, numpy as np, invhyper as ih
    >>> decay = lambda phi, covariates, t: phi * jnp.exp(-t)
    >>> scaled = lambda fixed, eta, covariates: fixed["size"] + eta[0]
    >>> records = [ih.Records([0.0, 1.0], y) for y in ([1.1, 0.3], [0.8, 0.4])]
    >>> cells = ih.MixedEffects(decay, scaled, records, ih.AdditiveError())
    >>> theta = {"fixed": {"size": 1.0}, "omega": np.array([[0.04]]), "sigma": 0.1}
    >>> [round(cells.minus_two_log_likelihood(theta, method), 6) for method in (ih.FO(), ih.Laplace())]
    [-12.3949, -12.3949]

    Beal and Sheiner (1982), doi:10.1007/BF01066230; Wang (2007), doi:10.1007/s10928-007-9060-6.
    """

    modes: ClassVar = False

    def subject(self, subject, theta, prior, eta, around):
        f, variance = terms(subject, theta, eta, around)
        slope = jax.jacfwd(lambda eta: terms(subject, theta, eta, around)[0])(eta)
        slope = jnp.where(subject.mask[:, None], slope, 0.0)
        # The d x d form of C: r^T C^-1 r = |r|^2/V - u^T H^-1 u and det C = det V det Omega det H.
        misfit, H = subject.deviations(f), slope.T @ (slope / variance[:, None]) + prior.precision
        u = slope.T @ (misfit / variance)
        explained = u @ jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(H), True), u)
        density = jnp.sum(misfit**2 / variance + jnp.log(variance)) - explained
        return density + prior.log_determinant + log_determinant(H)


class FOCE(Method):
    """First order, conditional: linear in eta around the mode, the variance frozen at eta = 0.

        -2 log L_i = Phi_i(eta_i) + log det Omega + log det (f'^T V^-1 f' + Omega^-1),   V = V(f(0))

    >>> import invhyper as ih
    >>> ih.FOCE().frozen
    True

    Lindstrom and Bates (1990), doi:10.2307/2532087; Wang (2007), doi:10.1007/s10928-007-9060-6.
    """

    frozen: ClassVar = True

    def subject(self, subject, theta, prior, eta, around):
        H = expected(subject, theta, prior, eta, around)
        return density(subject, theta, prior, eta, around) + prior.log_determinant + log_determinant(H)


class FOCEI(FOCE):
    """First order, conditional, with interaction: the variance is that at the mode.

        H_i = f'^T V^-1 f' + 1/2 (V'/V)^T (V'/V) + Omega^-1 at eta_i

    >>> import invhyper as ih
    >>> ih.FOCEI().frozen
    False

    Wang (2007), doi:10.1007/s10928-007-9060-6; gradients: Almquist et al. (2015), doi:10.1007/s10928-015-9409-1.
    """

    frozen: ClassVar = False


class Laplace(Method):
    """Laplace's approximation: H_i is the exact Hessian of Phi_i / 2 at the mode.

    >>> import invhyper as ih
    >>> ih.Laplace().order
    3

    Wolfinger (1993), doi:10.1093/biomet/80.4.791; Wang (2007), doi:10.1007/s10928-007-9060-6.
    """

    order: ClassVar = 3

    def subject(self, subject, theta, prior, eta, around):
        H = hessian(subject, theta, prior, eta, around)
        return density(subject, theta, prior, eta, around) + prior.log_determinant + log_determinant(H)


class AGQ(Method):
    """Adaptive Gauss-Hermite quadrature around the mode, `nodes` in each random effect: exact as they grow.

        L_i ~ sum_k w_k exp(-(Phi_i(eta_k) - |z_k|^2) / 2),   eta_k = eta_i + H_i^-1/2 z_k

    With one node it is Laplace's approximation; the cost grows as nodes^d.

    >>> import invhyper as ih
    >>> ih.AGQ(5).nodes
    5

    Pinheiro and Bates (1995), doi:10.1080/10618600.1995.10474663.
    """

    order: ClassVar = 3
    nodes: int = eqx.field(static=True)

    def __check_init__(self):
        if isinstance(self.nodes, bool) or not isinstance(self.nodes, int) or self.nodes < 1:
            raise ValueError(f"AGQ nodes = {self.nodes!r}: a whole number, at least 1, is wanted")

    def subject(self, subject, theta, prior, eta, around):
        H = hessian(subject, theta, prior, eta, around)
        z, log_weights = grid(self.nodes, eta.size)
        # H = R R^T: eta + R^-T z has the covariance H^-1.
        root = jnp.linalg.cholesky(H)
        steps = jax.scipy.linalg.solve_triangular(root, z.T, lower=True, trans=1).T

        def at(step):
            there = eta + step
            node = Around(subject.expand(theta, there, 1), None)
            return density(subject, theta, prior, there, node)

        top = density(subject, theta, prior, eta, around)
        exponents = log_weights - 0.5 * (jax.vmap(at)(steps) - top - jnp.sum(z**2, axis=1))
        total = jax.scipy.special.logsumexp(exponents)
        return top + prior.log_determinant + 2 * jnp.sum(jnp.log(jnp.diagonal(root))) - 2 * total


def hessian(subject: Subject, theta: PyTree, prior: Prior, eta: Float[Array, " d"], around: Around):
    """The exact Hessian of Phi / 2 in eta."""
    return 0.5 * jax.hessian(lambda eta: density(subject, theta, prior, eta, around))(eta)


def grid(nodes: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Hermite nodes (nodes^d, d) of the standard normal density and the logarithms of their weights."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    z = np.stack([axis.ravel() for axis in np.meshgrid(*[z] * d, indexing="ij")], axis=1)
    logs = np.log(w / np.sum(w))
    return z, np.sum(np.stack([axis.ravel() for axis in np.meshgrid(*[logs] * d, indexing="ij")], axis=1), axis=1)
