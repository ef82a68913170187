"""A step size that falls with time: its two numbers learned through the whole training, against a grid."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import invhyper as ih

TRAIN, VALIDATE, CLASSES = 600, 600, 10  # rows; the other 597 are for the test
STEPS, BATCH, ORDERS = 500, 10, 8  # of a run: steps, rows a step, orders of the minibatches, trained side by side
A, B = (-5.0, 3.0), (-10.0, 0.0)  # eta_0 from 0.007 to 20; halved after 1 step to 22,000
POINTS = 15  # a side of the grid
EVALUATIONS = 18  # hypergradients that the search may ask for
START = {"a": -1.0, "b": -5.0}  # the middle of both ranges


class CrossEntropy(eqx.Module):
    """Cross-entropy of softmax regression, several trainings side by side: W (orders, pixels, classes).

    On all pictures: the mean over pictures and trainings, what judges. With `rows` (orders, batch), each training on
    its own: the sum over the trainings, so that each descends its own mean.
    """

    pictures: jax.Array
    labels: jax.Array

    def __call__(self, x, theta, rows=None):
        labels = jnp.broadcast_to(self.labels, (ORDERS, self.labels.size)) if rows is None else self.labels[rows]
        scores = self.scores(x, rows)
        own = jnp.take_along_axis(scores, labels[..., None], axis=-1)[..., 0]
        each = jnp.mean(jax.nn.logsumexp(scores, axis=-1) - own, axis=-1)
        return jnp.mean(each) if rows is None else jnp.sum(each)

    def scores(self, x, rows=None):
        """(orders, pictures, classes)."""
        return (self.pictures if rows is None else self.pictures[rows]) @ x["W"] + x["b"]

    def accuracy(self, x) -> float:
        """Share of the pictures that are named rightly, over all trainings."""
        return float(np.mean(np.argmax(self.scores(x), axis=-1) == self.labels))


@dataclass(frozen=True)
class Digits:
    """Rows to train on, rows that judge the schedule, rows that nothing sees; the pictures' grey values in [0, 1]."""

    train: CrossEntropy
    validate: CrossEntropy
    test: CrossEntropy


def digits(seed: int) -> Digits:
    """A random split of scikit-learn's 1797 digits."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    parts = np.split(order, [TRAIN, TRAIN + VALIDATE])
    return Digits(*(CrossEntropy(jnp.asarray(data.data[p] / 16.0), jnp.asarray(data.target[p])) for p in parts))


def training(rows: Digits, seed: int, schedule: Callable | None) -> ih.Bilevel:
    """Softmax regression from zero by stochastic gradient descent, judged by the validation rows."""
    x0 = {"W": np.zeros((ORDERS, rows.train.pictures.shape[1], CLASSES)), "b": np.zeros((ORDERS, 1, CLASSES))}
    orders = [ih.minibatches(TRAIN, BATCH, STEPS, seed=ORDERS * seed + i) for i in range(ORDERS)]
    return ih.Bilevel(ih.GradientDescent(rows.train, x0, schedule, batches=np.stack(orders, axis=1)), rows.validate)


@eqx.filter_jit
def plain_run(problem: ih.Bilevel, theta: dict):
    """Criterion and x of one run, without any derivative: what a grid pays for a point."""
    run = problem.lower.iteration()
    x = run.output(jax.lax.fori_loop(0, STEPS, lambda t, state: run.step(state, theta, t), run.init(theta)))
    return problem.criterion(x, theta), x


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Learn (a, b) on one split, against the grid; then nine starts, other splits, other orders, a free schedule.

    **Arguments**: `quick`: one split for ten, one start for nine, fewer steps of the free schedule; `seed`: of the
    first split and its order of minibatches; `watch`: as in `tune`. The report is that of the learned schedule.
    """
    rows = digits(seed)
    problem = training(rows, seed, ih.InverseTime())
    report = learn(problem, START, watch=watch, seed=seed)
    a, b, values = grid(problem)
    lowest = float(np.nanmin(values))
    best = best_point(a, b, values)
    starts = [START] if quick else start_points()
    ends = np.array([report.value if start == START else learn(problem, start).value for start in starts])
    main = [losses(problem, theta, rows) for theta in (best, report.theta)]
    splits = np.array([main, *(one_split(seed + i) for i in range(1, 1 if quick else 10))])
    free = free_schedule(training(rows, seed, None), report.theta, 10 if quick else 80)
    fresh = np.array([other_orders(rows, i, best, report.theta, free.theta) for i in range(2 if quick else 10)])
    equivalent = cost(problem, report.theta)
    eta = {name: etas(theta) for name, theta in (("start", START), ("grid", best), ("learned", report.theta))}
    findings = {
        "learned_loss": report.value,
        "grid_loss": lowest,
        "evaluations": len(report.history),
        "evaluations_to_beat": first_below(report, lowest),
        "grid_runs": int(values.size),
        "runs_per_hypergradient": equivalent,
        "run_equivalents": equivalent * len(report.history),
        "learned_a": float(report.theta["a"]),
        "learned_b": float(report.theta["b"]),
        "grid_a": best["a"],
        "grid_b": best["b"],
        "inside": bool(A[0] < best["a"] < A[1] and B[0] < best["b"] < B[1]),
        "starts": np.array([[start["a"], start["b"]] for start in starts]),
        "starts_loss": ends,
        "starts_below": int(np.sum(ends <= lowest)),
        "splits": splits,
        "fresh_loss": dict(zip(("grid", "learned", "free"), fresh[:, :, 1].mean(axis=0).tolist(), strict=True)),
        "splits_count": len(splits),
        "splits_below": int(np.sum(splits[:, 1, 0] <= splits[:, 0, 0])),
        "splits_better_on_test": int(np.sum(splits[:, 1, 1] <= splits[:, 0, 1])),
        "orders": fresh,
        "free_loss": free.value,
        "free_evaluations": len(free.history),
        "eta": eta | {"free": np.asarray(free.theta["eta"])},
        "map": values,
        "a": a,
        "b": b,
        "path": np.array([[step.theta["a"], step.theta["b"], step.value] for step in report.history]),
    }
    for name, x in (
        ("grid", plain_run(problem, best)[1]),
        ("learned", report.solution.x),
        ("free", free.solution.x),
    ):
        findings |= {
            f"{name}_test_loss": float(rows.test(x, None)),
            f"{name}_test_accuracy": rows.test.accuracy(x),
            f"{name}_train_loss": float(rows.train(x, None)),
        }
    return replace(report, findings={**findings, "summary": summary(findings)})


def learn(problem: ih.Bilevel, start: dict, **options) -> ih.Report:
    """(a, b) by L-BFGS-B on the hypergradient of the whole run, within the ranges of the grid."""
    box = ih.Parameters(a=ih.linear(start["a"], *A), b=ih.linear(start["b"], *B))
    return ih.tune(problem, box, ih.Unrolled(STEPS), ih.LBFGSB(), steps=EVALUATIONS, **options)


def first_below(report: ih.Report, value: float) -> int:
    """The evaluations after which a search was at or below `value`; 0: it never was."""
    below = np.array([step.value <= value for step in report.history])
    return int(np.argmax(below)) + 1 if below.any() else 0


def start_points() -> list[dict]:
    """A quarter, a half and three quarters into both ranges."""
    at = (0.25, 0.5, 0.75)
    return [{"a": A[0] + i * (A[1] - A[0]), "b": B[0] + j * (B[1] - B[0])} for i in at for j in at]


def grid(problem: ih.Bilevel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """a, b and the validation loss of a run at each pair, by plain runs; not finite where a run diverges."""
    a, b = np.linspace(*A, POINTS), np.linspace(*B, POINTS)
    return a, b, np.array([[float(plain_run(problem, {"a": i, "b": j})[0]) for j in b] for i in a])


def best_point(a: np.ndarray, b: np.ndarray, values: np.ndarray) -> dict:
    i, j = np.unravel_index(np.nanargmin(values), values.shape)
    return {"a": float(a[i]), "b": float(b[j])}


def losses(problem: ih.Bilevel, theta: dict, rows: Digits) -> tuple[float, float]:
    """On the validation and on the test rows."""
    value, x = plain_run(problem, theta)
    return float(value), float(rows.test(x, None))


def one_split(seed: int) -> list[tuple[float, float]]:
    """(validation loss, test loss) of the grid's best and of the learned schedule on one random split."""
    rows = digits(seed)
    problem = training(rows, seed, ih.InverseTime())
    learned, best = learn(problem, START), best_point(*grid(problem))
    return [losses(problem, theta, rows) for theta in (best, learned.theta)]


def other_orders(rows: Digits, i: int, best: dict, learned: dict, free: dict) -> list[tuple[float, float]]:
    """(validation loss, test loss) of the three schedules where the minibatches come in orders that none has seen."""
    falling, any_size = (training(rows, 1000 + i, schedule) for schedule in (ih.InverseTime(), None))
    return [losses(falling, best, rows), losses(falling, learned, rows), losses(any_size, free, rows)]


def etas(theta: dict) -> np.ndarray:
    return np.asarray(ih.InverseTime()(theta, np.arange(STEPS)))


def free_schedule(problem: ih.Bilevel, theta: dict, steps: int) -> ih.Report:
    """One step size for every step, all learned together from the best (a, b)."""
    box = ih.Parameters(eta=ih.log(etas(theta), 1e-4, 20.0))
    return ih.tune(problem, box, ih.Unrolled(STEPS), ih.Adam(rate=0.05), steps=steps)


def cost(problem: ih.Bilevel, theta: dict, repeats: int = 9) -> float:
    """The time of one hypergradient in plain runs, both compiled: the least of several, taken in turn."""
    ways = (
        lambda: plain_run(problem, theta)[0].block_until_ready(),
        lambda: ih.Unrolled(STEPS)(problem, theta),
    )
    taken = np.array([[_seconds(way) for way in ways] for _ in range(repeats)])
    plain, with_slope = taken.min(axis=0)
    return float(with_slope / plain)


def _seconds(work: Callable) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = [
        f"grid: {found['grid_runs']} runs, best validation loss {found['grid_loss']:.5f} at a = {found['grid_a']:.3f},"
        f" b = {found['grid_b']:.3f}",
        f"learned: {found['evaluations']} hypergradients, as long as {found['run_equivalents']:.0f} runs"
        f" ({found['runs_per_hypergradient']:.1f} each): {found['learned_loss']:.5f} at a = {found['learned_a']:.3f},"
        f" b = {found['learned_b']:.3f}; at or below the grid after {found['evaluations_to_beat']}",
        f"at or below the grid's best: from {found['starts_below']} of {len(found['starts'])} starts,"
        f" on {found['splits_below']} of {found['splits_count']} splits"
        f" (on their test rows: {found['splits_better_on_test']})",
        f"{'':24}{'training':>10}{'validation':>12}{'test':>10}{'accuracy':>10}",
    ]
    for name, label in (("grid", "best of the grid"), ("learned", "learned a, b"), ("free", "free schedule")):
        numbers = [found[f"{name}_{what}"] for what in ("train_loss", "loss", "test_loss", "test_accuracy")]
        lines.append("{:24}{:10.4f}{:12.4f}{:10.4f}{:10.4f}".format(label, *numbers))
    lines.append(f"with {len(found['orders'])} other draws of the orders of the minibatches:")
    names = ("best of the grid", "learned a, b", "free schedule")
    for label, (validation, test) in zip(names, found["orders"].mean(axis=0), strict=True):
        lines.append(f"{label:34}{validation:12.4f}{test:10.4f}")
    return lines
