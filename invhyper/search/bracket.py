"""Global bracketing and derivative steps for one hyperparameter."""

import bisect

import equinox as eqx
import numpy as np
from scipy.special import ndtr

from invhyper.search import kinks
from invhyper.search.objective import Failed, Objective, Point, Search

COARSE = 0.2
GAIN = 1e-6
NARROW = 1e-13
# Values this near to each other, relatively, are the same but for rounding.
ROUNDING = 8 * np.finfo(float).eps
# Two kinks foretold this near to each other, relative to the interval, are one.
SAME = 1e-3


class Bracket(Search):
    """The global minimum over one hyperparameter between finite bounds: descent, exploration, Brent-like steps.

    F may have several minima and kinks (slope jumps at which it is often smallest). Between neighbouring samples F is
    taken for an integrated Brownian motion, whose slope wanders as a sum of many small jumps does: given values and
    slopes at both ends, its mean is the cubic Hermite interpolant and its variance at distance t from one end of an
    interval of length h is s^2 t^3 (h - t)^3 / (3 h^3), s estimated from the intervals around.

    1. From the start downhill, by doubled steps, to a bracket; its minimum is closed in on as long as the slope shrinks
       from step to step as that of a smooth F does. A kink ends this at once: which one is best is not known yet.
    2. `grid` points across the bounds, where no sample is near.
    3. Where the expected improvement on the best value is largest, one more, until it is below 1e-6 of |F|.
    4. The interval around the best point is narrowed by the minimiser of the cubic (F smooth) or by the crossing of the
       two tangents (a kink), whichever foretold the last value better; it overshoots when it hits one side twice, and
       halves the interval when that has not shrunk. Where the strata foretell the kink that stands in it, F is taken
       there, with its slopes to both sides.
    5. Steps 3 and 4 again elsewhere, as long as the expected improvement asks for it.

    **Arguments**: `solves`: evaluations in all, of which at most two thirds explore before the first narrowing; `grid`:
    points of the first look. It ends when the best bracket can gain no more than tol^2 of |F|. Raises ValueError for
    more than one scalar and for infinite bounds.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> report = ih.tune(problem, ih.Parameters(l2=ih.log(1.0, 1e-6, 1e2)), search=ih.Bracket())
    >>> round(float(report.theta["l2"]), 8)
    0.25

    Brent (1973), Algorithms for Minimization without Derivatives, ch. 5; expected improvement: Jones, Schonlau and
    Welch (1998), doi:10.1023/A:1008306431147.
    """

    solves: int = eqx.field(static=True, default=40)
    grid: int = eqx.field(static=True, default=6)

    def __check_init__(self):
        for name, least in (("solves", 4), ("grid", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"Bracket {name} = {value!r}: a whole number, at least {least}, is wanted")

    def run(self, objective: Objective) -> str:
        if objective.start.size != 1:
            raise ValueError(f"Bracket searches one scalar; theta has {objective.start.size}: use LBFGSB")
        low, high = objective.lower[0], objective.upper[0]
        if not (np.isfinite(low) and np.isfinite(high)):
            name = objective.parameters.names[0]
            raise ValueError(
                f"Bracket wants finite bounds; {name} has [{low:g}, {high:g}] on its search scale: use LBFGSB"
            )
        return _Line(objective, min(self.solves, objective.solves_left)).run(low, high, self.grid)


class _Line:
    """The samples of one run, sorted by u, and the steps taken from them."""

    def __init__(self, objective: Objective, solves: int):
        self.objective, self.solves = objective, solves
        self.u: list[float] = []
        self.points: list[Point] = []
        self.slopes: list[tuple[float, float]] = []  # to the left and to the right
        self.around: list[tuple[float, float]] = []  # the kinks on both sides, as far as they were looked for
        self.walls: list[float] = []
        self.at_kink = False
        self.narrowing = False
        self.span = 0.0

    def run(self, low: float, high: float, grid: int) -> str:
        self.span = high - low
        self.evaluate(float(self.objective.start[0]))
        spacing = (high - low) / (grid - 1)
        self.descend(low, high, 0.5 * spacing)
        for u in np.linspace(low, high, grid):
            apart = np.min(np.abs(u - np.array(self.u)))
            if apart > 0.25 * spacing or (u in (low, high) and apart > 0):
                self.evaluate(u)
        self.explore(2 * self.solves // 3, everywhere=True)
        said = self.narrow()
        while self.explore(self.solves, everywhere=False):
            said = self.narrow()
        if self.left <= 0:
            said = f"Bracket spent its {self.solves} evaluations: {said}; raise Bracket's solves to go on"
        if self.walls:
            said += f"; {len(self.walls)} points could not be evaluated, F is unknown around them"
        return said

    def descend(self, low: float, high: float, step: float):
        """Downhill from the start by doubled steps up to a bracket, which is narrowed while F looks smooth in it."""
        while self.left > 0 and not self.walls:
            if self.active() is not None:
                self.narrow(while_smooth=True)
                return
            u = self.u[self.best]
            ahead = float(np.clip(u - np.sign(self.slope) * step, low, high))
            if ahead == u:
                return
            self.evaluate(ahead)
            step *= 2

    @property
    def left(self) -> int:
        return self.solves - len(self.u) - len(self.walls)

    @property
    def best(self) -> int:
        """The lowest sample; of several that differ by rounding, the one with the least slope."""
        lowest = min(point.value for point in self.points)
        alike = [i for i, point in enumerate(self.points) if point.value <= lowest + ROUNDING * abs(lowest)]
        return min(alike, key=lambda i: abs(self.fall(i)))

    def fall(self, i: int) -> float:
        """The slope by which F falls away from a sample; 0 where it falls to neither side."""
        left, right = self.slopes[i]
        return right if right < 0 else max(left, 0.0)

    @property
    def slope(self) -> float:
        return self.fall(self.best)

    @property
    def scale(self) -> float:
        values = [abs(point.value) for point in self.points]
        return max(abs(self.points[self.best].value), 1e-9 * max(values))

    def evaluate(self, u: float) -> Point | None:
        """Add the sample at u. Where the lower level fails, a wall is noted and nothing sought in its interval."""
        try:
            point = self.objective(np.array([u]))
        except Failed:
            self.walls.append(float(u))
            return None
        at = bisect.bisect(self.u, float(u))
        self.u.insert(at, float(u))
        self.points.insert(at, point)
        found = kinks.sides(self.objective, point, np.ones(1)) if point.certificate.kink else None
        known = found is not None and np.isfinite(found.left) and np.isfinite(found.right)
        self.slopes.insert(at, (found.left, found.right) if known else (point.slope[0], point.slope[0]))
        self.around.insert(at, kinks.around(self.objective, point) if self.narrowing else (np.nan, np.nan))
        return point

    def values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """u, F, and the slopes to the left and to the right."""
        left, right = np.array(self.slopes).T
        return np.array(self.u), np.array([point.value for point in self.points]), left, right

    def active(self) -> int | None:
        """The interval into which the best point descends; None at a bound, at a kink it rises from, at slope zero."""
        i = self.best
        left, right = self.slopes[i]
        if right < 0 and i + 1 < len(self.u):
            return i
        return i - 1 if left > 0 and i > 0 else None

    def wall(self, u: float, slope: float) -> float | None:
        """The nearest place that failed on the way down from u, unless a sample stands before it."""
        ahead = [w for w in self.walls if (u - w) * slope > 0]
        nearest = min(ahead, key=lambda w: abs(w - u), default=None)
        if nearest is None or any(min(u, nearest) < v < max(u, nearest) for v in self.u):
            return None
        return nearest

    def blocked(self, j: int) -> bool:
        return any(self.u[j] < wall < self.u[j + 1] for wall in self.walls)

    def explore(self, limit: int, everywhere: bool) -> bool:
        """Sample where the expected improvement is largest, until it is small, or (not `everywhere`: the best interval
        is done and left out) until a new best is found: then True."""
        while len(self.u) + len(self.walls) < limit:
            gain, j, u = self.expected(None if everywhere else self.active())
            if gain < GAIN * self.scale:
                return False
            a, h = self.u[j], self.u[j + 1] - self.u[j]
            if self.slopes[j][1] < 0 < self.slopes[j + 1][0]:
                u = a + self.proposal(j)[0]
            before = self.points[self.best].value
            self.evaluate(float(np.clip(u, a + COARSE * h, a + (1 - COARSE) * h)))
            if not everywhere and self.points[self.best].value < before:
                return True
        return False

    def expected(self, skipped: int | None) -> tuple[float, int, float]:
        """The largest expected improvement, its interval and place."""
        u, f, before, after = self.values()
        if len(u) < 2:
            return 0.0, 0, u[0]
        ga, gb = after[:-1], before[1:]
        h, rise, turn = np.diff(u), np.diff(f), gb - ga
        # Squared norm of the two innovations of an interval under the Brownian slope, per degree of freedom.
        spread = 6.0 * (rise - 0.5 * h * (gb + ga)) ** 2 / h**3 + 0.5 * turn**2 / h
        # Squared jumps of the slope a unit length, over the interval and its neighbours. A narrow bracket counts by its
        # length: one kink boxed in there would otherwise have the neighbours searched for more.
        near = [1.0, 2.0, 1.0]
        around = np.convolve(h * spread, near)[1:-1] + h * np.median(spread)
        weight = np.convolve(h, near)[1:-1] + h
        s = np.linspace(0, 1, 34)[1:-1]
        mean = _hermite(f[:-1, None], ga[:, None], f[1:, None], gb[:, None], h[:, None], s)
        deviation = np.sqrt((around / weight * h**3 / 3)[:, None] * (s * (1 - s)) ** 3)
        deviation += 1e-6 * GAIN * self.scale + np.finfo(float).tiny
        z = (f.min() - mean) / deviation
        gain = (f.min() - mean) * ndtr(z) + deviation * np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        for j in range(len(h)):
            if j == skipped or self.blocked(j):
                gain[j] = -1.0
        j, k = np.unravel_index(np.argmax(gain), gain.shape)
        return float(gain[j, k]), int(j), float(u[j] + s[k] * h[j])

    def proposal(self, j: int) -> tuple[float, float]:
        """A step from the left end of a bracket (slopes of opposite sign), and the most that F can gain in it.

        The bound is the crossing of the tangents, less what the curvature seen beside the bracket can bend them.
        """
        u, f, before, after = self.values()
        a, b = j, j + 1
        h, ga, gb = u[b] - u[a], after[a], before[b]
        crossing = float(np.clip((f[b] - f[a] - gb * h) / (ga - gb), 0, h))
        left = abs(before[a] - after[a - 1]) / (u[a] - u[a - 1]) if a > 0 else 0.0
        right = abs(before[b + 1] - after[b]) / (u[b + 1] - u[b]) if b + 1 < len(u) else 0.0
        bend = 0.5 * (left * crossing**2 * gb - right * (h - crossing) ** 2 * ga) / (gb - ga)
        least = min(f[a], f[b])
        gain = least - min(f[a] + ga * crossing, least) + bend
        return (crossing if self.at_kink else _cubic_minimiser(f[a], ga, f[b], gb, h)), gain

    def foretold(self, j: int) -> float | None:
        """The kink in an interval that both its ends foretell; None if there are several, or none, or who knows."""
        after, before = self.around[j][1], self.around[j + 1][0]
        a, b = self.u[j], self.u[j + 1]
        if not (a < after < b and abs(after - before) <= SAME * (b - a)):
            return None
        return after if self.best == j else before

    def narrow(self, while_smooth: bool = False) -> str:
        """Close in on the best point (`while_smooth`: while its slope shrinks); the sentence on what stands there."""
        widths, sides, self.narrowing = [], [], True
        while self.left > 0:
            j, u, slope = self.active(), self.u[self.best], self.slope
            wall = self.wall(u, slope)
            if wall is not None:
                if abs(wall - u) <= 1e-3 * self.span:
                    return "F falls towards a place where the lower level fails"
                self.evaluate(0.5 * (u + wall))
                continue
            if j is None:
                return self.resting()
            u, f, before, after = self.values()
            h, ga, gb = u[j + 1] - u[j], after[j], before[j + 1]
            if h <= NARROW * max(1.0, abs(u[j])):
                return f"the bracket has shrunk to width {h:.1e}{self.standing(j)}"
            kink = self.foretold(j)
            if kink is not None:
                self.evaluate(kink)
                continue
            if not ga < 0 < gb:
                if abs(slope) * h <= ROUNDING * self.scale:
                    return f"F can gain {abs(slope) * h:.1e} at most{self.standing(j)}"
                self.evaluate(u[j] + 0.5 * h)
                continue
            t, gain = self.proposal(j)
            if gain <= max(self.objective.tol**2, ROUNDING) * self.scale:
                return f"F can gain {gain:.1e} at most in its bracket of width {h:.1e}{self.standing(j)}"
            t, widths = self.guarded(t, h, widths, sides)
            apart = 0.1 * NARROW * max(1.0, abs(u[j]))  # a tenth of the narrowest bracket: never the same place twice
            t = float(np.clip(t, apart, h - apart))
            point = self.evaluate(u[j] + t)
            if point is not None:
                smooth = _hermite(f[j], ga, f[j + 1], gb, h, t / h)
                kinked = max(f[j] + ga * t, f[j + 1] - gb * (h - t))
                self.at_kink = abs(point.value - kinked) <= abs(point.value - smooth)
                sides.append(point.slope[0] < 0)
                if while_smooth and abs(point.slope[0]) > 0.3 * min(-ga, gb):
                    return "the slope does not shrink as that of a smooth F does"
        return "the best bracket was still being narrowed"

    def resting(self) -> str:
        """What stands at a best point from which F falls into no interval."""
        point, (left, right) = self.points[self.best], self.slopes[self.best]
        if self.slope != 0:
            return "F is smallest at a bound and still falls there"
        if point.certificate.kink and left < right:
            return kinks.stopped(self.objective, point, left, right)
        return "stationary: the slope is zero"

    def guarded(self, t: float, h: float, widths: list, sides: list) -> tuple[float, list]:
        """The step t in a bracket of width h: halved if three steps did not, overshot if one side was hit twice."""
        widths = [*widths, h]
        if len(widths) > 3 and h > 0.5 * widths[-4]:
            return 0.5 * h, []
        if len(sides) >= 2 and sides[-1] == sides[-2]:
            near = t if sides[-1] else h - t
            near += min(np.sqrt(max(near, 1e-3 * h) * (h - near)), 0.5 * (h - near))
            t = near if sides[-1] else h - near
        edge = 1e-15 * h if self.at_kink else 1e-3 * h
        return float(np.clip(t, edge, h - edge)), widths

    def standing(self, j: int) -> str:
        left, right = self.slopes[j][1], self.slopes[j + 1][0]
        return f", between slopes {left:.1e} and {right:.1e} on the search scale"


def _hermite(fa, ga, fb, gb, h, s):
    """The cubic with values and slopes at both ends of an interval of length h, at the fraction s."""
    r = 1 - s
    return fa * (1 + 2 * s) * r**2 + h * ga * s * r**2 + fb * s**2 * (3 - 2 * s) - h * gb * s**2 * r


def _cubic_minimiser(fa, ga, fb, gb, h) -> float:
    """Where the Hermite cubic is smallest, for ga < 0 < gb."""
    d = 3 * (fa - fb) / h + ga + gb
    w = np.sqrt(max(d * d - ga * gb, 0.0))
    return float(np.clip(h * (1 - (gb + w - d) / (gb - ga + 2 * w)), 0, h))
