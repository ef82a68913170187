"""Gradient steps under a lower-level tolerance that follows what the errors can explain."""

import equinox as eqx
import jax
import numpy as np

from invhyper.search import kinks
from invhyper.search.bundle import bundle
from invhyper.search.objective import Ended, Failed, Objective, Point, Search

SUFFICIENT = 1e-4
TRUSTED, AIM = 0.3, 0.05  # the error of a slope over its size: at most, and what the next tolerance is meant to give
TIGHTER, RELAXED = 0.1, 2.0
REFUSALS = 2  # steps refused in a row, after which the slope itself is looked at again
ROUNDING = 1e-15
BUNDLE = 25  # steps that take the slopes around a kink of several hyperparameters together


class Descent(Search):
    """Projected gradient steps that are accepted where the errors of F and its slope can not explain the decrease.

        u+ = P(u - step g),   accepted if D - s > e,   refused if D - s < -e,   s = 1e-4 g.(u - u+)

    D is the decrease by the values, M - F+ with e = e_F(M) + e_F(u+), M the largest of the last `memory` values; or by
    the mean slope, 1/2 (g + g+).(u - u+) with e = 1/2 |u - u+| (e_g + e_g+), where that knows it better, as it does
    near the minimum. In between, the looser of the two points is solved again ten times more tightly; only at the run's
    `lower_tol` does the sign of D - s decide. A point with e_g above 0.3 |P g| is solved again too before a step is
    taken from it, and so is one from which two steps in a row were refused.

        e_F = c_F r,   e_g = the certificate's error_estimate, else c_g r,   tol+ = tol min(2, |P g| / (20 e_g))

    with r the residual reached and c learned whenever a point is solved twice, from the start on. So the tolerance is
    tightened when the gradient calls for it, and relaxed again where steps are long. A refused step is shortened by
    interpolation; an accepted one sets the next length by Barzilai and Borwein's quotient, for the largest curvature
    that the errors allow. For lower levels whose cost grows with the accuracy asked; `Step.work` counts it.

    **Arguments**: `first`: the first tolerance and the loosest; `steps`: evaluations; `memory`: 1 for a descent that
    never shifts; `failures`: lower-level failures in a row before it gives up, each of which halves the step.

    Where the slope jumps and the strata of the lower level foretell a kink on the way, F is taken at the kink, with its
    slopes to both sides: it ends there if F rises to both (of several hyperparameters after bundle steps that take the
    slopes nearby together, see `LBFGSB`), else it steps across.

    It ends when the projected gradient is within tol at `lower_tol`, at a kink, or when no step decreases F.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> report = ih.tune(problem, ih.Parameters(l2=ih.log(1.0, 1e-6, 1e2)), search=ih.Descent())
    >>> round(float(report.theta["l2"]), 4)
    0.25

    Adaptive inexactness: Salehi, Mukherjee, Roberts and Ehrhardt (2024), arXiv:2308.10098; Pedregosa (2016),
    proceedings.mlr.press/v48/pedregosa16. Step lengths and M: Birgin, Martinez and Raydan (2000),
    doi:10.1137/S1052623497330963; decrease by slopes: Hager and Zhang (2005), doi:10.1137/030601880.
    """

    first: float = eqx.field(static=True, default=1e-2)
    steps: int = eqx.field(static=True, default=200)
    memory: int = eqx.field(static=True, default=5)
    failures: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        if not 0 < self.first < 1:
            raise ValueError(f"Descent first = {self.first!r}: a tolerance between 0 and 1 is wanted")
        for name in ("steps", "memory", "failures"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Descent {name} = {value!r}: a whole number, at least 1, is wanted")

    def run(self, objective: Objective) -> str:
        errors = Errors(objective, self.first)
        point = errors.first_point()
        length, failed, refused, recent = _first_length(point), 0, 0, [point]
        while len(objective.history) < self.steps:
            done, small = objective.stationary(point), length * np.max(np.abs(point.slope)) < 1e-12
            if (done or small) and point.tol <= objective.lower_tol:
                return self._stopped(objective, point, done)
            if done or small or errors.doubtful(point) or (refused >= REFUSALS and point.tol > objective.lower_tol):
                tol = objective.lower_tol if done or small else min(errors.tol_from(point), TIGHTER * point.tol)
                point = errors.solved_again(point, tol)
                length, refused, recent = _first_length(point) if small else length, 0, [point]
                continue
            u = np.clip(point.u - length * point.slope, objective.lower, objective.upper)
            try:
                recent, trial = self._told_apart(errors, recent, objective(u, errors.tol_from(point)))
            except Failed as failure:
                failed += 1
                if failed >= self.failures:
                    raise Ended(f"the lower level failed {failed} times in a row: {failure}") from failure
                length *= 0.5
                continue
            failed, point = 0, recent[-1]
            kink = self._kink_between(objective, point, trial) if kinks.jumped(point, trial) else None
            if errors.decrease(recent, trial)[0] > 0:
                length, point, before = _next_length(errors, point, trial, length), trial, point
                refused, recent = 0, [*recent, trial][-self.memory :]
            else:
                length, before = length * _shortening(point, trial), trial
                refused += 1
            if kink is not None and kink.value <= min(point.value, before.value):
                said = self._minimum_at(objective, [before, point, kink])
                if said is not None:
                    return said
                refused, point, recent = 0, kink, [kink]
        return self._spent(objective)

    def _kink_between(self, objective: Objective, point: Point, trial: Point) -> Point | None:
        """The kink that the slope jumps at on the way from a point to a trial, as seen from there; None if none is."""
        if trial.certificate.kink:
            return trial
        u = kinks.ahead(objective, trial, point.u - trial.u)
        if u is None or not np.linalg.norm(u - trial.u) < np.linalg.norm(trial.u - point.u):
            return None
        return objective(u)

    def _minimum_at(self, objective: Objective, points: list[Point]) -> str | None:
        """The sentence that says that the last of some points, a kink, is a minimum; None if F falls beyond it."""
        kink = points[-1]
        found = kinks.sides(objective, kink, points[0].u - points[1].u) if kink.certificate.kink else None
        if found is None or not found.minimum:
            return None
        said = bundle(objective, points, BUNDLE) if kink.u.size > 1 else None
        if said is not None and objective.stationary(objective.best):
            return said
        return kinks.stop(objective) or said

    def _told_apart(self, errors: "Errors", recent: list[Point], trial: Point) -> tuple[list[Point], Point]:
        """The last of `recent` and the trial, solved again as often as it takes to know which is lower, and to trust
        the slope of a trial that is; at the run's own tolerance what they look like counts."""
        point, floor = recent[-1], errors.objective.lower_tol
        while len(errors.objective.history) < self.steps:
            gain, error = errors.decrease(recent, trial)
            known = abs(gain) > error or max(point.tol, trial.tol) <= floor
            if known and (gain <= 0 or not errors.doubtful(trial)):
                break
            if known:
                trial = errors.solved_again(trial, errors.tol_from(trial))
            elif trial.tol >= point.tol:
                trial = errors.solved_again(trial, TIGHTER * trial.tol)
            else:
                point = errors.solved_again(point, TIGHTER * point.tol)
                recent = [point]
        return recent, trial

    def _stopped(self, objective: Objective, point: Point, done: bool) -> str:
        if done:
            return objective.stationary_sentence(point)
        said = kinks.stop(objective)
        if said is not None:
            return said
        size = objective.gradient_norm(point)
        return f"no gradient step decreases F further (a kink?): projected gradient {size:.1e} on the search scale"

    def _spent(self, objective: Objective) -> str:
        best = objective.best
        if best.tol > objective.lower_tol:
            best = objective(best.u, objective.lower_tol)
        size = objective.gradient_norm(best)
        return f"Descent took its {self.steps} steps; projected gradient {size:.1e}: raise steps to go on"


class Errors:
    """What is known of the errors of F and of its slope: e = c r at a point whose lower level is solved to r.

    c starts at |F| and |g| and is learned wherever a point is solved twice: it rises at once and falls by at most ten.
    The value of a run (`Unrolled`) has no error: it is asked for once, at the run's tolerance.
    """

    def __init__(self, objective: Objective, first: float):
        self.objective, self.exact = objective, getattr(objective.hypergradient, "of_a_run", False)
        self.loosest = objective.lower_tol if self.exact else max(first, objective.lower_tol)
        self.per_value = self.per_slope = 0.0

    def first_point(self) -> Point:
        """The start, solved twice if it may be loose."""
        point = self.objective(self.objective.start, self.loosest)
        self.per_value, self.per_slope = abs(point.value), self.objective.gradient_norm(point)
        return self.solved_again(point, TIGHTER * point.tol) if point.tol > self.objective.lower_tol else point

    def solved_again(self, point: Point, tol: float) -> Point:
        """The point at a tighter tolerance, and what its change says about the errors."""
        again = self.objective(point.u, max(tol, self.objective.lower_tol))
        change = np.linalg.norm(self.objective.projected_step(point) - self.objective.projected_step(again))
        self.per_value = _learned(
            self.per_value, abs(point.value - again.value), self._lower(point), self._lower(again)
        )
        self.per_slope = _learned(self.per_slope, float(change), self._both(point), self._both(again))
        return again

    def of_value(self, point: Point) -> float:
        return self.per_value * self._lower(point) + ROUNDING * abs(point.value)

    def of_slope(self, point: Point) -> float:
        """That of the projected gradient: by the certificate where it has an estimate, else as learned."""
        error = point.certificate.error_estimate
        if error is None:
            return self.per_slope * self._both(point)
        ones = jax.tree.map(lambda leaf: np.ones(np.shape(leaf)), point.theta)
        return error * float(np.max(np.abs(self.objective.parameters.pull(point.u, ones))))

    def doubtful(self, point: Point) -> bool:
        """Whether the error is a large part of the gradient, and can be made smaller."""
        loose = point.tol > self.objective.lower_tol
        return loose and self.of_slope(point) > TRUSTED * self.objective.gradient_norm(point)

    def tol_from(self, point: Point) -> float:
        """The tolerance for the next solve: that of this one, by as much as its error is from the wanted."""
        aim = AIM * self.objective.gradient_norm(point) / max(self.of_slope(point), np.finfo(float).tiny)
        tol = point.tol * min(aim, RELAXED)
        return float(np.clip(tol, self.objective.lower_tol, self.loosest))

    def decrease(self, recent: list[Point], trial: Point) -> tuple[float, float]:
        """By how much the decrease of F from `recent` to the trial exceeds the wanted one, and the error of that.

        By the values or by the mean of the slopes at both ends (exact for a parabola), whichever knows it better: near
        the minimum F changes by the square of what its slope does.
        """
        point, highest = recent[-1], max(recent, key=lambda point: point.value)
        moved = trial.u - point.u
        wanted = -SUFFICIENT * float(point.slope @ moved)
        by_value = self.of_value(highest) + self.of_value(trial)
        by_slope = 0.5 * float(np.linalg.norm(moved)) * (self.of_slope(point) + self.of_slope(trial))
        if by_value <= by_slope + 0.5 * abs(float((trial.slope - point.slope) @ moved)):
            return highest.value - trial.value - wanted, by_value
        return -0.5 * float((point.slope + trial.slope) @ moved) - wanted, by_slope

    def _lower(self, point: Point) -> float:
        return 0.0 if self.exact else point.certificate.lower_residual

    def _both(self, point: Point) -> float:
        """With the adjoint's residual: up to the tolerance, above which it does not fall (a truncated series)."""
        return max(self._lower(point), min(point.certificate.adjoint_residual, point.tol))


def _learned(before: float, change: float, loose: float, tight: float) -> float:
    """The error for each unit of residual, after a value changed by `change` as the residual fell."""
    return max(change / (loose - tight), 0.1 * before) if tight < 0.5 * loose else before


def _first_length(point: Point) -> float:
    """That of a step of length 1."""
    return 1.0 / max(float(np.linalg.norm(point.slope)), np.finfo(float).tiny)


def _shortening(point: Point, trial: Point) -> float:
    """Where the parabola through F and its slope here and F there is smallest, kept between a tenth and a half."""
    down = float(point.slope @ (trial.u - point.u))
    bend = trial.value - point.value - down
    return float(np.clip(-0.5 * down / bend, 0.1, 0.5)) if bend > 0 else 0.5


def _next_length(errors: Errors, point: Point, trial: Point, length: float) -> float:
    """Barzilai and Borwein's step for the largest curvature that the errors allow, within a factor ten of the last;
    twice the last where F curves downwards."""
    moved, turned = trial.u - point.u, trial.slope - point.slope
    error = errors.of_slope(point) + errors.of_slope(trial)
    curvature = float(moved @ turned) + error * float(np.linalg.norm(moved))
    if curvature <= 0:
        return 2.0 * length
    return float(np.clip(float(moved @ moved) / curvature, 0.1 * length, 10.0 * length))
