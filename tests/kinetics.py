"""Published models written out by hand, with the data of ../shared/benchmark_models."""

import csv
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

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
