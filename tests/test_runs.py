"""Hypergradients of runs: reverse mode, forward mode and differences; windows, memory, the limit; runs that diverge."""

import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih
from invhyper import tree
from invhyper.hypergradient import run, unrolled

RNG = np.random.default_rng(3)
A, LABELS = RNG.standard_normal((30, 4)) * np.array([1.0, 2.0, 0.5, 1.0]), np.sign(RNG.standard_normal(30))
TARGET = np.array([0.5, -0.2, 0.1, 0.3])
IMAGE = np.add.outer([0.0, 0.0, 1.0, 1.5, 2.0], [0.0, 0.0, 0.0, 2.0, 2.0, 1.0]) + 0.3 * RNG.standard_normal((5, 6))


def logistic(x, theta):
    return jnp.mean(jnp.logaddexp(0.0, -LABELS * (A @ x))) + 0.5 * theta["l2"] * jnp.sum(x**2)


# name: (problem, theta)
RUNS = {
    "GradientDescent": lambda: (
        ih.Bilevel(ih.GradientDescent(logistic, np.zeros(4)), ih.Truth(TARGET)),
        {"eta": 0.3, "l2": 0.1},
    ),
    "Momentum": lambda: (
        ih.Bilevel(ih.Momentum(logistic, np.zeros(4)), ih.Truth(TARGET)),
        {"eta": 0.2, "beta": 0.7, "l2": 0.1},
    ),
    "Adam": lambda: (
        ih.Bilevel(ih.AdamIteration(logistic, np.zeros(4)), ih.Truth(TARGET)),
        {"alpha": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 0.1, "l2": 0.1},
    ),
    "Split Bregman": lambda: (ih.Bilevel(ih.TotalVariation(IMAGE), ih.Truth(np.round(IMAGE))), {"weight": 0.2}),
    "ISTA": lambda: (
        ih.Bilevel(ih.ElasticNet(A, LABELS), ih.Truth(TARGET)),
        {"l1": 1.0, "l2": 0.5},
    ),
}


@pytest.mark.parametrize("steps", [1, 10, 1000])
@pytest.mark.parametrize("name", RUNS)
def test_reverse_forward_and_differences(name, steps):
    problem, theta = RUNS[name]()
    reverse = ih.Unrolled(steps)
    found = reverse(problem, theta)
    forward = ih.Forward(steps)(problem, theta)
    assert forward.value == pytest.approx(found.value, rel=1e-12)
    size = float(tree.norm(found.gradient))
    assert size > 0
    assert float(tree.norm(tree.subtract(forward.gradient, found.gradient))) <= 1e-10 * size
    for key, value in theta.items():
        difference = zoo.central_difference(
            lambda v: reverse(problem, {**theta, key: v}).value,  # noqa: B023
            value,
            1.0,
            1e-5 * value,
        )
        assert float(found.gradient[key]) == pytest.approx(difference, rel=1e-6, abs=1e-6 * size), key


def ridge_at_rest():
    """A ridge problem, a descent with a constant step, and an evaluation at its fixed point."""
    K, y, held, held_y = zoo.ridge_problem(30, 6)
    step = 1.0 / np.linalg.norm(K.T @ K + 2 * np.eye(6), 2)

    def loss(x, theta):
        return 0.5 * jnp.sum((K @ x - y) ** 2) + 0.5 * theta["l2"] * jnp.sum(x**2)

    descent = ih.GradientDescent(loss, np.zeros(6), ih.Constant(step))
    problem = ih.Bilevel(descent, ih.HeldOut(held, held_y))
    exact = ih.Implicit()(ih.Bilevel(ih.Ridge(K, y), ih.HeldOut(held, held_y)), {"l2": 2.0}, tol=1e-14)
    return problem, step, exact


@pytest.mark.parametrize("terms", [1, 7])
def test_neumann_is_a_window_from_the_fixed_point(terms):
    problem, step, exact = ridge_at_rest()
    window = ih.Unrolled(40, window=terms)(problem, {"l2": 2.0}, warm=exact).gradient["l2"]
    short = ih.Unrolled(terms)(problem, {"l2": 2.0}, warm=exact).gradient["l2"]
    lower = ih.Smooth(problem.lower.iterate.loss, exact.solution.x)
    series = ih.Implicit(ih.Neumann(terms, step=step))(ih.Bilevel(lower, problem.criterion), {"l2": 2.0}, tol=1e-13)
    assert window == pytest.approx(short, rel=1e-12)
    assert series.gradient["l2"] == pytest.approx(window, rel=1e-12)
    assert abs(window / exact.gradient["l2"] - 1) > 1e-3  # else nothing would be shown


def test_all_methods_agree_in_the_limit():
    problem, _, exact = ridge_at_rest()
    for method in (ih.Unrolled(3000), ih.Forward(3000), ih.Forward(), ih.Implicit()):
        found = method(problem, {"l2": 2.0}, tol=1e-12)
        assert found.gradient["l2"] == pytest.approx(exact.gradient["l2"], rel=1e-8), method
    assert ih.Forward()(problem, {"l2": 2.0}, tol=1e-6).solution.steps < 3000


@pytest.mark.parametrize("checkpoints", [1, 5, 12, 40])
def test_checkpoints_change_memory_and_nothing_else(checkpoints):
    problem, theta = RUNS["Momentum"]()
    whole, parts = (ih.Unrolled(40, checkpoints=kept)(problem, theta).gradient for kept in (None, checkpoints))
    for key in theta:
        np.testing.assert_allclose(parts[key], whole[key], rtol=1e-12)
    rates = {**theta, "eta": np.full(40, 0.2), "beta": np.full(40, 0.7)}
    each = ih.Unrolled(40, checkpoints=checkpoints, window=40)(problem, rates).gradient
    assert each["eta"].sum() == pytest.approx(float(whole["eta"]), rel=1e-12)


def test_a_window_counts_in_its_last_steps():
    problem, theta = RUNS["Momentum"]()
    rates = {**theta, "eta": np.full(20, 0.2)}
    whole, window = (ih.Unrolled(20, window=seen)(problem, rates) for seen in (None, 6))
    assert window.value == whole.value
    np.testing.assert_allclose(window.gradient["eta"][14:], whole.gradient["eta"][14:], rtol=1e-12)
    assert not np.any(window.gradient["eta"][:14])


# --- memory and work -------------------------------------------------------------------------------------------


def big(size=100_000):
    """A quadratic in many unknowns whose curvature is theta's."""
    curves = np.linspace(0.5, 1.5, size)

    def loss(x, theta):
        return 0.5 * theta["scale"] * jnp.sum(curves * x**2)

    return ih.Bilevel(ih.GradientDescent(loss, np.ones(size)), lambda x, theta: jnp.sum(x**2))


def temporary(method, problem, theta) -> int:
    """Bytes that the compiled hypergradient takes beside its arguments."""
    theta = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), theta)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that forward mode is cheaper here is true, and beside the point
        compiled = unrolled._evaluate.lower(method, problem, theta, None, None).compile()
    return compiled.compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_ten_thousand_steps():
    """On 100,000 unknowns, against a hundred steps; and with checkpoints like their number."""
    problem, theta = big(), {"eta": 0.1, "scale": 1.0}
    short, long = (temporary(ih.Unrolled(steps), problem, theta) for steps in (100, 10_000))
    assert long <= 12 * short
    few, more = (temporary(ih.Unrolled(10_000, checkpoints=kept), problem, theta) for kept in (20, 80))
    assert 2 * few < more <= 4 * few and few <= 3 * 20 * 8e5 and long <= 3 * 2**28


def test_a_schedule_takes_one_reverse_pass():
    """The program of a thousand step sizes holds two loops, the run and its transpose, and no third."""
    problem, theta = RUNS["GradientDescent"]()
    rates = {**jax.tree.map(jnp.asarray, theta), "eta": jnp.full(1000, 0.3)}
    text = str(eqx.filter_make_jaxpr(unrolled._evaluate)(ih.Unrolled(1000), problem, rates, None, None)[0])
    assert text.count("scan[") == 2 and "while[" not in text


def test_tape_is_counted():
    """x -> x - eta c x: the transpose needs x (for eta); c x is found again from neither, eta is outside the loop."""
    problem = big(1000)
    iteration = problem.lower.iteration()
    state, theta = jnp.ones(1000), {"eta": jnp.asarray(0.1), "scale": jnp.asarray(1.0)}
    assert 8_000 <= run.tape(iteration, state, theta) <= 40_000
    assert run.weight({"a": np.zeros((3, 2)), "n": 1}) == 48


def test_forward_mode_says_when_reverse_is_cheaper():
    problem, theta = RUNS["GradientDescent"]()
    with pytest.warns(UserWarning, match=r"51 tangents, about 52 times the work.*Unrolled\(50\) takes about 3 times"):
        ih.Forward(50)(problem, {**theta, "eta": np.full(50, 0.2)})


def test_reverse_mode_says_when_forward_is_cheaper():
    with pytest.warns(UserWarning, match=r"Forward\(400\) carries 2 tangents, about 3 times the run and"):
        ih.Unrolled(400)(big(), {"eta": 0.1, "scale": 1.0})


# --- runs that diverge -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [ih.Unrolled(400), ih.Forward(400), ih.Unrolled(400, window=9)], ids=repr)
def test_a_run_that_diverges(method):
    """x_t = (1 - eta)^t x_0: the loss overflows once |1 - eta|^t > sqrt(2 max), and its derivative a little earlier."""
    problem = ih.Bilevel(ih.GradientDescent(lambda x, theta: 0.5 * jnp.sum(x**2), np.ones(1)), lambda x, theta: x[0])
    last = int(0.5 * (np.log(2) + np.log(np.finfo(float).max)) / np.log(6))
    with pytest.raises(ih.NotConverged, match=f"left the finite numbers at step {last + 1} of 400") as caught:
        method(problem, {"eta": 7.0})
    kept = caught.value.evaluation
    assert last - 5 <= kept.solution.steps <= last + 1
    if method == ih.Unrolled(400):
        by_hand = -kept.solution.steps * (-6.0) ** (kept.solution.steps - 1)
        assert kept.gradient["eta"] == pytest.approx(by_hand, rel=1e-10)
    found = method(problem, {"eta": 7.0}, throw=False)
    assert np.isfinite(found.value) and np.isfinite(found.gradient["eta"])
    assert not np.isfinite(found.certificate.lower_residual)
    assert "left the finite numbers at step" in found.certificate.verdict


def test_a_search_steps_back_from_a_run_that_diverges():
    problem = ih.Bilevel(
        ih.GradientDescent(lambda x, theta: 0.5 * jnp.sum(x**2), np.ones(1)), lambda x, theta: jnp.sum(x**2) + 1e-3
    )
    report = ih.tune(problem, ih.Parameters(eta=ih.log(0.01, 1e-3, 1e6)), ih.Unrolled(500), ih.LBFGSB(), steps=40)
    assert report.value < 2e-3


def test_a_search_may_begin_where_the_run_nearly_diverges():
    """Its slope, 5e295 here, must not be squared: NumPy would warn of the overflow."""
    problem = ih.Bilevel(
        ih.GradientDescent(lambda x, theta: 0.5 * jnp.sum(x**2), np.ones(1)), lambda x, theta: jnp.sum(x**2)
    )
    report = ih.tune(problem, {"eta": 1e6}, ih.Unrolled(25), ih.LBFGSB(), steps=2)
    assert report.history[0].value > 1e290 and np.isfinite(report.history[0].gradient_norm)


def test_a_criterion_that_fails_is_told_from_a_run_that_does():
    problem = ih.Bilevel(
        ih.GradientDescent(lambda x, theta: 0.5 * jnp.sum(x**2), np.ones(1)), lambda x, theta: jnp.log(-x[0])
    )
    with pytest.raises(ih.NotConverged, match="not the criterion or its derivative, and the criterion has no finite"):
        ih.Unrolled(5)(problem, {"eta": 0.5})


# --- one step --------------------------------------------------------------------------------------------------


class Newton(ih.Iteration):
    """x -> (x + a / x) / 2: to the root of a, with the derivative 0 there."""

    def init(self, theta, start=None):
        return jnp.ones(()) if start is None else start.x

    def step(self, state, theta, t):
        return 0.5 * (state + theta["a"] / state)

    def output(self, state):
        return state


def test_one_step_of_newton_is_exact():
    problem = ih.Bilevel(Newton(), lambda x, theta: x)
    found = ih.OneStep()(problem, {"a": 9.0}, tol=1e-13)
    assert found.gradient["a"] == pytest.approx(1 / 6, rel=1e-12)
    assert found.certificate.error_estimate < 1e-12
    slope = jax.grad(lambda a: ih.layer(Newton(), ih.OneStep())({"a": a}))(9.0)
    assert slope == pytest.approx(1 / 6, rel=1e-8)


def test_one_step_knows_its_error():
    """Of a ridge problem by its slow descent: within a factor two of the true error."""
    problem, _, exact = ridge_at_rest()
    found = ih.OneStep()(problem, {"l2": 2.0}, tol=1e-12)
    error = abs(float(found.gradient["l2"] - exact.gradient["l2"]))
    assert error > 1e-2 * abs(float(exact.gradient["l2"]))
    assert 0.5 <= found.certificate.error_estimate / error <= 2
    again = ih.OneStep()(problem, {"l2": 2.0}, warm=found, tol=1e-12)
    assert again.solution.steps <= 2


@pytest.mark.parametrize("name", ["Split Bregman", "ISTA"])
def test_one_step_at_a_kinked_solution(name):
    """Equal to the first term of the series at the fixed point of the same iteration."""
    problem, theta = RUNS[name]()
    found = ih.OneStep()(problem, theta, tol=1e-10)
    resting = ih.Bilevel(ih.FixedPoint(problem.lower.iteration()), problem.criterion)
    first = ih.Implicit(ih.Neumann(1, step=1.0))(resting, theta, tol=1e-10, throw=False)
    for key in theta:
        assert found.gradient[key] == pytest.approx(float(first.gradient[key]), rel=1e-8)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ih.Unrolled(5, window=6), "window = 6 is longer than its steps = 5"),
        (lambda: ih.Unrolled(5, window=0), "window = 0: a whole number"),
        (lambda: ih.Unrolled(5, checkpoints=0), "checkpoints = 0: a whole number"),
        (lambda: ih.Forward(0), "Forward steps = 0: a whole number"),
        (lambda: ih.Forward(2.5), "a whole number, at least 1"),
    ],
)
def test_the_door(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()
