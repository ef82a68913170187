"""Models of differential equations: published ones, with the data of ../shared/benchmark_models, and one whose
minima are known."""

import csv
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import invhyper as ih


def shared(*parts: str) -> Path:
    """A path under ../shared; without it a test is skipped, on a continuous integration server it fails."""
    root = Path(os.environ.get("INVHYPER_SHARED") or Path(__file__).resolve().parents[1].parent / "shared")
    path = root.joinpath(*parts)
    if not path.exists():
        if os.environ.get("CI") == "true":
            raise FileNotFoundError(f"{path} is missing: set INVHYPER_SHARED")
        pytest.skip(f"{path} is not here: set INVHYPER_SHARED to where it is")
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def benchmark(name: str, observables, parameters):
    """Times, data (times, observables) and the nominal parameters of one benchmark problem."""
    folder = shared("benchmark_models", name)
    rows = table(folder / f"measurementData_{name}.tsv")
    times = np.unique([float(row["time"]) for row in rows])
    data = np.full((times.size, len(observables)), np.nan)
    for row in rows:
        data[np.searchsorted(times, float(row["time"])), observables.index(row["observableId"])] = row["measurement"]
    nominal = {row["parameterId"]: float(row["nominalValue"]) for row in table(folder / f"parameters_{name}.tsv")}
    return times, data, {key: nominal[key] for key in parameters}


def boehm(**options) -> tuple[ih.Calibration, dict]:
    """STAT5 dimerisation, 8 states, 6 rates and 3 standard deviations in log10: Boehm et al. (2014),
    doi:10.1021/pr5006923. -log L = 138.22 at the nominal parameters, with the constant of the normal density."""
    rates = ("Epo_degradation_BaF3", "k_exp_hetero", "k_exp_homo", "k_imp_hetero", "k_imp_homo", "k_phos")
    deviations = ("sd_pSTAT5A_rel", "sd_pSTAT5B_rel", "sd_rSTAT5A_rel")
    observables = ["pSTAT5A_rel", "pSTAT5B_rel", "rSTAT5A_rel"]
    times, data, nominal = benchmark("Boehm_JProteomeRes2014", observables, rates + deviations)
    ratio, share, nucleus = 0.693, 0.107, 1.4 / 0.45

    def rhs(t, x, p, theta):
        a, b, ab, aa, bb, naa, nab, nbb = x
        decay, out_hetero, out_homo, in_hetero, in_homo, phos = (10.0 ** p[name] for name in rates)
        epo = 1.25e-7 * phos * jnp.exp(-decay * t)
        to_aa, to_ab, to_bb = epo * a * a, epo * a * b, epo * b * b
        in_aa, in_ab, in_bb = in_homo * aa, in_hetero * ab, in_homo * bb
        out_aa, out_ab, out_bb = out_homo * naa / nucleus, out_hetero * nab / nucleus, out_homo * nbb / nucleus
        return jnp.stack([
            -2 * to_aa - to_ab + 2 * out_aa + out_ab, -to_ab - 2 * to_bb + out_ab + 2 * out_bb,
            to_ab - in_ab, to_aa - in_aa, to_bb - in_bb,
            nucleus * (in_aa - out_aa), nucleus * (in_ab - out_ab), nucleus * (in_bb - out_bb),
        ])  # fmt: skip

    def observe(t, x, p, theta):
        a, b, ab, aa, bb = x[:5]
        in_a, in_b = ab + share * (a + 2 * aa), ab + (1 - share) * (b + 2 * bb)
        return 100 * jnp.stack([(ab + 2 * share * aa) / in_a, (ab + 2 * (1 - share) * bb) / in_b, in_a / (in_a + in_b)])

    calibration = ih.Calibration(
        rhs, lambda p, theta: 207.6 * jnp.array([ratio, 1 - ratio, 0, 0, 0, 0, 0, 0]), observe, times, data,
        noise=lambda p, theta: jnp.stack([10.0 ** p[name] for name in deviations]),
        start={name: np.log10(value) for name, value in nominal.items()}, bounds=(-5.0, 5.0), **options,
    )  # fmt: skip
    return calibration, {name: np.log10(value) for name, value in nominal.items()}


def crauste(**options) -> tuple[ih.Calibration, dict]:
    """T cells in an infection, 5 states, 12 rates in log10, not stiff and explosive: Crauste et al. (2017),
    doi:10.1016/j.cels.2017.01.014. Deviations are one in a tenth of the largest value of each observable."""
    rates = tuple("delta_EL delta_LM delta_NE mu_EE mu_LE mu_LL mu_N mu_P mu_PE mu_PL rho_E rho_P".split())
    observables = [f"observable_{name}" for name in ("Naive", "EarlyEffector", "LateEffector", "Memory")]
    times, data, nominal = benchmark("Crauste_CellSystems2017", observables, rates)

    def rhs(t, x, p, theta):
        n, e, m, memory, pathogen = x
        k = {name: 10.0 ** p[name] for name in rates}
        return jnp.stack([
            -k["mu_N"] * n - k["delta_NE"] * n * pathogen,
            k["delta_NE"] * n * pathogen + k["rho_E"] * e * pathogen - k["mu_EE"] * e * e - k["delta_EL"] * e,
            k["delta_EL"] * e - k["mu_LL"] * m * m - k["mu_LE"] * e * m - k["delta_LM"] * m,
            k["delta_LM"] * m,
            pathogen * (k["rho_P"] * pathogen - k["mu_PE"] * e - k["mu_PL"] * m - k["mu_P"]),
        ])  # fmt: skip

    nominal = {name: np.log10(value) for name, value in nominal.items()}
    calibration = ih.Calibration(
        rhs, lambda p, theta: jnp.array([8090.0, 0, 0, 0, 1]), lambda t, x, p, theta: x[:4], times, data,
        mask=np.isfinite(data), noise=0.1 * np.nanmax(data, axis=0), start=nominal, bounds=(-11.0, 3.0), **options,
    )  # fmt: skip
    return calibration, nominal


# One frequency, whose misfit to a sinusoid has several minima, beside a size that is infinite at t = 1 / (w size0).
FREQUENCY_TIMES = np.linspace(0.1, 4.0, 30)


def _frequency_rhs(t, state, p, theta):
    return {"phase": p["w"], "size": p["w"] * state["size"] ** 2}


def _frequency_initial(p, theta):
    return {"phase": 0.0, "size": theta["size"]}


def _frequency_observe(t, state, p, theta):
    return jnp.cos(state["phase"])


def frequency_calibration(w=3.0, noise=0.5, limits=(0.2, 20.0)):
    """cos(w t) as data of a simulated phase; every function at module level, so that it travels to other processes."""
    return ih.Calibration(
        _frequency_rhs, _frequency_initial, _frequency_observe, FREQUENCY_TIMES, np.cos(w * FREQUENCY_TIMES),
        noise=noise, start={"w": 1.0}, bounds=limits, max_steps=400,
    )  # fmt: skip


def frequency_minima(w=3.0, noise=0.5, limits=(0.2, 20.0)):
    """Every local minimum of 1/2 sum ((cos w t - cos v t) / noise)^2 over v: places and values, by value."""

    def misfit(v):
        return 0.5 * np.sum(((np.cos(w * FREQUENCY_TIMES) - np.cos(v * FREQUENCY_TIMES)) / noise) ** 2)

    grid = np.linspace(*limits, 4001)
    values = np.array([misfit(v) for v in grid])
    inner = np.flatnonzero((values[1:-1] < values[:-2]) & (values[1:-1] < values[2:])) + 1
    found = [
        minimize_scalar(misfit, bounds=grid[[i - 1, i + 1]], method="bounded", options={"xatol": 1e-12}) for i in inner
    ]
    found = sorted(found, key=lambda each: each.fun)
    return np.array([each.x for each in found]), np.array([each.fun for each in found])
