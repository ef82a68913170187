"""layer under grad, jit and vmap, in theta and in the data, traced and host; failures reach the user."""

import functools

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
    return jnp.sign(y) if make is ih.Logistic else y


MAKERS = pytest.mark.parametrize("make", [ih.Ridge, ih.Logistic, smooth, ih.ElasticNet], ids=lambda make: make.__name__)


@functools.cache
def compiled(make, transform=lambda f: f):
    """The value of sum sin x*(l2, y) and its slopes in both, in one program."""

    def of(l2, y):
        return jnp.sum(jnp.sin(ih.layer(make(A, data(make, y)))(theta_of(make, l2, y))))

    return jax.jit(transform(jax.value_and_grad(of, argnums=(0, 1))))


@MAKERS
def test_x_and_slope_are_those_of_solve_and_implicit(make):
    theta = theta_of(make, 0.7, Y)
    evaluation = ih.Implicit()(ih.Bilevel(make(A, data(make, Y)), lambda x, theta: jnp.sum(jnp.sin(x))), theta)
    value, (slope, _) = compiled(make)(0.7, Y)
    assert float(value) == pytest.approx(evaluation.value, abs=1e-10)
    wanted = evaluation.gradient["l2"] + (0.5 * evaluation.gradient["l1"] if "l1" in theta else 0.0)
    assert float(slope) == pytest.approx(float(wanted), abs=1e-10)


@pytest.mark.parametrize("make", [ih.Ridge, ih.ElasticNet], ids=lambda make: make.__name__)
def test_eager_calls_are_the_same(make):
    layer, theta = ih.layer(make(A, Y)), theta_of(make, 0.7, Y)
    np.testing.assert_allclose(layer(theta), ih.solve(make(A, Y), theta).x, atol=1e-10)
    slope = jax.grad(lambda theta: jnp.sum(jnp.sin(layer(theta))))(theta)
    total = slope["l2"] + 0.5 * slope.get("l1", 0.0)
    np.testing.assert_allclose(total, compiled(make)(0.7, Y)[1][0], atol=1e-10)


def same(batched, each):
    for got, wanted in zip(*map(jax.tree.leaves, (batched, jax.tree.map(lambda *v: np.stack(v), *each))), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-10)


@MAKERS
def test_vmap_over_theta(make):
    weights = np.array([0.3, 0.7, 2.0])
    batched = compiled(make, lambda f: jax.vmap(f, in_axes=(0, None)))(weights, Y)
    same(batched, [compiled(make)(weight, Y) for weight in weights])


@MAKERS
def test_vmap_over_y(make):
    batched = compiled(make, lambda f: jax.vmap(f, in_axes=(None, 0)))(0.7, BATCH)
    same(batched, [compiled(make)(0.7, y) for y in BATCH])


@pytest.mark.parametrize("make", [ih.Ridge, smooth, ih.ElasticNet], ids=lambda make: make.__name__)
def test_slope_in_y_matches_differences(make):
    direction = np.random.default_rng(0).standard_normal(20)
    slope = compiled(make)(0.7, Y)[1][1]
    measured = zoo.central_difference(lambda y: float(compiled(make)(0.7, y)[0]), Y, direction, 1e-4)
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


def test_data_in_a_closure_is_refused_in_words():
    def of(y):
        lower = ih.Smooth(lambda x, theta: jnp.sum((x - y) ** 2) + theta["a"] * jnp.sum(x**2), np.zeros(3))
        return ih.layer(lower)({"a": 1.0}).sum()

    with pytest.raises(TypeError, match="closes over"):
        jax.grad(of)(np.ones(3))


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
    np.testing.assert_allclose([run, fixed], exact, rtol=1e-8)
