"""Damped Newton steps within bounds: known minima, and what counts as held, as converged and as stuck."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from invhyper.lower import levenberg_marquardt as lm

FREE = (-np.inf, np.inf)


def least_squares(residual):
    """x -> Local with the Gauss-Newton curvature."""

    def local(x):
        r, J = residual(x), jax.jacfwd(residual)(x)
        return lm.Local(x, 0.5 * r @ r, J.T @ r, J.T @ J, jnp.linalg.norm(r))

    return local


def smooth(value):
    """x -> Local with the exact Hessian, and no residual."""
    return lambda x: lm.Local(x, value(x), jax.grad(value)(x), jax.hessian(value)(x), jnp.zeros(()))


def fit(model, start, lower=-np.inf, upper=np.inf, damping=lm.FIRST_DAMPING, target=1e-13, max_steps=200, stalled=0.0):
    start = jnp.asarray(start, float)
    sides = [jnp.broadcast_to(jnp.asarray(side, float), start.shape) for side in (lower, upper)]
    return jax.jit(lambda x: lm.descend(model, lm.blank(x), *sides, damping, target, max_steps, stalled))(start)


def rosenbrock(x):
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def test_rosenbrock_valley():
    found = fit(least_squares(rosenbrock), [-1.2, 1.0])
    np.testing.assert_allclose(found.local.x, [1.0, 1.0], atol=1e-12)
    assert found.error <= 1e-13 and found.steps < 40


def test_linear_least_squares_in_two_steps():
    """Undamped, one step is exact: the first look, the step, and at most one more that finds nothing to gain."""
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((9, 3)), rng.standard_normal(9)
    found = fit(least_squares(lambda x: A @ x - y), np.zeros(3), damping=0.0)
    np.testing.assert_allclose(found.local.x, np.linalg.lstsq(A, y)[0], rtol=1e-12)
    assert found.steps <= 4


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_units_do_not_matter(scale):
    """The same steps and the same error in other units of x."""
    units = jnp.array([scale, 1.0])
    found, plain = (
        fit(least_squares(lambda x, u=u: rosenbrock(x / u)), [-1.2 * u[0], 1.0]) for u in (units, jnp.ones(2))
    )
    assert found.steps == plain.steps
    np.testing.assert_allclose(found.local.x, units, rtol=1e-10)


def test_a_bound_holds_a_parameter():
    """min (x - 3)^2 + (x - y)^2 with x <= 1: x = 1 is pressed, y follows it."""
    found = fit(least_squares(lambda x: jnp.stack([x[0] - 3, x[0] - x[1]])), [0.0, 5.0], upper=[1.0, np.inf])
    np.testing.assert_allclose(found.local.x, [1.0, 1.0], rtol=1e-12)
    held = lm.free(found.local, jnp.array([-jnp.inf, -jnp.inf]), jnp.array([1.0, jnp.inf]))
    assert held.tolist() == [False, True]


def test_a_bound_lets_go():
    """It starts at the bound with the slope pointing inwards."""
    found = fit(least_squares(lambda x: x - 2.0), [0.0], lower=[0.0], upper=[9.0])
    np.testing.assert_allclose(found.local.x, [2.0], rtol=1e-12)


def test_all_parameters_held():
    found = fit(least_squares(lambda x: x - 2.0), [0.5, 0.5], upper=1.0)
    assert found.local.x.tolist() == [1.0, 1.0] and found.error == 0


def test_the_exact_hessian_where_it_is_indefinite():
    """x^4/4 - x^2/2 bends the wrong way at .1: damping takes the step, the minimum at 1 is found."""
    found = fit(smooth(lambda x: jnp.sum(x**4 / 4 - x**2 / 2)), [0.1], damping=0.0)
    np.testing.assert_allclose(found.local.x, [1.0], rtol=1e-10)


def test_a_model_that_is_not_finite_somewhere():
    """log x ends at zero: a step beyond is not taken."""
    found = fit(least_squares(lambda x: jnp.log(x) - jnp.log(1e-3)), [5.0])
    np.testing.assert_allclose(found.local.x, [1e-3], rtol=1e-10)


def test_a_start_that_is_not_finite_ends_at_once():
    found = fit(least_squares(lambda x: jnp.log(x)), [-1.0])
    assert found.steps == 1 and not np.isfinite(found.local.value)


def test_the_lowest_eigenvalue_is_free_of_units():
    """Of [[1, c], [c, 1]] it is 1 - c, however the parameters are scaled; held ones do not count."""
    units, both = np.array([1e-6, 1e5]), jnp.ones(2, bool)
    local = lm.Local(
        jnp.zeros(2), 0.0, jnp.zeros(2), jnp.array([[1.0, 0.25], [0.25, 1.0]]) / np.outer(units, units), 0.0
    )
    assert lm.lowest(local, both) == pytest.approx(0.75, rel=1e-12)
    assert lm.lowest(local, both.at[1].set(False)) == 1.0
    bent = local._replace(curvature=jnp.diag(jnp.array([-1e-12, 1e12])))
    assert lm.lowest(bent, both) == pytest.approx(-1.0, rel=1e-12)


@pytest.mark.parametrize("stalled, least, most", [(0.0, 100, 400), (1e-3, 2, 80)])
def test_slow_steps_of_gauss_newton_end_it(stalled, least, most):
    """Where the residual is large and bends its steps converge as a geometric series, here by .9 a step."""
    model = least_squares(lambda x: jnp.stack([x[0], 0.45 * x[0] ** 2 - 1]))
    found = fit(model, [0.3], damping=0.0, max_steps=400, stalled=stalled)
    assert least <= found.steps <= most


def test_the_step_limit():
    found = fit(least_squares(rosenbrock), [-1.2, 1.0], max_steps=3)
    assert found.steps == 3 and found.error > 1e-3


def test_what_is_carried_along():
    """`more` is that of the point returned."""

    def model(x):
        return least_squares(lambda x: x - 2.0)(x)._replace(more=jnp.outer(x, jnp.ones(3)))

    start = jnp.array([0.5])
    found = lm.descend(model, lm.blank(start, 3), jnp.full(1, -jnp.inf), jnp.full(1, jnp.inf), 0.0, 1e-13, 50)
    np.testing.assert_allclose(found.local.more, np.full((1, 3), found.local.x[0]))
