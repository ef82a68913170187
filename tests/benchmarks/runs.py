"""Hypergradients of runs: time of a thousand free step sizes against the plain run, peak memory over the steps.

python tests/benchmarks/runs.py [schedule] [memory]
"""

import resource
import subprocess
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

import invhyper as ih
from invhyper.hypergradient import unrolled

STEPS = 1000


def digits(hidden: int):
    """Softmax regression (hidden = 0) or a network of one hidden layer: loss by minibatch, its start, the rows."""
    data = load_digits()
    A, y = jnp.asarray(data.data / 16.0), jnp.asarray(data.target)
    rng = np.random.default_rng(0)

    def scores(x, A):
        return jnp.tanh(A @ x["first"]) @ x["last"] if hidden else A @ x["last"]

    def loss(x, theta, rows):
        logs = jax.nn.log_softmax(scores(x, A[rows]))
        return -jnp.mean(jnp.take_along_axis(logs, y[rows][:, None], axis=1))

    start = {"last": 0.1 * rng.standard_normal((hidden or 64, 10))}
    if hidden:
        start["first"] = 0.1 * rng.standard_normal((64, hidden))
    return loss, start, len(y)


def best(function, repeats: int = 7) -> float:
    """The least of some times, after a first call."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        before = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - before)
    return min(times)


def schedule():
    """One reverse pass for a thousand step sizes, over the time of the run."""
    for hidden, size in ((0, 64), (0, 512), (32, 64), (32, 512)):
        loss, start, rows = digits(hidden)
        batches = ih.minibatches(rows, size, STEPS)
        run = ih.GradientDescent(loss, start, batches=batches)
        problem = ih.Bilevel(run, lambda x, theta, loss=loss, rows=rows: loss(x, theta, jnp.arange(rows)))
        theta, method = {"eta": np.full(STEPS, 0.1)}, ih.Unrolled(STEPS)
        first = time.perf_counter()
        method(problem, theta)
        first = time.perf_counter() - first
        layer = ih.layer(run, method)
        plain = jax.jit(lambda theta: problem.criterion(layer(theta), theta))  # noqa: B023
        seconds = [best(lambda: plain(theta)), best(lambda: method(problem, theta).gradient["eta"])]  # noqa: B023
        print(
            f"{'network' if hidden else 'softmax':8s} {size:4d} rows a step: run {1e3 * seconds[0]:.1f} ms, "
            f"hypergradient {1e3 * seconds[1]:.1f} ms = {seconds[1] / seconds[0]:.2f} times; first call {first:.1f} s"
        )


def many(size: int = 100_000) -> ih.Bilevel:
    """A quadratic in as many unknowns."""
    curves = jnp.linspace(0.5, 1.5, size)
    run = ih.GradientDescent(lambda x, theta: 0.5 * theta["scale"] * jnp.sum(curves * x**2), np.ones(size))
    return ih.Bilevel(run, lambda x, theta: jnp.sum(x**2))


def peak(steps: int) -> float:
    """MiB at the peak of a process that takes one hypergradient."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ih.Unrolled(steps)(many(), {"eta": 1e-3, "scale": 1.0})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory():
    """Peak memory from a few to ten thousand steps: of the process, and what its compiled program asks for."""
    asked, theta = {}, {"eta": jnp.asarray(1e-3), "scale": jnp.asarray(1.0)}
    for steps in (2, 100, 1000, 10_000):
        printed = subprocess.run(
            [sys.executable, __file__, "peak", str(steps)], capture_output=True, text=True, check=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = unrolled._evaluate.lower(ih.Unrolled(steps), many(), theta, None, None).compile()
        asked[steps] = program.compiled.memory_analysis().temp_size_in_bytes / 2**20
        print(
            f"100,000 unknowns, {steps:6d} steps: {asked[steps]:4.0f} MiB; the process {float(printed.stdout):.0f} MiB"
        )
    print(f"10,000 steps against 100: {asked[10_000] / asked[100]:.2f} times")


if __name__ == "__main__":
    if sys.argv[1:2] == ["peak"]:
        print(peak(int(sys.argv[2])))
    else:
        for name in sys.argv[1:] or ("schedule", "memory"):
            {"schedule": schedule, "memory": memory}[name]()
