"""Fifty cells, one population: each cell's rate and first state inside, the population's mean and spread outside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np

import invhyper as ih

CELLS, LEARNING = 50, 25  # the first cells judge theta, the others are never looked at
END, NOISE = 5.0, 0.15
TRUE_Q, TRUE_SPREAD, TRUE_P, SPREAD_P = 0.9, 0.4, 1.2, 0.3
FEWEST, MOST = 2, 5  # values of a cell that are fitted
JUDGING = 8  # values that judge
START = ih.Parameters(q=ih.linear(0.0, -2.0, 3.0), spread=ih.log(2.0, 0.02, 10.0))
ALONE, ALIKE = 1e4, 1e-4  # spreads at which cells know nothing of each other, or share one first state
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Cells:
    """Times and values of each cell that are fitted and that judge; what the cells were made from."""

    times: list[np.ndarray]
    values: list[np.ndarray]
    later: list[np.ndarray]
    judging: list[np.ndarray]
    q: np.ndarray
    p: np.ndarray


def shapes(t: np.ndarray) -> np.ndarray:
    """e^-t and k(t) of x = q e^-t + p k(t), the solution of x' = -x + p sin 3t, x(0) = q."""
    decay = np.exp(-t)
    return np.stack([decay, (np.sin(3 * t) - 3 * np.cos(3 * t) + 3 * decay) / 10], axis=-1)


def measure(seed: int) -> Cells:
    """Cells that differ in their first state and in their rate, each measured a few times, with noise."""
    rng = np.random.default_rng(seed)
    q, p = TRUE_Q + TRUE_SPREAD * rng.standard_normal(CELLS), TRUE_P + SPREAD_P * rng.standard_normal(CELLS)
    columns = [], [], [], []
    for i in range(CELLS):
        for k, size in enumerate((rng.integers(FEWEST, MOST + 1), JUDGING)):
            t = np.sort(rng.uniform(0.05, END, size))
            columns[2 * k].append(t)
            columns[2 * k + 1].append(shapes(t) @ [q[i], p[i]] + NOISE * rng.standard_normal(size))
    return Cells(*columns, q, p)


def population(times: list, values: list) -> ih.Population:
    """p and q of each cell, x' = -x + p sin 3t, x(0) = q, with q ~ N(theta q, theta spread)."""
    cells = ih.Calibration(
        rhs=lambda t, x, p, theta, cell: -x + p["p"] * jnp.sin(3 * t),
        initial=lambda p, theta, cell: p["q"],
        observe=lambda t, x, p, theta, cell: x,
        times=times,
        data=values,
        noise=NOISE,
        start={"p": 0.0, "q": 0.0},
        prior=lambda p, theta: 0.5 * ((p["q"] - theta["q"]) / theta["spread"]) ** 2,
        conditions=[{}] * len(times),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )
    return ih.Population(cells)


@dataclass(frozen=True)
class ClosedForm:
    """The fits of all cells, F and its slope by linear algebra: a cell's fit is a regularised least-squares problem."""

    cells: Cells
    which: slice

    def rows(self):
        """Design matrices and values of each cell, fitted and judging, over the noise."""
        held = self.cells
        rows = zip(*(part[self.which] for part in (held.times, held.values, held.later, held.judging)), strict=True)
        for t, y, later, judging in rows:
            yield shapes(t) / NOISE, y / NOISE, shapes(later) / NOISE, judging / NOISE

    def value_and_slope(self, q: float, spread: float) -> tuple[float, np.ndarray]:
        """F and (dF/dq, dF/dspread)."""
        value, slope, first = 0.0, np.zeros(2), np.array([1.0, 0.0])
        for X, y, Z, judging in self.rows():
            A = X.T @ X + np.diag(first) / spread**2
            c = np.linalg.solve(A, X.T @ y + first * q / spread**2)
            miss = judging - Z @ c
            moved = np.linalg.solve(A, np.stack([first / spread**2, -2 * first * (q - c[0]) / spread**3], axis=1))
            value, slope = value + miss @ miss, slope - 2 * miss @ Z @ moved
        return value, slope

    def fits(self, q: float, spread: float) -> np.ndarray:
        """(q, p) of each cell."""
        weight = np.diag([1.0, 0.0]) / spread**2
        return np.array([np.linalg.solve(X.T @ X + weight, X.T @ y + weight @ [q, 0.0]) for X, y, _, _ in self.rows()])


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Learn the population on 25 cells by the values held out of each, and judge it on 25 that it has not met.

    **Arguments**: `quick`: a coarser map; `seed`: of the cells and of their noise; `watch`: as in `tune`.
    """
    cells = measure(seed)
    everyone = population(cells.times, cells.values), population(cells.later, cells.judging)
    learning, fresh = slice(0, LEARNING), slice(LEARNING, None)

    def problem(which):
        fitted, judging = (each.subset(which) for each in everyone)
        return ih.Bilevel(fitted, ih.Misfit(judging))

    report = ih.tune(problem(learning), START, ih.Implicit(), ih.LBFGSB(), watch=watch, seed=seed)
    theta = {name: float(value) for name, value in report.theta.items()}

    side = 3 if quick else 15
    grid = {"q": np.linspace(-0.2, 2.0, side), "spread": np.geomspace(0.05, 5.0, side)}
    across, up = np.meshgrid(grid["q"], grid["spread"], indexing="ij")
    values, slopes = ih.sweep(problem(learning), {"q": across, "spread": up})
    exact = ClosedForm(cells, learning)
    known = [exact.value_and_slope(*pair) for pair in zip(across.ravel(), up.ravel(), strict=True)]
    known_values, known_slopes = np.array([v for v, _ in known]), np.array([s for _, s in known])
    found_slopes = np.stack([slopes["q"].ravel(), slopes["spread"].ravel()], axis=1)
    worst = np.linalg.norm(found_slopes - known_slopes, axis=1) / np.linalg.norm(known_slopes, axis=1)

    judged = ClosedForm(cells, fresh)
    count = JUDGING * (CELLS - LEARNING)
    ways = {
        "learned": (theta["q"], theta["spread"]),
        "each cell alone": (theta["q"], ALONE),
        "one first state for all": (theta["q"], ALIKE),
        "the truth": (TRUE_Q, TRUE_SPREAD),
    }
    misfits = {name: judged.value_and_slope(*way)[0] / count for name, way in ways.items()}
    fits = {name: ClosedForm(cells, slice(None)).fits(*way) for name, way in ways.items()}
    solution = np.stack([report.solution.x["q"], report.solution.x["p"]], axis=1)
    findings = {
        "q": theta["q"],
        "spread": theta["spread"],
        "held_out_before": report.history[0].value,
        "held_out_misfit": report.value,
        "held_out_values": JUDGING * LEARNING,
        "solves": report.history[-1].solves,
        "fresh_learned": misfits["learned"],
        "fresh_alone": misfits["each cell alone"],
        "fresh_alike": misfits["one first state for all"],
        "fresh_truth": misfits["the truth"],
        "worst_fit_error": float(np.max(np.abs(solution - fits["learned"][learning]))),
        "worst_value_error": float(np.max(np.abs(values.ravel() / known_values - 1))),
        "worst_slope_error": float(np.max(worst)),
        "grid": grid,
        "values": values,
        "path": np.array([[s.theta["q"], s.theta["spread"], s.value] for s in report.history]),
        "true_q": cells.q,
        "fits_learned": fits["learned"],
        "fits_alone": fits["each cell alone"],
        "counts": np.array([t.size for t in cells.times]),
        "cells": {str(i): np.stack([cells.times[i], cells.values[i]]) for i in range(CELLS)},
        "judging": {str(i): np.stack([cells.later[i], cells.judging[i]]) for i in range(CELLS)},
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    n = found["held_out_values"]
    return [
        f"held-out misfit {found['held_out_before']:.1f} -> {found['held_out_misfit']:.1f} of {n} values in "
        f"{found['solves']} solves (noise alone: {n})",
        f"first state {found['q']:.3f} +- {found['spread']:.3f} between cells (made with {TRUE_Q} +- {TRUE_SPREAD})",
        f"25 fresh cells, misfit a value: {found['fresh_learned']:.3f} learned, {found['fresh_alone']:.3f} each cell "
        f"alone, {found['fresh_alike']:.3f} one first state for all, {found['fresh_truth']:.3f} with the truth",
        f"slopes within {found['worst_slope_error']:.0e} of the closed form, fits {found['worst_fit_error']:.0e}",
    ]
