"""Problems that stand at a kink, with the slopes of F to both sides in closed form, and makers of random ones."""

from typing import Any, NamedTuple

import numpy as np

import invhyper as ih


class Kink(NamedTuple):
    """A problem, the theta of its kink, and the slopes of F there."""

    problem: ih.Bilevel
    theta: dict
    direction: dict[str, Any]
    left: float
    right: float


def shrunk_identity(seed: int, l2: float = 0.0) -> Kink:
    """A = I: x_i = sign(y_i) (|y_i| - l1)+ / (1 + l2). Coefficient 2 of six enters as l1 falls to |y_2|.

    F = 1/2 |x - t|^2, dx_i/dl1 = -sign(y_i) / (1 + l2) on the support.
    """
    rng = np.random.default_rng(seed)
    y, truth = rng.standard_normal(6), rng.standard_normal(6)
    l1 = abs(y[2])
    x = np.sign(y) * np.maximum(np.abs(y) - l1, 0) / (1 + l2)
    slopes = -np.sign(y) / (1 + l2) * (x - truth)
    above = np.abs(y) > l1
    lower = ih.ElasticNet(np.eye(6), y) if l2 else ih.BPDN(np.eye(6), y)
    theta, direction = {"weight": l1}, {"weight": 1.0}
    if l2:
        theta, direction = {"l1": l1, "l2": l2}, {"l1": 1.0, "l2": 0.0}
    right = slopes[above].sum()
    return Kink(ih.Bilevel(lower, ih.Truth(truth)), theta, direction, right + slopes[2], right)


def merging_step(seed: int) -> Kink:
    """Two levels of a signal, m and n samples: they move by weight / m and weight / n, and merge at their mean."""
    rng = np.random.default_rng(seed)
    m, n = rng.integers(2, 7, 2)
    gap = 1.0 + rng.random()
    weight = gap / (1 / m + 1 / n)
    truth = rng.standard_normal(m + n)
    mean = n * gap / (m + n)
    slopes = np.concatenate([np.full(m, 1 / m), np.full(n, -1 / n)])
    lower = ih.TotalVariation(np.repeat([0.0, gap], [m, n]))
    left = slopes @ (mean - truth)
    return Kink(ih.Bilevel(lower, ih.Truth(truth)), {"weight": weight}, {"weight": 1.0}, left, 0.0)


def touching_plane(seed: int) -> Kink:
    """A = I, sum x <= h: x = y - max(weight, nu) with nu such that the sum is h. The kink is at weight = nu."""
    rng = np.random.default_rng(seed)
    y, truth = 2 + rng.random(4), rng.standard_normal(4)
    weight = 0.5 + rng.random()
    lower = ih.BPDN(np.eye(4), y, inequality=(np.ones((1, 4)), np.array([y.sum() - 4 * weight])))
    right = -np.sum(y - weight - truth)
    return Kink(ih.Bilevel(lower, ih.Truth(truth)), {"weight": weight}, {"weight": 1.0}, 0.0, right)


def freed_coefficient(seed: int) -> Kink:
    """x_0 >= 0 under A = [[1, c], [0, s]], c^2 + s^2 = 1, at the weight at which x_0 leaves zero.

    On x_0 = 0: x_1 = b_1 - w with b = A^T y. Both free: x = M^-1 (b - w), M = [[1, c], [c, 1]], so x_0 > 0 where
    b_0 - w > c (b_1 - w), for c < 1 as long as w < (b_0 - c b_1) / (1 - c).
    """
    rng = np.random.default_rng(seed)
    c = 0.2 + 0.3 * rng.random()
    A = np.array([[1.0, c], [0.0, np.sqrt(1 - c * c)]])
    b = np.array([2.0 + rng.random(), 3.0 + rng.random()])
    y, truth = np.linalg.solve(A.T, b), rng.standard_normal(2)
    weight = (b[0] - c * b[1]) / (1 - c)
    x = np.array([0.0, b[1] - weight])
    lower = ih.BPDN(A, y, inequality=(np.array([[-1.0, 0.0]]), np.zeros(1)))
    left = -np.linalg.solve(np.array([[1, c], [c, 1]]), np.ones(2)) @ (x - truth)
    return Kink(ih.Bilevel(lower, ih.Truth(truth)), {"weight": weight}, {"weight": 1.0}, left, -(x - truth)[1])


CLOSED = {
    "lasso": shrunk_identity,
    "elastic net": lambda seed: shrunk_identity(seed, 0.7),
    "total variation": merging_step,
    "active inequality": touching_plane,
    "freed coefficient": freed_coefficient,
}


def random_problem(kind: str, seed: int):
    """(problem, theta, direction) of a random l1 or TV problem, theta in the middle of its path."""
    rng = np.random.default_rng(seed)
    if kind == "total variation":
        y = np.repeat(rng.standard_normal(6), 5) + 0.3 * rng.standard_normal(30)
        return ih.Bilevel(ih.TotalVariation(y), ih.Truth(rng.standard_normal(30))), {"weight": 0.2}, {"weight": 1.0}
    n, p = 40, (25, 60)[seed % 2]
    A, truth = rng.standard_normal((n, p)), np.zeros(p)
    truth[:6] = 2 * rng.standard_normal(6)
    y = A @ truth + 0.5 * rng.standard_normal(n)
    criterion = ih.HeldOut(rng.standard_normal((20, p)), rng.standard_normal(20))
    weight = 0.1 * ih.weight_max(A, y)
    if kind == "elastic net":
        direction = {"l1": 1.0, "l2": 0.3}
        return ih.Bilevel(ih.ElasticNet(A, y), criterion), {"l1": weight, "l2": 2.0}, direction
    if kind == "constrained":
        G = rng.standard_normal((8, p))
        lower = ih.BPDN(A, y, inequality=(np.vstack([G, -np.eye(p)[:10]]), np.append(G @ truth + 0.1, np.zeros(10))))
        return ih.Bilevel(lower, criterion), {"weight": weight}, {"weight": 1.0}
    return ih.Bilevel(ih.BPDN(A, y), criterion), {"weight": weight}, {"weight": 1.0}


def kink_ahead(problem, theta, direction) -> dict:
    """The next kink along a direction, to rounding: predicted anew until it does not move."""
    theta = {key: np.asarray(value, float) for key, value in theta.items()}
    for _ in range(30):
        t = ih.certificate.interval(problem, theta, direction).above
        if ih.Implicit()(problem, theta).certificate.margin < 1e-12:
            return theta
        theta = {key: value + t * direction[key] for key, value in theta.items()}
    raise AssertionError("no kink was reached")
