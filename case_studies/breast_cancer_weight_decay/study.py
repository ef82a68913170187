"""One weight decay for each of thirty features: what they gain on the rows that chose them, and elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, PredefinedSplit

import invhyper as ih

LOWER, UPPER = 1e-5, 1e3
WAYS = ("one weight, held-out", "30 weights, held-out", "one weight, 5 folds", "30 weights, 5 folds")


@dataclass(frozen=True)
class Rows:
    """Standardised features and labels -1/+1."""

    A: np.ndarray
    y: np.ndarray

    def __getitem__(self, rows) -> "Rows":
        return Rows(self.A[rows], self.y[rows])


def even_and_odd() -> tuple[Rows, Rows]:
    """Even rows to fit, odd rows to validate, columns standardised on all rows: the split of the published figure."""
    data = load_breast_cancer()
    rows = Rows((data.data - data.data.mean(axis=0)) / data.data.std(axis=0), 2.0 * data.target - 1.0)
    return rows[::2], rows[1::2]


def random_split(seed: int) -> tuple[Rows, Rows, Rows]:
    """40 % of the rows to fit, 30 % to validate, 30 % to test, standardised by the fitted rows."""
    data = load_breast_cancer()
    order = np.random.default_rng(seed).permutation(len(data.target))
    parts = np.split(order, [228, 398])
    mean, deviation = data.data[parts[0]].mean(axis=0), data.data[parts[0]].std(axis=0)
    rows = Rows((data.data - mean) / deviation, 2.0 * data.target - 1.0)
    return tuple(rows[np.sort(part)] for part in parts)


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Tune one shared weight, then thirty from there, on the even/odd split; then ask fresh rows, split after split.

    **Arguments**: `quick`: one random split for 10, and no folds; `seed`: of the first of them; `watch`: as in `tune`.
    The report is that of the thirty weights; what the shared weight reached is in the findings.
    """
    train, validate = even_and_odd()
    problem = ih.Bilevel(ih.Logistic(train.A, train.y), ih.HeldOut(validate.A, validate.y))
    shared = ih.tune(problem, ih.Parameters(l2=ih.log(1e-2, LOWER, UPPER)), tied, watch=watch, tol=1e-9)
    report = ih.tune(problem, each_from(shared), watch=watch, steps=60 if quick else 300, seed=seed)

    grid = np.geomspace(1e-5, 1e1, 25 if quick else 61)
    curve, _ = ih.sweep(problem, {"l2": grid}, tied)
    ways = WAYS[:2] if quick else WAYS
    repeats = np.array([one_split(seed + i, ways) for i in range(1 if quick else 10)])
    theirs = grid_search(train, validate)
    test = repeats[:, :, 1]
    findings = {
        "shared_weight": float(shared.theta["l2"]),
        "shared_loss": shared.value,
        "shared_solves": shared.history[-1].solves,
        "each_loss": report.value,
        "each_solves": report.history[-1].solves,
        "sklearn_weight": theirs,
        "sklearn_loss": tied(problem, {"l2": theirs}).value,
        "shared_accuracy": accuracy(shared.solution.x, validate),
        "each_accuracy": accuracy(report.solution.x, validate),
        "switched_off": int(np.sum(np.abs(report.solution.x) < 1e-2)),
        "worse_on_test": int(np.sum(test[:, 1] > test[:, 0])),
        "splits": len(repeats),
        "ways": list(ways),
        "repeats": repeats,
        "test_loss": {way: float(np.mean(test[:, i])) for i, way in enumerate(ways)},
        "chosen_loss": {way: float(np.mean(repeats[:, i, 0])) for i, way in enumerate(ways)},
        "grid": grid,
        "curve": curve,
        "shared_path": np.array([[step.theta["l2"], step.value] for step in shared.history]),
        "names": [str(name) for name in load_breast_cancer().feature_names],
        "before": np.asarray(shared.solution.x),
        "after": np.asarray(report.solution.x),
        "weights": np.asarray(report.theta["l2"]),
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def tied(problem: ih.Bilevel, theta: dict, **options) -> ih.Evaluation:
    """The hypergradient of one weight for all features: thirty equal weights, their slopes summed.

    Any callable like `Implicit()` will do for `tune`; this one runs the program that is compiled for thirty.
    """
    found = ih.Implicit()(problem, {"l2": np.full(30, theta["l2"])}, **options)
    return replace(found, gradient={"l2": np.sum(found.gradient["l2"])})


def each_from(shared: ih.Report) -> ih.Parameters:
    """One weight a feature, all starting from the shared optimum."""
    return ih.Parameters(l2=ih.log(np.full(30, float(shared.theta["l2"])), LOWER, UPPER))


def one_split(seed: int, ways: Sequence[str] = WAYS) -> list[tuple[float, float]]:
    """(loss that was minimised, loss on the test rows) for each of `ways` on one random split."""
    train, validate, test = random_split(seed)
    unseen = ih.HeldOut(test.A, test.y, ih.log_loss)
    held_out = ih.Bilevel(ih.Logistic(train.A, train.y), ih.HeldOut(validate.A, validate.y))
    found = [(each.value, float(unseen(each.solution.x, each.theta))) for each in one_then_thirty(held_out)]
    if len(ways) > 2:
        both = Rows(np.vstack([train.A, validate.A]), np.concatenate([train.y, validate.y]))
        refit = ih.Logistic(both.A, both.y)
        for each in one_then_thirty(ih.KFold(ih.Logistic, both.A, both.y, folds=5, seed=seed)):
            x = ih.solve(refit, {"l2": np.broadcast_to(each.theta["l2"], 30)}).x
            found.append((each.value, float(unseen(x, each.theta))))
    return found


def one_then_thirty(problem: ih.Bilevel) -> tuple[ih.Report, ih.Report]:
    """One shared weight tuned, then thirty from there."""
    shared = ih.tune(problem, ih.Parameters(l2=ih.log(1e-2, LOWER, UPPER)), tied, steps=50)
    return shared, ih.tune(problem, each_from(shared), steps=150)


def grid_search(train: Rows, validate: Rows, points: int = 30) -> float:
    """The shared weight that scikit-learn's grid search picks on the same rows, in our units."""
    A, y = np.vstack([train.A, validate.A]), np.concatenate([train.y, validate.y])
    held = np.concatenate([np.full(len(train.y), -1), np.zeros(len(validate.y), int)])
    strengths = 1.0 / (np.geomspace(1e-5, 1e1, points) * len(train.y))
    model = LogisticRegression(fit_intercept=False, max_iter=10_000, tol=1e-8)
    search = GridSearchCV(model, {"C": strengths}, scoring="neg_log_loss", cv=PredefinedSplit(held), refit=False)
    return float(1.0 / (search.fit(A, y).best_params_["C"] * len(train.y)))


def accuracy(x: np.ndarray, rows: Rows) -> float:
    """Share of the rows on the right side."""
    return float(np.mean(np.sign(rows.A @ x) == rows.y))


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    lines = [
        f"even rows fitted, odd rows validate: one weight {found['shared_loss']:.10f} at l2 ="
        f" {found['shared_weight']:.7g} ({found['shared_solves']} solves),"
        f" thirty weights {found['each_loss']:.8f} ({found['each_solves']} solves)",
        f"one weight by scikit-learn's grid search of 30 fits: {found['sklearn_loss']:.10f} at l2 ="
        f" {found['sklearn_weight']:.5g}",
        f"{found['switched_off']} of 30 features are all but switched off (|coefficient| < 0.01)",
        f"{'mean over ' + str(found['splits']) + ' random splits':34}{'loss minimised':>16}{'test loss':>12}",
    ]
    for way in found["ways"]:
        lines.append(f"{way:34}{found['chosen_loss'][way]:16.5f}{found['test_loss'][way]:12.5f}")
    lines.append(
        f"thirty weights by held-out rows do worse than one on fresh rows in {found['worse_on_test']} of"
        f" {found['splits']} splits: with as many weights as this, the validation rows are fitted too"
    )
    return lines
