"""How often does a search find the global minimum of a lasso criterion, and in how many lower-level solves?

Random halves of the diabetes data (10 columns, and 64 with second-order features) and random sparse regressions;
bounds weight_max [1e-5, 1], starts weight_max / 10 and weight_max / 1e4. "found": within 1e-9 max(1, |F|) of the
best of a grid of 1000 points, refined twice, or better than it.
Run: python tests/benchmarks/bracket.py [problems of each kind]
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import zoo  # noqa: E402

import invhyper as ih  # noqa: E402


def second_order(seed):
    """A random half of diabetes with the products of its columns (but that of sex with itself, a copy of sex)."""
    from sklearn.datasets import load_diabetes

    A, y = load_diabetes(return_X_y=True)
    i, j = np.triu_indices(A.shape[1])
    A = np.hstack([A, (A[:, i] * A[:, j])[:, (i != 1) | (j != 1)]])
    A, y = (A - A.mean(0)) / A.std(0), (y - y.mean()) / y.std()
    fit, held = np.split(np.random.default_rng(seed).permutation(len(y)), [len(y) // 2])
    return ih.Bilevel(ih.BPDN(A[fit], y[fit]), ih.HeldOut(A[held], y[held])), ih.weight_max(A[fit], y[fit])


def sparse_regression(seed):
    """Gaussian A, a few coefficients +-1, noise of a random level."""
    rng = np.random.default_rng(1000 + seed)
    n, p = int(rng.integers(30, 120)), int(rng.integers(10, 200))
    k = min(int(rng.integers(2, 15)), p)
    A, x = rng.standard_normal((n + n // 2, p)), np.zeros(p)
    x[rng.choice(p, k, replace=False)] = rng.choice([-1.0, 1.0], k)
    clean = A @ x
    y = clean + rng.standard_normal(len(clean)) * np.linalg.norm(clean) / np.sqrt(len(clean)) / rng.uniform(0.5, 4)
    return ih.Bilevel(ih.BPDN(A[:n], y[:n]), ih.HeldOut(A[n:], y[n:])), ih.weight_max(A[:n], y[:n])


def half(seed):
    problem, _, weight_max = zoo.diabetes_lasso(seed)
    return problem, weight_max


def reference(problem, weight_max):
    solution = None

    def value(weight):
        nonlocal solution
        solution, F = problem.solve_and_value({"weight": weight}, start=solution)
        return F

    return zoo.least_on_grid(value, 1e-5 * weight_max, weight_max)[1]


def main(count=20):
    searches = {"Bracket()": ih.Bracket(), "Bracket(30)": ih.Bracket(solves=30), "LBFGSB()": ih.LBFGSB()}
    print(f"{'problems':24}{'search':14}{'found':>9}{'solves: mean':>14}{'max':>5}{'worst excess':>15}")
    for name, make in (("diabetes", half), ("diabetes, second order", second_order), ("sparse", sparse_regression)):
        problems = [make(seed) for seed in range(count)]
        least = [reference(*problem) for problem in problems]
        for label, search in searches.items():
            excess, solves = [], []
            for (problem, weight_max), best in zip(problems, least, strict=True):
                for below in (10, 1e4):
                    weight = ih.log(weight_max / below, 1e-5 * weight_max, weight_max)
                    report = ih.tune(problem, ih.Parameters(weight=weight), search=search)
                    excess.append((report.value - best) / max(1.0, abs(best)))
                    solves.append(report.history[-1].solves)
            found = f"{sum(e <= 1e-9 for e in excess)}/{len(excess)}"
            print(f"{name:24}{label:14}{found:>9}{np.mean(solves):14.1f}{max(solves):5d}{max(excess):15.1e}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
