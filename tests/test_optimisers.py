"""Optimisers as iterations: first steps by hand, schedules, groups, minibatches, learned starts, and the door."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import invhyper as ih

CURVES = np.array([1.0, 2.0, 4.0])
START = np.array([1.0, -0.5, 2.0])


def loss(x, theta):
    return 0.5 * jnp.sum(CURVES * x**2)


def total(x, theta):
    return jnp.sum(x)


def jacobian(iteration, theta, steps):
    """dx_T/dtheta in forward mode, through `layer`."""
    return jax.jacfwd(ih.layer(iteration, ih.Forward(steps)))(jax.tree.map(jnp.asarray, theta))


def test_one_step_of_gradient_descent():
    moved = jacobian(ih.GradientDescent(loss, START), {"eta": 0.1}, 1)["eta"]
    np.testing.assert_allclose(moved, -CURVES * START, rtol=1e-12)


def test_two_steps_of_momentum():
    """x_2 = x_1 - eta (beta g_0 + g_1), with x_1 = x_0 - eta g_0 and g = curves x."""
    eta, beta, g0 = 0.1, 0.6, CURVES * START
    found = jacobian(ih.Momentum(loss, START), {"eta": eta, "beta": beta}, 2)
    np.testing.assert_allclose(found["beta"], -eta * g0, rtol=1e-12)
    np.testing.assert_allclose(found["eta"], -g0 - beta * g0 - CURVES * START + 2 * eta * CURVES * g0, rtol=1e-12)


def adam_by_hand(theta, steps=3):
    """Three steps of Adam and their derivatives on one coordinate at a time, propagated by the rules of calculus.

    Dual numbers written out: each quantity carries (value, d/dalpha, d/dbeta1, d/dbeta2, d/deps).
    """
    alpha, beta1, beta2, eps = (np.array([theta[k], *np.eye(4)[i]]) for i, k in enumerate(theta))

    def times(a, b):
        return np.array([a[0] * b[0], *(a[0] * b[1:] + a[1:] * b[0])])

    def over(a, b):
        return np.array([a[0] / b[0], *((a[1:] * b[0] - a[0] * b[1:]) / b[0] ** 2)])

    def power(a, n):
        return np.array([a[0] ** n, *(n * a[0] ** (n - 1) * a[1:])])

    one, columns = np.eye(5)[0], []
    for curve, x0 in zip(CURVES, START, strict=True):
        x, m, v = x0 * one, 0 * one, 0 * one
        for t in range(steps):
            g = curve * x
            m = times(beta1, m) + times(one - beta1, g)
            v = times(beta2, v) + times(one - beta2, times(g, g))
            ahead = over(m, one - power(beta1, t + 1))
            below = over(v, one - power(beta2, t + 1))
            below = np.array([np.sqrt(below[0]), *(below[1:] / (2 * np.sqrt(below[0])))]) + eps
            x = x - times(alpha, over(ahead, below))
        columns.append(x)
    return np.array(columns)


ADAM = {"alpha": 0.3, "beta1": 0.8, "beta2": 0.95, "eps": 0.05}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_first_steps_of_adam(steps):
    iteration = ih.AdamIteration(loss, START)
    by_hand = adam_by_hand(ADAM, steps)
    np.testing.assert_allclose(ih.layer(iteration, ih.Forward(steps))(ADAM), by_hand[:, 0], rtol=1e-12)
    found = jacobian(iteration, ADAM, steps)
    for i, key in enumerate(ADAM):
        np.testing.assert_allclose(found[key], by_hand[:, 1 + i], rtol=1e-12, atol=1e-12)


def test_adam_is_optax_adam():
    mine, theirs = ih.AdamIteration(loss, START), ih.Optax(loss, START, adam)
    ends = [ih.layer(iteration, ih.Unrolled(40))(ADAM) for iteration in (mine, theirs)]
    np.testing.assert_allclose(*ends, rtol=1e-10)


def adam(theta):
    return optax.adam(theta["alpha"], b1=theta["beta1"], b2=theta["beta2"], eps=theta["eps"])


@pytest.mark.parametrize("build", [ih.AdamIteration, lambda *given: ih.Optax(*given, adam)], ids=["own", "optax"])
@pytest.mark.parametrize("method", [ih.Unrolled(5), ih.Forward(5)], ids=["reverse", "forward"])
def test_a_coordinate_without_gradients_keeps_adam_finite(build, method):
    """Its root stands at 0, where 1 / (2 sqrt) is infinite: the slope must be that of the other coordinates alone."""
    theta = {**ADAM, "eps": 1e-8}
    problem = ih.Bilevel(build(loss, np.array([1.0, 0.0, 2.0])), total)
    without = ih.Bilevel(build(lambda x, theta: 0.5 * jnp.sum(CURVES[::2] * x**2), np.array([1.0, 2.0])), total)
    found, expected = (method(each, theta).gradient for each in (problem, without))
    for key in theta:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-12)


ROOTS = {
    "in a branch": lambda theta: optax.MultiSteps(optax.adam(theta["alpha"]), 2),
    "clipped": lambda theta: optax.chain(optax.clip_by_global_norm(theta["most"]), optax.adam(theta["alpha"])),
    "of an inverse": lambda theta: optax.adagrad(theta["alpha"], initial_accumulator_value=0.0, eps=0.0),
}


@pytest.mark.parametrize("name", ROOTS)
@pytest.mark.parametrize("gain", [1.0, 0.0], ids=["one coordinate", "all"])
def test_transformations_without_gradients_keep_their_slopes(name, gain):
    """Roots and quotients of zeros inside branches, norms and clips: the other coordinates' slope, in both modes."""
    theta = {"alpha": 0.1, "most": 5.0}
    problem = ih.Bilevel(
        ih.Optax(lambda x, theta: gain * loss(x, theta), np.array([1.0, 0.0, 2.0]), ROOTS[name]), total
    )
    found, forward = (method(problem, theta) for method in (ih.Unrolled(4), ih.Forward(4)))
    above, below = (ih.Unrolled(4)(problem, {**theta, "alpha": 0.1 + h}).value for h in (1e-6, -1e-6))
    for each in (found, forward):
        assert each.gradient["alpha"] == pytest.approx((above - below) / 2e-6, rel=1e-3, abs=1e-9)
    assert found.gradient["most"] == pytest.approx(float(forward.gradient["most"]), rel=1e-8, abs=1e-12)


def test_gradients_that_are_not_a_number_are_not_hidden():
    """The root of NaN is NaN: Adam without eps must not take a minibatch that fails for one without gradients."""
    pulls = np.array([1.0, 1.0, np.nan, 1.0])
    run = ih.AdamIteration(lambda x, theta, pull: pull * jnp.sum(x), np.zeros(1), batches=pulls)
    problem = ih.Bilevel(run, total)
    with pytest.raises(ih.NotConverged, match="left the finite numbers at step 2 of 4"):
        ih.Unrolled(4)(problem, {"alpha": 0.1, "eps": 0.0})


def test_schedules():
    theta = {"a": -1.0, "b": -2.0, "eta": 0.4}
    np.testing.assert_allclose(ih.InverseTime()(theta, 3), np.exp(-1) / (1 + 3 * np.exp(-2)), rtol=1e-14)
    np.testing.assert_allclose(ih.Cosine(4)(theta, 1), 0.4 * 0.5 * (1 + np.cos(np.pi / 4)), rtol=1e-14)
    np.testing.assert_allclose(ih.Cosine(4, floor=0.1)(theta, 9), 0.04, rtol=1e-14)
    rates = {"eta": jnp.array([0.3, 0.2, 0.1])}
    assert [float(ih.Piecewise((2, 3))(rates, t)) for t in range(5)] == [0.3, 0.3, 0.2, 0.1, 0.1]


def test_inverse_time_by_hand():
    """x_2 = (1 - eta_0 c)(1 - eta_1 c) x_0, eta_0 = e^a, eta_1 = e^a / (1 + e^b)."""
    theta = {"a": -2.0, "b": -1.0}
    found = jacobian(ih.GradientDescent(loss, START, ih.InverseTime()), theta, 2)
    eta0, eta1 = np.exp(-2.0), np.exp(-2.0) / (1 + np.exp(-1.0))
    d_eta1_db = -np.exp(-2.0) * np.exp(-1.0) / (1 + np.exp(-1.0)) ** 2
    in_rates = [-CURVES * (1 - eta1 * CURVES) * START, -CURVES * (1 - eta0 * CURVES) * START]
    np.testing.assert_allclose(found["a"], in_rates[0] * eta0 + in_rates[1] * eta1, rtol=1e-12)
    np.testing.assert_allclose(found["b"], in_rates[1] * d_eta1_db, rtol=1e-12)


def test_one_number_a_step_and_one_a_group():
    groups = {"fast": START[:1], "slow": {"a": START[1:2], "b": START[2:]}}

    def grouped(x, theta):
        return loss(jnp.concatenate(jax.tree.leaves(x)), theta)

    rates = {"fast": np.array([0.1, 0.2]), "slow": np.array([0.05, 0.02])}
    end = ih.layer(ih.GradientDescent(grouped, groups), ih.Unrolled(2))({"eta": rates})
    each = np.array([rates["fast"], rates["slow"], rates["slow"]])
    expected = START * np.prod(1 - each * CURVES[:, None], axis=1)
    np.testing.assert_allclose(np.concatenate(jax.tree.leaves(end)), expected, rtol=1e-13)


def test_adam_with_betas_that_change():
    """m and v stay weighted means: gradients that never change move x by alpha, whatever the betas."""
    run = ih.AdamIteration(lambda x, theta: 3.0 * jnp.sum(x), np.zeros(1))
    theta = {"alpha": 0.1, "beta1": np.array([0.9, 0.5, 0.0]), "beta2": np.array([0.5, 0.99, 0.9]), "eps": 0.0}
    np.testing.assert_allclose(ih.layer(run, ih.Unrolled(3))(theta), [-0.3], rtol=1e-12)


def test_minibatches_take_turns():
    pulls = np.array([[1.0], [10.0]])
    run = ih.GradientDescent(lambda x, theta, pull: jnp.sum(pull * x), np.zeros(1), batches=pulls)
    assert ih.layer(run, ih.Unrolled(3))({"eta": 1.0}) == pytest.approx(-12.0)
    by_function = ih.GradientDescent(lambda x, theta, pull: pull * jnp.sum(x), np.zeros(1), batches=lambda t: t + 1.0)
    assert ih.layer(by_function, ih.Unrolled(3))({"eta": 1.0}) == pytest.approx(-6.0)
    rows = ih.minibatches(10, 3, 7, seed=1)
    assert rows.shape == (7, 3) and all(len(set(epoch.ravel())) == 9 for epoch in (rows[:3], rows[3:6]))


def test_a_start_may_be_learned():
    run = ih.GradientDescent(loss, lambda theta: theta["x0"] * jnp.ones(3))
    found = jacobian(run, {"eta": 0.1, "x0": 2.0}, 2)
    np.testing.assert_allclose(found["x0"], (1 - 0.1 * CURVES) ** 2, rtol=1e-13)


def test_a_learned_start_of_plain_numbers_is_in_double_precision():
    run = ih.GradientDescent(lambda x, theta: x["w"] ** 2, lambda theta: {"w": 1.0})
    assert ih.layer(run, ih.Unrolled(1))({"eta": 0.1})["w"].dtype == np.float64


@pytest.mark.parametrize("iteration", [ih.GradientDescent, ih.AdamIteration])
def test_both_modes_in_single_precision(iteration):
    problem = ih.Bilevel(iteration(loss, START.astype(np.float32)), total)
    theta = {"eta": 0.1} if iteration is ih.GradientDescent else {"alpha": 0.1}
    (key,) = theta
    slopes = [method(problem, theta).gradient[key] for method in (ih.Unrolled(5), ih.Forward(5))]
    assert slopes[0] == pytest.approx(float(slopes[1]), rel=1e-5)


def test_a_schedule_is_given_an_array_t():
    run = ih.GradientDescent(loss, START, lambda theta, t: theta["eta"] * t.astype(float))
    found = ih.layer(run, ih.Unrolled(2))({"eta": 0.1})
    np.testing.assert_allclose(found, START * (1 - 0.1 * CURVES), rtol=1e-13)
    assert np.isfinite(ih.Unrolled(2)(ih.Bilevel(run, total), {"eta": 0.1}).gradient["eta"])


def test_single_precision_stays():
    run = ih.Momentum(lambda x, theta: jnp.sum(x**2), np.ones(2, np.float32))
    assert ih.layer(run, ih.Unrolled(3))({"eta": 0.1, "beta": 0.5}).dtype == np.float32


@pytest.mark.parametrize("iteration", [ih.GradientDescent, ih.Momentum])
def test_a_constant_run_has_its_fixed_point(iteration):
    """Its limit forgets eta and beta: only the pull of the loss is left in the slope."""

    def pulled(x, theta):
        return loss(x, theta) - theta["pull"] * jnp.sum(x)

    theta = {"eta": 0.2, "pull": 3.0} | ({"beta": 0.3} if iteration is ih.Momentum else {})
    found = ih.Implicit()(ih.Bilevel(iteration(pulled, START), total), theta, tol=1e-12)
    assert found.gradient["pull"] == pytest.approx(np.sum(1 / CURVES), rel=1e-9)
    assert abs(found.gradient["eta"]) < 1e-9


BAD = {
    "missing": (ih.Momentum, {"eta": 0.1}, "theta lacks 'beta'"),
    "slip": (ih.GradientDescent, {"etta": 0.1}, "lacks 'eta' .is 'etta' a slip"),
    "negative": (ih.GradientDescent, {"eta": -0.1}, "'eta' = -0.1 is below its bound 0 in GradientDescent"),
    "negative later": (ih.GradientDescent, {"eta": np.array([0.1, -0.2])}, r"'eta' = -0.2 \(entry 1 of 2\)"),
    "beta": (ih.Momentum, {"eta": 0.1, "beta": 1.0}, "'beta' = 1 is above its bound 0.99999"),
    "number of steps": (ih.GradientDescent, {"eta": np.full(3, 0.1)}, "holds 3 numbers, one a step, and the run has 2"),
    "matrix": (ih.GradientDescent, {"eta": np.full((2, 3), 0.1)}, r"has shape \(2, 3\)"),
    "groups": (ih.GradientDescent, {"eta": {"no": 0.1}}, "has the groups .'no'., which are not those of x"),
    "groups of beta": (ih.Momentum, {"eta": 0.1, "beta": {"a": 0.1}}, "'beta' is a dict"),
    "list": (ih.GradientDescent, {"eta": [0.1, 0.2]}, "'eta' is a list: one array of its numbers is wanted"),
    "no dict": (ih.AdamIteration, 0.1, "AdamIteration wants a dict with 'alpha'"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("method", [ih.Unrolled(2), ih.Forward(2)], ids=["reverse", "forward"])
def test_theta_at_the_door(case, method):
    iteration, theta, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        method(ih.Bilevel(iteration(loss, START), total), theta)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ih.GradientDescent(3.0, START), "wants a function loss"),
        (lambda: ih.Momentum(loss, START, 0.1), "wants a function schedule"),
        (lambda: ih.Optax(loss, START, optax.adam(0.1)), "transform"),
        (lambda: ih.GradientDescent(loss, np.array([np.nan])), "finite numbers are wanted"),
        (lambda: ih.Cosine(0), "Cosine steps = 0"),
        (lambda: ih.Piecewise((3, 2)), "increasing"),
        (lambda: ih.minibatches(5, 6, 1), "size = 6: a whole number from 1 to 5"),
    ],
)
def test_constructors_at_the_door(build, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        build()


@pytest.mark.parametrize(
    ("iteration", "theta"),
    [
        (ih.AdamIteration(loss, START), {"alpha": 0.1}),
        (ih.Optax(loss, START, adam), ADAM),
        (ih.GradientDescent(loss, START, ih.InverseTime()), {"a": 0.0, "b": 0.0}),
        (ih.GradientDescent(loss, START), {"eta": np.full(4, 0.1)}),
        (ih.GradientDescent(lambda x, theta, batch: loss(x, theta), START, batches=np.zeros(2)), {"eta": 0.1}),
    ],
)
def test_what_depends_on_t_has_no_fixed_point(iteration, theta):
    problem = ih.Bilevel(iteration, total)
    for refused in (ih.Implicit(), ih.OneStep(), ih.Forward()):
        with pytest.raises(ValueError, match="has no fixed point; use Unrolled or Forward"):
            refused(problem, theta)


GROUPS = {"a": START, "b": START}
LATE = {
    "schedule": (ih.GradientDescent(loss, START, ih.InverseTime()), r"schedule\(theta, t\) looks up 'a', which theta"),
    "transform": (
        ih.Optax(loss, START, lambda theta: optax.sgd(theta["alpha"])),
        r"transform\(theta\) looks up 'alpha', which theta",
    ),
    "groups": (
        ih.GradientDescent(lambda x, theta: loss(x["a"], theta), GROUPS, lambda theta, t: {"a": theta["eta"]}),
        "step size has the groups .'a'., which are not those of x: .'a', 'b'.",
    ),
    "rows": (
        ih.GradientDescent(lambda x, theta, row: loss(x, theta), START, batches=lambda t: np.arange(3)[t]),
        "indexes a NumPy array by t, which is traced",
    ),
    "criterion": (ih.GradientDescent(loss, START), r"the criterion returned shape \(3,\): a scalar is wanted"),
}


@pytest.mark.parametrize("case", LATE)
@pytest.mark.parametrize("method", [ih.Unrolled(2), ih.Forward(2)], ids=["reverse", "forward"])
def test_what_shows_only_when_it_runs(case, method):
    iteration, sentence = LATE[case]
    with pytest.raises((ValueError, TypeError), match=sentence):
        method(
            ih.Bilevel(iteration, (lambda x, theta: x) if case == "criterion" else (lambda x, theta: 0.0)), {"eta": 0.1}
        )


def test_an_iteration_is_not_solved():
    with pytest.raises(TypeError, match=r"FixedPoint\(GradientDescent\(...\)\) makes one of it"):
        ih.solve(ih.GradientDescent(loss, START), {"eta": 0.1})
