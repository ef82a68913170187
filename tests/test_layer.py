"""layer under grad, jit and vmap, in theta and in the data, for traced and host lower levels; failures reach the user."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih

A, Y, *_ = zoo.ridge_problem(20, 5)
BATCH = np.stack([Y, -0.5 * Y, Y + 1.0])


def smooth(A, y):
    def loss(x, theta):
        return 0.5 * jnp.sum((A @ x - theta["y"]) ** 2) + 0.5 * theta["l2"] * jnp.sum(x**2)

    return ih.Smooth(loss, np.zeros(5))


def theta_of(make, l2, y):
    if make is smooth:
        return {"l2": l2, "y": y}
    return {"l1": 0.5 * l2, "l2": l2} if make is ih.ElasticNet else {"l2": l2}


def data(make, y):
    return np.sign(y) if make is ih.Logistic else y


MAKERS = pytest.mark.parametrize("make", [ih.Ridge, ih.Logistic, smooth, ih.ElasticNet], ids=lambda make: make.__name__)


def total(make):
    def of(l2, y):
        return jnp.sum(jnp.sin(ih.layer(make(A, data(make, y)))(theta_of(make, l2, y))))

    return of


@MAKERS
def test_x_and_slope_are_those_of_solve_and_implicit(make):
    theta = theta_of(make, 0.7, Y)
    lower = make(A, data(make, Y))
    x = ih.solve(lower, theta).x
    evaluation = ih.Implicit()(ih.Bilevel(lower, lambda x, theta: jnp.sum(jnp.sin(x))), theta)
    layer = ih.layer(lower)
    np.testing.assert_allclose(layer(theta), x, atol=1e-10)
    for transform in (lambda f: f, jax.jit):
        np.testing.assert_allclose(transform(layer)(theta), x, atol=1e-10)
        slope = transform(jax.grad(lambda theta: jnp.sum(jnp.sin(layer(theta)))))(theta)
        for key, wanted in evaluation.gradient.items():
            np.testing.assert_allclose(slope[key], wanted, atol=1e-10)


@MAKERS
def test_vmap_over_theta(make):
    weights = np.array([0.3, 0.7, 2.0])
    both = jax.jit(jax.vmap(jax.value_and_grad(total(make)), in_axes=(0, None)))(weights, Y)
    each = [jax.value_and_grad(total(make))(weight, Y) for weight in weights]
    np.testing.assert_allclose(both[0], [value for value, _ in each], atol=1e-10)
    np.testing.assert_allclose(both[1], [slope for _, slope in each], atol=1e-10)


@MAKERS
def test_vmap_over_y(make):
    both = jax.vmap(jax.value_and_grad(total(make)), in_axes=(None, 0))(0.7, BATCH)
    each = [jax.value_and_grad(total(make))(0.7, y) for y in BATCH]
    np.testing.assert_allclose(both[0], [value for value, _ in each], atol=1e-10)
    np.testing.assert_allclose(both[1], [slope for _, slope in each], atol=1e-10)


@pytest.mark.parametrize("make", [ih.Ridge, smooth, ih.ElasticNet], ids=lambda make: make.__name__)
def test_slope_in_y_matches_differences(make):
    direction = np.random.default_rng(0).standard_normal(20)
    slope = jax.grad(total(make), argnums=1)(0.7, Y)
    measured = zoo.central_difference(lambda y: float(total(make)(0.7, y)), Y, direction, 1e-4)
    assert slope @ direction == pytest.approx(measured, rel=1e-7)


def test_slope_in_the_matrix_is_real():
    def of(A):
        return jnp.sum(jnp.sin(ih.layer(ih.Ridge(A, Y))({"l2": 0.7})))

    direction = np.random.default_rng(0).standard_normal(A.shape)
    measured = zoo.central_difference(lambda A: float(of(A)), A, direction, 1e-4)
    assert jnp.sum(jax.grad(of)(A) * direction) == pytest.approx(measured, rel=1e-7)


def test_a_field_without_a_derivative_is_refused():
    class Silent(ih.ElasticNet):
        data = ()

    with pytest.raises(TypeError, match="gives no derivative in its field 'y'"):
        jax.grad(lambda y: ih.layer(Silent(A, y))({"l1": 0.1, "l2": 0.1}).sum())(Y)


def test_data_in_a_closure_is_never_a_silent_zero():
    def of(y):
        lower = ih.Smooth(lambda x, theta: jnp.sum((x - y) ** 2) + theta["a"] * jnp.sum(x**2), np.zeros(3))
        return ih.layer(lower)({"a": 1.0}).sum()

    try:
        slope = jax.grad(of)(np.ones(3))
    except Exception as error:
        assert "closed-over" in str(error) or "closure" in str(error)
    else:
        np.testing.assert_allclose(slope, 0.5, atol=1e-10)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.grad], ids=["plain", "jit", "grad"])
def test_failures_reach_the_user(transform):
    singular = ih.layer(ih.Ridge(np.tile(A[:, :2], (1, 2)), Y))
    with pytest.raises(Exception, match="not positive definite"):
        jax.block_until_ready(transform(lambda l2: singular({"l2": l2}).sum())(0.0))
    unfinished = ih.layer(ih.Ridge(A, Y, solver=ih.CG(max_steps=1)))
    with pytest.raises(Exception, match="Ridge stopped at"):
        jax.block_until_ready(transform(lambda l2: unfinished({"l2": l2}).sum())(0.1))
    negative = ih.layer(ih.Ridge(A, Y))
    with pytest.raises(Exception, match="below its bound"):
        jax.block_until_ready(transform(lambda l2: negative({"l2": l2}).sum())(-1.0))


def test_one_bad_entry_of_a_batch_reaches_the_user():
    with pytest.raises(Exception, match="not a finite number"):
        jax.block_until_ready(jax.vmap(ih.layer(ih.Ridge(A, Y)))({"l2": np.array([1.0, np.nan])}))


def test_an_adjoint_cut_short_reaches_the_user():
    layer = ih.layer(ih.Ridge(A, Y), ih.Implicit(ih.CG(max_steps=1)))
    with pytest.raises(Exception, match="the adjoint stopped at"):
        jax.block_until_ready(jax.jit(jax.grad(lambda l2: layer({"l2": l2}).sum()))(0.1))


def test_under_jit_the_last_line_is_the_sentence():
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jax.jit(ih.layer(ih.Ridge(A, Y)))({"l2": -1.0}))
    last = str(caught.value).strip().splitlines()[-1]
    assert last == "ValueError: theta 'l2' = -1 is below its bound 0 in Ridge"


def test_unrolled_layer_and_a_fixed_point_layer():
    lower, theta = ih.Ridge(A, Y), {"l2": 0.7}
    exact = jax.grad(lambda theta: ih.layer(lower)(theta).sum())(theta)["l2"]
    run = jax.grad(lambda theta: ih.layer(lower, ih.Unrolled(400))(theta).sum())(theta)["l2"]
    fixed = jax.grad(lambda theta: ih.layer(ih.FixedPoint(lower.iteration()), tol=1e-12)(theta).sum())(theta)["l2"]
    assert run == pytest.approx(exact, rel=1e-8)
    assert fixed == pytest.approx(exact, rel=1e-8)
