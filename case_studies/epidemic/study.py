"""A common cold on an island: the rates of an epidemic inside, how many were susceptible and infective outside."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import invhyper as ih

NOISE = 2.0  # standard deviation of a count, in people
# The box from which fits start: a person infects a susceptible one, and recovers, at these rates a day.
RATES = ih.Parameters(infection=ih.log(0.02, 1e-3, 0.5, unit="1/day"), recovery=ih.log(0.2, 0.02, 5.0, unit="1/day"))
START = ih.Parameters(
    susceptible=ih.log(60.0, 37.0, 280.0, unit="people"),  # 37 fell ill; the island had 284 people in 1971
    infective=ih.log(1.0, 0.05, 5.0, unit="people"),
)


@dataclass(frozen=True)
class Colds:
    """People infective and recovered, (days, 2), on the days of the epidemic, and which days are held out."""

    days: np.ndarray
    counts: np.ndarray
    held: np.ndarray


def colds() -> Colds:
    """21 days in October 1967; every third, from the third on, is held out."""
    table = np.loadtxt(Path(__file__).parent / "data" / "colds.csv", delimiter=",", skiprows=1)
    return Colds(table[:, 0], table[:, 1:], np.arange(len(table)) % 3 == 2)


def rhs(t, state, p, theta):
    """Kermack and McKendrick; p holds logarithms of the rates."""
    infected = jnp.exp(p["infection"]) * state["susceptible"] * state["infective"]
    recovered = jnp.exp(p["recovery"]) * state["infective"]
    return {"susceptible": -infected, "infective": infected - recovered, "recovered": recovered}


def initial(p, theta):
    """The first day."""
    return {"susceptible": theta["susceptible"], "infective": theta["infective"], "recovered": 0.0}


def observe(t, state, p, theta):
    """The two counts that were kept."""
    return jnp.stack([state["infective"], state["recovered"]])


def calibration(data: Colds, which: np.ndarray) -> ih.Calibration:
    """The model of the days in `which`."""
    limits = (RATES.natural(side) for side in RATES.bounds)
    return ih.Calibration(
        rhs, initial, observe, data.days[which], data.counts[which], t0=data.days[0],
        noise=NOISE, start=_logs(RATES.theta), bounds=tuple(map(_logs, limits)), max_steps=1000,
    )  # fmt: skip


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Tune the people of the first day by the held-out days; fit from many starts; draw the bands.

    **Arguments**: `quick`: fewer starts and a coarser map; `seed`: of the starts; `watch`: as in `tune`.
    """
    data = colds()
    fitted, held = calibration(data, ~data.held), calibration(data, data.held)
    starts = [_logs(start) for start in ih.latin_hypercube(RATES, 12 if quick else 96, seed)]
    fits = ih.fit_from(fitted, START.theta, starts)
    fitted = eqx.tree_at(lambda lower: lower.start, fitted, fits.best.x)

    problem = ih.Bilevel(fitted, ih.Misfit(held))
    report = ih.tune(problem, START, ih.Implicit(), ih.LBFGSB(), watch=watch, seed=seed)
    theta, p = report.theta, report.solution.x

    side = 4 if quick else 17
    first = {"susceptible": np.geomspace(37.0, 62.0, side), "infective": np.geomspace(0.15, 2.0, side)}
    across, up = np.meshgrid(first["susceptible"], first["infective"], indexing="ij")
    values, _ = ih.sweep(problem, {"susceptible": across, "infective": up})

    rates = {name: float(np.exp(value)) for name, value in p.items()}
    known = ih.identify(fitted, theta, report.solution)
    t = np.linspace(data.days[0], data.days[-1], 6 * int(data.days[-1] - data.days[0]) + 1)
    band = ih.band(fitted, theta, known.fisher, t)
    findings = {
        "held_out_before": report.history[0].value,
        "held_out_misfit": report.value,
        "held_out_values": held.measured.count,
        "susceptible": float(theta["susceptible"]),
        "infective": float(theta["infective"]),
        **{f"{name}_rate": rate for name, rate in rates.items()},
        "reproduction": float(theta["susceptible"]) * rates["infection"] / rates["recovery"],
        "solves": report.history[-1].solves,
        "starts": len(fits.values),
        "starts_at_best": fits.reached(),
        "fits": fits.values,
        "fits_converged": fits.converged,
        "fits_summary": fits.summary(),
        "days": data.days,
        "counts": data.counts,
        "held": data.held,
        "first": first,
        "values": values,
        "path": np.array([[s.theta["susceptible"], s.theta["infective"], s.value] for s in report.history]),
        "errors": {name: verdict.standard_error for name, verdict in known.verdicts.items()},
        "identifiability": known.findings(),
        "t": t,
        "mean": band.mean,
        "deviation": band.deviation,
    }
    return replace(report, findings={**findings, "summary": summary(findings)})


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    n, errors = found["held_out_values"], found["errors"]
    return [
        f"held-out misfit {found['held_out_before']:.3f} -> {found['held_out_misfit']:.3f} of {n} values in "
        f"{found['solves']} solves (noise alone: {n})",
        f"first day: {found['susceptible']:.1f} people susceptible, {found['infective']:.2f} infective",
        f"infection {found['infection_rate']:.4f} a day and person +- {100 * errors['infection']:.1f} %, recovery "
        f"{found['recovery_rate']:.3f} a day +- {100 * errors['recovery']:.1f} %: ill for "
        f"{1 / found['recovery_rate']:.1f} days, one infects {found['reproduction']:.1f}",
        found["fits_summary"],
    ]


def _logs(rates):
    return {name: float(np.log(rate)) for name, rate in rates.items()}
