"""Value and gradient of a calibration, fits and hypergradients: warm, first call, beside diffrax's Kvaerno5.

All in one run, times by the least of repetitions. Run: python tests/benchmarks/calibration.py
"""

import sys
import time
from pathlib import Path

import diffrax
import jax
import numpy as np
from jax.flatten_util import ravel_pytree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import kinetics  # noqa: E402

import invhyper as ih  # noqa: E402
from invhyper.lower import ode  # noqa: E402

THETA = {}


def timed(run, repeat=30):
    """Seconds of the first call and the least of the later ones; their results."""
    begin = time.perf_counter()
    found = jax.block_until_ready(run(0))
    first, least = time.perf_counter() - begin, np.inf
    for i in range(1, repeat):
        begin = time.perf_counter()
        jax.block_until_ready(run(i))
        least = min(least, time.perf_counter() - begin)
    return first, least, found


def value_and_gradient(make, name, solvers):
    """One row a solver: the objective and its gradient near the nominal parameters."""
    print(f"{name}: value and gradient")
    base = None
    for label, options in solvers.items():
        calibration, nominal = make(**options)
        calibration.check(THETA)
        x = ravel_pytree(nominal)[0]
        first, warm, local = timed(lambda i: ode._first_order(calibration, x * (1 + 1e-5 * i), THETA))  # noqa: B023
        base = base or warm
        used = type(calibration.chosen().simulator.solver).__name__
        print(
            f"  {label:34} {used:9} first {first:6.2f} s   warm {1e3 * warm:8.2f} ms   {warm / base:6.2f} x"
            f"   objective {float(local.value):.6f}   |gradient| {float(np.linalg.norm(local.slope)):.6g}"
        )


def hypergradient():
    """A fit of the Boehm model and its derivative in the prior's means, cold and warm."""

    def prior(p, theta):
        return 0.5 * sum((p[name] - theta["means"][i]) ** 2 for i, name in enumerate(sorted(p)))

    calibration, nominal = kinetics.boehm(prior=prior)
    problem = ih.Bilevel(calibration, lambda p, theta: sum(p[name] ** 2 for name in p))
    theta = {"means": np.array([nominal[name] for name in sorted(nominal)])}
    begin = time.perf_counter()
    evaluation = ih.Implicit()(problem, theta)
    first, warm = time.perf_counter() - begin, np.inf
    for i in range(1, 6):
        moved = {"means": theta["means"] * (1 + 1e-3 * i)}
        begin = time.perf_counter()
        evaluation = ih.Implicit()(problem, moved, warm=evaluation)
        warm = min(warm, time.perf_counter() - begin)
    error = evaluation.certificate.error_estimate / np.linalg.norm(evaluation.gradient["means"])
    print(f"hypergradient in 9 prior means: first {first:.1f} s, warm {1e3 * warm:.0f} ms, error estimate {error:.1e}")


def main():
    kvaerno = {"solver": diffrax.Kvaerno5()}
    value_and_gradient(
        kinetics.boehm,
        "Boehm (stiff, 8 states, 9 parameters), rtol = atol = 1e-8",
        {"diffrax Kvaerno5, forward mode": kvaerno, "chosen by invhyper": {}},
    )
    tight = {"rtol": 1e-12, "atol": 1e-12, "max_steps": 100_000}
    value_and_gradient(
        kinetics.crauste,
        "Crauste (explosive, 5 states, 12 parameters), rtol = atol = 1e-12",
        {"diffrax Kvaerno5, forward mode": kvaerno | tight, "Rodas5P": {"solver": ih.Rodas5P()} | tight,
         "chosen by invhyper": tight},
    )  # fmt: skip
    hypergradient()


if __name__ == "__main__":
    main()
