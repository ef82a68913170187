"""Learning the step size on the way: its slope is that of the loss, rules by hand, and any optax loop takes it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import invhyper as ih

CURVES = jnp.array([1.0, 3.0])
START = jnp.array([1.0, -2.0])


def loss(x):
    return 0.5 * jnp.sum(CURVES * x**2)


def trained(optimiser, steps, x=START):
    """x and the step sizes after each of `steps` steps of the usual loop."""
    state, rates = optimiser.init(x), []

    @jax.jit
    def step(x, state):
        moves, state = optimiser.update(jax.grad(loss)(x), state, x)
        return optax.apply_updates(x, moves), state

    for _ in range(steps):
        x, state = step(x, state)
        rates.append(float(state.rate))
    return x, rates


BASES = {
    "SGD": None,
    "momentum": optax.trace(0.9),
    "Nesterov": optax.trace(0.9, nesterov=True),
    "Adam": optax.scale_by_adam(),
}


@pytest.mark.parametrize("name", BASES)
def test_the_slope_is_that_of_the_loss(name):
    """alpha_2 - alpha_1 = -mu d loss(x_2) / d alpha of the last step alone, x_1 and the base's state held."""
    mu, base = 1e-3, BASES[name]
    x1, rates = trained(ih.HypergradientDescent(0.05, mu, base), 1)
    _, rates = trained(ih.HypergradientDescent(0.05, mu, base), 2)
    plain = optax.identity() if base is None else base

    def after_one_step(alpha):
        direction, _ = plain.update(jax.grad(loss)(START), plain.init(START), START)
        return loss(START - alpha * direction)

    assert rates[0] == 0.05
    assert rates[1] - rates[0] == pytest.approx(-mu * float(jax.grad(after_one_step)(0.05)), rel=1e-12)


def test_the_multiplicative_rule_by_hand():
    """SGD: alpha_1 = alpha_0 (1 + mu cos of the angle between g_1 and g_0)."""
    _, rates = trained(ih.HypergradientDescent(0.05, 0.1, multiplicative=True), 2)
    g0 = CURVES * START
    g1 = CURVES * (START - 0.05 * g0)
    cosine = g0 @ g1 / jnp.linalg.norm(g0) / jnp.linalg.norm(g1)
    assert rates[1] == pytest.approx(0.05 * (1 + 0.1 * float(cosine)), rel=1e-12)


def test_without_mu_it_is_its_base():
    x, rates = trained(ih.HypergradientDescent(0.05, 0.0, optax.scale_by_adam()), 7)
    state, y = optax.adam(0.05).init(START), START
    for _ in range(7):
        moves, state = optax.adam(0.05).update(jax.grad(loss)(y), state, y)
        y = optax.apply_updates(y, moves)
    np.testing.assert_allclose(x, y, rtol=1e-12)
    assert set(rates) == {0.05}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize(("multiplicative", "mu"), [(False, 2e-4), (True, 0.02)])
def test_it_helps_a_step_that_is_far_too_small(name, multiplicative, mu):
    rule = ih.HypergradientDescent(1e-3, mu, BASES[name], multiplicative)
    slow = ih.HypergradientDescent(1e-3, 0.0, BASES[name], multiplicative)
    fast, rates = trained(rule, 60)
    assert rates[-1] > 1.3e-3
    assert float(loss(fast)) < float(loss(trained(slow, 60)[0]))


def test_it_chains_masks_and_wraps():
    x = {"a": START, "b": jnp.ones(3)}
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), ih.HypergradientDescent(0.1, 1e-3))
    moves, _ = optimiser.update(x, optimiser.init(x), x)
    assert float(ih.tree.norm(moves)) == pytest.approx(0.1, rel=1e-12)
    with_weight_decay = optax.chain(optax.add_decayed_weights(0.1), ih.HypergradientDescent(0.1, 1e-3))
    assert jax.tree.structure(with_weight_decay.update(x, with_weight_decay.init(x), x)[0]) == jax.tree.structure(x)


def test_its_own_numbers_are_hyperparameters():
    """The learner of the step size is unrolled in its turn: the slope in alpha_0 and mu is that of differences."""
    run = ih.Optax(lambda x, theta: loss(x), START, lambda theta: ih.HypergradientDescent(theta["alpha"], theta["mu"]))
    problem, theta = ih.Bilevel(run, lambda x, theta: loss(x)), {"alpha": 0.02, "mu": 1e-3}
    found = ih.Unrolled(12)(problem, theta)
    for key, value in theta.items():
        ends = [ih.Unrolled(12)(problem, {**theta, key: value * (1 + s)}).value for s in (1e-5, -1e-5)]
        assert float(found.gradient[key]) == pytest.approx((ends[0] - ends[1]) / (2e-5 * value), rel=1e-6)
