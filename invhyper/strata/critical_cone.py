"""How a solution moves at the edge of its stratum: the conditions that define the stratum, and the critical cone.

    dx = P c,   c = argmin_c  1/2 c.H c + q(dtheta).c   subject to   E c = 0,   G c >= 0

E holds what stays as it is, G the degenerate conditions, those that are met with neither side to spare: a coefficient
at zero whose pull equals its weight may enter or not, and which of the two depends on the side to which theta moves.
With none of them this is the stratum's own linear system. c is piecewise linear in dtheta: F has a slope to each side.

Robinson (1980), doi:10.1287/moor.5.1.43; Dontchev and Rockafellar (2014), doi:10.1007/978-1-4939-1037-3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import scipy.optimize
from jaxtyping import Float, PyTree

MOST = 20
ENUMERATED = 2
# Relative: what rounding may leave of a sign or of complementarity.
ROUNDING = 1e-9
# Rates this much smaller than the largest are rounding.
NOISE = 1e-13


class Conditions(NamedTuple):
    """The inequalities value >= 0 that hold on a stratum, each with the scale that makes it relative, and with what it
    means for one of them to become zero: `name(i)`."""

    values: Float[np.ndarray, " m"]
    scales: Float[np.ndarray, " m"]
    name: Callable[[int], str]

    def and_one(self, value: float, scale: float, what: str) -> "Conditions":
        """With one condition more, the last."""
        last = self.values.size
        return Conditions(
            np.append(self.values, value),
            np.append(self.scales, scale),
            lambda i: what if i == last else self.name(i),
        )

    def margin(self) -> tuple[float, str]:
        """The smallest relative value, and its name; infinity where there are no conditions."""
        if not self.values.size:
            return np.inf, ""
        relative = self.values / self.scales
        nearest = int(np.argmin(relative))
        if not np.isfinite(relative[nearest]):
            return np.inf, ""
        return max(float(relative[nearest]), 0.0) + 0.0, self.name(nearest)


class Motion(NamedTuple):
    """The directional derivative of a solution: dx, and the rates at which its conditions change."""

    dx: PyTree
    rates: Float[np.ndarray, " m"]


@dataclass(frozen=True)
class CriticalCone:
    """The directions in which a solution can move.

    `move(dtheta)` is the `Motion` along a direction of theta (one-sided: that of -dtheta is another one at a kink);
    `degenerate` masks the conditions that are zero; `straight(dtheta)`: whether values change linearly, not only to
    first order, as long as the stratum stays (then the next kink is known exactly). `limited_to`: what alone the
    rates are about, where others are not known; `complete`: whether all that may be degenerate was looked at.
    """

    conditions: Conditions
    degenerate: np.ndarray
    move: Callable[[PyTree], Motion]
    straight: Callable[[PyTree], bool]
    limited_to: str = ""
    complete: bool = True

    @property
    def names(self) -> list[str]:
        """What is degenerate."""
        return [self.conditions.name(int(i)) for i in np.flatnonzero(self.degenerate)]

    def next_kink(self, dtheta: PyTree) -> tuple[float, str]:
        """(t, name): theta + t dtheta, t > 0, is where the first condition becomes zero; t = inf if none ever does.

        What is degenerate here is left out: it moves away from zero or stays there.
        """
        values, rates = self.conditions.values, self.move(dtheta).rates
        relative = rates / self.conditions.scales
        falling = ~self.degenerate & (relative < -NOISE * np.abs(relative).max(initial=0.0))
        if not falling.any():
            return np.inf, ""
        times = np.where(falling, values / np.where(falling, -rates, 1.0), np.inf)
        first = int(np.argmin(times))
        return max(float(times[first]), 0.0), self.conditions.name(first)


def joined(cones: list[CriticalCone], called: Callable[[int, str], str]) -> CriticalCone:
    """The critical cone of independent lower levels under one theta: x is the tuple of theirs.

    `called(i, name)` names a condition of the i-th.
    """
    sizes = [cone.conditions.values.size for cone in cones]
    ends = np.cumsum(sizes)

    def name(i: int) -> str:
        which = int(np.searchsorted(ends, i, side="right"))
        return called(which, cones[which].conditions.name(i - int(ends[which] - sizes[which])))

    def move(dtheta):
        motions = [cone.move(dtheta) for cone in cones]
        return Motion(tuple(m.dx for m in motions), np.concatenate([m.rates for m in motions]))

    values, scales = (np.concatenate([getattr(c.conditions, part) for c in cones]) for part in ("values", "scales"))
    return CriticalCone(
        Conditions(values, scales, name),
        np.concatenate([cone.degenerate for cone in cones]),
        move,
        lambda dtheta: all(cone.straight(dtheta) for cone in cones),
        next((cone.limited_to for cone in cones if cone.limited_to), ""),
        all(cone.complete for cone in cones),
    )


def check_count(conditions: Conditions, degenerate: np.ndarray):
    """ValueError where too many conditions are degenerate at once."""
    count = int(degenerate.sum())
    if count > MOST:
        first = conditions.name(int(np.flatnonzero(degenerate)[0]))
        raise ValueError(
            f"{count} conditions are degenerate at once (the first: {first}); one-sided derivatives are computed for "
            f"at most {MOST}: move theta by a relative 1e-6 off this vertex, or drop repeated columns or rows"
        )


def minimise_over(solve: Callable, G: Float[np.ndarray, "r k"], q: Float[np.ndarray, " k"]):
    """(c, multipliers) of  min 1/2 c.Hc + q.c  over E c = 0, G c >= 0.

    `solve(rhs)` gives c of H c + E^T nu = rhs, E c = 0.

    With c = c0 + W m for the multipliers m >= 0 of G this is b + M m >= 0, m.(b + M m) = 0, M = G W, b = G c0: by
    enumeration for one or two conditions, by nonnegative least squares for more, and in both cases verified.
    """
    c0 = solve(-q)
    r = G.shape[0]
    if not r:
        return c0, np.zeros(0)
    W = np.column_stack([solve(row) for row in G])
    M = G @ W
    M = 0.5 * (M + M.T)
    size = np.sqrt(np.maximum(np.diag(M), 0.0))
    size[size == 0] = 1.0
    M, b = M / np.outer(size, size), (G @ c0) / size
    m = _enumerate(M, b) if r <= ENUMERATED else _least_squares(M, b)
    slack = b + M @ m
    height = max(float(np.abs(b).max()), np.finfo(float).tiny)
    missed = max(float(-slack.min()), float(-m.min()), float(np.minimum(slack, m).max()))
    if not missed <= ROUNDING * height * r:
        raise ValueError(
            f"the complementarity problem of {r} degenerate conditions was solved to {missed / height:.1e} only: they "
            "depend on each other (A is singular on the stratum, x* perhaps not unique); add a little l2, or drop "
            "repeated columns or rows"
        )
    m = m / size
    return c0 + W @ m, m


def _enumerate(M, b):
    """The multipliers, the best of all choices of the conditions that hold with equality."""
    best, miss = np.zeros_like(b), np.inf
    for chosen in product((False, True), repeat=b.size):
        at = np.array(chosen)
        m = np.zeros_like(b)
        if at.any():
            m[at] = np.linalg.lstsq(M[np.ix_(at, at)], -b[at], rcond=ROUNDING)[0]
        missed = max(float(-(b + M @ m)[~at].min(initial=0.0)), float(-m.min()))
        if missed < miss:
            best, miss = m, missed
    return best


def _least_squares(M, b):
    """The multipliers by nonnegative least squares, refined on the conditions that it finds to hold with equality."""
    values, vectors = np.linalg.eigh(M)
    kept = values > 1e-13 * values[-1]
    root = np.sqrt(values[kept])
    m, _ = scipy.optimize.nnls(root[:, None] * vectors[:, kept].T, -(vectors[:, kept].T @ b) / root)
    at = m > 0
    if at.any():
        refined = np.zeros_like(m)
        refined[at] = np.linalg.lstsq(M[np.ix_(at, at)], -b[at], rcond=1e-13)[0]
        if refined.min() >= 0:
            m = refined
    return m
