"""Implicit, unrolled, truncated, one step: how wrong each is after T steps, and why unrolled slopes go wrong first."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes

import invhyper as ih

WEIGHT = 0.02  # weight decay a row, where the errors are looked at
NEIGHBOUR = 1.25  # times that: where the warm start comes from
FAR = 10.0  # deviation of a far start; the features are standardised
BETA = 0.9
STEPS, CURSED = 10_000, 3000  # of the runs that converge, and of those from a far start
WINDOWS = (30, 300)
SEEN = (0.3, 0.03)  # late tangents begin when the spectrum says that x is nearer to its limit by this factor
ACCURACIES = (1e-1, 1e-2, 1e-3, 1e-6)
LINEAR, ROUNDING = (
    0.1,
    1e-10,
)  # relative distance of x_T within which errors are linear; relative errors below count not


@dataclass(frozen=True)
class Case:
    """A lower level, its criterion, the theta where its hypergradient is studied, and the step 1/L of descent on it."""

    name: str
    lower: Any
    criterion: ih.HeldOut
    theta: dict
    step: np.ndarray

    @property
    def problem(self) -> ih.Bilevel:
        return ih.Bilevel(self.lower, self.criterion)

    @property
    def loss(self) -> Callable:
        return jax.tree_util.Partial(type(self.lower).objective, self.lower)

    def descent(self, start: np.ndarray | None = None) -> ih.GradientDescent:
        """Gradient descent from `start` (None: zero); another start does not compile anew."""
        start = np.zeros(self.lower.A.shape[1]) if start is None else np.asarray(start)
        return ih.GradientDescent(self.loss, start, ih.Constant(self.step))

    def run(self, start: np.ndarray | None = None) -> ih.Bilevel:
        """The criterion at what descent from `start` reaches: `Unrolled(T)` runs it for T steps."""
        return ih.Bilevel(self.descent(start), self.criterion)

    def after(self, start: np.ndarray | None = None, steps: int = 1) -> ih.Bilevel:
        """The criterion at what descent from `start` reaches in `steps`, which `Implicit` takes for the solution."""
        return ih.Bilevel(ih.FixedPoint(self.descent(start), max_steps=steps), self.criterion)


def halves(A: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Even rows to fit, odd rows to judge, features standardised by the even rows."""
    A = (A - A[::2].mean(axis=0)) / A[::2].std(axis=0)
    return A[::2], y[::2], A[1::2], y[1::2]


def ridge() -> Case:
    """The diabetes data, one weight for each of ten features."""
    data = load_diabetes()
    y = (data.target - data.target[::2].mean()) / data.target[::2].std()
    A, y, other, other_y = halves(data.data, y)
    weight = WEIGHT * len(y)
    step = np.asarray(1 / (np.linalg.norm(A, 2) ** 2 + weight))
    criterion = ih.HeldOut(other, other_y, ih.squared)
    return Case("ridge", ih.Ridge(A, y), criterion, {"l2": np.full(A.shape[1], weight)}, step)


def logistic() -> Case:
    """The breast-cancer data, one weight for all thirty features."""
    data = load_breast_cancer()
    A, y, other, other_y = halves(data.data, 2.0 * data.target - 1.0)
    step = np.asarray(1 / (np.linalg.norm(A, 2) ** 2 / (4 * len(y)) + WEIGHT))
    criterion = ih.HeldOut(other, other_y, ih.log_loss)
    return Case("logistic", ih.Logistic(A, y), criterion, {"l2": np.asarray(WEIGHT)}, step)


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Follow every hypergradient over T on both problems, then tune the logistic weight beside short runs.

    **Arguments**: `quick`: runs of 3000 steps for 10,000, fewer lengths and checks; `seed`: of the far start; `watch`:
    as in `tune`. The report is that of the logistic weight.
    """
    findings = {}
    for case in (ridge(), logistic()):
        findings |= {f"{case.name}_{name}": value for name, value in study(case, quick, seed).items()}
    start = ih.Parameters(l2=ih.log(WEIGHT, 1e-5, 1e1))
    report = ih.tune(case.problem, start, watch=watch, tol=1e-10, seed=seed)
    weights = np.geomspace(1e-4, 1.0, 13 if quick else 41)
    kept = WINDOWS[1:] if quick else WINDOWS
    findings |= {
        "weight": float(report.theta["l2"]),
        "loss": report.value,
        "weights": weights,
        "curve": ih.sweep(case.problem, {"l2": weights})[0],
        "short": {str(k): ih.sweep(case.run(), {"l2": weights}, ih.Unrolled(k))[0] for k in kept},
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def study(case: Case, quick: bool, seed: int) -> dict:
    """All that is measured on one problem."""
    exact = ih.Implicit()(case.problem, case.theta, tol=1e-13)
    truth, off = checked(case, exact)
    local = ih.spectrum(case.after(truth.x), case.theta)
    follow = functools.partial(trace, criterion=case.criterion, jacobian=truth.jacobian)
    return {
        "closed_form_error": off,
        "radius": local.radius,
        **over_steps(case, truth, follow, quick),
        **curse(case, truth, local, follow, quick, seed),
        **terms(case, truth, local, follow, quick),
    }


@dataclass(frozen=True)
class Truth:
    """dF/dl2, x* and dx*/dl2 (weights, features)."""

    slope: np.ndarray
    x: np.ndarray
    jacobian: np.ndarray

    def error(self, slopes) -> np.ndarray:
        """Of one hypergradient, or of one a row, relative to the exact one."""
        off = np.reshape(slopes, (-1, np.size(self.slope))) - np.ravel(self.slope)
        return np.squeeze(np.linalg.norm(off, axis=1) / np.linalg.norm(self.slope))


def checked(case: Case, exact: ih.Evaluation) -> tuple[Truth, float]:
    """What is exact, and how far `Implicit()` is from the closed form: H dx* = -dl2 x*, with H (and for ridge x*) in
    NumPy.
    """
    A, x, l2 = np.asarray(case.lower.A), np.asarray(exact.solution.x), case.theta["l2"]
    bend = np.ones(len(A))
    if case.name == "logistic":
        chance = 1 / (1 + np.exp(-A @ x))
        bend = chance * (1 - chance) / len(A)
    H = (A.T * bend) @ A + np.diag(np.broadcast_to(l2, x.shape))
    x = x if case.name == "logistic" else np.linalg.solve(H, A.T @ np.asarray(case.lower.y))
    jacobian = -np.linalg.solve(H, np.diag(x) if np.ndim(l2) else x[:, None]).T
    closed = jacobian @ np.asarray(jax.grad(case.criterion)(x, case.theta))
    truth = Truth(np.reshape(exact.gradient["l2"], np.shape(l2)), x, jacobian)
    return truth, float(truth.error(closed))


@eqx.filter_jit
def trace(iteration, theta, first, steps: int, *, criterion, jacobian):
    """x_t, dF/dl2 and |dx_t/dl2 - dx*/dl2| / |dx*/dl2| for t = 0, ..., `steps`; tangents begin at t = `first`.

    One program in forward mode for all that `Unrolled(T, window=T - first)` gives, T by T.
    """
    directions = jnp.eye(jnp.size(theta["l2"])).reshape(-1, *jnp.shape(theta["l2"]))

    def along(function, state, tangents):
        def one(tangent, direction):
            whole = lambda state, l2: function(state, {**theta, "l2": l2})  # noqa: E731
            return jax.jvp(whole, (state, theta["l2"]), (tangent, direction))

        return jax.vmap(one, out_axes=(None, 0))(tangents, directions)

    def record(state, tangents):
        x, moved = along(lambda state, _: iteration.output(state), state, tangents)
        _, slope = along(lambda state, theta: criterion(iteration.output(state), theta), state, tangents)
        return x, slope, jnp.linalg.norm(moved - jacobian) / jnp.linalg.norm(jacobian)

    def step(carry, t):
        state, moved = along(lambda state, theta: iteration.step(state, theta, t), *carry)
        tangents = jax.tree.map(lambda leaf: jnp.where(t >= first, leaf, 0.0), moved)
        return (state, tangents), record(state, tangents)

    state = iteration.init(theta)
    tangents = jax.tree.map(lambda leaf: jnp.zeros((len(directions), *leaf.shape)), state)
    _, later = jax.lax.scan(step, (state, tangents), jnp.arange(steps))
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), record(state, tangents), later)


def lengths(last: int, points: int) -> np.ndarray:
    """1 to `last`, evenly on a log scale, each once, and the windows."""
    return np.union1d(np.round(np.geomspace(1, last, points)).astype(int), WINDOWS)


def over_steps(case: Case, truth: Truth, follow, quick: bool) -> dict:
    """Errors of the hypergradient after T steps from zero: unrolled, windows, implicit and one step, with estimates."""
    last = CURSED if quick else STEPS
    x, slopes, _ = map(np.asarray, follow(case.descent(), case.theta, np.asarray(0), last))
    T, size = lengths(last, 16 if quick else 46), np.linalg.norm(truth.slope)
    methods = {"implicit": ih.Implicit(estimate=True), "one_step": ih.OneStep()}
    rows = {}
    for name, method in methods.items():
        found = [method(case.after(x[t - 1]), case.theta, throw=False) for t in T]
        rows[name] = truth.error([each.gradient["l2"] for each in found])
        rows[f"{name}_estimate"] = np.array([each.certificate.error_estimate for each in found]) / size
    windows, off = {}, []
    for k in WINDOWS[1:] if quick else WINDOWS:
        found = [ih.Unrolled(k)(case.run(x[t - k]), case.theta).gradient["l2"] for t in T[T >= k]]
        windows[str(k)] = np.append(np.full(np.sum(T < k), np.nan), truth.error(found))
        off.append(relative(found[0], slopes[k]))
    if not quick:
        off += [
            relative(ih.Unrolled(int(t))(case.run(), case.theta).gradient["l2"], slopes[t]) for t in (3, 1000, last)
        ]
        whole = methods["implicit"](case.after(steps=300), case.theta, throw=False)
        off.append(abs(truth.error(whole.gradient["l2"]) / rows["implicit"][T == 300][0] - 1))
    distance = np.linalg.norm(x[T] - truth.x, axis=1) / np.linalg.norm(truth.x)
    linear = (distance < LINEAR) & (rows["implicit"] > ROUNDING)
    ratio = rows["implicit_estimate"] / rows["implicit"]
    return {
        "steps": T,
        **rows,
        "unrolled": truth.error(slopes[T]),
        "windows": windows,
        "linear": linear,
        "ratio_low": float(ratio[linear].min()),
        "ratio_high": float(ratio[linear].max()),
        "early_ratio_low": float(ratio[distance >= LINEAR].min()),
        "early_ratio_high": float(ratio[distance >= LINEAR].max()),
        "one_step_error": float(rows["one_step"][-1]),
        "one_step_ratio": float(rows["one_step_estimate"][-1] / rows["one_step"][-1]),
        "traced_as_unrolled": float(max(off)),
    }


def curse(case: Case, truth: Truth, local: ih.Spectrum, follow, quick: bool, seed: int) -> dict:
    """Errors from a far start: every step differentiated, late ones alone, a start next door; and with momentum."""
    far = FAR * np.random.default_rng(seed).standard_normal(truth.x.size)
    late = [local.terms(factor) for factor in SEEN]
    neighbour = ih.Implicit()(case.problem, {"l2": NEIGHBOUR * case.theta["l2"]}, tol=1e-10)
    heavy, with_beta = ih.Momentum(case.loss, far, ih.Constant(case.step)), {**case.theta, "beta": np.asarray(BETA)}
    runs = {
        "plain": follow(case.descent(far), case.theta, np.asarray(0), CURSED),
        "later": follow(case.descent(far), case.theta, np.asarray(late[0]), CURSED),
        "latest": follow(case.descent(far), case.theta, np.asarray(late[1]), CURSED),
        "warm": follow(case.descent(neighbour.solution.x), case.theta, np.asarray(0), CURSED),
        "momentum": follow(heavy, with_beta, np.asarray(0), CURSED),
    }
    slopes, errors = ({name: np.asarray(run[i]) for name, run in runs.items()} for i in (1, 2))
    slope_errors = {name: truth.error(slope) for name, slope in slopes.items()}
    peak, T = int(np.argmax(errors["plain"])), np.append(0, lengths(CURSED, 200))
    off, library_peak = in_the_library(case, truth, far, neighbour, slopes, peak, late[1], quick)
    return {
        "late": np.array(late),
        "cursed_steps": T,
        "cursed": {name: error[T] for name, error in errors.items()},
        "cursed_slopes": {name: error[T] for name, error in slope_errors.items()},
        "peak_at": peak,
        **{f"peak_{name}": float(error.max()) for name, error in errors.items()},
        **{f"peak_slope_{name}": float(error.max()) for name, error in slope_errors.items()},
        **{f"end_{name}": float(error[-1]) for name, error in errors.items()},
        "library_peak": library_peak,
        "traced_as_run": off,
    }


def in_the_library(case, truth, far, neighbour, slopes, peak, late, quick) -> tuple[float, float]:
    """(how far the traced runs are from the library's own, the error of the library's dx_T/dl2 at the peak)."""
    run, T = case.run(far), 2 * late
    jacobian = jax.jit(jax.jacfwd(ih.layer(run.lower, ih.Forward(peak))))(case.theta)["l2"]
    jacobian = np.atleast_2d(np.moveaxis(np.asarray(jacobian), 0, -1))
    error = np.linalg.norm(jacobian - truth.jacobian) / np.linalg.norm(truth.jacobian)
    found = [
        (ih.Unrolled(WINDOWS[-1])(run, case.theta), slopes["plain"][WINDOWS[-1]]),
        (ih.Unrolled(T, window=T - late)(run, case.theta), slopes["latest"][T]),
    ]
    if not quick:
        found.append((ih.Unrolled(peak)(run, case.theta), slopes["plain"][peak]))
        found.append((ih.Unrolled(peak)(run, case.theta, warm=neighbour), slopes["warm"][peak]))
    return max(relative(each.gradient["l2"], slope) for each, slope in found), float(error)


def terms(case: Case, truth: Truth, local: ih.Spectrum, follow, quick: bool) -> dict:
    """Neumann series at the solution: their errors over the number k of terms, and the k that the spectrum predicts."""
    at_rest, resting = case.after(truth.x), case.run(truth.x)
    slopes = np.asarray(follow(case.descent(truth.x), case.theta, np.asarray(0), CURSED)[1])
    errors, k = truth.error(slopes), lengths(CURSED, 80)
    kept = WINDOWS[1:] if quick else (10, *WINDOWS, 1000)
    series = [ih.Implicit(ih.Neumann(n, step=1.0))(at_rest, case.theta, throw=False).gradient["l2"] for n in kept]
    windows = [ih.Unrolled(n)(resting, case.theta).gradient["l2"] for n in kept]
    if not quick:
        windows[0] = ih.Unrolled(2000, window=kept[0])(resting, case.theta).gradient["l2"]
    predicted = np.array([local.terms(accuracy) for accuracy in ACCURACIES])
    needed = np.array([int(np.argmax(errors <= accuracy)) for accuracy in ACCURACIES])
    return {
        "accuracies": np.array(ACCURACIES),
        "predicted": predicted,
        "needed": needed,
        "predicted_over_needed": float(predicted[-1] / needed[-1]),
        "kept": k,
        "kept_errors": errors[k],
        "series": np.array(kept),
        "series_errors": np.atleast_1d(truth.error(series)),
        "window_errors": np.atleast_1d(truth.error(windows)),
        "series_as_windows": max(map(relative, series, windows)),
        "traced_as_series": max(map(relative, slopes[list(kept)], series)),
    }


def relative(a, b) -> float:
    """|a - b| / |b|."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = []
    for name in ("ridge", "logistic"):
        own = {key.removeprefix(f"{name}_"): value for key, value in found.items() if key.startswith(name)}
        lines += [
            f"{name}: spectral radius of a step {own['radius']:.5f}; estimate of the implicit error over the true one"
            f" {own['ratio_low']:.3f} to {own['ratio_high']:.3f} at {np.sum(own['linear'])} lengths T",
            f"    far start: the error of dx_T/dl2 grows {own['peak_plain']:.1f} times, until T = {own['peak_at']}"
            f" (momentum {own['peak_momentum']:.1f}); differentiated from step {own['late'][0]} on"
            f" {own['peak_later']:.2f}, from {own['late'][1]} on {own['peak_latest']:.2f}; warm {own['peak_warm']:.2f}",
            f"    terms for 1e-3: {own['predicted'][2]} predicted, {own['needed'][2]} needed;"
            f" for 1e-6: {own['predicted'][3]} and {own['needed'][3]}; one step is"
            f" {100 * own['one_step_error']:.0f} % off, by its own estimate"
            f" {100 * own['one_step_ratio'] * own['one_step_error']:.0f} %",
        ]
    lines.append(f"logistic weight, tuned: l2 = {found['weight']:.6g}, held-out loss {found['loss']:.8f}")
    return lines
