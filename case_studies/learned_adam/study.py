"""Adam's numbers, learned through the training run: three of them, then one step size for each of thirty stretches."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from sklearn.datasets import load_digits

import invhyper as ih

STEPS, STRETCHES, HIDDEN, BATCH = 300, 30, 32, 10
# Training runs of the random search: ten times those whose time the hypergradients of the learned numbers took when
# this was set (22 of about 11 each; the study measures it again), and three times.
DRAWS, FEW_DRAWS = 2400, 720
OPTAX = {"alpha": 1e-3, "beta1": 0.9, "beta2": 0.999}


class Loss(eqx.Module):
    """Mean cross-entropy of a network with one hidden layer on some rows: all of them, or a minibatch."""

    A: Float[Array, "n 64"]
    y: Int[Array, " n"]

    def __call__(self, x, theta, rows=None):
        A, y = (self.A, self.y) if rows is None else (self.A[rows], self.y[rows])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(scores(x, A)), y[:, None], axis=1))


def scores(x, A):
    """The network's output."""
    return jnp.tanh(A @ x["first"] + x["shift"]) @ x["last"] + x["offset"]


@dataclass(frozen=True)
class Digits:
    """Training, validation and test rows, less the mean of the training rows; the network before training."""

    train: Loss
    validate: Loss
    test: Loss
    start: dict
    batches: np.ndarray


def digits(seed: int) -> Digits:
    """600 training, 600 validation and 597 test rows of scikit-learn's digits in random order."""
    data, rng = load_digits(), np.random.default_rng(seed)
    order = rng.permutation(len(data.target))
    train, validate, test = np.split(order, [600, 1200])
    pixels = data.data / 16.0
    mean = pixels[train].mean(axis=0)
    losses = [
        Loss(jnp.asarray(pixels[rows] - mean), jnp.asarray(data.target[rows])) for rows in (train, validate, test)
    ]
    start = {
        "first": rng.standard_normal((64, HIDDEN)) / 8,
        "shift": np.zeros(HIDDEN),
        "last": np.zeros((HIDDEN, 10)),
        "offset": np.zeros(10),
    }
    return Digits(*losses, start, ih.minibatches(600, BATCH, STEPS, seed))


def problem(rows: Digits, schedule: Callable | None = None) -> ih.Bilevel:
    """The validation loss after training with Adam; `schedule` in place of a constant step size."""
    return ih.Bilevel(ih.AdamIteration(rows.train, rows.start, schedule, batches=rows.batches), rows.validate)


def stretches() -> ih.Piecewise:
    """One step size for each tenth step and those after it."""
    length = STEPS // STRETCHES
    return ih.Piecewise(tuple(range(length, STEPS, length)), key="alpha")


@eqx.filter_jit
def outcome(trained: ih.Bilevel, test: Loss, theta):
    """Validation loss, test loss and test accuracy after one training run."""
    x = ih.layer(trained.lower, ih.Unrolled(STEPS))(theta)
    right = jnp.argmax(scores(x, test.A), axis=1) == test.y
    return trained.criterion(x, theta), test(x, theta), jnp.mean(right)


@eqx.filter_jit
def curve(trained: ih.Bilevel, theta):
    """The validation loss after each step."""
    iteration = trained.lower.iteration()

    def step(state, t):
        state = iteration.step(state, theta, t)
        return state, trained.criterion(iteration.output(state), theta)

    return jax.lax.scan(step, iteration.init(theta), jnp.arange(STEPS))[1]


def scaled(alpha, beta1, beta2) -> ih.Parameters:
    """Starts and bounds of the search."""
    return ih.Parameters(
        alpha=ih.log(alpha, 1e-6, 2.0), beta1=ih.logit(beta1, 1e-3, 0.9999), beta2=ih.logit(beta2, 1e-3, 0.99999)
    )


def learn(rows: Digits, seed: int, watch: Sequence[Callable] = ()) -> tuple[ih.Report, ih.Report]:
    """Three numbers from optax's defaults, then `STRETCHES` step sizes and two rates from there."""
    three = ih.tune(problem(rows), scaled(**OPTAX), ih.Unrolled(STEPS), ih.LBFGSB(), steps=10, watch=watch)
    found = {name: float(value) for name, value in three.theta.items()}
    many = scaled(np.full(STRETCHES, found["alpha"]), found["beta1"], found["beta2"])
    method, search = ih.Unrolled(STEPS), ih.LBFGSB()
    return three, ih.tune(problem(rows, stretches()), many, method, search, steps=12, watch=watch, seed=seed)


def draw(seed: int, count: int) -> list[dict]:
    """Random search: alpha, 1 - beta1 and 1 - beta2 log-uniform over four, three and four decades."""
    drawn = np.random.default_rng([seed, 1]).random((count, 3))
    return [
        {"alpha": 10.0 ** (-4 * u), "beta1": 1 - 10.0 ** (-3 * v), "beta2": 1 - 10.0 ** (-4 * w)} for u, v, w in drawn
    ]


def one_split(seed: int, draws: int, watch: Sequence[Callable] = ()) -> tuple[ih.Report, dict]:
    """Defaults, random search and the two learned sets of numbers on one split of the rows."""
    rows = digits(seed)
    plain, staged = problem(rows), problem(rows, stretches())
    three, many = learn(rows, seed, watch)
    thetas = draw(seed, draws)
    random = np.array([outcome(plain, rows.test, {k: jnp.asarray(v) for k, v in t.items()})[0] for t in thetas])
    best = thetas[int(np.nanargmin(random))]
    ways = {
        "defaults": (plain, OPTAX),
        "random": (plain, best),
        "three": (plain, three.theta),
        "learned": (staged, many.theta),
    }
    ways = {
        name: (trained, {k: jnp.asarray(v, float) for k, v in theta.items()}) for name, (trained, theta) in ways.items()
    }
    found = {
        "losses": {
            name: [float(part) for part in outcome(trained, rows.test, theta)]
            for name, (trained, theta) in ways.items()
        },
        "random": random,
        "random_alpha": np.array([theta["alpha"] for theta in thetas]),
        "best": best,
        "three": {name: float(value) for name, value in three.theta.items()},
        "first": len(three.history),
        "path": np.array([step.value for step in (*three.history, *many.history)]),
        "curves": np.array([curve(trained, theta) for trained, theta in ways.values()]),
        "ways": list(ways),
    }
    return many, found


def price(trained: ih.Bilevel, test: Loss, theta: dict, repeats: int = 9) -> float:
    """The time of one hypergradient in training runs without any, both compiled: the least of several, in turn."""
    theta = {name: jnp.asarray(value, float) for name, value in theta.items()}
    ways = (
        lambda: jax.block_until_ready(outcome(trained, test, theta)),
        lambda: ih.Unrolled(STEPS)(trained, theta),
    )
    plain, with_slope = np.array([[seconds(way) for way in ways] for _ in range(repeats)]).min(axis=0)
    return float(with_slope / plain)


def seconds(work: Callable) -> float:
    """The time it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def by_optax(rows: Digits) -> float:
    """The validation loss after optax's own Adam at its defaults."""
    run = ih.Optax(rows.train, rows.start, lambda theta: optax.adam(theta["alpha"]), batches=rows.batches)
    trained = ih.Bilevel(run, rows.validate)
    return float(outcome(trained, rows.test, {"alpha": jnp.asarray(OPTAX["alpha"])})[0])


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Learn Adam's numbers on digits, beside optax's defaults and a random search with ten times the training runs.

    **Arguments**: `quick`: one split for four, three times the runs in place of ten; `seed`: of the first split;
    `watch`: as in `tune`. The report is that of the thirty step sizes; everything else is in the findings.
    """
    draws = FEW_DRAWS if quick else DRAWS
    report, found = one_split(seed, draws, watch)
    others = [one_split(seed + 1 + i, draws)[1] for i in range(0 if quick else 3)]
    evaluations = len(found["path"])
    splits = np.array([[each["losses"][way] for way in found["ways"]] for each in (found, *others)])
    rows = digits(seed)
    gradient = ih.Unrolled(STEPS)(problem(rows), OPTAX).gradient
    prices = price(problem(rows), rows.test, OPTAX), price(problem(rows, stretches()), rows.test, report.theta)
    bought = np.repeat(prices, [found["first"], evaluations - found["first"]])
    findings = {
        **{f"{way}_loss": found["losses"][way][0] for way in found["ways"]},
        **{f"{way}_test_loss": found["losses"][way][1] for way in found["ways"]},
        "optax_loss": by_optax(rows),
        "evaluations": evaluations,
        "first": found["first"],
        "runs_per_hypergradient": list(prices),
        "runs_spent": np.cumsum(bought),
        "random_runs": draws,
        "share_of_runs": float(np.sum(bought) / draws),
        "dead_columns": int(np.sum(np.all(load_digits().data == 0, axis=0))),
        "gradient_is_finite": int(all(np.all(np.isfinite(part)) for part in gradient.values())),
        "splits": splits,
        "splits_won": int(np.sum(splits[:, 3, 0] <= splits[:, 1, 0])),
        "splits_won_on_test": int(np.sum(splits[:, 3, 1] <= splits[:, 1, 1])),
        "alphas": np.asarray(report.theta["alpha"]),
        "beta1": float(report.theta["beta1"]),
        "beta2": float(report.theta["beta2"]),
        **{key: found[key] for key in ("random", "random_alpha", "best", "three", "path", "curves", "ways")},
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    names = {
        "defaults": "optax's defaults",
        "random": f"best of {found['random_runs']} random ones",
        "three": "alpha, beta1, beta2 learned",
        "learned": f"{STRETCHES} alphas, beta1, beta2 learned",
    }
    lines = [f"{'network of 32 hidden units, 300 steps of Adam':36}{'validation':>12}{'test':>10}{'correct':>10}"]
    for way, (validation, test, correct) in zip(found["ways"], found["splits"][0], strict=True):
        lines.append(f"{names[way]:36}{validation:12.4f}{test:10.4f}{100 * correct:9.1f}%")
    lines.append(
        f"{found['evaluations']} hypergradients, as long as {found['runs_spent'][-1]:.0f} training runs"
        f" ({found['runs_per_hypergradient'][0]:.1f} each for 3 numbers, {found['runs_per_hypergradient'][1]:.1f} for"
        f" {STRETCHES + 2}), against {found['random_runs']} of the random search"
    )
    lines.append(
        f"learned at or below the random search in {found['splits_won']} of {len(found['splits'])} splits, on the test"
        f" rows in {found['splits_won_on_test']}"
    )
    return lines
