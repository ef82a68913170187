"""Total variation as a JAX function of weights and data, in single precision, and under the tools built on it."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih

SIDE = 10
TRUTH, Y = zoo.camera(SIDE)
WEIGHTS = 0.05 + 0.05 * Y**2
KINDS = {
    "anisotropic": lambda y: ih.TotalVariation(y),
    "nonnegative blur": lambda y: ih.TotalVariation(
        y, ih.Blur(np.ones((3, 3)) / 9, shape=(SIDE, SIDE), boundary="periodic"), nonnegative=True
    ),
    "isotropic": lambda y: ih.TotalVariation(y, isotropic=True),
    "Huber": lambda y: ih.HuberTV(y, delta=0.05),
}


def criterion(x, theta=None):
    return jnp.sum(jnp.sin(3.0 * x))


@functools.cache
def compiled(kind, transform=lambda f: f):
    def of(weight, y):
        return criterion(ih.layer(KINDS[kind](y), tol=1e-10)({"weight": weight}))

    return jax.jit(transform(jax.value_and_grad(of, argnums=(0, 1))))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight", [0.07, WEIGHTS], ids=["scalar", "image"])
def test_x_and_slope_are_those_of_implicit(kind, weight):
    evaluation = ih.Implicit()(ih.Bilevel(KINDS[kind](Y), criterion), {"weight": weight}, tol=1e-10)
    value, (slope, _) = compiled(kind)(weight, Y)
    assert float(value) == pytest.approx(evaluation.value, abs=1e-10)
    np.testing.assert_allclose(slope, evaluation.gradient["weight"], atol=1e-10)


@pytest.mark.parametrize("kind", ["anisotropic", "Huber"])
def test_vmap_over_weights_and_over_data(kind):
    weights, batch = np.array([0.03, 0.07, 0.2]), np.stack([Y, 0.5 * Y, Y**2])
    for axes, each in (((0, None), [(w, Y) for w in weights]), ((None, 0), [(0.07, y) for y in batch])):
        arguments = (weights, Y) if axes[0] == 0 else (0.07, batch)
        together = jax.vmap(compiled(kind), in_axes=axes)(*arguments)
        alone = [compiled(kind)(*one) for one in each]
        for got, *wanted in zip(*map(jax.tree.leaves, (together, *alone)), strict=True):
            np.testing.assert_allclose(got, np.stack(wanted), atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_slope_in_the_data_is_the_central_difference(kind):
    # h keeps the stratum of these cases; the fourth-order difference of the piecewise smooth value then has no bias.
    direction, h = np.random.default_rng(0).standard_normal(Y.shape), 1e-6
    slope = float(jnp.sum(compiled(kind)(0.07, Y)[1][1] * direction))
    measured = zoo.central_difference(lambda y: float(compiled(kind)(0.07, y)[0]), Y, direction, h)
    assert slope == pytest.approx(measured, rel=1e-6)


def test_slope_in_the_data_of_two_pixels():
    # x = (w, 1 - w) for y = (0, 1): d x / d y = I while the jump is longer than 2 w, and the mean of y after that.
    def jacobian(weight, y):
        return jax.jacrev(lambda y: ih.layer(ih.TotalVariation(y))({"weight": weight}))(y)

    np.testing.assert_allclose(jacobian(0.2, np.array([0.0, 1.0])), np.eye(2), atol=1e-12)
    np.testing.assert_allclose(jacobian(0.7, np.array([0.0, 1.0])), np.full((2, 2), 0.5), atol=1e-12)


def test_sensitivity_of_an_image():
    lower = ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0]))
    np.testing.assert_allclose(ih.sensitivity(lower, {"weight": 0.2})["weight"], [0.5, 0.5, -0.5, -0.5], atol=1e-12)
    in_y = np.kron(np.eye(2), np.full((2, 2), 0.5))
    np.testing.assert_allclose(ih.sensitivity(lower, {"weight": 0.2}, data="y"), in_y, atol=1e-12)


def test_sweep_has_the_values_and_slopes_of_single_evaluations():
    problem = ih.Bilevel(ih.TotalVariation(Y), ih.Truth(TRUTH))
    thetas = [{"weight": w} for w in (0.02, 0.07, 0.2)]
    values, gradients = ih.sweep(problem, thetas)
    for theta, value, gradient in zip(thetas, values, np.asarray(gradients["weight"]), strict=True):
        alone = ih.Implicit()(problem, theta)
        assert value == pytest.approx(alone.value, rel=1e-9)
        assert float(gradient) == pytest.approx(float(alone.gradient["weight"]), rel=1e-6)


def test_tune_of_one_weight_a_pixel_beats_one_weight():
    problem = ih.Bilevel(ih.TotalVariation(Y), ih.Truth(TRUTH))
    scalar = ih.tune(problem, ih.Parameters(weight=ih.log(0.05, 1e-3, 1.0)))
    best = float(scalar.theta["weight"])
    pixels = ih.Parameters(weight=ih.log(np.full(Y.shape, best), 1e-3, 1.0))
    report = ih.tune(problem, pixels, steps=8)
    assert np.shape(report.theta["weight"]) == Y.shape
    assert problem.value(report.theta) < 0.9 * problem.value(scalar.theta)


def single_slopes():
    """The slope of F in single precision, on the stratum and through a run."""
    truth, y = TRUTH.astype(np.float32), Y.astype(np.float32)
    problem, theta = ih.Bilevel(ih.TotalVariation(y), ih.Truth(truth)), {"weight": np.float32(0.08)}
    assert ih.layer(problem.lower)(theta).dtype == np.float32
    slopes = []
    for evaluation in (ih.Implicit()(problem, theta), ih.Unrolled(200)(problem, theta)):
        assert evaluation.solution.x.dtype == np.float32
        slopes.append(float(evaluation.gradient["weight"]))
    return slopes


def test_single_precision_has_the_slope_to_a_thousandth():
    exact = ih.Implicit()(ih.Bilevel(ih.TotalVariation(Y), ih.Truth(TRUTH)), {"weight": 0.08}).gradient["weight"]
    np.testing.assert_allclose(single_slopes(), [float(exact)] * 2, rtol=1e-3)
    code = "import test_layer_images\nprint(*test_layer_images.single_slopes())"
    path = os.pathsep.join([os.path.dirname(__file__), *(p for p in sys.path if p)])
    environment = {**os.environ, "JAX_ENABLE_X64": "0", "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    np.testing.assert_allclose([float(slope) for slope in run.stdout.split()], [float(exact)] * 2, rtol=1e-3)


def test_a_fixed_point_below_single_precision_is_said():
    lower = ih.TotalVariation(Y.astype(np.float32))
    fixed = ih.FixedPoint(lower.iteration())
    with pytest.raises(ih.NotConverged, match="FixedPoint stopped at .*e-07, above tol 1.0e-08"):
        ih.solve(fixed, {"weight": np.float32(0.08)}, tol=1e-8)
