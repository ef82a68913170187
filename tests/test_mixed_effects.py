"""Nonlinear mixed effects: closed forms, published fits, gradients, and what is said of bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from populations import (
    WANG_THETA,
    decay,
    linear_mixed,
    scaled_rate,
    wang,
)

import invhyper as ih


@pytest.mark.parametrize("method", [ih.FO(), ih.FOCEI(), ih.AGQ(2)], ids=str)
def test_a_linear_model_has_its_closed_form(method):
    population, theta, model = linear_mixed()
    args = (theta["fixed"]["b"], theta["omega"], theta["sigma"])
    exact, (of_b, of_omega, of_sigma) = model.minus_two_log_likelihood(*args), model.gradient(*args)
    found = ih.Implicit()(population.problem(method), theta)
    assert found.value == pytest.approx(exact, abs=1e-10)
    np.testing.assert_allclose(found.gradient["fixed"]["b"], of_b, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.gradient["omega"], of_omega, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.gradient["sigma"], of_sigma, rtol=1e-10, atol=1e-10)
    if not method.modes:
        full = population.minus_two_log_likelihood(theta, method, full=True)
        assert full == pytest.approx(exact + 30 * np.log(2 * np.pi), abs=1e-10)
    else:
        np.testing.assert_allclose(found.solution.x, model.modes(*args), rtol=1e-10, atol=1e-12)


def test_standard_errors_of_a_linear_model():
    population, theta, model = linear_mixed()
    fit = population.fit(theta, ih.FOCEI(), tol=1e-8)
    args = (fit.theta["fixed"]["b"], fit.theta["omega"], fit.theta["sigma"])
    of_b, of_omega, of_sigma = model.gradient(*args)
    assert max(np.max(np.abs(of_b)), np.max(np.abs(of_omega)), abs(of_sigma)) < 1e-4
    # The Hessian of -log L in (b, omega_00, omega_01, omega_11, sigma), by differences of the closed gradient.
    place = ([0, 0, 1], [0, 1, 1])

    def slope(v):
        omega = np.array([[v[2], v[3]], [v[3], v[4]]])
        of_b, of_omega, of_sigma = model.gradient(v[:2], omega, v[5])
        return 0.5 * np.concatenate([of_b, of_omega[place] * [1, 2, 1], [of_sigma]])

    at, h = np.concatenate([args[0], args[1][place], [args[2]]]), 1e-5
    hessian = np.array([(slope(at + h * e) - slope(at - h * e)) / (2 * h) for e in np.eye(6)])
    wanted = np.sqrt(np.diagonal(np.linalg.inv(hessian)))
    errors = fit.standard_errors
    given = np.concatenate([errors["fixed"]["b"], errors["omega"][place], [errors["sigma"]]])
    np.testing.assert_allclose(given, wanted, rtol=1e-5)
    spread = np.std(model.modes(*args), axis=0, ddof=1)
    np.testing.assert_allclose(fit.eta_shrinkage, 1 - spread / np.sqrt(np.diagonal(args[1])), rtol=1e-8)
    residuals = np.concatenate(fit.weighted_residuals)
    assert fit.epsilon_shrinkage == pytest.approx(1 - np.std(residuals, ddof=1))


def test_portions_of_a_large_population_add_up():
    population, theta, model = linear_mixed()
    subjects, times = population.subjects, 300
    many = ih.MixedEffects(subjects.predict, subjects.individual, records_of(subjects) * times, ih.AdditiveError())
    one, all_of_them = (ih.Implicit()(each.problem(ih.FO()), theta) for each in (population, many))
    assert len(many) == 1800 and all_of_them.value == pytest.approx(times * one.value, rel=1e-12)
    np.testing.assert_allclose(all_of_them.gradient["omega"], times * one.gradient["omega"], rtol=1e-10)


def records_of(subjects):
    rows = zip(subjects.times, subjects.values, subjects.covariates["X"], subjects.covariates["Z"], strict=True)
    return [ih.Records(times, values, {"X": X, "Z": Z}) for times, values, X, Z in rows]


def test_modes_are_a_layer_of_theta_and_of_the_data():
    population, theta, model = linear_mixed()
    lower = population.problem(ih.FOCEI()).lower
    eta = ih.layer(lower)(theta)
    np.testing.assert_allclose(eta, model.modes(model.b, model.omega, model.sigma), rtol=1e-10)

    def total(theta, values):
        return jnp.sum(ih.layer(eqx.tree_at(lambda lower: lower.subjects.values, lower, values))(theta) ** 2)

    def closed(b, values):
        moved = model._replace(y=list(values))
        return np.sum(moved.modes(b, model.omega, model.sigma) ** 2)

    values = np.array(lower.subjects.values)
    of_theta, of_values = jax.grad(total, argnums=(0, 1))(theta, jnp.asarray(values))
    h = 1e-5
    for k, step in enumerate(h * np.eye(2)):
        difference = (closed(model.b + step, values) - closed(model.b - step, values)) / (2 * h)
        assert of_theta["fixed"]["b"][k] == pytest.approx(difference, rel=1e-8)
    step = np.zeros(values.shape)
    step[2, 3] = h
    difference = (closed(model.b, values + step) - closed(model.b, values - step)) / (2 * h)
    assert of_values[2, 3] == pytest.approx(difference, rel=1e-7)


def explosive(phi, covariates, times):
    """decay, and no number for a subject whose dose is not positive."""
    return jnp.where(covariates["dose"] > 0, 1.0, jnp.nan) * decay(phi, covariates, times)


def test_a_subject_that_fails_is_named_and_the_caller_chooses():
    records = [ih.Records([0.0, 1.0], [10.2, y], {"dose": d}, name=n) for n, y, d in SMALL]
    population = ih.MixedEffects(explosive, scaled_rate, records, ih.ProportionalError())
    with pytest.raises(ih.NotConverged, match="subject 'S7' is predicted as nan at time 0"):
        population.fit(WANG_THETA, ih.FO())
    fit = population.fit(WANG_THETA, ih.FO(), skip_failed=True)
    assert list(fit.failed) == ["S7"] and fit.eta.shape == (4, 1)
    assert "left out: subject 'S7' is predicted as nan" in str(fit)
    assert fit.population.names == ("S1", "S2", "S3", "S4")


SMALL = [("S1", 6.4, 1.0), ("S2", 5.1, 1.0), ("S7", 6.0, -1.0), ("S3", 7.2, 1.0), ("S4", 4.1, 1.0)]


def test_a_prediction_of_zero_has_no_proportional_error():
    def none(phi, covariates, times):
        return phi * times

    population = ih.MixedEffects(none, scaled_rate, [ih.Records([0.0, 1.0], [0.1, 1.0])], ih.ProportionalError())
    with pytest.raises(ih.NotConverged, match="subject '1' is predicted as 0 at time 0"):
        ih.Implicit()(population.problem(ih.FO()), WANG_THETA)


@pytest.mark.parametrize(
    "theta, said",
    [
        ({**WANG_THETA, "omega": np.array([[-0.1]])}, "'omega' = .* is not positive definite"),
        ({**WANG_THETA, "omega": np.array([[0.04, 0.1], [0.1, 0.04]])}, "smallest eigenvalue -0.06"),
        ({**WANG_THETA, "omega": np.array([[1.0, 0.1], [0.0, 1.0]])}, "not symmetric"),
        ({**WANG_THETA, "omega": 0.04}, "square covariance matrix"),
        ({**WANG_THETA, "sigma": 0.0}, "'sigma' = 0.0: a standard deviation above 0"),
        ({**WANG_THETA, "sigma": {"add": 1.0, "prop": 0.1}}, "AdditiveError wants one number"),
        ({**WANG_THETA, "fixed": {"ke": np.nan}}, "'fixed.ke' = nan"),
        ({**WANG_THETA, "fixed": {"kel": 0.5}}, "MixedEffects individual looks up 'ke'"),
        ({"fixed": {"ke": 0.5}, "omega": np.eye(1)}, "theta lacks 'sigma'"),
    ],
)
def test_bad_theta(theta, said):
    with pytest.raises(ValueError, match=said):
        wang(ih.AdditiveError()).minus_two_log_likelihood(theta, ih.FOCEI())


def test_bad_theta_of_a_combined_error():
    population = wang(ih.CombinedError())
    for sigma, said in ((0.1, "a dict with 'add', 'prop'"), ({"add": 1.0, "prop": 0.0}, "'sigma.prop' = 0.0")):
        with pytest.raises(ValueError, match=said):
            population.minus_two_log_likelihood({**WANG_THETA, "sigma": sigma}, ih.FO())


@pytest.mark.parametrize(
    "records, said",
    [
        (lambda: [ih.Records([], [], name="S7")], "'S7': there is no measurement"),
        (lambda: [ih.Records([0.0, 1.0], [1.0])], "2 times and 1 values"),
        (lambda: [ih.Records([0.0], [np.nan], name="S7")], r"'S7': values\[0\] = nan"),
        (lambda: [ih.Records([0.0], [1.0], {"dose": np.inf})], "covariate 'dose' = inf"),
        (lambda: [ih.Records([0.0], ["high"])], "numbers are wanted"),
        (lambda: [ih.Records([0.0], [1.0], {"dose": 1.0}), ih.Records([0.0], [1.0])], "'2' has no covariate 'dose'"),
        (
            lambda: [ih.Records([0.0], [1.0], {"dose": 1.0}), ih.Records([0.0], [1.0], {"dose": np.ones(2)})],
            r"shape \(2,\) in subject '2'",
        ),
        (lambda: [ih.Records([0.0], [1.0], name="A"), ih.Records([0.0], [1.0], name="A")], "two subjects"),
        (lambda: [], "no records"),
    ],
)
def test_bad_records(records, said):
    with pytest.raises(ValueError, match=said):
        ih.MixedEffects(decay, scaled_rate, records(), ih.AdditiveError())


def test_a_random_effect_that_omega_lacks():
    """JAX would take the last one there is."""
    records = [ih.Records([0.0, 1.0], [1.0, 0.5])]
    decay = lambda phi, covariates, t: phi[0] * jnp.exp(-phi[1] * t)  # noqa: E731
    rates = lambda fixed, eta, covariates: (fixed["a"] + eta[0], fixed["b"] + eta[1])  # noqa: E731
    population = ih.MixedEffects(decay, rates, records, ih.AdditiveError())
    theta = {"fixed": {"a": 1.0, "b": 1.0}, "omega": np.eye(1), "sigma": 1.0}
    with pytest.raises(ValueError, match="looks up a random effect that omega has not"):
        population.minus_two_log_likelihood(theta, ih.FO())


def test_bad_methods_and_functions():
    with pytest.raises(TypeError, match="AGQ"):
        wang(ih.AdditiveError()).problem("FOCE")
    with pytest.raises(ValueError, match="AGQ nodes = 0"):
        ih.AGQ(0)
    with pytest.raises(TypeError, match="AdditiveError"):
        ih.MixedEffects(decay, scaled_rate, [ih.Records([0.0], [1.0])], "additive")
    with pytest.raises(TypeError, match="problem"):
        ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.FOCEI())
    flat = ih.MixedEffects(lambda phi, c, t: phi, scaled_rate, [ih.Records([0.0, 1.0], [1.0, 2.0])], ih.AdditiveError())
    with pytest.raises(ValueError, match="predict returned shape"):
        flat.minus_two_log_likelihood(WANG_THETA, ih.FOCEI())
