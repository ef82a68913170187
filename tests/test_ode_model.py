"""Nonlinear models: the derivative of p* against re-converged differences, reverse mode against forward mode."""

from collections.abc import Callable
from dataclasses import dataclass, field

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import zoo
from jax.flatten_util import ravel_pytree

import invhyper as ih
from invhyper.lower.ode_model import nearest_dose, objective, paired


@dataclass(frozen=True)
class Model:
    """A model with the p and theta that its data are made from; `theta` is where p* is differentiated."""

    rhs: Callable
    initial: Callable
    observe: Callable
    times: np.ndarray
    truth: dict
    theta: dict
    spread: float
    options: dict = field(default_factory=dict)

    def seen(self, p, slope=None, tolerance=1e-10):
        """What SciPy simulates; `slope(t, x, p)`: a compiled rhs."""
        slope = slope or jax.jit(lambda t, x, p: self.rhs(t, x, p, self.theta))
        span, start = (0.0, self.times[-1]), np.asarray(self.initial(p, self.theta), float)
        tolerances = {"rtol": tolerance, "atol": tolerance}
        found = scipy.integrate.solve_ivp(slope, span, start, "LSODA", self.times, args=(p,), **tolerances)
        return np.stack([self.observe(t, x, p, self.theta) for t, x in zip(self.times, found.y.T, strict=True)])

    def data(self):
        """With noise: the residual does not vanish at p*."""
        seen = self.seen(self.truth)
        return seen + self.spread * np.random.default_rng(0).standard_normal(seen.shape)

    def calibration(self, tolerance, **options):
        start = jax.tree.map(lambda p: 1.1 * p, self.truth)
        options = {"noise": self.spread, "start": start, **self.options, **options}
        tolerances = {"rtol": tolerance, "atol": tolerance}
        functions = self.rhs, self.initial, self.observe
        return ih.Calibration(*functions, self.times, self.data(), **tolerances, **options)


def predator_and_prey(t, x, p, theta):
    return jnp.stack([x[0] * (p["birth"] - p["catch"] * x[1]), x[1] * (p["gain"] * x[0] - p["death"])])


def epidemic(t, x, p, theta):
    infected = p["contact"] * x[0] * x[1]
    return jnp.stack([-infected, infected - p["recovery"] * x[1]])


def enzyme(t, x, p, theta):
    return jnp.stack([theta["inflow"] - p["fastest"] * x[0] / (p["half"] + x[0])])


def neuron(t, x, p, theta):
    v, w = x
    return jnp.stack([3 * (v - v**3 / 3 + w + theta["current"]), -(v - p["a"] + p["b"] * w) / 3])


def oscillator(t, x, p, theta):
    return jnp.stack([x[1], p["mu"] * (1 - x[0] ** 2) * x[1] - p["spring"] * x[0]])


MODELS = {
    "Lotka-Volterra": Model(
        predator_and_prey,
        lambda p, theta: theta["x0"],
        lambda t, x, p, theta: x,
        np.linspace(0.5, 8, 10),
        {"birth": 1.0, "catch": 0.4, "gain": 0.2, "death": 0.7},
        {"x0": np.array([3.0, 1.5])},
        0.1,
    ),
    "SIR with a prior": Model(
        epidemic,
        lambda p, theta: jnp.stack([1.0 - p["infected"], p["infected"]]),
        lambda t, x, p, theta: x[1],
        np.linspace(1.0, 20, 12),
        {"contact": 1.1, "recovery": 0.4, "infected": 0.01},
        {"weight": np.array(30.0), "mean": np.array(1.3)},
        0.01,
        {"prior": lambda p, theta: 0.5 * theta["weight"] * (p["contact"] / theta["mean"] - 1) ** 2},
    ),
    "Michaelis-Menten": Model(
        enzyme,
        lambda p, theta: theta["substrate"][None],
        lambda t, x, p, theta: x[0],
        np.linspace(0.5, 9, 10),
        {"fastest": 1.2, "half": 0.8},
        {"substrate": np.array(4.0), "inflow": np.array(0.3)},
        0.05,
    ),
    "FitzHugh-Nagumo": Model(
        neuron,
        lambda p, theta: jnp.array([-1.0, 1.0]),
        lambda t, x, p, theta: x,
        np.linspace(0.5, 10, 15),
        {"a": 0.2, "b": 0.2},
        {"current": np.array(-0.1), "ratio": np.array(2.0)},
        0.1,
        {"noise": lambda p, theta: 0.1 * jnp.stack([theta["ratio"], jnp.ones(())])},
    ),
    "van der Pol": Model(
        oscillator,
        lambda p, theta: theta["x0"],
        lambda t, x, p, theta: x[0],
        np.linspace(0.3, 12, 20),
        {"mu": 5.0, "spring": 1.0},
        {"x0": np.array([2.0, 0.1])},
        0.1,
        {"solver": ih.Rodas5P()},
    ),
}


@pytest.fixture(scope="module")
def fitted():
    """name -> its Calibration and p*, compiled once."""
    done = {}

    def fit(name):
        if name not in done:
            lower = MODELS[name].calibration(1e-12)
            done[name] = lower, ih.solve(lower, MODELS[name].theta)
        return done[name]

    return fit


def scipy_optimum(model, start):
    """p* by SciPy's simulation and its least squares, in the order of the keys."""
    slope, data = jax.jit(lambda t, x, p: model.rhs(t, x, p, model.theta)), model.data()
    names = sorted(model.truth)

    def residual(p):
        return np.ravel(model.seen(dict(zip(names, p, strict=True)), slope, 1e-12) - data)

    first = [start[name] for name in names]
    steps = {"x_scale": np.abs(first), "diff_step": 1e-5, "jac": "3-point"}
    return scipy.optimize.least_squares(residual, first, xtol=1e-12, ftol=1e-15, gtol=1e-12, **steps).x


# Each model is a program to compile; what the slow ones add to the others (noise, stiffness) is met elsewhere as well.
SLOW = {"Lotka-Volterra", "FitzHugh-Nagumo", "van der Pol"}


def marked(names, slow):
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


@pytest.mark.parametrize("name", marked(["Lotka-Volterra", "Michaelis-Menten"], SLOW))
def test_optimum_against_scipy(name, fitted):
    """SciPy starts 2 % away, simulates and minimises by itself."""
    _, best = fitted(name)
    p = {key: float(value) for key, value in best.x.items()}
    found = scipy_optimum(MODELS[name], {key: 1.02 * value for key, value in p.items()})
    np.testing.assert_allclose([p[key] for key in sorted(p)], found, rtol=1e-6)


@pytest.mark.parametrize("name", marked(MODELS, SLOW))
def test_sensitivity_against_reconverged_differences(name, fitted):
    model = MODELS[name]
    lower, best = fitted(name)
    flat, unravel = ravel_pytree(model.theta)

    def optimum(flat):
        return np.asarray(ravel_pytree(ih.solve(lower, unravel(flat), start=best).x)[0])

    found = ih.sensitivity(lower, model.theta, start=best)
    matrix = [np.concatenate([np.ravel(found[key][p]) for key in sorted(found)]) for p in sorted(model.truth)]
    theta = np.asarray(flat)
    wanted = [
        zoo.central_difference(optimum, theta, e, 1e-4 * t) for e, t in zip(np.eye(theta.size), theta, strict=True)
    ]
    np.testing.assert_allclose(matrix, np.transpose(wanted), rtol=1e-6)


# Reverse mode: an oscillator that relaxes in jumps, and the three rates of Robertson's chemistry over nine decades.


def robertson(t, x, p, theta):
    slow, back, fast = p["slow"] * x[0], p["back"] * x[1] * x[2], p["fast"] * x[1] ** 2
    return jnp.stack([back - slow, slow - back - fast, fast])


STIFF = {
    "van der Pol": Model(
        oscillator,
        lambda p, theta: theta["x0"],
        lambda t, x, p, theta: x[0],
        np.linspace(1.0, 20, 20),
        {"mu": 5.0, "spring": 1.0},
        {"x0": np.array([2.0, 0.1])},
        0.1,
    ),
    "Robertson": Model(
        robertson,
        lambda p, theta: jnp.stack([theta["first"], *jnp.zeros(2)]),
        lambda t, x, p, theta: x * jnp.array([1.0, 1e4, 1.0]),
        np.geomspace(1e-2, 1e4, 13),
        {"slow": 0.04, "back": 1e4, "fast": 3e7},
        {"first": 1.0},
        0.01,
    ),
}


@pytest.mark.parametrize("name", marked(STIFF, {"van der Pol"}))
def test_reverse_mode_against_forward_mode(name):
    """The gradient of the objective in p and theta, away from the optimum."""
    model = STIFF[name]
    p = jax.tree.map(lambda p: 1.02 * p, model.truth)
    found = []
    for adjoint in (diffrax.ForwardMode(), diffrax.RecursiveCheckpointAdjoint()):
        lower = model.calibration(1e-8, adjoint=adjoint, solver=ih.Rodas5P())
        found.append(jax.jit(jax.grad(lower.objective, argnums=(0, 1)))(p, model.theta))
    forward, reverse = (np.asarray(ravel_pytree(gradient)[0]) for gradient in found)
    np.testing.assert_allclose(reverse, forward, rtol=1e-8)


@pytest.mark.slow
def test_a_hypergradient_in_reverse_mode():
    """The Hessian by sweeps back through the variational equations, whose steps are others: hence the tolerance."""
    found = []
    for adjoint in (diffrax.ForwardMode(), diffrax.RecursiveCheckpointAdjoint()):
        lower = MODELS["Lotka-Volterra"].calibration(1e-12, adjoint=adjoint, solver=diffrax.Dopri8())
        problem = ih.Bilevel(lower, lambda p, theta: p["birth"] * p["death"] + theta["x0"][0])
        found.append(ih.Implicit()(problem, {"x0": np.array([3.0, 1.5])}))
    forward, reverse = found
    np.testing.assert_allclose(reverse.gradient["x0"], forward.gradient["x0"], rtol=1e-8)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_noise_function_has_one_deviation_for_each_value_of_each_condition(count):
    t = np.array([1.0, 2.0, 4.0])
    calibration = ih.Calibration(
        lambda t, x, p, theta, c: 0.0 * x, lambda p, theta, c: p, lambda t, x, p, theta, c: x,
        [t] * count, [t * (i + 1) for i in range(count)], start=0.0, conditions=[float(i + 1) for i in range(count)],
        noise=lambda p, theta, c: c * theta["sd"] * t, solver=diffrax.Tsit5(),
    )  # fmt: skip
    deviations = calibration.deviations(0.0, {"sd": 0.5})
    np.testing.assert_allclose(deviations, np.full((count, 3), 2.0), rtol=1e-12)


@pytest.fixture(scope="module")
def dosed():
    """x' = -rate x, doses of 1 at 1 and of p["amount"] at p["time"]; measured at 1 and, but not really, at 2 and 3."""
    times = np.array([1.0, 2.0, 3.0])
    return ih.Calibration(
        lambda t, x, p, theta: -p["rate"] * x,
        lambda p, theta: 0.5,
        lambda t, x, p, theta: jnp.where(t < 2.5, x, jnp.log(-x)),
        times,
        np.ones(3),
        mask=times < 2.5,
        noise=0.5,
        start={"rate": 0.7, "amount": 2.0, "time": 1.25},
        doses=lambda p, theta: ih.Doses(jnp.stack([1.0, p["time"]]), jnp.stack([1.0, p["amount"]])),
        solver=diffrax.Tsit5(),
        rtol=1e-10,
        atol=1e-10,
    )


def test_the_pair_of_the_state_and_its_derivative_leaps_at_doses(dosed):
    """dx along v, of a dose whose time, amount and rate of decay all move; at the time of a dose: after it."""
    p, v = dosed.start, {"rate": 0.3, "amount": -0.2, "time": 0.4}
    measured = dosed.measured.at(np.array([0.5, 1.0, 1.25, 2.0]))
    pair = eqx.filter_jit(lambda model: paired(model).observed(measured, (p, v), {}))(dosed.chosen())

    def exact(p):
        times, doses = measured.times, [(0.5, 0.0), (1.0, 1.0), (p["amount"], p["time"])]
        return sum(jnp.where(times >= at, a * jnp.exp(-p["rate"] * (times - at)), 0.0) for a, at in doses)

    np.testing.assert_allclose(pair, np.stack(jax.jvp(exact, (p,), (v,)), axis=1), rtol=1e-8, atol=1e-10)


def test_a_moving_dose_has_a_kink_where_it_meets_a_measurement(dosed):
    """A dose that stays where it is has none, nor has a time at which nothing was measured."""
    for time, wanted in ((1.25, 0.25), (1.9, 0.1), (2.9, 0.9), (0.2, 0.2)):
        near = nearest_dose(dosed.model, dosed.measured, dosed.start | {"time": time}, {})
        assert float(near) == pytest.approx(wanted / 3, rel=1e-12)


def test_what_cannot_be_observed_where_nothing_was_measured_spoils_no_derivative(dosed):
    slope = jax.jit(jax.grad(lambda p: objective(dosed.chosen(), dosed.measured, p, {})))(dosed.start)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(slope))
    assert np.isnan(dosed.simulate(dosed.start, {})[-1])


def test_a_maximum_is_no_fit():
    """1/2 (2 - p^2)^2 is stationary at p = 0, where it is largest."""
    lower = ih.Calibration(
        lambda t, x, p, theta: 0.0 * x, lambda p, theta: p**2, lambda t, x, p, theta: x, [1.0], [2.0], noise=1.0,
        start=0.0, solver=diffrax.Tsit5(),
    )  # fmt: skip
    with pytest.raises(ih.NotConverged, match="second derivative is not positive definite"):
        ih.solve(lower, {})
    elsewhere = eqx.tree_at(lambda lower: lower.start, lower, jnp.asarray(1.0, float))
    assert float(ih.solve(elsewhere, {}).x) == pytest.approx(2**0.5, rel=1e-8)


def test_a_fit_that_starts_at_a_state_of_zero():
    """There one step covers the whole span, and derivatives that take it as well are wrong: a closer look is taken."""
    t = np.array([0.1251922, 0.50342464, 0.86793795, 3.45697908, 4.94896323])
    y = np.array([0.5203735, -2.12220152, 1.62755856, -1.52566949, 0.22077608])
    lower = ih.Calibration(
        lambda t, x, p, theta: -x + p[1] * jnp.sin(3 * t), lambda p, theta: p[0], lambda t, x, p, theta: x, t, y,
        noise=0.2, start=np.zeros(2), solver=diffrax.Dopri8(),
    )  # fmt: skip
    drive = {"poly": np.zeros(3), "size": np.ones(1), "rate": np.array([3.0]), "phase": np.zeros(1)}
    rows = np.stack([np.exp(-t), zoo.driven(t, drive)], axis=1)
    np.testing.assert_allclose(ih.solve(lower, {}).x, np.linalg.lstsq(rows, y)[0], rtol=1e-6)
