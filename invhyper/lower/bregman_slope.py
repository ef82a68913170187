"""The derivative of a sum of norms on the stratum of its solution."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg as ssl

from invhyper.lower import bregman_kinks
from invhyper.lower.bregman_solve import Memo, solve
from invhyper.problem import Linearisation, Solution
from invhyper.strata.margin import margin as margin_at

# A solution from elsewhere is solved for again to this tolerance: a loose one would point at another stratum.
TOL = 1e-10


def linearise(lower, solution: Solution, theta) -> Linearisation:
    """The reduced system on the stratum; solved for again if `solution` is not from here or is of another theta."""
    memo = solution.memo
    if not (isinstance(memo, Memo) and memo.about(lower) and _same(memo.theta, theta)):
        memo = solve(lower, theta, solution, TOL, False).memo
    found, structure = memo.polished, memo.structure
    model, regions, m = found.model, found.regions, found.regions.free
    _refuse_unseen(lower, found)
    extra = 0 if found.constraints is None else found.constraints.shape[0]
    kept = np.where(found.stratum.vanishing, 0.0, model.factor(found.sizes))
    moves = lower.moves
    shape = tuple(lower.unknowns(theta))

    # One unknown a region, in units that make the columns of P orthonormal: A is then as well conditioned as K allows.
    unit = np.append(1.0 / np.sqrt(regions.size), np.ones(extra))

    def expand(c):
        return regions.expand((unit * c)[:m])

    def gather(v):
        return np.append(unit[:m] * regions.gather(v), np.zeros(extra))

    def P(c):
        return np.asarray(lower.image(expand(c).reshape(shape)))

    def P_transpose(v):
        return gather(np.asarray(lower.embed(np.asarray(v, float))).ravel())

    def solve_reduced(rhs, transpose=False):
        rhs = rhs / unit
        return found.system.solve(rhs[:m], rhs[m:]) / unit

    def force(dtheta):
        return pushed(lower, theta, dtheta, found.z, shape)

    def degenerate(tolerance, thorough=False):
        moved = force if moves else None
        return bregman_kinks.critical_cone(lower, theta, found, memo.multipliers.p, moved, tolerance, thorough)

    def B(dtheta):
        change = model.D.T @ ((kept * bregman_kinks.weight_change(lower, dtheta))[model.group] * found.d)
        if moves:
            change = change + force(dtheta)
        return gather(change)

    def B_transpose(z):
        q = expand(z)
        along = found.d * (model.D @ q)
        along = kept * (np.bincount(model.group, along, kept.size) if model.curved else along)
        gradient = {key: np.zeros(np.shape(value)) for key, value in theta.items()} if moves else {}
        if moves:
            gradient = pulled(lower, theta, q, found.z, shape)
        first = 0
        for (key, penalty), count in zip(lower.penalties.items(), structure.groups, strict=True):
            own = penalty.gather(along[first : first + count].reshape(penalty.shape), np.shape(theta[key]))
            gradient[key] = gradient[key] + own if moves else own
            first += count
        return gradient

    def data_transpose(z):
        return {"y": -model.forward(expand(z)).reshape(lower.y.shape)}

    margin, margin_of = margin_at(found, memo.multipliers.p)
    return Linearisation(
        A=_scaled(found.system.matrix(), unit),
        P=P,
        P_transpose=P_transpose,
        B=B,
        B_transpose=B_transpose,
        solve=solve_reduced,
        stratum=found.key,
        margin=margin,
        margin_of=margin_of,
        degenerate=degenerate,
        data_transpose=data_transpose,
        residual=unit * found.residual,
    )


def _scaled(matrix, unit):
    """diag(unit) A diag(unit)."""
    if scipy.sparse.issparse(matrix):
        return scipy.sparse.csr_array(matrix.multiply(unit[:, None]).multiply(unit[None, :]))

    def apply(v):
        return unit * (matrix @ (unit * np.ravel(v)))

    return ssl.LinearOperator(matrix.shape, matvec=apply, rmatvec=apply, dtype=float)


def _refuse_unseen(lower, found):
    """ValueError where a region holds no datum and no curvature: x* is not unique there and has no derivative."""
    system = found.system
    if system.unknowns == 0 or not system.sparse or found.model.sharp or found.constraints is not None:
        return
    diagonal = system.upper().diagonal()
    unseen = int((diagonal <= 1e-12 * diagonal.max()).sum())
    if unseen:
        name = type(lower).__name__
        raise ValueError(
            f"{name}: x* is not unique, so it has no derivative: {unseen} of {system.unknowns} flat regions hold no "
            "datum (masked pixels, or a weight of zero where K sees nothing). Use isotropic=True or HuberTV, add a "
            "term by Composite, or raise the weight"
        )


def _same(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _reduced_force(lower, z):
    """theta -> K(theta)^T (K(theta) z - y), a JAX function."""

    def force(theta):
        forward = lower.forward_at(theta)
        return forward.rmv(forward.mv(z) - jnp.asarray(lower.y, float))

    return force


def pulled(lower, theta, q, z, shape):
    force = _reduced_force(lower, jnp.asarray(z.reshape(shape)))
    _, back = jax.vjp(force, jax.tree.map(jnp.asarray, theta))
    return jax.tree.map(np.asarray, back(jnp.asarray(q.reshape(shape)))[0])


def pushed(lower, theta, dtheta, z, shape):
    force = _reduced_force(lower, jnp.asarray(z.reshape(shape)))
    primal, tangent = (jax.tree.map(jnp.asarray, tree) for tree in (theta, dtheta))
    return np.asarray(jax.jvp(force, (primal,), (tangent,))[1]).ravel()
