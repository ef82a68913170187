"""Hare and lynx: the rates of Lotka and Volterra inside, the first winter and the weight of a prior outside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import invhyper as ih

NOISE = 0.25  # standard deviation of the logarithm of a year's pelts
# Guesses of the rates before the data are seen, and the box from which fits start, each a factor of five around.
GUESS = {"birth": 1.0, "hunted": 0.05, "death": 1.0, "fed": 0.05}
LOGS = {name: np.log(guess) for name, guess in GUESS.items()}
REACH = 5.0
START = ih.Parameters(
    hare=ih.log(30.0, 5.0, 150.0, unit="thousand pelts"),
    lynx=ih.log(4.0, 0.8, 40.0, unit="thousand pelts"),
    weight=ih.log(1.0, 1e-2, 1e3),
)


@dataclass(frozen=True)
class Pelts:
    """Pelts a year in thousands, (years, species), and which years are held out."""

    years: np.ndarray
    counts: np.ndarray
    held: np.ndarray

    @property
    def t(self) -> np.ndarray:
        """Years since 1900."""
        return self.years - self.years[0]


def pelts() -> Pelts:
    """1900 to 1920; every third year, from 1902 on, is held out."""
    table = np.loadtxt(Path(__file__).parent / "data" / "pelts.csv", delimiter=",", skiprows=1)
    return Pelts(table[:, 0], table[:, 1:], np.arange(len(table)) % 3 == 2)


def rhs(t, state, p, theta):
    """Logarithms of both populations: hares are born and hunted, lynxes die and are fed; p: logarithms of the rates."""
    hare, lynx = jnp.exp(state)
    rate = {name: jnp.exp(value) for name, value in p.items()}
    return jnp.stack([rate["birth"] - rate["hunted"] * lynx, rate["fed"] * hare - rate["death"]])


def initial(p, theta):
    """The first winter."""
    return jnp.log(jnp.stack([theta["hare"], theta["lynx"]]))


def observe(t, state, p, theta):
    """Pelts are taken in proportion to the animals there are."""
    return state


def prior(p, theta):
    """weight / 2 |p - log guess|^2"""
    return 0.5 * theta["weight"] * sum((p[name] - guess) ** 2 for name, guess in LOGS.items())


def calibration(data: Pelts, which: np.ndarray) -> ih.Calibration:
    """The model of the years in `which`."""
    box = tuple({name: value + side * np.log(REACH) for name, value in LOGS.items()} for side in (-1, 1))
    return ih.Calibration(
        rhs, initial, observe, data.t[which], np.log(data.counts[which]),
        noise=NOISE, prior=prior, start=LOGS, bounds=box, max_steps=1000,
    )  # fmt: skip


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Tune the first winter and the prior's weight by the held-out years; fit from many starts; draw the bands.

    **Arguments**: `quick`: fewer starts and coarser curves; `seed`: of the starts; `watch`: as in `tune`.
    """
    data = pelts()
    fitted, held = calibration(data, ~data.held), calibration(data, data.held)
    rates = ih.Parameters(**{name: ih.linear(v, v - np.log(REACH), v + np.log(REACH)) for name, v in LOGS.items()})
    fits = ih.fit_from(fitted, START.theta, ih.latin_hypercube(rates, 12 if quick else 96, seed))
    fitted = eqx.tree_at(lambda lower: lower.start, fitted, fits.best.x)

    problem = ih.Bilevel(fitted, ih.Misfit(held))
    report = ih.tune(problem, START, ih.Implicit(), ih.LBFGSB(), watch=watch, seed=seed)
    theta, p = report.theta, report.solution.x

    points, side = (7, 4) if quick else (31, 15)
    weights = np.geomspace(1e-1, 1e2, points)
    curve, _ = ih.sweep(problem, {**{k: np.full(points, theta[k]) for k in ("hare", "lynx")}, "weight": weights})
    winter = {"hare": np.geomspace(22.0, 45.0, side), "lynx": np.geomspace(4.0, 9.0, side)}
    hare, lynx = np.meshgrid(winter["hare"], winter["lynx"], indexing="ij")
    winters, _ = ih.sweep(problem, {"hare": hare, "lynx": lynx, "weight": np.full(hare.shape, theta["weight"])})

    known = ih.identify(fitted, theta, report.solution)
    t = np.linspace(0.0, data.t[-1], 6 * int(data.t[-1]) + 1)
    band = ih.band(fitted, theta, known.fisher, t)
    findings = {
        "held_out_before": report.history[0].value,
        "held_out_misfit": report.value,
        "held_out_values": held.measured.count,
        "hare": float(theta["hare"]),
        "lynx": float(theta["lynx"]),
        "weight": float(theta["weight"]),
        **{f"{name}_rate": float(np.exp(p[name])) for name in GUESS},
        "solves": report.history[-1].solves,
        "starts": len(fits.values),
        "starts_at_best": fits.reached(),
        "fits": fits.values,
        "fits_converged": fits.converged,
        "fits_summary": fits.summary(),
        "years": data.years,
        "counts": data.counts,
        "held": data.held,
        "weights": weights,
        "curve": curve,
        "winter": winter,
        "winters": winters,
        "path": np.array([[s.theta["hare"], s.theta["lynx"], s.theta["weight"], s.value] for s in report.history]),
        "errors": {name: verdict.standard_error for name, verdict in known.verdicts.items()},
        "identifiability": known.findings(),
        "t": t,
        "mean": band.mean,
        "deviation": band.deviation,
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    n = found["held_out_values"]
    lines = [
        f"held-out misfit {found['held_out_before']:.3f} -> {found['held_out_misfit']:.3f} of {n} values in "
        f"{found['solves']} solves (noise alone: {n})",
        f"first winter {found['hare']:.1f} thousand hares, {found['lynx']:.2f} thousand lynxes; prior weight "
        f"{found['weight']:.3g}",
    ]
    for name, guess in GUESS.items():
        rate = found[f"{name}_rate"]
        lines.append(f"{name:8}{rate:9.4f} a year +- {100 * found['errors'][name]:4.1f} %   (guess {guess:g})")
    return [*lines, found["fits_summary"]]
