"""Fisher information, profile likelihoods and verdicts, against closed forms and scipy's re-optimisation."""

import io
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from scipy.optimize import brentq, least_squares
from scipy.special import lambertw
from scipy.stats import chi2

import invhyper as ih
from invhyper import archive
from invhyper.identifiability import verdict
from invhyper.identifiability.verdict import IDENTIFIABLE, PRACTICALLY, STRUCTURALLY

RISE = chi2.ppf(0.95, 1) / 2
TIMES = np.array([0.5, 1.0, 1.5, 2.5, 4.0, 6.0, 8.0, 12.0])
WIGGLE = np.array([0.7, -1.1, 0.4, 0.9, -0.6, -0.3, 1.0, -0.8])  # errors of measurement, in standard deviations


def with_data(calibration, values, noise):
    """The same compiled programs for other data."""
    values = jnp.asarray(values).reshape(calibration.measured.values.shape)
    noise = jnp.broadcast_to(jnp.asarray(noise, float), calibration.model.noise.shape)
    return eqx.tree_at(lambda c: (c.measured.values, c.model.noise), calibration, (values, noise))


# Michaelis and Menten's decay x' = -V x / (K + x): Lambert's W solves it.


def menten(p, x0):
    V, K = p
    return K * lambertw(x0 / K * np.exp((x0 - V * TIMES) / K)).real


@pytest.fixture(scope="module")
def assay():
    return ih.Calibration(
        rhs=lambda t, x, p, theta: -p["V"] * x / (p["K"] + x),
        initial=lambda p, theta: theta["x0"],
        observe=lambda t, x, p, theta: x,
        times=TIMES,
        data=np.ones(8),
        noise=np.ones(8),
        start={"V": 1.2, "K": 1.5},
        bounds=(1e-6, 1e4),
    )


def held_out_of(x0, noise):
    """The assay's residuals for flat p = (K, V), in the order of names."""
    data = menten((1.0, 2.0), x0) + noise * WIGGLE
    return data, lambda p: (menten((p[1], p[0]), x0) - data) / noise


# Production and decay, x' = s u - k x from zero, seen as gain x, or as x itself where the condition says `direct`.

CONDITIONS = [{"u": 1.0, "direct": 0.0}, {"u": 2.0, "direct": 0.0}]
DIRECT = [{"u": 1.0, "direct": 0.0}, {"u": 2.0, "direct": 1.0}]


def produced(p, conditions):
    gain, k, s = p
    seen = [np.where(c["direct"], 1.0, gain) * s * c["u"] * -np.expm1(-k * TIMES) / k for c in conditions]
    return np.stack(seen)


TRACED = []


@pytest.fixture(scope="module")
def production():
    def rhs(t, x, p, theta, c):
        TRACED.append(1)
        return p["s"] * c["u"] - p["k"] * x

    return ih.Calibration(
        rhs=rhs,
        initial=lambda p, theta, c: 0.0,
        observe=lambda t, x, p, theta, c: jnp.where(c["direct"] > 0, 1.0, p["gain"]) * x,
        times=TIMES,
        data=[np.ones(8), np.ones(8)],
        noise=np.ones((2, 8)),
        conditions=CONDITIONS,
        start={"s": 0.8, "gain": 1.5, "k": 0.4},
        bounds=(0.0, None),
    )


def producing(production, conditions, noise):
    """The calibration with these conditions, and the residuals for flat p = (gain, k, s)."""
    noise = np.broadcast_to(np.reshape(noise, (-1, 1)), (2, 8))
    data = produced((2.0, 0.5, 1.0), conditions) + noise * np.stack([WIGGLE, WIGGLE[::-1]])
    stacked = jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *conditions)
    calibration = eqx.tree_at(lambda c: c.measured.conditions, production, stacked)
    calibration = with_data(calibration, data, noise[..., None])
    return calibration, lambda p: ((produced(p, conditions) - data) / noise).ravel()


@pytest.fixture(scope="module")
def unseen(production):
    """What identify finds where only the product of gain and s is seen."""
    return ih.identify(producing(production, CONDITIONS, 0.2)[0], {})


# Reference: the other parameters fitted again by scipy.


def refitted(residuals, index, guess):
    """c -> the least of 1/2 |residuals|^2 with p_index = c."""
    guess = np.asarray(guess, float)

    def value(c):
        def with_c(others):
            return residuals(np.insert(others, index, c))

        found = least_squares(with_c, np.delete(guess, index), xtol=1e-15, ftol=1e-15, gtol=1e-15, x_scale="jac")
        return found.cost

    return value


def crossing(value, limit, near):
    return brentq(lambda c: value(c) - limit, 0.98 * near, 1.02 * near, xtol=1e-12)


def agrees(profile, residuals):
    """Objective differences and interval ends, 1e-4 relative."""
    index = profile.names.index(profile.name)
    best = least_squares(residuals, profile.parameters[profile.fit], xtol=1e-15, ftol=1e-15, gtol=1e-15, x_scale="jac")
    for c, p, rise in zip(profile.values, profile.parameters, profile.rise, strict=True):
        expected = refitted(residuals, index, p)(c) - best.cost
        if c != profile.best:
            assert abs(rise - expected) <= 1e-4 * expected, (profile.name, c)
    for side, end in enumerate(profile.interval):
        known = crossing(refitted(residuals, index, profile.parameters[-side]), best.cost + RISE, end)
        assert abs(end - known) <= 1e-4 * abs(known), (profile.name, end)


def test_all_profiles_run_in_the_program_of_the_fit(production):
    """It is the first here to use `production`: what it needs is traced now."""
    calibration, _ = producing(production, CONDITIONS, 0.2)
    solution = ih.solve(calibration, {}, throw=False)
    ih.fisher(calibration, {}, solution)
    traced = len(TRACED)
    for name, within in (("gain", (1.0, 4.0)), ("k", None)):
        assert len(ih.profile(calibration, {}, name, solution=solution, within=within).values) > 5
    assert len(TRACED) == traced > 0


@pytest.mark.parametrize("name", ["K", "V"])
def test_profile_of_an_assay_against_scipy(assay, name):
    data, residuals = held_out_of(4.0, 0.05)
    agrees(ih.profile(with_data(assay, data, 0.05), {"x0": 4.0}, name), residuals)


@pytest.mark.parametrize("name", ["gain", "k", "s"])
def test_profile_of_production_against_scipy(production, name):
    calibration, residuals = producing(production, DIRECT, 0.2)
    agrees(ih.profile(calibration, {}, name), residuals)


def test_the_slope_of_a_profile_is_that_of_the_objective(assay):
    """Envelope theorem: dPL/dc is the partial derivative; cubics through values and slopes foretell points between."""
    data, residuals = held_out_of(4.0, 0.05)
    found = ih.profile(with_data(assay, data, 0.05), {"x0": 4.0}, "K")
    value = refitted(residuals, 0, found.parameters[-1])
    c, h = found.values[-1], 1e-4
    assert found.slope[-1] == pytest.approx((value(c + h) - value(c - h)) / (2 * h), rel=1e-5)
    between = 0.5 * (found.values[-3] + found.values[-2])
    assert found.through(between) == pytest.approx(value(between) - found.objective[found.fit], rel=1e-3)


# Verdicts: two models of each kind.


def kinds(found):
    return {name: each.kind for name, each in found.verdicts.items()}


def test_an_assay_with_much_substrate_is_identifiable(assay):
    data, _ = held_out_of(4.0, 0.05)
    found = ih.identify(with_data(assay, data, 0.05), {"x0": 4.0})
    assert kinds(found) == {"K": IDENTIFIABLE, "V": IDENTIFIABLE}
    assert found.fisher.rank == 2 and found.fisher.null.shape == (2, 0)
    for name, each in found.verdicts.items():
        low, high = each.interval
        assert low < {"K": 2.0, "V": 1.0}[name] < high
        assert each.standard_error == pytest.approx((high - low) / (2 * np.sqrt(2 * RISE)), rel=0.1)


def test_an_assay_with_little_substrate_is_practically_not(assay):
    """x' = -V x / K for x << K: the ratio is known, no upper limit to either."""
    data, _ = held_out_of(0.2, 0.01)
    found = ih.identify(with_data(assay, data, 0.01), {"x0": 0.2})
    assert kinds(found) == {"K": PRACTICALLY, "V": PRACTICALLY}
    assert found.fisher.rank == 2
    for each in found.verdicts.values():
        assert "no upper limit" in str(each) and each.interval[1] == np.inf


def test_production_seen_directly_is_identifiable(production):
    found = ih.identify(producing(production, DIRECT, 0.2)[0], {})
    assert kinds(found) == dict.fromkeys(("gain", "k", "s"), IDENTIFIABLE)


def test_production_hardly_seen_directly_is_practically_not(production):
    """The direct measurement is all noise: only the product of gain and s is known, and k."""
    found = ih.identify(producing(production, DIRECT, [0.2, 20.0])[0], {})
    assert kinds(found) == {"gain": PRACTICALLY, "k": IDENTIFIABLE, "s": PRACTICALLY}
    assert found.fisher.rank == 3
    assert "no upper limit" in str(found.verdicts["gain"]) and "no lower limit" in str(found.verdicts["s"])


def degrees(direction, known, names):
    """The angle between a direction {name: component} and a known one, as lines."""
    a, b = (np.array([each.get(name, 0.0) for name in names]) for each in (direction, known))
    return np.degrees(np.arccos(min(1.0, abs(a @ b) / np.linalg.norm(a) / np.linalg.norm(b))))


def test_production_with_a_gain_is_structurally_not(unseen):
    """Two conditions tell k apart, but only gain s is seen."""
    assert kinds(unseen) == {"gain": STRUCTURALLY, "k": IDENTIFIABLE, "s": STRUCTURALLY}
    p = {name: each.value for name, each in unseen.verdicts.items()}
    for name in ("gain", "s"):
        direction = unseen.verdicts[name].direction
        assert set(direction) == {"gain", "s"}
        assert degrees(direction, {"gain": p["gain"], "s": -p["s"]}, p) < 1
        assert unseen.verdicts[name].standard_error == np.inf
        product = unseen.profiles[name].parameters[:, 0] * unseen.profiles[name].parameters[:, 2]
        np.testing.assert_allclose(product, product[0], rtol=1e-6)  # others move along the hyperbola
    assert np.isfinite(unseen.verdicts["k"].standard_error) and unseen.verdicts["k"].direction == {}
    assert "direction gain: " in unseen.summary() and "s: -" in unseen.summary()


@pytest.mark.slow  # another program; what it adds to a production with a gain is one more name in the direction
def test_turnover_of_unknown_scale_is_structurally_not():
    """x' = a - k x from q, seen as gain x: (a, q, gain) -> (L a, L q, gain / L) is not seen."""
    turnover = ih.Calibration(
        rhs=lambda t, x, p, theta: p["a"] - p["k"] * x,
        initial=lambda p, theta: p["q"],
        observe=lambda t, x, p, theta: p["gain"] * x,
        times=TIMES,
        data=(3 + (2 - 3) * np.exp(-0.6 * TIMES)) * 1.5 + 0.05 * WIGGLE,
        noise=0.05,
        start={"a": 1.0, "q": 1.0, "gain": 1.0, "k": 0.5},
    )
    found = ih.identify(turnover, {}, within=dict.fromkeys(("a", "q", "gain"), (0.1, 10.0)))
    assert kinds(found) == {"a": STRUCTURALLY, "gain": STRUCTURALLY, "k": IDENTIFIABLE, "q": STRUCTURALLY}
    p = {name: each.value for name, each in found.verdicts.items()}
    known = {"a": p["a"], "q": p["q"], "gain": -p["gain"]}
    for name in known:
        assert set(found.verdicts[name].direction) == set(known)
        assert degrees(found.verdicts[name].direction, known, p) < 1


# Fisher information


def test_fisher_is_that_of_the_closed_form(production):
    """Central differences of the closed form give S; the inverse of S^T S the errors that are expected."""
    calibration, residuals = producing(production, DIRECT, 0.2)
    found = ih.fisher(calibration, {}, ih.Solution(ih.solve(calibration, {}).x))
    assert found.observed is None
    h = 1e-5
    S = np.stack([(residuals(found.values + v) - residuals(found.values - v)) / (2 * h) for v in h * np.eye(3)], 1)
    np.testing.assert_allclose(found.matrix, S.T @ S, rtol=1e-6)
    covariance = np.linalg.inv(S.T @ S)
    errors = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(found.standard_errors, errors, rtol=1e-5)
    np.testing.assert_allclose(found.correlations, covariance / np.outer(errors, errors), atol=1e-5)
    scale = np.sqrt(np.diag(found.matrix))
    scaled = found.matrix / np.outer(scale, scale)
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(scaled)[::-1], rtol=1e-6)
    for value, direction in zip(found.eigenvalues, found.directions.T, strict=True):
        v = scale * direction
        np.testing.assert_allclose(scaled @ v, value * v, atol=1e-8 * np.linalg.norm(v))


def test_standard_errors_take_what_stands_at_a_bound_as_known(assay):
    data, _ = held_out_of(4.0, 0.05)
    bounded = eqx.tree_at(lambda c: c.ceiling, with_data(assay, data, 0.05), jnp.asarray([1.9, 1e4]))
    found = ih.fisher(bounded, {"x0": 4.0})
    assert found.values[0] == 1.9 and np.isnan(found.standard_errors[0])
    assert found.standard_errors[1] == pytest.approx(1 / np.sqrt(found.observed[1, 1]), rel=1e-12)


def test_a_profile_that_its_standard_error_misses_is_noted(assay):
    """Little substrate: K has no upper limit, and its lower one is far above what a parabola foretells."""
    data, _ = held_out_of(0.2, 0.01)
    found = ih.identify(with_data(assay, data, 0.01), {"x0": 0.2}, parameters=["K"])
    verdict = found.verdicts["K"]
    ratio = (verdict.value - verdict.interval[0]) / (np.sqrt(2 * RISE) * verdict.standard_error)
    assert 0 < ratio < 0.5
    assert f"The interval of K reaches {ratio:.2g} times as far as its standard error foretells" in found.summary()


# What else the verdicts rest on


def test_a_parameter_that_does_nothing_is_its_own_direction(production):
    """Both experiments are seen directly: the gain changes nothing."""
    both = [{"u": 1.0, "direct": 1.0}, {"u": 2.0, "direct": 1.0}]
    found = ih.identify(producing(production, both, 0.2)[0], {})
    assert kinds(found) == {"gain": STRUCTURALLY, "k": IDENTIFIABLE, "s": IDENTIFIABLE}
    assert found.verdicts["gain"].direction == {"gain": 1.0}
    assert np.all(np.isfinite(found.fisher.standard_errors[1:]))


def test_a_bound_of_another_parameter_ends_a_flat_profile(production):
    """gain <= 10 keeps s above (gain s) / 10: the verdict is of the model, the interval heeds the bound."""
    calibration, _ = producing(production, CONDITIONS, 0.2)
    calibration = eqx.tree_at(lambda c: c.ceiling, calibration, jnp.asarray([10.0, np.inf, np.inf]))
    found = ih.identify(calibration, {}, parameters=["s"])
    assert kinds(found) == {"s": STRUCTURALLY}
    interval, product = found.verdicts["s"].interval, found.fisher.values[0] * found.fisher.values[2]
    assert 0.5 * product / 10 < interval[0] < product / 10 and interval[1] == np.inf


def test_a_bound_that_comes_before_the_limit_is_named(assay):
    data, _ = held_out_of(4.0, 0.05)
    bounded = eqx.tree_at(lambda c: c.ceiling, with_data(assay, data, 0.05), jnp.asarray([2.2, 1e4]))
    found = ih.identify(bounded, {"x0": 4.0}, parameters=["K"])
    assert str(found.verdicts["K"]) == "practically non-identifiable (no upper limit below its bound 2.2)"
    assert found.profiles["K"].values[-1] == 2.2


def test_a_profile_ends_where_it_is_told_to(assay):
    data, _ = held_out_of(4.0, 0.05)
    found = ih.profile(with_data(assay, data, 0.05), {"x0": 4.0}, 0, within=(1.9, 2.1))
    assert found.name == "K" and (found.values[0], found.values[-1]) == (1.9, 2.1)
    assert found.ends == ("no lower limit above 1.9", "no upper limit below 2.1")
    assert found.interval == (-np.inf, np.inf)


def test_a_better_fit_that_a_profile_finds_is_judged_instead(assay, monkeypatch):
    data, _ = held_out_of(4.0, 0.05)
    calibration = with_data(assay, data, 0.05)
    wanted = ih.identify(calibration, {"x0": 4.0})
    first, fit = [jnp.asarray([1.8, 1e-6]), jnp.asarray([1.8, 1e4])], verdict.fit

    def stuck(calibration, theta, x=None):
        if first:
            calibration = eqx.tree_at(lambda c: (c.floor, c.ceiling), calibration, tuple(first))
            first.clear()
        return fit(calibration, theta, x)

    monkeypatch.setattr(verdict, "fit", stuck)
    found = ih.identify(calibration, {"x0": 4.0})
    assert "found a fit that is better by" in found.notes[0] and found.notes[0] in found.summary()
    for name in "KV":
        np.testing.assert_allclose(found.verdicts[name].interval, wanted.verdicts[name].interval, rtol=1e-7)


def test_slips_are_named(assay):
    theta = {"x0": 4.0}
    with pytest.raises(ValueError, match="no parameter is called 'v': did you mean 'V'"):
        ih.profile(assay, theta, "v")
    with pytest.raises(ValueError, match="no parameter has the number 2: p has 2"):
        ih.profile(assay, theta, 2)
    with pytest.raises(ValueError, match="level = 95"):
        ih.identify(assay, theta, level=95)
    with pytest.raises(ValueError, match="leaves out the fit"):
        data, _ = held_out_of(4.0, 0.05)
        ih.profile(with_data(assay, data, 0.05), theta, "K", within=(3.0, 4.0))


def test_table_and_figures_show_what_was_found(unseen):
    page = Console(file=io.StringIO(), width=200)
    page.print(unseen)
    lines = page.file.getvalue().splitlines()
    assert "95 % interval" in lines[0] and "structurally non-identifiable (direction gain" in lines[1]
    assert lines[2].split()[-1] == "identifiable"
    figure = ih.plots.profiles(unseen)
    assert [axes.get_title("left") for axes in figure.axes] == [f"{v.name}: {v.kind}" for v in unseen.verdicts.values()]
    curve = next(each for each in figure.axes[1].lines if each.get_label() == "profile likelihood")
    assert curve.get_ydata()[-1] == pytest.approx(RISE, rel=1e-6)
    assert curve.get_xdata()[-1] == unseen.profiles["k"].values[-1]
    above, below, _ = ih.plots.spectrum(unseen.fisher).axes
    assert above.get_yscale() == "log" and [each.get_text() for each in below.get_yticklabels()] == ["gain", "k", "s"]
    shares = below.images[0].get_array()
    np.testing.assert_allclose(shares.sum(axis=0), 1.0)
    np.testing.assert_allclose(shares[:, 2], [0.5, 0.0, 0.5], atol=1e-6)


def test_findings_of_a_report_come_back(unseen):
    arrays = {}
    text = json.dumps(archive.encode(unseen.findings(), arrays, "findings"), allow_nan=False)
    again = ih.Identifiability.of(archive.decode(json.loads(text), arrays))
    assert again.summary() == unseen.summary() and again.verdicts == unseen.verdicts
    np.testing.assert_array_equal(again.fisher.correlations, unseen.fisher.correlations)
    assert again.profiles["k"].interval == unseen.profiles["k"].interval
    assert len(ih.plots.profiles(again).axes) == 3
