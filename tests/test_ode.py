"""Calibration against closed forms: fits that are linear in p, their hypergradients, bounds, masks, noise, doses."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih
from invhyper.hypergradient import discretisation

# The seed problem x' = -x + p u(t), x(0) = q: one compiled program for every drive u, all data and all tolerances.


def drive(t, u):
    return u["poly"] @ t ** jnp.arange(3) + jnp.sum(u["size"] * jnp.sin(u["rate"] * t + u["phase"]))


SINE = {"poly": np.zeros(3), "size": np.array([1.0, 0, 0]), "rate": np.array([3.0, 1, 1]), "phase": np.zeros(3)}


def driven(times, data, u=SINE, **options):
    return ih.Calibration(
        lambda t, x, p, theta, u: -x + p * drive(t, u),
        lambda p, theta, u: theta["q"],
        lambda t, x, p, theta, u: x,
        [times],
        [data],
        noise=1.0,
        start=0.0,
        conditions=[u],
        **options,
    )


def with_values(calibration, times, values, u):
    """The same program with other numbers."""
    numbers = (
        jnp.asarray(times)[None],
        jnp.asarray(values)[None, :, None],
        jax.tree.map(lambda v: jnp.asarray(v)[None], u),
    )
    return eqx.tree_at(lambda c: (c.measured.times, c.measured.values, c.measured.conditions), calibration, numbers)


def with_tolerance(calibration, tolerance):
    where = lambda c: (c.model.simulator.rtol, c.model.simulator.atol)  # noqa: E731
    return eqx.tree_at(where, calibration, (jnp.asarray(tolerance, float),) * 2)


def with_accuracy(problem, accuracy, tolerance):
    lower = eqx.tree_at(lambda c: c.accuracy, problem.lower, jnp.asarray(accuracy, float))
    misfit = ih.Misfit(with_tolerance(problem.criterion.calibration, tolerance))
    return ih.Bilevel(with_tolerance(lower, tolerance), misfit)


@pytest.fixture(scope="module")
def seed():
    """F(q), and the number of times that its program was compiled."""
    built = []

    def listen(event, seconds, fun_name="", **rest):
        if "backend_compile" in event and "_evaluate" in fun_name:
            built.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    zeros, tight = (np.linspace(0.1, 5, size) for size in (26, 25)), {"rtol": 1e-10, "atol": 1e-10}
    fit, held = (driven(t, np.zeros(t.size), **tight, certify=True, accuracy=1.0) for t in zeros)
    yield ih.Bilevel(fit, ih.Misfit(held)), built
    jax.monitoring.unregister_event_duration_listener(listen)


def case(problem, q, fit, held, u):
    """The problem with these data; p*, F and dF/dq in closed form."""
    rows = [(values, np.exp(-times), zoo.driven(times, u)) for times, values in (fit, held)]
    lower = with_values(problem.lower, *fit, u)
    return ih.Bilevel(lower, ih.Misfit(with_values(problem.criterion.calibration, *held, u))), zoo.driven_fit(q, *rows)


def test_the_fixed_case(seed):
    t, y, decay, k = zoo.seed_ode()
    even, odd = slice(0, None, 2), slice(1, None, 2)
    np.testing.assert_allclose(zoo.driven(t, SINE), k, atol=1e-14)
    problem, (p, value, slope) = case(seed[0], 0.4, (t[even], y[even]), (t[odd], y[odd]), SINE)
    assert (p, slope) == pytest.approx((1.43672283939, -2.12846620416), rel=1e-11)
    found = ih.Implicit()(problem, {"q": 0.4})
    assert float(found.solution.x) == pytest.approx(1.43672283939, rel=1e-8)
    assert found.value == pytest.approx(value, rel=1e-8)
    assert float(found.gradient["q"]) == pytest.approx(-2.12846620416, rel=1e-8)


@pytest.mark.parametrize("number", range(20))
def test_random_drives(seed, number):
    u, q, fit, held = zoo.driven_case(number)
    problem, (p, value, slope) = case(seed[0], q, fit, held, u)
    found = ih.Implicit()(problem, {"q": q})
    assert float(found.solution.x) == pytest.approx(p, rel=1e-8)
    assert found.value == pytest.approx(value, rel=1e-8)
    assert float(found.gradient["q"]) == pytest.approx(slope, rel=1e-8)
    assert found.certificate.error_estimate >= abs(float(found.gradient["q"]) - slope) / 3


def test_certify_reaches_the_accuracy(seed):
    u, q, fit, held = zoo.driven_case(0)
    problem, (p, _, slope) = case(seed[0], q, fit, held, u)
    loose, tight = (ih.Implicit()(with_accuracy(problem, accuracy, 1e-4), {"q": q}) for accuracy in (1.0, 1e-9))
    assert abs(float(loose.gradient["q"]) / slope - 1) > 1e-7
    assert float(tight.gradient["q"]) == pytest.approx(slope, rel=1e-9)
    assert tight.certificate.error_estimate <= 1e-9 * abs(slope) and "finer simulation" in tight.certificate.verdict


def test_certify_says_that_it_cannot(seed):
    u, q, fit, held = zoo.driven_case(0)
    problem = with_accuracy(case(seed[0], q, fit, held, u)[0], 1e-17, 1e-4)
    with pytest.raises(ih.NotConverged, match=r"known to .* of itself .* not to accuracy = 1e-17: ask for less"):
        ih.Implicit()(problem, {"q": q})
    found = ih.Implicit()(problem, {"q": q}, throw=False)
    assert found.certificate.error_estimate > 0


def test_cold_warm_and_finer_evaluations_share_one_program(seed):
    problem, built = seed
    u, q, fit, held = zoo.driven_case(1)
    problem, _ = case(problem, q, fit, held, u)
    cold = ih.Implicit()(problem, {"q": q})
    warm = ih.Implicit()(problem, {"q": q + 0.01}, warm=cold)
    ih.Implicit()(discretisation.finer(problem), {"q": q})
    assert warm.solution.steps < cold.solution.steps
    assert built == ["jit(_evaluate)"]


# Two parameters, two experiments of different lengths with missing data: x' = -x + p0 sin w t + p1, x(0) = q x0.


def pair_rhs(t, x, p, theta, c):
    return -x + p[0] * jnp.sin(c["w"] * t) + p[1]


CONDITIONS = [{"w": 2.0, "x0": 1.0}, {"w": 5.0, "x0": -0.5}]
TIMES = [np.linspace(0.3, 4, 12), np.linspace(0.2, 3, 7)]
DATA = [0.8 * np.exp(-t) + np.random.default_rng(t.size).standard_normal(t.size) for t in TIMES]
DATA[0][[2, 5]] = np.nan
NOISE = 0.5
Q = {"q": 0.7}


def experiments(times=TIMES, data=DATA, conditions=CONDITIONS, **options):
    mask = [np.isfinite(values) for values in data]
    functions = pair_rhs, lambda p, theta, c: theta["q"] * c["x0"], lambda t, x, p, theta, c: x
    tight = {"rtol": 1e-10, "atol": 1e-10, "noise": NOISE, "start": np.array([0.5, 0.1])}
    return ih.Calibration(*functions, times, data, mask=mask, conditions=conditions, **tight, **options)


@pytest.fixture(scope="module")
def pair():
    return experiments()


def pair_rows():
    """Of what was measured: data (n,), what q multiplies (n,), what p multiplies (n, 2), all over the noise."""
    y, from_start, from_p = [], [], []
    for t, values, c in zip(TIMES, DATA, CONDITIONS, strict=True):
        seen = np.isfinite(values)
        sine = {"poly": np.zeros(3), "size": [1.0], "rate": [c["w"]], "phase": [0.0]}
        y.append(values[seen])
        from_start.append(c["x0"] * np.exp(-t[seen]))
        from_p.append(np.stack([zoo.driven(t, sine), 1 - np.exp(-t)], axis=1)[seen])
    return tuple(np.concatenate(part) / NOISE for part in (y, from_start, from_p))


def within(calibration, floor, ceiling):
    """The same program with other bounds."""
    bounds = tuple(jnp.asarray(side, float) for side in (floor, ceiling))
    return eqx.tree_at(lambda c: (c.floor, c.ceiling), calibration, bounds)


def test_experiments_of_different_lengths_with_missing_data(pair):
    """Padded and masked rows count for nothing: the optimum is that of the rows which were measured."""
    y, from_start, K = pair_rows()
    assert pair.measured.count == y.size == 17
    wanted = np.linalg.lstsq(K, y - Q["q"] * from_start)[0]
    np.testing.assert_allclose(ih.solve(pair, Q).x, wanted, rtol=1e-8)
    slope = -np.linalg.lstsq(K, from_start)[0]
    np.testing.assert_allclose(ih.sensitivity(pair, Q)["q"], slope, rtol=1e-8)


def test_the_objective_is_the_sum_over_experiments(pair):
    p = np.array([0.3, -0.4])
    y, from_start, K = pair_rows()
    total = 0.5 * np.sum((y - Q["q"] * from_start - K @ p) ** 2)
    value, gradient, error = pair.value_and_gradient(p, Q)
    assert value == pytest.approx(total, rel=1e-8)
    exact = -K.T @ (y - Q["q"] * from_start - K @ p)
    np.testing.assert_allclose(gradient, exact, rtol=1e-8)
    assert error >= np.linalg.norm(gradient - exact) / 3
    deviations = np.asarray(pair.deviations(jnp.asarray(p), Q))
    assert deviations.shape == (2, 12) and np.all(deviations[1, 7:] == 0) and np.all(deviations[0, [2, 5]] == 0)
    assert np.sum(deviations**2) == pytest.approx(2 * total, rel=1e-8)


@pytest.mark.parametrize("held, bound", [(0, "floor"), (1, "floor"), (0, "ceiling"), (1, "ceiling")])
def test_a_parameter_at_its_bound(pair, held, bound):
    """It does not move with theta; the rest is the reduced problem's."""
    y, from_start, K = pair_rows()
    best = np.linalg.lstsq(K, y - Q["q"] * from_start)[0]
    limits = {"floor": np.full(2, -np.inf), "ceiling": np.full(2, np.inf)}
    at = limits[bound][held] = best[held] + (0.2 if bound == "floor" else -0.2)
    lower = within(pair, **limits)
    rest = 1 - held
    k = K[:, rest]
    wanted = np.empty(2)
    wanted[held], wanted[rest] = at, k @ (y - Q["q"] * from_start - at * K[:, held]) / (k @ k)
    found = ih.solve(lower, Q)
    assert found.x[held] == at
    np.testing.assert_allclose(found.x, wanted, rtol=1e-8)
    slope = ih.sensitivity(lower, Q)["q"]
    assert slope[held] == 0
    assert slope[rest] == pytest.approx(-k @ from_start / (k @ k), rel=1e-8)
    residual = y - Q["q"] * from_start - K @ wanted
    pressed = abs(K[:, held] @ residual) / (np.linalg.norm(K[:, held]) * np.linalg.norm(residual))
    assert float(lower.linearise(found, Q).margin) == pytest.approx(pressed, rel=1e-6)


def test_a_bound_that_just_touches_is_a_kink(pair):
    """The multiplier vanishes where the bound goes through the optimum without it."""
    y, from_start, K = pair_rows()
    best = np.linalg.lstsq(K, y - Q["q"] * from_start)[0]
    for lower in (within(pair, [best[0], -np.inf], np.full(2, np.inf)), within(pair, np.full(2, -np.inf), best)):
        assert float(lower.linearise(ih.solve(lower, Q), Q).margin) < 1e-8


def test_layer_in_theta_and_in_the_data(pair):
    y, from_start, K = pair_rows()
    weights = np.array([1.0, -2.0])

    @jax.jit
    @jax.grad
    def slope(moving):
        values, q = moving
        lower = eqx.tree_at(lambda c: c.measured.values, pair, values)
        return ih.layer(lower)({"q": q}) @ weights

    of_values, of_q = slope((pair.measured.values, jnp.asarray(Q["q"])))
    assert of_q == pytest.approx(-weights @ np.linalg.lstsq(K, from_start)[0], rel=1e-8)
    seen = np.asarray(pair.measured.mask)
    np.testing.assert_allclose(np.asarray(of_values)[seen], np.linalg.pinv(K).T @ weights / NOISE, rtol=1e-8)
    assert np.all(np.asarray(of_values)[~seen] == 0)


@pytest.mark.parametrize("name", ["t0", "rtol"])
def test_layer_refuses_what_it_cannot_differentiate(pair, name):
    def value(number):
        return ih.layer(eqx.tree_at(lambda c: getattr(c.model.simulator, name), pair, number))(Q)[0]

    with pytest.raises(TypeError, match=rf"Calibration gives no derivative in its field 'model\.simulator\.{name}'"):
        jax.grad(value)(getattr(pair.model.simulator, name))


# Exponential decay, x = q e^(-rate t): not linear in the rate, so that residuals enter the second derivatives.


def decay_fit(t, y, q, gauss_newton):
    """rate*, and d rate*/dq from the second derivatives of 1/2 sum (y - q e^(-rate t))^2, exact or J^T J."""
    rate = 1.0
    for _ in range(50):
        x, r = q * np.exp(-rate * t), y - q * np.exp(-rate * t)
        rate = rate - (r @ (t * x)) / ((t * x) @ (t * x) - r @ (t**2 * x))
    second, mixed = (t * x) @ (t * x), -(t * x) @ x / q
    if not gauss_newton:
        second, mixed = second - r @ (t**2 * x), mixed + r @ (t * x) / q
    return rate, -mixed / second


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gauss_newton": True},
        pytest.param({"adjoint": diffrax.RecursiveCheckpointAdjoint()}, marks=pytest.mark.slow),
    ],
    ids=["exact", "Gauss-Newton", "exact in reverse mode"],
)
def test_gauss_newton_and_the_exact_hessian(options):
    """They agree where the residual vanishes, and only there."""
    gauss_newton = options.get("gauss_newton", False)
    t = np.linspace(0.3, 3, 6)
    perfect = 1.5 * np.exp(-0.8 * t)
    poor = perfect + 0.4 * np.random.default_rng(3).standard_normal(t.size)
    functions = lambda t, x, p, theta: -p * x, lambda p, theta: theta["q"], lambda t, x, p, theta: x  # noqa: E731
    tight = {"rtol": 1e-10, "atol": 1e-10, "solver": diffrax.Tsit5()}
    lower = ih.Calibration(*functions, t, poor, noise=1.0, start=1.0, **tight, **options)
    slopes = {}
    for name, y in (("poor", poor), ("perfect", perfect)):
        lower = eqx.tree_at(lambda c: c.measured.values, lower, jnp.asarray(y)[:, None])
        rate, slopes[name] = decay_fit(t, y, 1.5, gauss_newton)
        found = ih.Implicit()(ih.Bilevel(lower, lambda p, theta: p), {"q": 1.5})
        assert float(found.solution.x) == pytest.approx(rate, rel=1e-8)
        assert float(found.gradient["q"]) == pytest.approx(slopes[name], rel=1e-8)
    other = [decay_fit(t, y, 1.5, not gauss_newton)[1] for y in (poor, perfect)]
    assert abs(slopes["poor"] / other[0] - 1) > 0.1
    assert slopes["perfect"] == pytest.approx(other[1], rel=1e-12)


def test_the_noise_that_fits_best_is_the_root_mean_square_residual():
    """noise(p, theta) = p["sd"] adds sum log sd to the objective; two observables share p, the second is noisier."""
    t = np.linspace(0.2, 3, 9)
    rng = np.random.default_rng(1)
    k = 1 - np.exp(-t)
    data = np.stack([k + 0.1 * rng.standard_normal(9), 2 * k + 0.4 * rng.standard_normal(9)], axis=1)
    data[3, 1] = np.nan
    lower = ih.Calibration(
        lambda t, x, p, theta: p["gain"] - x,
        lambda p, theta: jnp.zeros(2),
        lambda t, x, p, theta: x,
        t,
        data,
        mask=np.isfinite(data),
        noise=lambda p, theta: theta["ratio"] * p["sd"],
        start={"gain": np.array([0.5, 0.5]), "sd": np.ones(2)},
        bounds=({"sd": 1e-6}, None),
        rtol=1e-10,
        atol=1e-10,
        solver=diffrax.Tsit5(),
    )
    found = ih.solve(lower, {"ratio": np.array([1.0, 2.0])})
    for i, ratio in enumerate((1.0, 2.0)):
        seen = np.isfinite(data[:, i])
        gain = k[seen] @ data[seen, i] / (k[seen] @ k[seen])
        assert found.x["gain"][i] == pytest.approx(gain, rel=1e-8)
        rms = np.sqrt(np.mean((data[seen, i] - gain * k[seen]) ** 2))
        assert found.x["sd"][i] == pytest.approx(rms / ratio, rel=1e-8)
    slope = ih.sensitivity(lower, {"ratio": np.array([1.0, 2.0])}, start=found)["ratio"]
    np.testing.assert_allclose(slope["sd"], np.diag(-np.asarray(found.x["sd"]) / [1.0, 2.0]), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(slope["gain"], 0, atol=1e-8)


def bolus(t, times, rate):
    """sum_k e^(-rate (t - t_k)) over the doses given by t: one compartment of unit volume, a unit each."""
    since = t[:, None] - times
    return np.sum(np.where(since >= 0, np.exp(-rate * since), 0.0), axis=1)


def test_repeated_doses_and_the_derivative_in_a_dose_time():
    """Concentration = p (1 / volume) x amount; p* is linear least squares, dp*/d(dose times) follows from it."""
    t, given, rate = np.linspace(0.5, 12, 14), np.array([0.0, 4.3, 8.2]), 0.6
    y = 0.4 * bolus(t, given, rate) + 0.1 * np.random.default_rng(2).standard_normal(t.size)
    lower = ih.Calibration(
        lambda t, x, p, theta: -theta["rate"] * x,
        lambda p, theta: 0.0,
        lambda t, x, p, theta: p * x,
        t,
        y,
        noise=1.0,
        start=1.0,
        doses=lambda p, theta: ih.Doses(theta["times"], jnp.ones(3)),
        rtol=1e-10,
        atol=1e-10,
        solver=diffrax.Tsit5(),
    )
    theta = {"rate": rate, "times": given}
    k = bolus(t, given, rate)
    p = k @ y / (k @ k)

    def along(dk):
        return (dk @ y - 2 * p * (k @ dk)) / (k @ k)

    since = t[:, None] - given
    single = np.where(since >= 0, np.exp(-rate * since), 0.0)
    found = ih.solve(lower, theta)
    assert float(found.x) == pytest.approx(p, rel=1e-8)
    slope = ih.sensitivity(lower, theta, start=found)
    assert float(slope["rate"]) == pytest.approx(along(-np.sum(since * single, axis=1)), rel=1e-8)
    np.testing.assert_allclose(slope["times"][1:], [along(rate * single[:, i]) for i in (1, 2)], rtol=1e-8)


def test_a_failed_simulation_among_several_calibrations_is_told():
    t = np.array([0.5, 2.0])

    def growing(power):
        return ih.Calibration(
            lambda t, x, p, theta: p * x**power, lambda p, theta: 1.0, lambda t, x, p, theta: x, t, t, noise=0.1,
            start=1.0, bounds=(0.5, None), max_steps=50, rtol=1e-4, atol=1e-4, solver=diffrax.Tsit5(),
        )  # fmt: skip

    with pytest.raises(ih.NotConverged, match=r"Together: the simulation stopped at t = 0\.9999\d* after 50 steps"):
        ih.solve(ih.Together([growing(1), growing(2)]), {})
