"""Both weights of an elastic net, tuned on held-out rows of the diabetes data, beside scikit-learn's ElasticNetCV."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNetCV
from sklearn.model_selection import PredefinedSplit

import invhyper as ih

L1_RATIOS = (0.1, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0)  # the list that scikit-learn's documentation recommends
ALPHAS = 100  # its default
STARTS = ((0.3, 30.0), (0.03, 0.3), (0.003, 30.0))  # l1 as a fraction of the largest useful weight, l2


@dataclass(frozen=True)
class Split:
    """Standardised rows to fit and rows to validate, and the names of the columns."""

    A: np.ndarray
    y: np.ndarray
    A_val: np.ndarray
    y_val: np.ndarray
    names: list[str]


def split(seed: int) -> Split:
    """Two thirds of the rows to fit, one third to validate, drawn by `seed`.

    The ten features, their products and their squares (but that of sex, which takes two values: its square is no news)
    make 64 columns. Columns and target are standardised by the fitted rows alone.
    """
    data = load_diabetes(scaled=False)
    order = np.random.default_rng(seed).permutation(len(data.target))
    fit, validate = np.sort(order[147:]), np.sort(order[:147])

    def standard(columns):
        return (columns - columns[fit].mean(axis=0)) / columns[fit].std(axis=0)

    first = standard(data.data)
    sex = data.feature_names.index("sex")
    pairs = [pair for pair in combinations_with_replacement(range(first.shape[1]), 2) if pair != (sex, sex)]
    second = np.column_stack([first[:, i] * first[:, j] for i, j in pairs])
    A, y = standard(np.hstack([first, second])), standard(data.target)
    names = [*data.feature_names, *(_product(data.feature_names[i], data.feature_names[j]) for i, j in pairs)]
    return Split(A[fit], y[fit], A[validate], y[validate], names)


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Tune l1 and l2 from several starts, draw the map of the criterion, and let ElasticNetCV do the same job.

    **Arguments**: `quick`: a coarser map and a shorter grid for ElasticNetCV; `seed`: of the split; `watch`: as in
    `tune`.
    """
    rows = split(seed)
    problem = ih.Bilevel(ih.ElasticNet(rows.A, rows.y), ih.HeldOut(rows.A_val, rows.y_val))
    top = float(ih.weight_max(rows.A, rows.y))

    began = time.perf_counter()
    reports = []
    for l1, l2 in STARTS:
        weights = ih.Parameters(l1=ih.log(l1 * top, 1e-4 * top, top), l2=ih.log(l2, 1e-2, 1e4))
        reports.append(ih.tune(problem, weights, ih.Implicit(), ih.LBFGSB(), watch=watch, seed=seed))
    seconds = time.perf_counter() - began
    report = min(reports, key=lambda each: each.value)
    fits = sum(each.history[-1].solves for each in reports)

    theirs = elastic_net_cv(rows, L1_RATIOS[1::2] if quick else L1_RATIOS, 30 if quick else ALPHAS)
    n = len(rows.y)
    their_theta = {"l1": n * theirs["alpha"] * theirs["l1_ratio"], "l2": n * theirs["alpha"] * (1 - theirs["l1_ratio"])}

    points = 13 if quick else 41
    grid = {"l1": np.geomspace(1e-4 * top, top, points), "l2": np.geomspace(1e-2, 1e4, points)}
    across, up = np.meshgrid(grid["l1"], grid["l2"], indexing="ij")
    values, _ = ih.sweep(problem, {"l1": across, "l2": up})

    first = reports[0].history[0].theta
    findings = {
        "validation_loss": report.value,
        "fits": fits,
        "seconds": seconds,
        "sklearn_validation_loss": problem.value(their_theta),
        "sklearn_fits": theirs["fits"],
        "sklearn_seconds": theirs["seconds"],
        "sklearn_theta": their_theta,
        "best_on_map": float(np.nanmin(values)),
        "ends": [each.value for each in reports],
        "paths": [np.array([[s.theta["l1"], s.theta["l2"], s.value] for s in each.history]) for each in reports],
        "grid": grid,
        "values": values,
        "names": rows.names,
        "before": np.asarray(ih.solve(problem.lower, first).x),
        "after": np.asarray(report.solution.x),
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def elastic_net_cv(rows: Split, l1_ratios: Sequence[float], alphas: int) -> dict:
    """The grid search of scikit-learn on the same split: the best weights, the fits it took, the seconds."""
    A, y = np.vstack([rows.A, rows.A_val]), np.concatenate([rows.y, rows.y_val])
    held = np.concatenate([np.full(len(rows.y), -1), np.zeros(len(rows.y_val), int)])
    search = ElasticNetCV(
        l1_ratio=list(l1_ratios), alphas=alphas, cv=PredefinedSplit(held), fit_intercept=False, max_iter=100_000
    )
    began = time.perf_counter()
    search.fit(A, y)
    seconds = time.perf_counter() - began
    fits = len(l1_ratios) * alphas + 1  # the last on all rows, which ElasticNetCV always adds
    return {"alpha": float(search.alpha_), "l1_ratio": float(search.l1_ratio_), "fits": fits, "seconds": seconds}


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    gain = 100 * (found["sklearn_validation_loss"] / found["validation_loss"] - 1)
    verdict = f"{abs(gain):.2g} % {'below' if gain >= 0 else 'ABOVE'}"
    return [
        f"{'':22}{'validation loss':>16}{'fits':>8}{'seconds':>10}",
        f"{'invhyper':22}{found['validation_loss']:16.8f}{found['fits']:8d}{found['seconds']:10.2f}",
        f"{'ElasticNetCV':22}{found['sklearn_validation_loss']:16.8f}{found['sklearn_fits']:8d}"
        f"{found['sklearn_seconds']:10.2f}",
        f"the tuned loss is {verdict} ElasticNetCV's, which searches a grid;"
        f" the best of a map of {found['values'].size} points is {found['best_on_map']:.8f}",
        f"ends of the {len(found['ends'])} starts: " + ", ".join(f"{end:.8f}" for end in found["ends"]),
    ]


def _product(one: str, other: str) -> str:
    return f"{one}²" if one == other else f"{one}·{other}"
