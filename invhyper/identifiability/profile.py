"""Profile likelihoods: how well the other parameters make up for a parameter that is moved away from the fit."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree
from scipy.interpolate import CubicHermiteSpline
from scipy.stats import chi2

from invhyper.identifiability.fisher import fit, names
from invhyper.lower import levenberg_marquardt as lm
from invhyper.lower.ode import Calibration
from invhyper.problem import Solution, wordless
from invhyper.theta import nearest

# sqrt(rise / threshold) grows by this much a step; a step is at most this many times the one before.
SHARE, GROWTH = 0.2, 2.0
# The profile is followed to so many times the size of the parameter, and its first step is this share of it.
REACH, FIRST = 100.0, 0.2
# Scaled curvatures of the other parameters up to here do not say where these go.
FLAT_CURVATURE = 1e-10
# A step that rises too far, or cannot be simulated, is cut until it is so small a share of the way from the fit.
CUT, SHORTEST, MOST = 4.0, 1e-3, 100
# The end of an interval: where the rise is that of the limit, or the end is known, to this share.
CLOSE = 1e-8
# Refits go to this error; up to the other one their objective is good for a profile.
REFITTED, SETTLED = 1e-9, 1e-6
MOST_FACTOR = 10.0
BELOW, ABOVE = ("lower", "above", "down"), ("upper", "below", "up")


@dataclass(frozen=True)
class Profile:
    """The profile likelihood of one parameter; see `profile`.

    `values` (n,), increasing, of the parameter; `objective` (n,): the least objective at each; `slope` (n,): its
    derivative; `parameters` (n, p): where it is reached; `names` (p,); `fit`: the index of the fit; `limit`: the
    objective at which the interval ends; `level`: of confidence; `interval`: its ends, infinite where the limit is not
    reached; `ends`: below and above, why the profile ends there, in words; `error`: the largest of its fits.
    """

    name: str
    values: Float[np.ndarray, " n"]
    objective: Float[np.ndarray, " n"]
    slope: Float[np.ndarray, " n"]
    parameters: Float[np.ndarray, "n p"] = field(repr=False)
    names: tuple[str, ...]
    fit: int
    limit: float
    level: float
    interval: tuple[float, float]
    ends: tuple[str, str]
    error: float

    @property
    def best(self) -> float:
        """The value at the fit."""
        return float(self.values[self.fit])

    @property
    def rise(self) -> Float[np.ndarray, " n"]:
        """The objective above that of the fit."""
        return self.objective - self.objective[self.fit]

    def through(self, values) -> Float[np.ndarray, " m"]:
        """The rise between the points of the profile, by cubics that have its values and slopes."""
        return CubicHermiteSpline(self.values, self.rise, self.slope)(values)


class Point(NamedTuple):
    """One refit: the fixed value c, the flat p, the objective, its slope in p, its Hessian, what no bound holds."""

    c: float
    x: np.ndarray
    value: float
    slope: np.ndarray
    hessian: np.ndarray
    free: np.ndarray
    solution: Solution


def profile(
    calibration: Calibration,
    theta: PyTree,
    name: str | int,
    *,
    solution: Solution | None = None,
    level: float = 0.95,
    within: tuple[float, float] | None = None,
) -> Profile:
    """The profile likelihood of a parameter, and the confidence interval that it gives.

        PL_i(c) = min over p with p_i = c of objective(p, theta),     interval = { c : PL_i(c) - PL_i(p*_i) <= q / 2 }

    with q the quantile of chi-squared with one degree of freedom at `level`. It is followed from the fit: with A the
    exact Hessian, d p_other / dc = -A_oo^-1 A_oi foretells the next fit and d PL_i / dc is the slope of the objective
    in p_i, so that steps are as long as the profile is smooth; a Newton fit with p_i held corrects. All points of all
    profiles run in the one compiled program that solves the calibration.

    **Arguments**: `name`: of the parameter (its path, with an index in an array: `"rates[0]"`), or its number in flat
    p; `solution`: the fit (None: solved for); `level`: of confidence; `within`: as far as the profile is followed
    where the limit is not reached (None: a hundred times the size of the parameter to each side, within bounds).
    Raises ValueError at the door, NotConverged where there is no fit.

    >>> import numpy as np, invhyper as ih
    >>> t = np.array([0.5, 1.0, 2.0, 4.0])
    >>> decay = ih.Calibration(
    ...     rhs=lambda t, x, p, theta: -p["rate"] * x, initial=lambda p, theta: 2.0,
    ...     observe=lambda t, x, p, theta: p["gain"] * x,
    ...     times=t, data=6 * np.exp(-0.7 * t), noise=0.1, start={"rate": 1.0, "gain": 1.0},
    ... )
    >>> found = ih.profile(decay, {}, "rate")
    >>> [round(end, 4) for end in found.interval]
    [0.6265, 0.7809]

    Raue et al. (2009), doi:10.1093/bioinformatics/btp358; continuation: Chen and Jennrich (1996),
    doi:10.1080/10618600.1996.10474711.
    """
    index = position(names(calibration), name)
    rise = threshold(level)
    theta = calibration.check(theta)
    solution = fit(calibration, theta, None if solution is None else ravel_pytree(solution.x)[0])
    reach = edges(calibration, solution, index, within)
    return follow(calibration, theta, index, solution, rise, level, reach)


def threshold(level: float) -> float:
    """How far the objective rises to the end of a confidence interval."""
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: a confidence between 0 and 1, such as 0.95, is wanted")
    return float(chi2.ppf(level, 1)) / 2


def edges(calibration: Calibration, solution: Solution, index: int, within=None) -> list[tuple[float, str]]:
    """How far the profile is followed below and above, and what to call it."""
    best = float(ravel_pytree(solution.x)[0][index])
    box = float(calibration.floor[index]), float(calibration.ceiling[index])
    if within is None:
        size = REACH * _size(best, float(solution.memo.local.curvature[index, index]))
        within = [best - size, best + size]
        # To zero by factors, where the parameter is larger than what the data tell it to; else all the way.
        far = size <= REACH * abs(best)
        if best > 0 and box[0] >= 0:
            within[0] = best / REACH if far else box[0]
        if best < 0 and box[1] <= 0:
            within[1] = best / REACH if far else box[1]
    elif np.shape(within) != (2,) or not within[0] < within[1]:
        raise ValueError(f"within = {within}: a pair (below, above) is wanted")
    elif not within[0] <= best <= within[1]:
        raise ValueError(f"within = {within} leaves out the fit, {best:g}: (below, above) it is wanted")
    return [
        (box[0], "its bound ") if box[0] >= within[0] else (float(within[0]), ""),
        (box[1], "its bound ") if box[1] <= within[1] else (float(within[1]), ""),
    ]


def follow(calibration, theta, index, solution, rise, level, reach) -> Profile:
    """`profile` with everything at hand."""
    here = _point(calibration, solution, index)
    refit = _refitting(calibration, theta, index)
    positive = np.asarray(calibration.floor) >= 0
    sides = [
        _side(refit, here, index, positive, -1, *reach[0], rise, BELOW),
        _side(refit, here, index, positive, 1, *reach[1], rise, ABOVE),
    ]
    points = [*sides[0].points[::-1], here, *sides[1].points]
    return Profile(
        name=names(calibration)[index],
        values=np.array([point.c for point in points]),
        objective=np.array([point.value for point in points]),
        slope=np.array([point.slope[index] for point in points]),
        parameters=np.array([point.x for point in points]),
        names=names(calibration),
        fit=len(sides[0].points),
        limit=here.value + rise,
        level=level,
        interval=(sides[0].end, sides[1].end),
        ends=(sides[0].why, sides[1].why),
        error=max(float(point.solution.error) for point in points),
    )


class Side(NamedTuple):
    points: list[Point]
    end: float
    why: str


def _side(
    refit: Callable, fitted: Point, index, positive, sign: int, limit: float, its: str, rise: float, words
) -> Side:
    """The points from the fit in one direction, until the limit is crossed or there is no way on."""
    which, beyond, way = words
    points, here = [], fitted
    longest = FIRST * _size(fitted.c, fitted.hessian[index, index])
    while len(points) < MOST:
        room = abs(limit - here.c)
        if room == 0:
            return Side(points, sign * np.inf, f"no {which} limit {beyond} {its}{limit:.4g}")
        along = _along(here, index)
        step = min(_step(here, fitted, along, index, sign, rise), longest, room)
        while True:
            c = limit if step == room else here.c + sign * step
            there = refit(c, _foretold(here, c, along, positive))
            failed = not np.isfinite(there.value)
            smooth = not failed and there.value - max(here.value, fitted.value) < 0.75 * rise
            if smooth or step < SHORTEST * abs(c - fitted.c):
                break
            step /= CUT
        if failed:
            return Side(points, sign * np.inf, f"no {which} limit {way} to {here.c:.4g}, where simulation ends")
        if there.value >= fitted.value + rise:
            end = _crossing(refit, here, there, fitted.value + rise, index)
            return Side([*points, end], end.c, f"{which} limit {end.c:.6g}")
        points.append(there)
        here, longest = there, GROWTH * step
    return Side(points, sign * np.inf, f"no {which} limit {way} to {here.c:.4g}, in {MOST} steps")


def _size(value: float, curvature: float) -> float:
    """What counts as a change of a parameter: its value, or its standard deviation alone where that is more."""
    return max(abs(value), 1 / np.sqrt(curvature)) if curvature > 0 else abs(value) or 1.0


def _along(here: Point, index: int) -> np.ndarray:
    """dp/dc: one in p_i, -A_oo^-1 A_oi in what is free, nothing elsewhere."""
    others = here.free.copy()
    others[index] = False
    curvature = np.diagonal(here.hessian)
    scale = np.sqrt(np.where(curvature > 0, curvature, 1.0))
    moved = (np.arange(here.x.size) == index).astype(float)
    with np.errstate(over="ignore"):
        A = here.hessian / (scale[:, None] * scale[None, :])
    if np.all(np.isfinite(A)):
        inverse = np.linalg.pinv(A[np.ix_(others, others)], FLAT_CURVATURE, hermitian=True)
        moved[others] = -inverse @ A[others, index] * scale[index] / scale[others]
    return moved


def _foretold(here: Point, c: float, along: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The next fit along the tangent, of positive parameters as a power of c: exact where data hold a product of two.

    One that would so change by more than MOST_FACTOR follows no power: it goes straight, and stays positive.
    """
    step = c - here.c
    if here.c * c > 0:
        step = here.c * np.log(c / here.c)
    kept = positive & (here.x > 0)
    straight = here.x + (c - here.c) * along
    straight = np.where(kept, np.maximum(straight, here.x / MOST_FACTOR), straight)
    relative = step * along / np.where(kept, here.x, 1.0)
    powers = kept & (np.abs(relative) <= np.log(MOST_FACTOR))
    return np.where(powers, here.x * np.exp(np.where(powers, relative, 0.0)), straight)


def _step(here, fitted, along, index, sign, rise) -> float:
    """How far until sqrt((PL - least) / rise) has grown by SHARE, by the slope and curvature of the profile here."""
    slope, curvature = sign * here.slope[index], max(along @ here.hessian @ along, 0.0)
    now = np.sqrt(max(here.value - fitted.value, 0.0) / rise)
    wanted = rise * ((now + SHARE) ** 2 - now**2)
    # wanted = slope h + curvature h^2 / 2
    root = np.sqrt(slope**2 + 2 * curvature * wanted)
    below = max(slope + root, np.finfo(float).tiny)
    return 2 * wanted / below


def _crossing(refit, inside: Point, outside: Point, limit: float, index: int) -> Point:
    """Where the profile reaches the limit: by cubics that have the values and slopes of a point on either side."""
    allowed, narrow = CLOSE * (limit - inside.value), CLOSE * abs(outside.c - inside.c)
    off, slow = np.inf, False
    for _ in range(MOST):
        low, high = sorted((inside, outside), key=lambda point: point.c)
        between = [low.c, high.c]
        way = CubicHermiteSpline(between, [low.x, high.x], [_along(low, index), _along(high, index)])
        rise = CubicHermiteSpline(between, [low.value, high.value], [low.slope[index], high.slope[index]])
        c = 0.5 * (low.c + high.c) if slow else rise.solve(limit, extrapolate=False)[0]
        there = refit(c, way(c))
        while not np.isfinite(there.value) and c != inside.c:
            c = 0.5 * (inside.c + c)
            there = refit(c, way(c))
        last, off = off, abs(there.value - limit)
        if off <= allowed or high.c - low.c <= narrow:
            break
        slow = off > last / 4
        inside, outside = (there, outside) if there.value < limit else (inside, there)
    return there


def _refitting(calibration: Calibration, theta: PyTree, index: int) -> Callable:
    """(c, guess of p) -> Point with p_i held at c: by its bounds, which the compiled program takes as numbers."""
    memo = calibration.cold_start(theta).memo
    unravel = ravel_pytree(calibration.start)[1]
    close = jnp.array([jnp.inf, REFITTED])

    def refit(c, x):
        here = np.arange(x.size) == index
        floor, ceiling = (jnp.asarray(np.where(here, c, side)) for side in (calibration.floor, calibration.ceiling))
        start = Solution(unravel(jnp.asarray(np.clip(x, floor, ceiling))), memo=memo)
        # Newton's steps alone from where the fit is foretold to be: a second attempt, from afar, is the usual one.
        held = (floor, ceiling, close)
        held = eqx.tree_at(lambda each: (each.floor, each.ceiling, each.targets), calibration, held)
        return _point(held, wordless(held, theta, start), index)

    return refit


def _point(calibration: Calibration, solution: Solution, index: int) -> Point:
    local = solution.memo.local
    x, slope, hessian = (np.asarray(part) for part in (local.x, local.slope, local.more[:, : local.x.size]))
    free = np.asarray(lm.free(local, calibration.floor, calibration.ceiling))
    return Point(float(x[index]), x, float(local.value), slope, hessian, free, solution)


def position(known: tuple[str, ...], name: str | int) -> int:
    """The number of a parameter in flat p, from its name or number; ValueError if there is none."""
    if isinstance(name, str):
        if name in known:
            return known.index(name)
        near = nearest(name, known)
        hint = f"did you mean {near!r}? " if near else ""
        raise ValueError(f"no parameter is called {name!r}: {hint}p has {', '.join(map(repr, known))}")
    if not -len(known) <= name < len(known):
        raise ValueError(f"no parameter has the number {name}: p has {len(known)}, counted from 0")
    return name % len(known)
