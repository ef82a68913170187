"""The accuracy figures of docs/benchmarks.md, each against its known answer. Run: python tests/benchmarks/accuracy.py

The tests assert the same claims; this prints how far below the tolerance they are.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import zoo  # noqa: E402

import invhyper as ih  # noqa: E402

SIZES = [(50, 100), (50, 400), (100, 1000), (200, 1000), (200, 2000), (300, 600), (400, 2000), (500, 5000)]


def closed_forms():
    """Worst relative error of twenty elastic-net and lasso slopes against the closed form on the active set."""
    worst = 0.0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        n, p = SIZES[seed % len(SIZES)]
        A, y, A_val, y_val = zoo.sparse_regression(n, p, seed=seed)
        weight, l2 = ih.weight_max(A, y) * 10 ** rng.uniform(-2, np.log10(0.5)), 10 ** rng.uniform(-2, 1)
        problem = ih.Bilevel(ih.ElasticNet(A, y), ih.HeldOut(A_val, y_val))
        evaluation = ih.Implicit()(problem, {"l1": weight, "l2": l2})
        support = np.flatnonzero(evaluation.solution.x)
        signs = np.sign(evaluation.solution.x[support])
        x, *along = zoo.l1_closed_form(A, y, weight, l2, support, signs)
        slope = 2 / len(y_val) * A_val.T @ (A_val @ x - y_val)
        for key, jacobian in zip(("l1", "l2"), along, strict=True):
            exact = slope @ jacobian.sum(1)
            worst = max(worst, abs(float(evaluation.gradient[key]) / exact - 1))
    return worst


def published_lasso():
    """Worst relative difference from three published slopes, n 200, p 1000."""
    A, y, A_val, y_val = zoo.sparse_regression(200, 1000)
    problem, top = ih.Bilevel(ih.Lasso(A, y), ih.HeldOut(A_val, y_val)), ih.weight_max(A, y)
    known = {0.5: 14.10525690, 0.1: 1.295690103, 0.01: -14.48212861}
    slopes = {part: 200 * float(ih.Implicit()(problem, {"weight": part * top}).gradient["weight"]) for part in known}
    return max(abs(slopes[part] / known[part] - 1) for part in known)


def published_elastic_net():
    """Worst relative difference from the published gradient where a cone layer is wrong."""
    A, y, A_val, y_val = zoo.tall_elastic_net()
    problem = ih.Bilevel(ih.ElasticNet(A, y), ih.HeldOut(A_val, y_val))
    gradient = ih.Implicit()(problem, {"l1": 9.0, "l2": 3.0}).gradient
    return max(abs(30 * float(gradient[key]) / known - 1) for key, known in (("l1", 1.43797902), ("l2", 2.80559080)))


def breast_cancer():
    """Relative difference of the best weight decay, difference of its loss."""
    A, labels, held, held_labels = zoo.breast_cancer()
    problem = ih.Bilevel(ih.Logistic(A, labels), ih.HeldOut(held, held_labels))
    report = ih.tune(problem, ih.Parameters(l2=ih.log(1e-1, 1e-6, 1e1)))
    return abs(float(report.theta["l2"]) / 0.0060869560 - 1), abs(report.value - 0.10807402131945)


def diabetes():
    """Excess over the published global minimum of the lasso, and lower solves, from two starts."""
    problem, _, top = zoo.diabetes_lasso()
    for below in (10, 1e4):
        report = ih.tune(problem, ih.Parameters(weight=ih.log(top / below, 1e-5 * top, top)))
        yield report.value - 0.48264116, report.history[-1].solves


def main():
    print(f"closed form, 20 elastic nets     worst relative error {closed_forms():.1e}")
    print(f"published lasso slopes           worst relative difference {published_lasso():.1e}")
    print(f"published elastic-net gradient   worst relative difference {published_elastic_net():.1e}")
    weight, loss = breast_cancer()
    print(f"logistic, breast cancer          weight {weight:.1e} relative, loss {loss:.1e}")
    for excess, solves in diabetes():
        print(f"lasso, diabetes, Bracket         F - 0.48264116 = {excess:.1e} in {solves} lower solves")


if __name__ == "__main__":
    main()
