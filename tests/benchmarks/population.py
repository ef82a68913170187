"""How a hypergradient through a `Population` grows with the subjects: warm time and peak memory, a process for each.

Each subject has five values of x' = -x + p sin 3t, x(0) = q, with its own p and q; theta holds mean and spread of q.
Run: python tests/benchmarks/population.py
"""

import resource
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np

import invhyper as ih

SIZES = (1_000, 10_000)
THETA = {"q": 0.8, "spread": 0.4}


def population(size, seed):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0.05, 5.0, (size, 5)), axis=1)
    values = rng.standard_normal(times.shape)
    return ih.Population(
        ih.Calibration(
            lambda t, x, p, theta, subject: -x + p["p"] * jnp.sin(3 * t),
            lambda p, theta, subject: p["q"],
            lambda t, x, p, theta, subject: x,
            list(times),
            list(values),
            noise=0.2,
            start={"p": 0.0, "q": 0.0},
            prior=lambda p, theta: 0.5 * ((p["q"] - theta["q"]) / theta["spread"]) ** 2,
            conditions=[{}] * size,
        )
    )


def measure(size):
    """Seconds of the first call and the least of three warm ones, GiB at the peak."""
    problem = ih.Bilevel(population(size, 0), ih.Misfit(population(size, 1)))
    begin = time.perf_counter()
    found = ih.Implicit()(problem, THETA)
    first, least = time.perf_counter() - begin, np.inf
    for q in (0.81, 0.82, 0.83):
        begin = time.perf_counter()
        found = ih.Implicit()(problem, THETA | {"q": q}, warm=found)
        least = min(least, time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{size} {first:.3f} {least:.4f} {peak:.3f}")


def main():
    rows = {}
    for size in SIZES:
        shown = subprocess.run([sys.executable, __file__, str(size)], capture_output=True, text=True, check=True).stdout
        _, first, least, peak = map(float, shown.split())
        rows[size] = least
        print(f"{size:6d} subjects: first call {first:5.1f} s, warm {least:6.3f} s, peak memory {peak:.2f} GiB")
    print(f"ten times the subjects: {rows[SIZES[1]] / rows[SIZES[0]]:.1f} times the time")


if __name__ == "__main__":
    measure(int(sys.argv[1])) if len(sys.argv) > 1 else main()
