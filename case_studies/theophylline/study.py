"""Twelve subjects swallow theophylline: absorption and clearance of each, as a closed form and as an ODE."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import invhyper as ih

START = {
    "fixed": {"lKe": -2.5, "lKa": 0.5, "lCl": -3.0},
    "omega": np.array([[0.1, 0.01], [0.01, 0.3]]),
    "sigma": 0.8,
}


def records() -> list[ih.Records]:
    """Concentrations (mg/L) over time (h) of each subject, with its dose (mg/kg)."""
    with open(Path(__file__).parent / "data" / "theoph.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for name in dict.fromkeys(row["Subject"] for row in rows):
        mine = [row for row in rows if row["Subject"] == name]
        times, values = ([float(row[key]) for row in mine] for key in ("Time", "conc"))
        found.append(ih.Records(times, values, {"dose": float(mine[0]["Dose"])}, name=name))
    return sorted(found, key=lambda record: int(record.name))


def closed_form(phi, covariates, times):
    """Absorption and elimination of first order after one dose."""
    ke, ka = jnp.exp(phi["lKe"]), jnp.exp(phi["lKa"])
    size = covariates["dose"] * ke * ka / (jnp.exp(phi["lCl"]) * (ka - ke))
    return size * (jnp.exp(-ke * times) - jnp.exp(-ka * times))


def rhs(t, x, phi, covariates):
    """Amounts in the depot and in the central compartment."""
    absorbed = jnp.exp(phi["lKa"]) * x["depot"]
    return {"depot": -absorbed, "central": absorbed - jnp.exp(phi["lKe"]) * x["central"]}


def initial(phi, covariates):
    """The whole dose in the depot."""
    return {"depot": covariates["dose"], "central": 0.0}


def observe(t, x, phi, covariates):
    """The concentration: volume is clearance over the elimination rate."""
    return x["central"] * jnp.exp(phi["lKe"] - phi["lCl"])


def individual(fixed, eta, covariates):
    """Clearance and absorption rate differ between subjects."""
    return {"lKe": fixed["lKe"], "lKa": fixed["lKa"] + eta[1], "lCl": fixed["lCl"] + eta[0]}


def run(quick: bool = False, seed: int = 0, watch: Sequence[Callable] = ()) -> ih.Report:
    """Fit the closed form by FOCEI; then other methods at its maximum, and the ODE.

    **Arguments**: `quick`: no ODE, no quadrature; `seed`: of the simulated populations; `watch`: as in `tune`.
    """
    subjects = ih.MixedEffects(closed_form, individual, records(), ih.AdditiveError())
    fit = subjects.fit(START, ih.FOCEI(), watch=watch)
    theta, errors = fit.theta, fit.standard_errors
    methods = {"FO": ih.FO(), "FOCEI": ih.FOCEI(), "Laplace": ih.Laplace()} | ({} if quick else {"AGQ(9)": ih.AGQ(9)})
    findings = {
        "minus_two_log_likelihood": -2 * fit.log_likelihood,
        **{name: float(value) for name, value in theta["fixed"].items()},
        "variance_lCl": float(theta["omega"][0, 0]),
        "covariance": float(theta["omega"][0, 1]),
        "variance_lKa": float(theta["omega"][1, 1]),
        "sigma": float(theta["sigma"]),
        "errors": {name: float(value) for name, value in errors["fixed"].items()},
        "methods": {
            name: subjects.minus_two_log_likelihood(theta, method, full=True) for name, method in methods.items()
        },
        "eta_shrinkage": fit.eta_shrinkage,
        "epsilon_shrinkage": fit.epsilon_shrinkage,
        "table": str(fit.table()).splitlines(),
        "drawn": fit.drawn(seed=seed).findings(),
        "seconds": fit.seconds,
    }
    if not quick:
        simulated = ih.MixedEffects(
            ih.ode_predict(rhs, initial, observe), individual, records(), ih.AdditiveError()
        ).fit(START, ih.FOCEI())
        pairs = [(simulated.theta["fixed"][name], value) for name, value in theta["fixed"].items()]
        findings |= {
            "ode_minus_two_log_likelihood": -2 * simulated.log_likelihood,
            "ode_worst_difference": float(max(abs(a / b - 1) for a, b in pairs)),
            "ode_seconds": simulated.seconds,
        }
    provenance = fit.report.provenance | {"seed": seed}
    return replace(fit.report, provenance=provenance, findings={**findings, "summary": summary(findings)})


def summary(found: dict) -> list[str]:
    """What the run found, for a person."""
    clearance, absorbed, eliminated = (np.exp(found[name]) for name in ("lCl", "lKa", "lKe"))
    lines = [
        f"-2 log L = {found['minus_two_log_likelihood']:.4f} by FOCEI; at the same numbers "
        + ", ".join(f"{value:.4f} by {name}" for name, value in found["methods"].items() if name != "FOCEI"),
        f"clearance {1000 * clearance:.1f} mL/h/kg (subjects differ by {100 * found['variance_lCl'] ** 0.5:.0f} %), "
        f"half-lives of absorption {60 * np.log(2) / absorbed:.0f} minutes "
        f"(by {100 * found['variance_lKa'] ** 0.5:.0f} %) and elimination {np.log(2) / eliminated:.1f} h",
        f"measurements err by {found['sigma']:.2f} mg/L; shrinkage of clearance "
        f"{100 * found['eta_shrinkage'][0]:.0f} %, of absorption {100 * found['eta_shrinkage'][1]:.0f} %",
    ]
    if "ode_worst_difference" in found:
        lines.append(
            f"as an ODE: -2 log L = {found['ode_minus_two_log_likelihood']:.4f}, estimates within "
            f"{found['ode_worst_difference']:.0e}"
        )
    return lines
