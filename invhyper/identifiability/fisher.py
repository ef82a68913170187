"""The Fisher information of a fit, and the directions of p that it does not see."""

from dataclasses import dataclass, field

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax.flatten_util import ravel_pytree
from jaxtyping import Bool, Float, PyTree

from invhyper import tree
from invhyper.lower.ode import Calibration
from invhyper.problem import NotConverged, Solution, solve

# The error of a sensitivity is taken to be this many times what a tenth of the simulation's tolerances changes.
SAFETY = 10.0


@dataclass(frozen=True)
class Fisher:
    """The Fisher information at a fit; see `fisher`.

    `matrix` (p, p), expected, natural scale; `names` of the p parameters; `values`: the fit; `eigenvalues` (p,),
    descending, of the information scaled to a unit diagonal: 1 for a direction known as well as if its parameters did
    not interfere; `directions` (p, p): its eigenvectors, a column each, as unit steps in natural scale; `scales` (p,):
    square roots of the diagonal; `threshold`: eigenvalues up to here are zero to the simulation's accuracy; `rank`;
    `null` (p, p - rank): a basis of the directions that change no observation, each with as few parameters as may be;
    `observed` (p, p): the observed information, None where standard errors rest on the expected one;
    `standard_errors` (p,), infinite for what takes part in a null direction, NaN for what stands at a bound;
    `correlations` (p, p), NaN for both.
    """

    matrix: Float[np.ndarray, "p p"]
    names: tuple[str, ...]
    values: Float[np.ndarray, " p"]
    eigenvalues: Float[np.ndarray, " p"]
    directions: Float[np.ndarray, "p p"]
    scales: Float[np.ndarray, " p"]
    threshold: float
    null: Float[np.ndarray, "p k"]
    observed: Float[np.ndarray, "p p"] | None = field(repr=False)
    standard_errors: Float[np.ndarray, " p"]
    correlations: Float[np.ndarray, "p p"]
    objective_error: float = field(repr=False)

    @property
    def rank(self) -> int:
        """The number of directions that are seen."""
        return len(self.names) - self.null.shape[1]

    @property
    def covariance(self) -> Float[np.ndarray, "p p"]:
        """That of the standard errors: zero for what stands at a bound, NaN for what takes part in a null direction."""
        held, errors = (
            np.isnan(self.standard_errors),
            np.where(np.isfinite(self.standard_errors), self.standard_errors, 0),
        )
        return np.where(held[:, None] | held[None, :], 0.0, self.correlations * np.outer(errors, errors))

    @property
    def unseen(self) -> Bool[np.ndarray, " p"]:
        """The parameters that take part in a direction of `null`."""
        return np.any(self.null != 0, axis=1)


def fisher(calibration: Calibration, theta: PyTree, solution: Solution | None = None) -> Fisher:
    """The Fisher information at a fit, its eigenvalues and directions, and the standard errors that follow.

        I = S^T S + 2 L^T L + d^2 prior / dp^2,   S = (d observation / dp) / noise,   L = d log(noise) / dp

    S and L have a row for each measured value. Where there is no prior and `noise` is no function, I is the J^T J of
    the weighted residuals. Of a prior that is not convex at the fit the convex part counts. The decomposition is that
    of the rows of S, L and the prior's root, each column scaled to length one. A direction is null where its singular
    value is at most ten times what simulations at a tenth of their tolerances change in those rows (or rounding): more
    accurate simulations tell more directions apart.

    I is the expected information. Standard errors are those of the observed one, the exact Hessian of the objective,
    which a fit leaves behind and which is the curvature of profiles: the two differ where residuals are large and the
    model bends. They are those of I where there is no Hessian (a bare p, `gauss_newton`) or it is not positive definite
    on the directions that are seen. They take parameters that stand at a bound as known; nothing else heeds bounds.

    **Arguments**: `calibration`, `theta`: the problem; `solution`: its fit (None: it is solved for, from its start).
    Raises ValueError at the door, NotConverged where there is no fit that can be simulated.

    >>> import numpy as np, invhyper as ih
    >>> t = np.array([0.5, 1.0, 2.0, 4.0])
    >>> decay = ih.Calibration(
    ...     rhs=lambda t, x, p, theta: -p["rate"] * x, initial=lambda p, theta: 2.0,
    ...     observe=lambda t, x, p, theta: p["gain"] * x,
    ...     times=t, data=6 * np.exp(-0.7 * t), noise=0.1, start={"rate": 1.0, "gain": 1.0},
    ... )
    >>> found = ih.fisher(decay, {}, ih.Solution({"gain": 3.0, "rate": 0.7}))
    >>> found.rank, dict(zip(found.names, found.standard_errors.round(4).tolist()))
    (2, {'gain': 0.1077, 'rate': 0.0393})

    Rothenberg (1971), doi:10.2307/1913267; Gutenkunst et al. (2007), doi:10.1371/journal.pcbi.0030189; Efron and
    Hinkley (1978), doi:10.1093/biomet/65.3.457.
    """
    theta = calibration.check(theta)
    solution = fit(calibration, theta) if solution is None else solution
    return information(calibration, theta, solution)


def information(calibration: Calibration, theta: PyTree, solution: Solution) -> Fisher:
    """`fisher` with everything at hand."""
    x = ravel_pytree(solution.x)[0]
    (rows, value), (finer, finer_value) = (_rows(each, x, theta) for each in (calibration, calibration.finer()))
    rows, change = np.asarray(rows), SAFETY * np.asarray(finer - rows)
    if not np.all(np.isfinite(rows)):
        raise NotConverged("the model cannot be differentiated at this p: not every sensitivity is finite")
    scales, error = np.linalg.norm(rows, axis=0), np.linalg.norm(change, axis=0)
    alive = scales > error
    d = np.where(alive, scales, 1.0)
    scaled, change = np.where(alive, rows / d, 0.0), np.where(alive, change / d, 0.0)
    _, s, Vt = np.linalg.svd(scaled, full_matrices=scaled.shape[0] < scaled.shape[1])
    s, V = np.append(s, np.zeros(x.size - s.size)), Vt.T
    threshold = max(np.linalg.norm(change, 2), max(scaled.shape) * np.finfo(float).eps * s[0])
    rank = int(np.sum(s > threshold))
    # Wedin's bound on what an error of the rows does to the null space: smaller components are none.
    nothing = min(threshold / s[rank - 1], 0.5) if rank else 0.0
    null = _few(V[:, rank:], nothing) / d[:, None]
    free = np.asarray((x > calibration.floor) & (x < calibration.ceiling))
    errors, correlations, observed = _spread(scaled, d, threshold, free, _hessian(calibration, solution))
    return Fisher(
        matrix=rows.T @ rows,
        names=names(calibration),
        values=np.asarray(x),
        eigenvalues=s**2,
        directions=_unit(V / d[:, None]),
        scales=np.where(alive, scales, 0.0),
        threshold=float(threshold**2),
        null=_unit(null),
        observed=observed,
        standard_errors=errors,
        correlations=correlations,
        objective_error=abs(float(finer_value - value)),
    )


def _hessian(calibration, solution):
    """The exact Hessian that a fit left behind; None: there is none."""
    if solution.memo is None or calibration.gauss_newton:
        return None
    return np.asarray(solution.memo.local.more[:, : solution.memo.local.x.size])


def _spread(scaled, d, threshold, free, observed):
    """Standard errors and correlations of what is free: infinite, and NaN, for what takes part in a null direction;
    and the observed information, if they are its."""
    count = d.size
    errors, covariance = np.full(count, np.nan), np.full((count, count), np.nan)
    _, s, Vt = np.linalg.svd(scaled[:, free], full_matrices=scaled.shape[0] < count)
    rank = int(np.sum(s > threshold))
    nothing = min(threshold / s[rank - 1], 0.5) if rank else 0.0
    seen = Vt[:rank].T / d[free, None]
    root = seen / s[:rank]
    if observed is not None:
        curvatures, axes = np.linalg.eigh(seen.T @ observed[np.ix_(free, free)] @ seen)
        if np.all(curvatures > threshold**2):
            root = seen @ (axes / np.sqrt(curvatures))
        else:
            observed = None
    unseen = np.linalg.norm(Vt[rank:], axis=0) > nothing
    covariance[np.ix_(free, free)] = np.where(unseen[:, None] | unseen[None, :], np.nan, root @ root.T)
    errors[free] = np.where(unseen, np.inf, np.linalg.norm(root, axis=1))
    return errors, covariance / (errors[:, None] * errors[None, :]), observed


def names(calibration: Calibration) -> tuple[str, ...]:
    """A name for each number in p: the path of its leaf, with an index where the leaf is an array."""
    alone = isinstance(calibration.start, jax.Array)
    return tuple("p" + name if alone else name for name in tree.entries(calibration.start))


def fit(calibration: Calibration, theta: PyTree, x: Float[np.ndarray, " p"] | None = None) -> Solution:
    """The fit from its start or from the flat p, whether or not its Hessian is singular."""
    start = calibration.cold_start(theta)
    if x is not None:
        start = Solution(ravel_pytree(start.x)[1](jnp.asarray(x)), memo=start.memo)
    solution = solve(calibration, theta, start=start, throw=False)
    if not np.isfinite(solution.error):
        raise NotConverged(solution.result)
    return solution


@eqx.filter_jit
def _rows(calibration, x, theta):
    """The root of the information, one row a measured value (noise that depends on p: two) and one a parameter for
    the prior; and the objective."""
    model, measured = calibration.chosen(), calibration.measured
    unravel = ravel_pytree(calibration.start)[1]

    def seen(x):
        p = unravel(x)
        mean, noise = model.observed(measured, p, theta), model.noise_of(measured, p, theta)
        return (mean, jnp.log(noise)), (noise, model.terms(measured, p, theta, mean).value)

    def column(v):
        return jax.jvp(seen, (x,), (v,), has_aux=True)[1:]

    (mean, log_noise), (noise, value) = jax.vmap(column, out_axes=(0, None))(jnp.eye(x.size))
    rows = [jnp.where(measured.mask, mean / noise, 0.0).reshape(x.size, -1)]
    if callable(model.noise):
        rows.append(jnp.sqrt(2.0) * jnp.where(measured.mask, log_noise, 0.0).reshape(x.size, -1))
    if model.prior is not None:
        curvatures, axes = jnp.linalg.eigh(jax.hessian(lambda x: model.prior(unravel(x), theta))(x))
        rows.append(axes * jnp.sqrt(jnp.maximum(curvatures, 0.0)))
    return jnp.concatenate(rows, axis=1).T, value


def _few(basis, nothing):
    """Another basis of the same space: each vector with a one where all others have none, small components dropped."""
    if basis.shape[1] == 0:
        return basis
    pivots = scipy.linalg.qr(basis.T, mode="r", pivoting=True)[1][: basis.shape[1]]
    basis = basis @ np.linalg.inv(basis[pivots])
    return np.where(np.abs(basis) > nothing * np.abs(basis).max(axis=0), basis, 0.0)


def _unit(columns):
    """Columns of length one, their largest entry positive."""
    if columns.shape[1] == 0:
        return columns
    largest = np.take_along_axis(columns, np.argmax(np.abs(columns), axis=0)[None], axis=0)
    return columns / (np.sign(largest) * np.linalg.norm(columns, axis=0))
