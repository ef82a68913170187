"""Searches from random starts against refined grids: `python tests/benchmarks/random_starts.py [starts]`.

Ten problems of lasso, elastic net and total variation. A run is right if its F is within 0.1 % of the best of a grid of
400 points, refined around its five best, or if it reports a kink minimum.
"""

import sys

import numpy as np

import invhyper as ih


def regression(seed, n, p, correlated):
    """A, y to fit and to judge; columns with a common part."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((2 * n, p)) + correlated * rng.standard_normal((2 * n, 1))
    truth = np.zeros(p)
    truth[: p // 6 + 2] = rng.standard_normal(p // 6 + 2)
    y = A @ truth + rng.standard_normal(2 * n)
    return A[:n], y[:n], A[n:], y[n:]


def lasso(seed, n, p, correlated=0.0):
    A, y, held, target = regression(seed, n, p, correlated)
    top = float(ih.weight_max(A, y))
    problem = ih.Bilevel(ih.BPDN(A, y), ih.HeldOut(held, target))
    return problem, {"weight": (1e-4 * top, top)}


def elastic_net(seed, n, p, correlated=0.0):
    A, y, held, target = regression(seed, n, p, correlated)
    top = float(ih.weight_max(A, y))
    problem = ih.Bilevel(ih.ElasticNet(A, y), ih.HeldOut(held, target))
    return problem, {"l1": (1e-4 * top, top), "l2": (1e-3, 1e3)}


def total_variation(seed, shape):
    rng = np.random.default_rng(seed)
    truth = np.zeros(shape)
    for _ in range(6):
        low = [rng.integers(0, size - 2) for size in shape]
        high = [rng.integers(a + 2, size + 1) for a, size in zip(low, shape, strict=True)]
        truth[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] += rng.standard_normal()
    y = truth + 0.3 * rng.standard_normal(shape)
    return ih.Bilevel(ih.TotalVariation(y), ih.Truth(truth)), {"weight": (1e-3, 5.0)}


PROBLEMS = {
    "lasso 60 x 20": lambda: lasso(7001, 60, 20),
    "lasso 40 x 80": lambda: lasso(7002, 40, 80),
    "lasso 100 x 50, correlated": lambda: lasso(7003, 100, 50, 1.0),
    "lasso 30 x 30, correlated": lambda: lasso(7004, 30, 30, 1.0),
    "elastic net 60 x 20": lambda: elastic_net(7005, 60, 20),
    "elastic net 40 x 80": lambda: elastic_net(7006, 40, 80),
    "elastic net 50 x 40, correlated": lambda: elastic_net(7007, 50, 40, 1.0),
    "total variation 60": lambda: total_variation(7008, (60,)),
    "total variation 200": lambda: total_variation(7009, (200,)),
    "total variation 24 x 24": lambda: total_variation(7010, (24, 24)),
}


def best_on_grid(problem, bounds) -> float:
    """The least F of 400 points, and of as many around each of the five best."""

    def values(grids):
        mesh = np.meshgrid(*grids, indexing="ij")
        theta = {name: part.ravel() for name, part in zip(bounds, mesh, strict=True)}
        rows = [{name: float(part[i]) for name, part in theta.items()} for i in range(mesh[0].size)]
        return rows, np.array([ih.Implicit()(problem, row).value for row in rows])

    per_side = round(400 ** (1 / len(bounds)))
    grids = [np.geomspace(low, high, per_side) for low, high in bounds.values()]
    rows, found = values(grids)
    best = found.min()
    steps = [grid[1] / grid[0] for grid in grids]
    for i in np.argsort(found)[:5]:
        near = [
            np.geomspace(max(row / step, low), min(row * step, high), 15 if len(bounds) == 1 else 7)
            for row, step, (low, high) in zip(rows[i].values(), steps, bounds.values(), strict=True)
        ]
        best = min(best, values(near)[1].min())
    return best


def main(starts: int = 50):
    """One line a problem."""
    print(
        f"{'problem':34}{'best of grid':>14}{'right':>8}{'within .1 %':>13}{'at a kink':>11}{'worst':>10}{'solves':>8}"
    )
    total = 0
    for number, (name, make) in enumerate(PROBLEMS.items()):
        problem, bounds = make()
        best = best_on_grid(problem, bounds)
        rng = np.random.default_rng(number)
        within = kinked = right = 0
        worst, solves = 0.0, []
        for _ in range(starts):
            scales = {
                key: ih.log(float(np.exp(rng.uniform(np.log(low), np.log(high)))), low, high)
                for key, (low, high) in bounds.items()
            }
            report = ih.tune(problem, ih.Parameters(**scales))
            excess = report.value / best - 1.0
            near, kink = excess <= 1e-3, "stopped at a kink" in report.message
            within, kinked, right = within + near, kinked + kink, right + (near or kink)
            worst = max(worst, excess)
            solves.append(report.history[-1].solves)
        total += right
        print(f"{name:34}{best:14.8g}{right:8d}{within:13d}{kinked:11d}{worst:10.1e}{np.mean(solves):8.1f}", flush=True)
    print(f"right in {total} of {starts * len(PROBLEMS)} runs, {total / (starts * len(PROBLEMS)):.1%}")


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
