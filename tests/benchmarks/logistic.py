"""L2 logistic regression, n = 1000, p = 200: a whole `Implicit()` evaluation against NumPy/SciPy Newton and Cholesky.

    python tests/benchmarks/logistic.py

Minima of interleaved runs. Set OPENBLAS_NUM_THREADS=1 for the faster reference where two thread pools would compete.
"""

import time

import numpy as np
import scipy.linalg
from scipy.special import expit

import invhyper as ih

N, P, HELD = 1000, 200, 500


def reference(A, labels, held, held_labels, l2):
    """Held-out log-loss and its slope in l2: Newton to 1e-12, one more Cholesky for the adjoint."""
    x, count = np.zeros(P), 0
    while True:
        miss = expit(-labels * (A @ x))
        slope = -A.T @ (labels * miss) / N + l2 * x
        hessian = (A.T * (miss * (1 - miss) / N)) @ A
        hessian[np.diag_indices(P)] += l2
        factor = scipy.linalg.cho_factor(hessian)
        if np.linalg.norm(slope) < 1e-12 or count == 50:
            break
        x, count = x - scipy.linalg.cho_solve(factor, slope), count + 1
    margins = held_labels * (held @ x)
    pull = -held.T @ (held_labels * expit(-margins)) / HELD
    return np.mean(np.logaddexp(0, -margins)), -scipy.linalg.cho_solve(factor, pull) @ x


def seconds(run):
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def main(repeats: int = 25):
    rng = np.random.default_rng(0)
    truth = 2 * rng.standard_normal(P) / np.sqrt(P)
    A, held = rng.standard_normal((N, P)), rng.standard_normal((HELD, P))
    labels, held_labels = (np.where(rng.random(len(B)) < expit(B @ truth), 1.0, -1.0) for B in (A, held))
    problem = ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(held, held_labels))
    print("      l2  compile s  Newton ms   cold ms  ratio   warm ms  ratio    error")
    for l2 in (1e-1, 1e-2, 1e-3, 1e-4):
        first, start = seconds(lambda l2=l2: ih.Implicit()(problem, {"l2": 1.1 * l2}))
        newton, cold, warm = [], [], []
        for _ in range(repeats):
            spent, (_, slope) = seconds(lambda l2=l2: reference(A, labels, held, held_labels, l2))
            newton.append(spent)
            spent, evaluation = seconds(lambda l2=l2: ih.Implicit()(problem, {"l2": l2}))
            cold.append(spent)
            warm.append(seconds(lambda l2=l2, start=start: ih.Implicit()(problem, {"l2": l2}, warm=start))[0])
        error = abs(evaluation.gradient["l2"] / slope - 1)
        newton, cold, warm = (1e3 * min(times) for times in (newton, cold, warm))
        print(
            f"{l2:8.0e} {first:10.2f} {newton:10.2f} {cold:9.2f} {cold / newton:6.2f} "
            f"{warm:9.2f} {warm / newton:6.2f} {error:8.0e}"
        )


if __name__ == "__main__":
    main()
