"""Bregman steps taken exactly: the method of multipliers with a semismooth Newton method inside.

    z_+ = argmin_z  1/2 |K z - y|^2 + sum_g envelope of w_g h at (D z)_g + p_g / sigma_g,     p_+ = pi(p + sigma D z_+)

pi projects onto |p_g| <= w_g (Huber's norm: shrinks first). Split Bregman takes this step by one sweep over z and d;
here the smooth inner problem is solved by Newton steps with a sparse factor, so that a few outer steps identify groups
that first-order steps need thousands for. Li, Sun and Toh (2018), doi:10.1137/16M1097572.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, diags_array

from invhyper.strata import multipliers, norms
from invhyper.strata.norms import Model, Polished, Stratum
from invhyper.strata.reduced import Reduced, bent

INNER_STEPS, OUTER_STEPS, GROWTH = 25, 40, 5.0
# A stratum is tried from this noise on, again when it has fallen by this factor, and no more below the last (relative
# to the range of y).
FIRST, QUIETER, SILENT = 1e-7, 0.2, 1e-14
# From this noise on the iterate itself is taken where Newton's method on its stratum finds no certificate.
FINE = 1e-9
# Tolerance of Newton directions where K has no matrix.
INEXACT = 1e-4
DAMPING = 1e-9
# No sigma above this times weight over range of y: its systems would be too ill-conditioned for a direction.
LARGEST = 1e9


class Multipliers(NamedTuple):
    """z, the dual variable p of the rows of D, q of the box, the penalties sigma of the rows and of the box, and D z.

    D z is carried along, not computed from z: sigma multiplies it, and where it is all but zero its rounding would set
    the accuracy of p.
    """

    z: np.ndarray
    p: np.ndarray
    q: np.ndarray
    sigma: np.ndarray
    sigma_box: float
    d: np.ndarray | None = None


class Projected(NamedTuple):
    """p = pi(v) at v = p + sigma D z: which groups are `inside`, |v_g|, the factor of v in p, the envelope's value."""

    p: np.ndarray
    inside: np.ndarray
    sizes: np.ndarray
    scale: np.ndarray
    v: np.ndarray
    value: float


def identify(model: Model, at: Multipliers, tol: float) -> tuple[Polished | None, Multipliers, int]:
    """Outer steps with growing sigma until the stratum they point at is certified to `tol`.

    A group whose |(D z)_g| is no larger than the noise left on the groups that vanish is taken to vanish as well: near
    the end of the descent it hangs on the edge of its ball. Returns the best polished point and the multipliers that
    certify it, with the Newton steps spent.
    """
    best, kept, newton, scale = None, at, 0, float(np.ptp(model.y)) or 1.0
    tried, pointed, tried_at = None, None, np.inf
    for _ in range(OUTER_STEPS):
        before = at
        at, steps = step(model, at, 1e-10)
        newton += steps
        if not np.all(np.isfinite(at.z)):
            break
        stratum, noise = _read(model, before, at, scale)
        same = pointed is not None and all(map(np.array_equal, stratum, pointed))
        if not model.sharp or same or noise <= min(FIRST * scale, QUIETER * tried_at):
            if not same:
                tried = norms.polish(model, stratum, at.z, at.p if model.sharp else None)
                newton += tried.newton_steps
            pointed, tried_at = stratum, noise
            found, dual = norms.certify(tried, at.p), at.p
            if tried.solved:
                found, dual = multipliers.balance(tried, at.p, at.q, tol)
            if not found.certified <= tol and noise <= FINE * scale:
                as_it_is = norms.certify(norms.taken(model, stratum, at.z, at.d, at.p), at.p)
                found, dual = (as_it_is, at.p) if as_it_is.certified < found.certified else (found, dual)
            if best is None or found.certified < best.certified:
                best, kept = found, at._replace(p=dual)
            if best.certified <= tol or noise <= SILENT * scale:
                break
        at = scaled(model, at, GROWTH)
    return best, kept, newton


def scaled(model: Model, at: Multipliers, factor: float) -> Multipliers:
    """The same point with other penalties."""
    ceiling = LARGEST * max(float(model.weight.max()), np.finfo(float).tiny) / (float(np.ptp(model.y)) or 1.0)
    sigma = np.minimum(at.sigma * factor, np.maximum(ceiling, at.sigma))
    return at._replace(sigma=sigma, sigma_box=min(at.sigma_box * factor, LARGEST))


def _read(model, before, at, scale) -> tuple[Stratum, float]:
    """The stratum that an outer step points at, and the largest |(D z)_g| that stands for zero."""
    d = at.d
    inside = model.norms(before.p + before.sigma * d) <= model.weight
    sharp = (model.weight > 0) & (model.delta == 0)
    sizes = model.norms(d)
    noise = float(sizes[inside & sharp].max(initial=0.0))
    pinned, values = np.zeros(at.z.size, bool), np.zeros(at.z.size)
    for bound, sign in zip(model.box or (), (-1.0, 1.0), strict=False):
        out = sign * at.q > 0
        pinned |= out
        values[out] = bound[out]
    return Stratum((inside | (sizes <= max(3 * noise, norms.NOISE * scale))) & sharp, pinned, values), noise


def step(model: Model, at: Multipliers, tol: float) -> tuple[Multipliers, int]:
    """One outer step, the inner gradient brought below `tol` times its terms; and the Newton steps it took."""
    z, d = at.z, model.D @ at.z if at.d is None else at.d
    terms = [float(np.linalg.norm(part)) for part in (model.adjoint(model.y), model.D.T @ at.p)]
    scale = min(terms) or max(terms) or 1.0
    value, gradient, parts, q = _evaluate(model, at, z, d)
    newton, size, stalled = 0, float(np.linalg.norm(gradient)), 0
    while newton < INNER_STEPS and size > tol * scale and stalled < 2:
        newton += 1
        direction = -_system(model, at, parts, q).solve(gradient)
        slope, length, change = float(gradient @ direction), 1.0, model.D @ direction
        while True:
            trial = _evaluate(model, at, z + length * direction, d + length * change)
            descends = trial[0] <= value + 1e-4 * length * slope + 1e-14 * abs(value)
            if descends or np.linalg.norm(trial[1]) <= 0.5 * size or length < 1e-8:
                break
            length /= 2
        z, d = z + length * direction, d + length * change
        if length < 1e-8:
            break
        value, gradient, parts, q = trial
        reached = float(np.linalg.norm(gradient))
        # With a large sigma rounding keeps the gradient above any tolerance: small and no longer falling is enough.
        stalled = stalled + 1 if reached > 0.5 * size and reached < 1e-7 * scale else 0
        size = reached
    return at._replace(z=z, p=parts.p, q=q, d=d), newton


def _evaluate(model, at, z, d):
    parts = _project(model, at.p + at.sigma * d, at.sigma)
    misfit = model.forward(z) - model.y
    gradient = model.adjoint(misfit) + model.D.T @ parts.p
    value = 0.5 * float(misfit @ misfit) + parts.value
    q = at.q
    if model.box is not None:
        v = z + at.q / at.sigma_box
        q = at.sigma_box * (v - np.clip(v, *model.box))
        gradient = gradient + q
        value += 0.5 * float(q @ q) / at.sigma_box
    return value, gradient, parts, q


def _project(model, v, sigma) -> Projected:
    """pi(v) and the envelope's value, up to a constant, for v = p + sigma D z."""
    sigma_group = sigma[model.first_row]
    sizes = model.norms(v)
    bound = model.weight + 0.0
    inside = sizes <= bound + model.delta * sigma_group
    inner = bound / np.where(bound > 0, bound + model.delta * sigma_group, 1.0)
    scale = np.where(inside, inner, bound / np.where(sizes > 0, sizes, 1.0))
    value = np.where(inside, 0.5 * inner * sizes**2, bound * sizes - 0.5 * bound * (bound + model.delta * sigma_group))
    return Projected(scale[model.group] * v, inside, sizes, scale, v, float((value / sigma_group).sum()))


def _system(model, at, parts, q):
    """K^T K + D^T sigma pi' D (+ sigma on entries outside the box)."""
    if not model.curved:
        rows = np.flatnonzero(parts.inside[model.group])
        D = model.D[rows]
        curvature = D.T @ diags_array(at.sigma[rows] * parts.scale[model.group[rows]]) @ D
    else:
        rows = np.flatnonzero(parts.scale[model.group] > 0)
        D = model.D[rows]
        group = model.group[rows]
        across = np.where(parts.inside, 0.0, np.sqrt(parts.scale) / np.where(parts.sizes > 0, parts.sizes, 1.0))
        across = across[group] * parts.v[rows] * np.sqrt(at.sigma[rows])
        curvature = bent(D, group, model.weight.size, at.sigma[rows] * parts.scale[group], across)
    if model.box is not None:
        curvature = curvature + diags_array(np.where(q != 0, at.sigma_box, 0.0))
    n = model.D.shape[1]
    # Damped, for where neither a datum nor a norm holds an entry: a direction need not be exact.
    curvature = curvature + diags_array(np.full(n, DAMPING * model.size))
    if model.normal is None:
        normal = model.gram
    else:
        normal = np.full(n, model.normal) if isinstance(model.normal, float) else model.normal
    return Reduced(normal, np.ones(n), csr_array(curvature), None, model.size, INEXACT)
