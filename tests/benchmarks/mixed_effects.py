"""Populations: theophylline from a cold start of Python and warm, and how time and memory grow with the subjects.

python tests/benchmarks/mixed_effects.py theophylline
python tests/benchmarks/mixed_effects.py growth
"""

import resource
import sys
import time

BEGAN = time.perf_counter()

from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

import invhyper as ih  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from populations import THEOPH_START, clearance_and_absorption, one_compartment, theophylline  # noqa: E402


def fits(repeats: int = 5):
    """Each method's fit: the first from the start of this process, then warm ones."""
    began = BEGAN
    for method in (ih.FOCEI(), ih.Laplace()):
        fit = theophylline().fit(THEOPH_START, method)
        first, began = time.perf_counter() - began, time.perf_counter()
        warm = []
        for _ in range(repeats):
            before = time.perf_counter()
            theophylline().fit(THEOPH_START, method)
            warm.append(time.perf_counter() - before)
        print(
            f"{method!r:10s} -2 log L = {-2 * fit.log_likelihood:.6f}; first {first:.1f} s, of which compilation "
            f"{fit.seconds['compile']:.1f} s; warm {np.median(warm):.3f} s ({fit.evaluations} evaluations)"
        )
        began = time.perf_counter()


def simulated(subjects: int, seed: int = 0) -> ih.MixedEffects:
    """So many patients of the theophylline kind, eleven measurements each."""
    rng = np.random.default_rng(seed)
    times = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 3.5, 5.0, 7.0, 9.0, 12.0, 24.0])
    root = np.linalg.cholesky(np.array([[0.03, 0.0], [0.0, 0.4]]))
    records = []
    for _ in range(subjects):
        eta, dose = root @ rng.standard_normal(2), rng.uniform(3, 6)
        phi = {"lKe": -2.46, "lKa": 0.48 + eta[1], "lCl": -3.23 + eta[0]}
        values = np.asarray(one_compartment(phi, {"dose": dose}, times)) + 0.7 * rng.standard_normal(times.size)
        records.append(ih.Records(times, values, {"dose": dose}))
    return ih.MixedEffects(one_compartment, clearance_and_absorption, records, ih.AdditiveError())


def growth(repeats: int = 9):
    """Likelihood and gradient once from cold modes (the least of some), and a fit, at 1,000 and 10,000 subjects."""
    for method in (ih.FOCEI(), ih.Laplace()):
        took = {}
        for subjects in (1000, 10000):
            population = simulated(subjects)
            problem = population.problem(method)
            ih.Implicit()(problem, THEOPH_START)
            evaluations = []
            for _ in range(repeats):
                before = time.perf_counter()
                ih.Implicit()(problem, THEOPH_START)
                evaluations.append(time.perf_counter() - before)
            fit = population.fit(THEOPH_START, method)
            took[subjects] = (min(evaluations), fit.seconds["run"])
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"{method!r:10s} {subjects:6d} subjects: evaluation {took[subjects][0]:.3f} s, fit "
                f"{took[subjects][1]:.1f} s ({fit.evaluations} evaluations); peak memory {peak:.2f} GiB"
            )
        ratios = np.divide(took[10000], took[1000])
        print(f"{method!r:10s} ten times the subjects: evaluation x {ratios[0]:.1f}, fit x {ratios[1]:.1f}")


if __name__ == "__main__":
    {"theophylline": fits, "growth": growth}[sys.argv[1] if len(sys.argv) > 1 else "theophylline"]()
