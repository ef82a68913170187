"""Six subjects, an injection each: two exponentials, how subjects differ, and how measurements err."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import invhyper as ih

FIXED = {"lA1": 1.0, "lk1": 0.8, "lA2": -0.8, "lk2": -1.3}
ERRORS = {
    "additive": (ih.AdditiveError(), 0.1),
    "proportional": (ih.ProportionalError(), 0.15),
    "combined": (ih.CombinedError(), {"add": 0.02, "prop": 0.1}),
}
EFFECTS = ("fast rate", "slow amplitude")


def records() -> list[ih.Records]:
    """Concentrations (mg/L) over time (h) of each subject."""
    with open(Path(__file__).parent / "data" / "indometh.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["Subject"] for row in rows})
    return [
        ih.Records(
            *([float(row[key]) for row in rows if row["Subject"] == name] for key in ("time", "conc")), name=name
        )
        for name in names
    ]


def predict(phi, covariates, times):
    """The sum of a fast and a slow exponential."""
    return phi["A1"] * jnp.exp(-phi["k1"] * times) + phi["A2"] * jnp.exp(-phi["k2"] * times)


def every(fixed, eta, covariates):
    """Fast amplitude, fast rate and slow amplitude differ between subjects; all parameters are positive."""
    return {
        "A1": jnp.exp(fixed["lA1"] + eta[2]),
        "k1": jnp.exp(fixed["lk1"] + eta[0]),
        "A2": jnp.exp(fixed["lA2"] + eta[1]),
        "k2": jnp.exp(fixed["lk2"]),
    }


def individual(fixed, eta, covariates):
    """Fast rate and slow amplitude differ between subjects."""
    return every(fixed, jnp.append(eta, 0.0), covariates)


def fit(error: str, function: Callable = individual, effects: int = 2, watch=()) -> ih.PopulationFit:
    """The maximum of the FOCEI likelihood with a kind of error and independent random effects."""
    kind, sigma = ERRORS[error]
    subjects = ih.MixedEffects(predict, function, records(), kind)
    return subjects.fit({"fixed": FIXED, "omega": 0.1 * np.eye(effects), "sigma": sigma}, ih.FOCEI(), watch=watch)


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Fit with each kind of error, then ask whether a third random effect is wanted, and another method agrees.

    **Arguments**: `quick`: without the third random effect, the combined error and Laplace's method; `seed`: of the
    simulated populations; `watch`: as in `tune`.
    """
    best = fit("proportional", watch=watch)
    fits = {"proportional": best, "additive": fit("additive")}
    if not quick:
        fits["combined"] = fit("combined")
        fits["three effects"] = fit("proportional", every, 3)
    theta, errors = best.theta, best.standard_errors
    half = {name: float(np.log(2) / np.exp(theta["fixed"][name])) for name in ("lk1", "lk2")}
    findings = {
        "aic": {name: each.aic for name, each in fits.items()},
        "log_likelihood": best.log_likelihood,
        "log_likelihood_additive": fits["additive"].log_likelihood,
        **{name: float(theta["fixed"][name]) for name in FIXED},
        "variance_fast_rate": float(theta["omega"][0, 0]),
        "variance_slow_amplitude": float(theta["omega"][1, 1]),
        "sigma": float(theta["sigma"]),
        "half_life_fast": half["lk1"],
        "half_life_slow": half["lk2"],
        "errors": {name: float(errors["fixed"][name]) for name in FIXED},
        "eta_shrinkage": best.eta_shrinkage,
        "table": str(best.table()).splitlines(),
        "drawn": best.drawn(seed=seed).findings(),
        "seconds": best.seconds,
    }
    if not quick:
        laplace = best.population.minus_two_log_likelihood(theta, ih.Laplace(), full=True)
        quadrature = best.population.minus_two_log_likelihood(theta, ih.AGQ(15), full=True)
        findings |= {
            "log_likelihood_laplace": -laplace / 2,
            "log_likelihood_quadrature": -quadrature / 2,
            "variance_fast_amplitude": float(fits["three effects"].theta["omega"][2, 2]),
        }
    provenance = best.report.provenance | {"seed": seed}
    return replace(best.report, provenance=provenance, findings={**findings, "summary": summary(findings)})


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    criteria = ", ".join(f"{name} {value:.1f}" for name, value in found["aic"].items())
    lines = [
        f"AIC: {criteria}",
        f"half-lives {60 * found['half_life_fast']:.0f} minutes and {found['half_life_slow']:.1f} h; "
        f"measurements err by {100 * found['sigma']:.0f} %",
        f"subjects differ by {100 * np.sqrt(found['variance_fast_rate']):.0f} % in the fast rate, by "
        f"{100 * np.sqrt(found['variance_slow_amplitude']):.0f} % in the slow amplitude",
        f"log likelihood {found['log_likelihood']:.4f} by FOCEI",
    ]
    if "log_likelihood_quadrature" in found:
        lines[-1] += (
            f"; at the same numbers {found['log_likelihood_laplace']:.4f} by Laplace, "
            f"{found['log_likelihood_quadrature']:.4f} by quadrature"
        )
    return lines
