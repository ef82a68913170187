"""Populations that several tests share: Wang's ten subjects, theophylline as a closed form, a linear mixed model."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from linear_mixed import LinearMixed, linear_mixed_model

import invhyper as ih

CHECKOUT = Path(__file__).resolve().parent.parent
THEOPH = CHECKOUT / "case_studies" / "theophylline" / "data" / "theoph.csv"
METHODS = (ih.FO(), ih.FOCE(), ih.FOCEI(), ih.Laplace())

# Wang (2007), doi:10.1007/s10928-007-9060-6: ten subjects, two measurements each, at times 0 and 1.
WANG = {
    "1": (10.68, 3.6837),
    "2": (10.402, 6.454),
    "3": (9.8814, 5.8565),
    "4": (9.3408, 5.6209),
    "5": (10.082, 6.7583),
    "6": (9.8938, 6.5049),
    "7": (9.8908, 6.9557),
    "8": (10.234, 6.4488),
    "9": (9.9882, 6.7112),
    "10": (9.6736, 6.6402),
}
WANG_THETA = {"fixed": {"ke": 0.5}, "omega": np.array([[0.04]]), "sigma": np.sqrt(0.1)}

THEOPH_LAPLACE = {
    "fixed": {"lKe": -2.45899, "lKa": 0.47912, "lCl": -3.22675},
    "omega": np.array([[0.0279934, -0.0012632], [-0.0012632, 0.4276045]]),
    "sigma": np.sqrt(0.5012333),
}
THEOPH_START = {
    "fixed": {"lKe": -2.5, "lKa": 0.5, "lCl": -3.0},
    "omega": np.array([[0.1, 0.01], [0.01, 0.3]]),
    "sigma": 0.8,
}


def decay(phi, covariates, times):
    """10 exp(-ke t)"""
    return 10 * jnp.exp(-phi * times)


def scaled_rate(fixed, eta, covariates):
    """ke exp(eta)"""
    return fixed["ke"] * jnp.exp(eta[0])


def wang(error) -> ih.MixedEffects:
    records = [ih.Records([0.0, 1.0], values, name=name) for name, values in WANG.items()]
    return ih.MixedEffects(decay, scaled_rate, records, error)


def one_compartment(phi, covariates, times):
    """R's SSfol: first-order absorption and elimination after one dose."""
    ke, ka = jnp.exp(phi["lKe"]), jnp.exp(phi["lKa"])
    size = covariates["dose"] * jnp.exp(phi["lKe"] + phi["lKa"] - phi["lCl"]) / (ka - ke)
    return size * (jnp.exp(-ke * times) - jnp.exp(-ka * times))


def absorption(t, x, phi, covariates):
    """Depot and central compartment."""
    ke, ka = jnp.exp(phi["lKe"]), jnp.exp(phi["lKa"])
    return jnp.stack([-ka * x[0], ka * x[0] - ke * x[1]])


def dose_in_depot(phi, covariates):
    return jnp.stack([covariates["dose"], jnp.zeros(())])


def concentration(t, x, phi, covariates):
    return x[1] * jnp.exp(phi["lKe"] - phi["lCl"])


def clearance_and_absorption(fixed, eta, covariates):
    """lCl and lKa are random, lKe is not."""
    return {"lKe": fixed["lKe"], "lKa": fixed["lKa"] + eta[1], "lCl": fixed["lCl"] + eta[0]}


def theophylline_records() -> list[ih.Records]:
    table = np.genfromtxt(THEOPH, delimiter=",", names=True, dtype=None, encoding="utf-8")
    subjects = np.char.strip(table["Subject"].astype(str), '"')
    rows = {name: table[subjects == name] for name in dict.fromkeys(subjects)}
    return [
        ih.Records(row["Time"].astype(float), row["conc"], {"dose": row["Dose"][0]}, name=str(name))
        for name, row in rows.items()
    ]


def theophylline(predict=one_compartment) -> ih.MixedEffects:
    return ih.MixedEffects(predict, clearance_and_absorption, theophylline_records(), ih.AdditiveError())


def linear(phi, covariates, times):
    """X b + Z eta"""
    return covariates["X"] @ phi["b"] + covariates["Z"] @ phi["eta"]


def both(fixed, eta, covariates):
    """b and eta"""
    return {"b": fixed["b"], "eta": eta}


def linear_mixed() -> tuple[ih.MixedEffects, dict, LinearMixed]:
    """A linear mixed model and its exact likelihood."""
    model = linear_mixed_model()
    records = [
        ih.Records(np.arange(len(y)), y, {"X": X, "Z": Z}, name=f"S{k}")
        for k, (X, Z, y) in enumerate(zip(model.X, model.Z, model.y, strict=True))
    ]
    population = ih.MixedEffects(linear, both, records, ih.AdditiveError())
    return population, {"fixed": {"b": model.b}, "omega": model.omega, "sigma": model.sigma}, model


def gradient_error(population: ih.MixedEffects, method, theta, h: float = 1e-3, seed: int = 0) -> float:
    """How far the exact gradient is from re-converged central differences of fourth order, relative to its size."""
    problem = population.problem(method)
    evaluation = ih.Implicit()(problem, theta)
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, theta))
    slope = np.asarray(ravel_pytree(evaluation.gradient)[0])
    d = np.shape(theta["omega"])[0]
    worst, size = 0.0, 0.0
    for direction in np.eye(flat.size):
        moved = unravel(jnp.asarray(direction))
        moved["omega"] = (moved["omega"] + moved["omega"].T) / 2  # the matrix stays symmetric
        along = np.asarray(ravel_pytree(moved)[0])
        scale = np.max(np.abs(along * flat)) if np.any(along * flat) else 1.0
        scale = min(scale, np.min(np.linalg.eigvalsh(theta["omega"]))) if np.any(moved["omega"]) else scale

        def at(step, along=along, scale=scale):
            there = jax.tree.map(np.asarray, unravel(jnp.asarray(flat + step * scale * along)))
            there["omega"] = there["omega"].reshape(d, d)
            return ih.Implicit()(problem, there, warm=evaluation).value

        difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
        worst = max(worst, abs(difference - scale * slope @ along))
        size = max(size, abs(scale * slope @ along))
    return worst / size
