"""Rodas5P: its tables against the order conditions, its orders, published end points, derivatives, failures."""

import functools
import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stiff import STIFF

import invhyper as ih
from invhyper.lower.rosenbrock import GAMMA, A, C, H, c, d

# Hairer and Wanner (1996), IV.7: for u = Gamma k the tables are A = alpha Gamma^-1 and C = I / gamma - Gamma^-1.
GAMMAS = np.linalg.inv(np.eye(8) / GAMMA - C)
ALPHA, BETA = A @ GAMMAS, A @ GAMMAS + GAMMAS
WEIGHTS = A[7] + np.eye(8)[7]


def trees(order):
    """Rooted trees with `order` vertices, as sorted tuples of branches: one is grafted on the root of the rest."""
    if order == 1:
        return {()}
    parts = ((branch, rest) for n in range(1, order) for branch in trees(n) for rest in trees(order - n))
    return {tuple(sorted((branch, *rest))) for branch, rest in parts}


def size(tree):
    return 1 + sum(map(size, tree))


def density(tree):
    return size(tree) * math.prod(map(density, tree))


def stages(tree):
    """The elementary weights of a Rosenbrock method: beta where a vertex has one branch, alpha where it has more."""
    if len(tree) == 1:
        return BETA @ stages(tree[0])
    return np.prod([ALPHA @ stages(branch) for branch in tree], axis=0) if tree else np.ones(8)


def defect(weights, order, s=1.0):
    """The largest violation of an order condition of trees up to `order`, at s in the step."""
    conditions = [
        (weights @ GAMMAS @ stages(t), s ** size(t) / density(t)) for n in range(1, order + 1) for t in trees(n)
    ]
    return max(abs(left - right) for left, right in conditions)


def test_the_tables_fulfil_the_order_conditions():
    assert [len(trees(n)) for n in range(1, 6)] == [1, 1, 2, 4, 9]
    np.testing.assert_allclose(ALPHA.sum(1), c, atol=1e-13)
    np.testing.assert_allclose(GAMMAS.sum(1), d, atol=1e-13)
    assert defect(WEIGHTS, 5) < 1e-13
    assert defect(A[7], 4) < 1e-13 < 1e-4 < defect(A[7], 5)
    for s in (0.2, 0.5, 0.9):
        assert defect(s * WEIGHTS + s * (1 - s) * (H[0] + s * (H[1] + s * H[2])), 4, s) < 1e-13


def test_stability():
    """R(z) = 1 + z b^T (I - z beta)^-1 1: zero at infinity, at most one on the imaginary axis."""
    b = WEIGHTS @ GAMMAS
    assert abs(1 - b @ np.linalg.solve(BETA, np.ones(8))) < 1e-12
    axis = 1j * np.logspace(-3, 4, 400)
    assert max(abs(1 + z * b @ np.linalg.solve(np.eye(8) - z * BETA, np.ones(8))) for z in axis) <= 1 + 1e-12


def known(t):
    return jnp.stack([jnp.sin(t), jnp.exp(-t)])


def manufactured(t, y, args=None):
    """y' = known' + M (y - known) + terms of second order in y - known and y: y = known(t)."""
    error, slope = y - known(t), jax.jvp(known, (t,), (jnp.ones_like(t),))[1]
    coupled = jnp.array([[-1.0, 2.0], [-2.0, -0.5]]) @ error
    return slope + coupled + jnp.stack([error[0] * y[1], y[0] ** 2 * error[1]])


def fixed(f):
    """(h, args) -> y(2) from the y(0) given, in steps of h."""

    def run(start, h, args=None):
        control = diffrax.ConstantStepSize()
        term = diffrax.ODETerm(f)
        return diffrax.diffeqsolve(
            term, ih.Rodas5P(), 0.0, 2.0, h, start, args, stepsize_controller=control, max_steps=600
        ).ys[-1]

    return jax.jit(run)


def slope(h, errors):
    """The order p of errors ~ h^p."""
    return np.polyfit(np.log(h), np.log(errors), 1)[0]


def test_order_five_on_a_manufactured_solution():
    run, h = fixed(manufactured), 2.0 / 2 ** np.arange(5, 9)
    errors = [float(jnp.max(jnp.abs(run(known(0.0), each) - known(2.0)))) for each in h]
    assert 4.8 < slope(h, errors) < 5.2
    assert errors[-1] < 2e-13


@pytest.mark.parametrize("z", [10.0, 1000.0])
def test_order_four_however_stiff(z):
    """Prothero and Robinson's y' = -rate (y - cos t) - sin t with rate h = z, where many methods fall to order 1."""
    run = fixed(lambda t, y, rate: -rate * (y - jnp.cos(t)) - jnp.sin(t))
    h = 2.0 / 2 ** np.arange(3, 8)
    errors = [abs(float(run(jnp.array(1.0), each, z / each)) - math.cos(2.0)) for each in h]
    assert 3.8 < slope(h, errors) < 4.6


def test_orders_of_one_step():
    """y_+ errs by h^6; the error estimate and dense output by h^5."""
    solver, term, t0 = ih.Rodas5P(), diffrax.ODETerm(manufactured), 0.3

    @jax.jit
    def step(h):
        end, estimate, dense, _, _ = solver.step(term, t0, t0 + h, known(t0), None, None, False)
        curve = solver.interpolation_cls(t0=t0, t1=t0 + h, **dense)
        between = jax.vmap(lambda s: curve.evaluate(t0 + s * h) - known(t0 + s * h))(jnp.linspace(0, 1, 11))
        return [jnp.max(jnp.abs(each)) for each in (end - known(t0 + h), estimate, between)]

    h = 0.1 / 2 ** np.arange(4)
    errors = np.array([step(each) for each in h])
    orders = [slope(h, each) for each in errors.T]
    assert 5.7 < orders[0] < 6.3
    assert 4.8 < orders[1] < 5.2
    assert 4.8 < orders[2] < 5.2
    assert np.all(errors[:, 1] > errors[:, 0])


def solution(f, start, end, args=None, *, t0=0.0, rtol=1e-8, atol=1e-8, adjoint=None, **options):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(f),
        ih.Rodas5P(),
        t0,
        end,
        options.pop("dt0", None),
        start,
        args,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        adjoint=adjoint or diffrax.ForwardMode(),
        **options,
    )


def test_backwards_in_time():
    y = solution(manufactured, known(2.0), 0.5, t0=2.0, rtol=1e-10, atol=1e-10).ys[-1]
    np.testing.assert_allclose(y, known(0.5), rtol=1e-9)


@pytest.mark.parametrize("name", STIFF)
def test_published_end_points(name):
    problem = STIFF[name]

    @jax.jit
    def run(rtol):
        done = solution(
            problem.f, jnp.array(problem.start), problem.end, rtol=rtol, atol=rtol * problem.scale, max_steps=20_000
        )
        return done.ys[-1], done.stats["num_steps"]

    rtols = 10.0 ** -np.arange(4, 11)
    found = [run(rtol) for rtol in rtols]
    errors = np.array([problem.error(y) for y, _ in found])
    steps = [int(n) for _, n in found]
    assert np.all(errors <= 2 * rtols)
    assert np.all(errors[1:] <= 0.5 * errors[:-1])
    # Robertson's problem took 3834 steps when rounding in the stages ruled the error estimate.
    assert steps[-1] < (3000 if name == "Robertson" else 8000)


def logistic(t, y, p):
    """Logistic growth and decay, a tree as state."""
    return {"grows": p[0] * y["grows"] * (1 - y["grows"] / p[1]), "decays": (-p[2] * y["decays"][0],)}


def logistic_closed(t, p):
    return jnp.array([p[1] / (1 + (p[1] / 0.1 - 1) * jnp.exp(-p[0] * t)), 2 * jnp.exp(-p[2] * t)])


P = jnp.array([1.3, 2.0, 0.7])
STATE = {"grows": jnp.array(0.1), "decays": (jnp.array(2.0),)}


def simulate(p, adjoint=None, **options):
    options = {"rtol": 1e-11, "atol": 1e-11} | options
    y = solution(logistic, STATE, 3.0, p, adjoint=adjoint, saveat=diffrax.SaveAt(ts=jnp.array([1.0, 3.0])), **options)
    return jnp.stack([y.ys["grows"], y.ys["decays"][0]])


def closed(p):
    return jax.vmap(lambda t: logistic_closed(t, p), out_axes=1)(jnp.array([1.0, 3.0]))


def test_derivatives_against_a_closed_form():
    def all_three(p):
        return simulate(p), jax.jacfwd(simulate)(p), jax.jacfwd(jax.jacfwd(simulate))(p)

    value, first, second = jax.jit(all_three)(P)
    np.testing.assert_allclose(value, closed(P), atol=1e-9)
    np.testing.assert_allclose(first, jax.jacfwd(closed)(P), atol=1e-8)
    np.testing.assert_allclose(second, jax.hessian(closed)(P), atol=1e-8)
    np.testing.assert_allclose(second, second.mT, atol=1e-12)


def robertson(rates, adjoint):
    def f(t, y, k):
        slow, back, fast = k[0] * y[0], k[1] * y[1] * y[2], k[2] * y[1] ** 2
        return jnp.stack([back - slow, slow - back - fast, fast])

    start = jnp.array([1.0, 0.0, 0.0])
    return solution(f, start, 40.0, rates, rtol=1e-6, atol=1e-10, adjoint=adjoint, max_steps=256).ys[-1][0]


def van_der_pol(p, adjoint):
    def f(t, y, p):
        return jnp.stack([y[1], p[0] * (1 - y[0] ** 2) * y[1] - p[1] * y[0]])

    start = jnp.array([2.0, 0.0])
    return solution(f, start, 20.0, p, rtol=1e-6, atol=1e-6, adjoint=adjoint, max_steps=1024).ys[-1][0]


@functools.cache
def slope_forward(end, p):
    return jax.jit(jax.jacfwd(lambda p: end(p, diffrax.ForwardMode())))(jnp.array(p))


@pytest.mark.parametrize(
    ("end", "p", "adjoint"),
    [
        (robertson, [0.04, 1e4, 3e7], diffrax.RecursiveCheckpointAdjoint()),
        (robertson, [0.04, 1e4, 3e7], diffrax.DirectAdjoint()),
        pytest.param(van_der_pol, [5.0, 1.0], diffrax.RecursiveCheckpointAdjoint(), marks=pytest.mark.slow),
    ],
)
def test_reverse_mode_is_forward_mode(end, p, adjoint):
    forward = slope_forward(end, tuple(p))
    backward = jax.jit(jax.grad(lambda p: end(p, adjoint)))(jnp.array(p))
    assert np.all(forward != 0)
    np.testing.assert_allclose(backward, forward, rtol=1e-10)


def test_under_vmap_and_in_single_precision():
    batch = P * jnp.array([[1.0], [1.1], [0.9]])
    together = jax.jit(jax.vmap(simulate))(batch)
    for p, each in zip(batch, together, strict=True):
        np.testing.assert_allclose(each, closed(p), atol=1e-9)
    p = P.astype(jnp.float32)
    small = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), STATE)
    y = solution(logistic, small, jnp.float32(3), p, t0=jnp.float32(0), rtol=1e-5, atol=1e-5).ys
    assert y["grows"].dtype == y["decays"][0].dtype == jnp.float32
    np.testing.assert_allclose([y["grows"][-1], y["decays"][0][-1]], closed(P)[:, 1], rtol=1e-4)


def factors(jaxpr):
    """The shapes of all matrices that a jaxpr, and all it calls, factors."""
    found = [eqn.invars[0].aval.shape for eqn in jaxpr.eqns if eqn.primitive.name == "lu"]
    for eqn in jaxpr.eqns:
        inner = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns"))
        found += [shape for each in inner if hasattr(each, "eqns") for shape in factors(each)]
    return found


def test_all_columns_share_one_factor():
    def end(p):
        y = jnp.array([0.1, 2.0, 0.3])
        term = diffrax.ODETerm(lambda t, y, p: -p * y * y[::-1])
        return ih.Rodas5P().step(term, 0.0, 0.1, y, p, None, False)[0]

    for function in (end, jax.jacfwd(end), jax.jacfwd(jax.jacfwd(end)), jax.jacrev(end)):
        assert factors(jax.make_jaxpr(function)(P).jaxpr) == [(3, 3)]


def test_steps_that_are_not_finite_are_rejected():
    # exp overflows in the first stages: y = -log(t + exp(-y(0))).
    done = solution(lambda t, y, _: -jnp.exp(y), jnp.array(5.0), 1.0, rtol=1e-10, atol=1e-10, dt0=1e3)
    assert done.stats["num_rejected_steps"] > 0
    np.testing.assert_allclose(done.ys[-1], -math.log(1 + math.exp(-5)), atol=1e-9)
    # W = 1 / (gamma h) - rate is zero in the first step.
    done = solution(lambda t, y, _: y / GAMMA, jnp.array(1e-3), 1.0, rtol=1e-10, atol=1e-12, dt0=1.0)
    assert done.stats["num_rejected_steps"] > 0
    np.testing.assert_allclose(done.ys[-1], 1e-3 * math.exp(1 / GAMMA), rtol=1e-8)


@pytest.mark.parametrize("begin", [0.0, 2.0])
def test_no_endless_loop(begin):
    """No f after t = 1.5, or none at all: steps shrink until t stands still, and the solve ends with a sentence."""

    def f(t, y, args):
        return jnp.where(t < 1.5, -y, jnp.nan)

    done = solution(f, jnp.array(1.0), 3.0, t0=begin, max_steps=10_000, throw=False)
    assert done.result == diffrax.RESULTS.dt_min_reached
    assert done.stats["num_steps"] < 200
    with pytest.raises(RuntimeError, match="minimum step size"):
        solution(f, jnp.array(1.0), 3.0, t0=begin, max_steps=10_000)
