"""Simulations against closed forms: doses, breaks, steady starts, and their derivatives in either mode."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import invhyper as ih
from invhyper.lower.simulator import EARLY, REACHED, REVERSE, Simulator, explicit

TIMES = np.array([0.0, 0.25, 0.5, 1.0, 2.0, 2.0])


def simulator(rhs, initial, solver=None, tolerance=1e-10, **options):
    numbers = [jnp.asarray(number, float) for number in (0.0, tolerance, tolerance)]
    return Simulator(rhs, initial, solver or diffrax.Tsit5(), *numbers, 4000, **options)


def decay(**options):
    return simulator(lambda t, x, p, theta: -p["rate"] * x, lambda p, theta: 1.0, **options)


def washed_out(since, rate):
    return np.where(since >= 0, np.exp(-rate * since), 0.0)


@pytest.fixture(scope="module")
def dosed():
    """Amounts .5 at .25 and p["amount"] at p["time"], in no order, one of them never."""

    def doses(p, theta):
        times, amounts = jnp.array([1.0, jnp.inf, 0.25]), jnp.array([1.0, 7.0, 0.5])
        return ih.Doses(times.at[0].set(p["time"]), amounts.at[0].set(p["amount"]))

    return decay(doses=doses)


P = {"amount": 2.0, "rate": 0.7, "time": 0.8}


def test_doses_and_their_derivatives_forward(dosed):
    """A value at the time of a dose is the value after it."""

    def both(p):
        states = dosed(TIMES, p, None).states
        return states, states

    slope, value = jax.jit(jax.jacfwd(both, has_aux=True))(P)
    amount, rate, time = P["amount"], P["rate"], P["time"]
    parts = [(1.0, 0.0), (0.5, 0.25), (amount, time)]
    np.testing.assert_allclose(value, sum(a * washed_out(TIMES - at, rate) for a, at in parts), rtol=1e-9)
    later = washed_out(TIMES - time, rate)
    np.testing.assert_allclose(slope["amount"], later, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(slope["time"], amount * rate * later, rtol=1e-8, atol=1e-12)
    exact = sum(-(TIMES - at) * a * washed_out(TIMES - at, rate) for a, at in parts)
    np.testing.assert_allclose(slope["rate"], exact, rtol=1e-8, atol=1e-12)


def test_a_dose_that_moves_past_a_measurement(dosed):
    """At its very time the value is that after it; the derivatives are those of a dose that comes earlier."""
    seen = lambda time: dosed(TIMES, P | {"time": time}, None).states  # noqa: E731
    slope = lambda time: jax.jvp(seen, (time,), (1.0,))  # noqa: E731
    (value, first), (_, second) = jax.jit(lambda time: jax.jvp(slope, (time,), (1.0,)))(0.5)
    rate, since = P["rate"], TIMES - 0.5
    before = np.exp(-rate * TIMES) + 0.5 * washed_out(TIMES - 0.25, rate)
    later = P["amount"] * washed_out(since, rate)
    np.testing.assert_allclose(value, before + later, rtol=1e-9)
    np.testing.assert_allclose(first, rate * later, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(second, rate**2 * later, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("at", [(0.8, 0.8), (0.0, 0.8), (0.0, 0.0), (0.8, 1.2)])
def test_doses_at_the_same_time_at_the_beginning_and_at_a_break(coinciding, at):
    """Stretches of no length: the derivatives in each dose's time are those of that dose alone, later than it is."""
    value, slopes = coinciding(jnp.array(at))
    decayed = lambda t: 0.7 * np.minimum(t, 0.8) + 0.2 * np.maximum(t - 0.8, 0)  # noqa: E731
    left = [a * np.where(TIMES >= s, np.exp(decayed(s) - decayed(TIMES)), 0.0) for a, s in zip((2.0, 1.0), at)]  # noqa: B905
    np.testing.assert_allclose(value, np.exp(-decayed(TIMES)) + sum(left), rtol=1e-8)
    rates = np.where(np.array(at) < 0.8, 0.7, 0.2)
    np.testing.assert_allclose(slopes, rates * np.transpose(left), rtol=1e-7, atol=1e-12)


@pytest.fixture(scope="module")
def coinciding():
    """times of two doses -> states and their derivatives; the rate of decay falls from .7 to .2 at .8."""
    rhs = lambda t, x, p, theta: -jnp.where(t < 0.8, 0.7, 0.2) * x  # noqa: E731
    doses, breaks = (lambda p, theta: ih.Doses(theta, jnp.array([2.0, 1.0]))), jnp.array([0.8])
    simulate = simulator(rhs, lambda p, theta: 1.0, doses=doses, breaks=breaks)

    def seen(at):
        states = simulate(TIMES, None, at).states
        return states, states

    run = jax.jit(jax.jacfwd(seen, has_aux=True))
    return lambda at: run(at)[::-1]


def test_a_dose_before_the_beginning(dosed):
    found = eqx.filter_jit(lambda s, p: s(TIMES, p, None).code)(dosed, P | {"time": -0.1})
    assert found == EARLY


@pytest.mark.slow
def test_doses_in_reverse(dosed):
    slope = jax.jit(jax.grad(lambda p: jnp.sum(dosed(TIMES, p, None, adjoint=REVERSE).states)))(P)
    amount, rate, time = P["amount"], P["rate"], P["time"]
    later = washed_out(TIMES - time, rate)
    parts = [(1.0, 0.0), (0.5, 0.25), (amount, time)]
    assert slope["amount"] == pytest.approx(np.sum(later), rel=1e-8)
    assert slope["time"] == pytest.approx(np.sum(amount * rate * later), rel=1e-8)
    exact = sum(np.sum(-(TIMES - at) * a * washed_out(TIMES - at, rate)) for a, at in parts)
    assert slope["rate"] == pytest.approx(exact, rel=1e-8)


def test_breaks_stop_the_steps_where_the_slope_jumps():
    """x climbs at rate p until t = .8 and falls after it: exact, whatever the tolerance."""

    def rhs(t, x, p, theta):  # one side by <, the other by <=: neither may be seen from beyond the break
        return p * jnp.stack([jnp.where(t < 0.8, 1, -1), jnp.where(t <= 0.8, 1, -1)])

    loose = simulator(rhs, lambda p, theta: jnp.zeros(2), tolerance=1e-3, breaks=jnp.array([0.8, 1.7]))
    found = jax.jit(lambda p: loose(TIMES, p, None))(1.5)
    wanted = 1.5 * np.where(TIMES < 0.8, TIMES, 1.6 - TIMES)
    np.testing.assert_allclose(found.states, np.stack([wanted, wanted], axis=1), rtol=1e-12, atol=1e-12)
    assert found.code == REACHED and found.steps <= 15


@pytest.fixture(scope="module")
def pools():
    """Two pools of 3 in all that exchange, theta[1] in the first: x0 rests at 3 theta[0] / (p + theta[0])."""

    def rhs(t, x, p, theta):
        return jnp.stack([theta[0] * x[1] - p * x[0], p * x[0] - theta[0] * x[1]])

    return simulator(rhs, lambda p, theta: jnp.stack([theta[1], 3 - theta[1]]), ih.Rodas5P(), steady=True)


@pytest.mark.parametrize("first", [3.0, 2.0])
def test_a_steady_start_of_conserved_pools(pools, first):
    """First and second derivative of where they come to rest, or are at rest already; the Jacobian is singular."""
    level = lambda p, theta: pools(TIMES[:2], p, theta).states[-1, 0]  # noqa: E731
    slope = lambda p, theta: jax.jvp(lambda p: level(p, theta), (p,), (1.0,))  # noqa: E731
    both = jax.jit(lambda p, theta: jax.jvp(lambda p: slope(p, theta), (p,), (1.0,)))
    (value, first), (_, second) = both(1.0, jnp.array([2.0, first]))
    assert (float(value), float(first), float(second)) == pytest.approx((2.0, -6 / 9, 12 / 27), rel=1e-8)


@pytest.mark.slow
def test_a_steady_start_in_reverse(pools):
    slope = jax.jit(jax.grad(lambda p, theta: pools(TIMES[:2], p, theta, adjoint=REVERSE).states[-1, 0], (0, 1)))
    found = slope(1.0, jnp.array([2.0, 2.0]))
    assert (float(found[0]), *map(float, found[1])) == pytest.approx((-6 / 9, 3 / 9, 0.0), rel=1e-8, abs=1e-12)


def test_a_steady_start_under_other_conditions():
    """At rest with input p, then without: x = p/rate e^(-rate t)."""
    resting = lambda t, x, p, theta: p["input"] - p["rate"] * x  # noqa: E731
    found = decay(steady=resting)(TIMES, {"input": 3.0, "rate": 0.5}, None)
    np.testing.assert_allclose(found.states, 6.0 * np.exp(-0.5 * TIMES), rtol=1e-9)


def test_finer_is_a_tenth_of_the_tolerances():
    coarse = decay(tolerance=1e-5)
    fine = coarse.finer()
    assert (float(fine.rtol), float(fine.atol)) == pytest.approx((1e-6, 1e-6))
    run = eqx.filter_jit(lambda s: s(TIMES, {"rate": 1.0}, None).states)
    errors = [np.max(np.abs(run(each) - np.exp(-TIMES))) for each in (coarse, fine)]
    assert errors[1] < 0.3 * errors[0]


def test_finer_sees_a_pulse_that_was_stepped_over():
    """Nothing happens until 1.4, so that steps grow to the whole span; a 64th of it does not miss a fortieth."""
    pulse = simulator(lambda t, x, p, theta: jnp.where((1.4 < t) & (t < 1.45), p, 0.0), lambda p, theta: 0.0)
    run = eqx.filter_jit(lambda s: s(TIMES[::5], 1.0, None).states[-1])
    assert run(pulse) == 0.0
    assert run(pulse.finer()) == pytest.approx(0.05, rel=1e-6)


def test_the_explicit_solver_by_tolerance():
    assert isinstance(explicit(1e-4), diffrax.Tsit5) and isinstance(explicit(1e-9), diffrax.Dopri8)
