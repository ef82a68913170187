"""How common kinks are: the held-out lasso on random halves of four small data sets, every kink of F followed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

import invhyper as ih

HALVES = 40
SMALLEST = 1e-4  # of weight_max: where the paths end
ALPHA = 0.04882226864888  # a kink of the diabetes lasso that is a local maximum, even rows against odd ones


@dataclass(frozen=True)
class Minimum:
    """A local minimum of F: its weight, F there, and whether a kink makes it one (no: F is smooth there, or ends)."""

    weight: float
    value: float
    place: str


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Columns and target, standardised on all rows; classes are regressed on as numbers."""
    load = {"breast cancer": load_breast_cancer, "wine": load_wine}.get(name, load_diabetes)
    A, y = load(return_X_y=True)
    A = (A - A.mean(0)) / A.std(0)
    if name == "diabetes with squares":
        i, j = np.triu_indices(A.shape[1])
        kept = (i != j) | (i != 1)  # sex squared is sex
        A = np.hstack([A, (A[:, i] * A[:, j])[:, kept]])
        A = (A - A.mean(0)) / A.std(0)
    return A, (y - y.mean()) / y.std()


DATA = ("diabetes", "diabetes with squares", "breast cancer", "wine")


def half(A: np.ndarray, y: np.ndarray, seed: int | None) -> tuple[ih.Bilevel, float, int]:
    """The lasso on one half judged on the other, weight_max, and the rows fitted; None: even and odd rows."""
    rows = np.arange(len(y)) if seed is None else np.random.default_rng(seed).permutation(len(y))
    fit, held = (rows[::2], rows[1::2]) if seed is None else np.split(rows, [len(y) // 2])
    problem = ih.Bilevel(ih.BPDN(A[fit], y[fit]), ih.HeldOut(A[held], y[held]))
    return problem, float(ih.weight_max(A[fit], y[fit])), len(fit)


def follow(problem: ih.Bilevel, top: float) -> ih.certificate.Path:
    """Every kink from weight_max down."""
    return ih.certificate.path(problem, {"weight": top}, {"weight": SMALLEST * top})


def minima(path: ih.certificate.Path) -> list[Minimum]:
    """All local minima of F along a path: between kinks F is a parabola, known by its slopes at both ends."""

    def found(t, value, place):
        return Minimum(float(path.theta(t)["weight"]), float(value), place)

    rows = []
    for k in range(len(path.t) - 1):
        if k and path.left[k] < 0 < path.right[k]:
            rows.append(found(path.t[k], path.values[k], "kink"))
        down, up = path.right[k], path.left[k + 1]
        if down < 0 < up:
            step = down / (down - up) * (path.t[k + 1] - path.t[k])
            rows.append(found(path.t[k] + step, path.values[k] + 0.5 * down * step, "smooth"))
    if path.left[-1] < 0:
        rows.append(found(1.0, path.values[-1], "end of the path"))
    if path.right[0] >= 0:
        rows.append(found(0.0, path.values[0], "x = 0"))
    return rows


def census(name: str, halves: int) -> dict:
    """What stands at the best weight of every half, how many minima F has, and what a search finds of it."""
    A, y = data(name)
    places, kinks, local, kinked, excess, solves = [], [], [], [], [], []
    for seed in range(halves):
        problem, top, _ = half(A, y, seed)
        path = follow(problem, top)
        rows = minima(path)
        best = min(rows, key=lambda row: row.value)
        places.append(best.place)
        kinks.append(len(path.t) - 2)
        local.append(len(rows))
        kinked.append(sum(row.place == "kink" for row in rows))
        report = ih.tune(problem, ih.Parameters(weight=ih.log(0.1 * top, SMALLEST * top, top)))
        excess.append(report.value / best.value - 1.0)
        solves.append(report.history[-1].solves)
    return {
        "places": {place: places.count(place) for place in ("kink", "smooth", "x = 0", "end of the path")},
        "kinks": float(np.mean(kinks)),
        "minima": float(np.mean(local)),
        "kinked_minima": int(np.sum(kinked)),
        "all_minima": int(np.sum(local)),
        "within": int(np.sum(np.array(excess) <= 1e-6)),
        "worst_excess": float(np.max(excess)),
        "most_solves": int(np.max(solves)),
    }


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Follow the paths of all halves, and draw one of them with its kinks.

    **Arguments**: `quick`: 4 halves of two data sets for 40 of four; `seed`: for the record, the halves have seeds of
    their own; `watch`: as in `tune`. The report is that of the search on even and odd rows of the diabetes data.
    """
    names, halves = (DATA[::2], 4) if quick else (DATA, HALVES)
    counted = {name: census(name, halves) for name in names}
    problem, top, n = half(*data("diabetes"), None)
    report = ih.tune(problem, ih.Parameters(weight=ih.log(0.1 * top, SMALLEST * top, top)), watch=watch, seed=seed)
    at_kink = ih.certificate.one_sided(problem, {"weight": n * ALPHA}, {"weight": float(n)})
    kinked, seed_of_it = first_at_a_kink(halves)
    findings = {
        "halves": halves,
        "counted": counted,
        **{f"{name.replace(' ', '_')}_at_kinks": each["places"]["kink"] for name, each in counted.items()},
        "within": min(each["within"] for each in counted.values()),
        "most_solves": max(each["most_solves"] for each in counted.values()),
        "best": report.value,
        "left": at_kink.left,
        "right": at_kink.right,
        "verdict": at_kink.verdict,
        "rows": n,
        "seed_of_kinked": seed_of_it,
        "drawn": drawn(problem, top),
        "kinked": kinked,
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def drawn(problem: ih.Bilevel, top: float) -> dict:
    """A path as the figures want it: slopes in the weight, from large weights to small ones."""
    path = follow(problem, top)
    rows = sorted(minima(path), key=lambda row: row.value)
    width = path.end["weight"] - path.start["weight"]
    return {
        "weights": np.array([path.theta(t)["weight"] for t in path.t]),
        "values": path.values,
        "above": path.left / width,
        "below": path.right / width,
        "at": list(path.at),
        "coefficients": np.array([ih.solve(problem.lower, path.theta(t)).x for t in path.t]),
        "minima_weights": np.array([row.weight for row in rows]),
        "minima_values": np.array([row.value for row in rows]),
        "minima_places": [row.place for row in rows],
    }


def first_at_a_kink(halves: int) -> tuple[dict, int]:
    """The first half of the breast-cancer data whose best weight is at a kink, and its seed."""
    A, y = data("breast cancer")
    for seed in range(halves):
        problem, top, _ = half(A, y, seed)
        found = drawn(problem, top)
        if found["minima_places"][0] == "kink":
            break
    return found, seed


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = [f"{'best weight of':24}{'at a kink':>11}{'smooth':>8}{'x = 0':>7}{'kinks':>8}{'minima':>8}{'solves':>8}"]
    for name, each in found["counted"].items():
        places = each["places"]
        lines.append(
            f"{name:24}{places['kink'] / found['halves']:11.0%}{places['smooth']:8d}{places['x = 0']:7d}"
            f"{each['kinks']:8.1f}{each['minima']:8.1f}{each['most_solves']:8d}"
        )
    lines.append(
        f"of {found['halves']} random halves each; kinks and local minima of F on the way from weight_max to"
        f" {SMALLEST:g} of it; the most lower-level solves that tune took"
    )
    lines.append(f"even rows against odd, alpha = {ALPHA}: {found['verdict']} (in alpha)")
    return lines
