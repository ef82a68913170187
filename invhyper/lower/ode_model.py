"""A model of measurements: simulate, observe, weigh by the noise; with derivatives of first and second order."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from invhyper import tree
from invhyper.lower.levenberg_marquardt import Local
from invhyper.lower.measurements import Measurements
from invhyper.lower.simulator import FORWARD, REACHED, REVERSE, Doses, Simulator, Trajectory

# Up to so many parameters (of both levels) derivatives are taken forward; a column then costs less than a sweep back.
FEW = 60


class Terms(NamedTuple):
    """The parts of the objective 1/2 |residual|^2 + log_noise + prior."""

    residual: Float[Array, " n"]
    log_noise: Array
    prior: Array

    @property
    def value(self):
        return 0.5 * jnp.sum(self.residual**2) + self.log_noise + self.prior


class OdeModel(eqx.Module):
    """What is measured, as a function of p and theta; see `Calibration` for the arguments."""

    simulator: Simulator
    observe: Callable
    noise: Array | Callable
    prior: Callable | None
    adjoint: diffrax.AbstractAdjoint | None = eqx.field(static=True)

    def trajectories(self, measured: Measurements, p, theta, adjoint=FORWARD) -> Trajectory:
        """The states at the measured times, with a leading axis of conditions where there are some."""

        def one(times, rows, *condition):
            return self.simulator(times, p, theta, *condition, adjoint=adjoint)

        return measured.each(one)

    def observed(self, measured: Measurements, p, theta, adjoint=FORWARD) -> Float[Array, "*conditions T observables"]:
        """observe() along the trajectories, NaN (derivatives as well) where a simulation failed.

        Where nothing was measured another row takes the place: what cannot be observed there spoils no derivative.
        """

        def one(times, rows, *condition):
            found = self.simulator(times, p, theta, *condition, adjoint=adjoint)
            row = jnp.where(rows, jnp.arange(times.size), jnp.argmax(rows))
            states = jax.tree.map(lambda leaf: leaf[row], found.states)
            seen = jax.vmap(lambda t, x: self.observe(t, x, p, theta, *condition))(times[row], states)
            failed = jnp.where(found.code == REACHED, 0.0, jnp.nan)
            # Times p and theta, so that a failure reaches their derivatives whatever the adjoint makes of NaN.
            return seen.reshape(times.size, -1) + failed * jnp.sum(ravel_pytree((p, theta))[0])

        return measured.each(one)

    def terms(self, measured: Measurements, p, theta, seen) -> Terms:
        """The parts of the objective for what was observed."""
        noise = self.noise_of(measured, p, theta)
        residual = jnp.where(measured.mask, (measured.values - seen) / noise, 0.0)
        log_noise = jnp.sum(jnp.where(measured.mask, jnp.log(noise), 0.0)) if callable(self.noise) else jnp.asarray(0.0)
        prior = jnp.asarray(0.0) if self.prior is None else jnp.asarray(self.prior(p, theta))
        return Terms(residual.ravel(), log_noise, prior)

    def noise_of(self, measured: Measurements, p, theta) -> Float[Array, "*conditions T observables"]:
        """The standard deviation of every measured value."""
        if not callable(self.noise):
            return jnp.broadcast_to(self.noise, measured.values.shape)

        def one(times, rows, *condition):
            noise = jnp.asarray(self.noise(p, theta, *condition), float)
            noise = noise[..., None] if measured.flat and noise.ndim else noise
            return jnp.broadcast_to(noise, measured.values.shape[-2:])

        return jnp.where(measured.mask, measured.each(one), 1.0)

    def forward(self, size: int) -> bool:
        """Whether derivatives in `size` parameters are taken in forward mode."""
        return size <= FEW if self.adjoint is None else isinstance(self.adjoint, diffrax.ForwardMode)

    @property
    def checked(self) -> diffrax.AbstractAdjoint:
        """What simulations are looked at with for failures: of `BacksolveAdjoint` its own count."""
        return self.adjoint if isinstance(self.adjoint, diffrax.BacksolveAdjoint) else FORWARD

    @property
    def backward(self) -> diffrax.AbstractAdjoint:
        """The adjoint of reverse mode."""
        return REVERSE if self.adjoint is None or isinstance(self.adjoint, diffrax.ForwardMode) else self.adjoint


def observations(model: OdeModel, measured: Measurements, p, theta) -> Float[Array, "*conditions T observables"]:
    """`model.observed`, differentiable in p and theta in either mode and any order.

    Forward: a rule that contains the whole Jacobian, so that reverse mode works as well, and without a second
    simulation. Else the checkpointed adjoint, once and in reverse only.
    """
    size = ravel_pytree((p, theta))[0].size
    if not model.forward(size):
        return model.observed(measured, p, theta, model.backward)
    return _observations((p, theta), model, measured)


@eqx.filter_custom_jvp
def _observations(inputs, model, measured):
    return model.observed(measured, *inputs)


@_observations.def_jvp
def _observations_jvp(primals, tangents):
    (inputs, model, measured), (moved, *others) = primals, tangents
    if any(leaf is not None for leaf in jax.tree.leaves(others)):
        raise TypeError(
            "a simulation is differentiable in p and theta; something else that it holds (times, conditions, "
            "tolerances) is being differentiated: make it part of theta"
        )
    leaves, structure = jax.tree.flatten(inputs)
    slopes = structure.flatten_up_to(moved)
    active = [i for i, slope in enumerate(slopes) if slope is not None]
    flat, unravel = ravel_pytree([leaves[i] for i in active])

    def along(v):
        def seen(flat):
            filled = list(leaves)
            for i, leaf in zip(active, unravel(flat), strict=True):
                filled[i] = leaf
            return model.observed(measured, *jax.tree.unflatten(structure, filled))

        return jax.jvp(seen, (flat,), (v,))

    seen, columns = jax.vmap(along, out_axes=(None, -1))(jnp.eye(flat.size))
    return seen, columns @ ravel_pytree([slopes[i] for i in active])[0]


def nearest_dose(model: OdeModel, measured: Measurements, p, theta) -> Array:
    """How near a dose whose time moves comes to a measurement, to a break or to t0, as a share of the span.

    There is a kink.
    """
    simulator = model.simulator
    if not callable(simulator.doses):
        return jnp.asarray(jnp.inf)

    def one(times, rows, *condition):
        def at(given):
            return jnp.asarray(simulator.doses(*given, *condition).times, float)

        slopes = jax.tree.leaves(jax.jacfwd(at)((p, theta)))
        moving = sum(jnp.sum(jnp.abs(slope.reshape(slope.shape[0], -1)), axis=1) for slope in slopes) > 0
        edges = simulator.t0[None] if simulator.breaks is None else jnp.append(simulator.breaks, simulator.t0)
        places = jnp.concatenate([jnp.where(rows, times, jnp.inf), edges])
        gaps = jnp.abs(at((p, theta))[:, None] - places)
        span = jnp.maximum(times[-1] - simulator.t0, jnp.finfo(float).tiny)
        return jnp.min(jnp.where(moving[:, None] & jnp.isfinite(places), gaps, jnp.inf), initial=jnp.inf) / span

    return jnp.min(measured.each(one))


def objective(model: OdeModel, measured: Measurements, p, theta) -> Array:
    """1/2 |residual|^2 + log_noise + prior."""
    return model.terms(measured, p, theta, observations(model, measured, p, theta)).value


def first_order(model: OdeModel, measured: Measurements, unravel: Callable, x: Float[Array, " p"], theta) -> Local:
    """Value and slope in p, with the Gauss-Newton curvature J^T J + d^2 prior."""
    return _gauss_newton(model, measured, unravel, x, theta, outer=False)


def second_order(model, measured, unravel, x, theta, gauss_newton: bool = False) -> Local:
    """Value, slope and the second derivatives [A B] in p and (p, theta) in `more`: exact, or of Gauss-Newton."""
    flat, unravel_theta = ravel_pytree(theta)
    both = jnp.concatenate([x, flat])
    if gauss_newton:
        return _gauss_newton(model, measured, unravel, x, theta, outer=True)
    if not model.forward(both.size):
        return _backwards(model, measured, unravel, x, theta)

    def slope(both):
        theta = unravel_theta(both[x.size :])
        local = first_order(model, measured, unravel, both[: x.size], theta)
        return local.slope, local

    def column(v):
        _, moved, local = jax.jvp(slope, (both,), (v,), has_aux=True)
        return moved, local

    more, local = jax.vmap(column, out_axes=(1, None))(jnp.eye(both.size))
    return local._replace(curvature=more[:, : x.size], more=more)


def _gauss_newton(model, measured, unravel, x, theta, outer: bool) -> Local:
    """`first_order`, with [A B] of Gauss-Newton in `more` if the `outer` parameters move as well."""
    flat, unravel_theta = ravel_pytree(theta)
    both = jnp.concatenate([x, flat]) if outer else x

    def split(both):
        return unravel(both[: x.size]), unravel_theta(both[x.size :]) if outer else theta

    def terms(both):
        p, theta = split(both)
        return model.terms(measured, p, theta, model.observed(measured, p, theta))

    def prior(both):
        return jnp.asarray(0.0) if model.prior is None else jnp.asarray(model.prior(*split(both)))

    found, moved = jax.vmap(lambda v: jax.jvp(terms, (both,), (v,)), out_axes=(None, 0))(jnp.eye(both.size))
    J = moved.residual
    slope = J @ found.residual + moved.log_noise + moved.prior
    curvature = J[: x.size] @ J.T
    if model.prior is not None:
        curvature = curvature + jax.hessian(prior)(both)[: x.size]
    size = jnp.linalg.norm(found.residual)
    more = curvature if outer else None
    return Local(x, found.value, slope[: x.size], curvature[:, : x.size], size, more)


def _backwards(model, measured, unravel, x, theta) -> Local:
    """`second_order` by one sweep back a parameter, through the equations for the derivative along it."""
    local = first_order(model, measured, unravel, x, theta)

    def along(v):
        def slope(x, theta):
            return directional(model, measured, unravel(x), theta, unravel(v))

        in_p, in_theta = jax.grad(slope, argnums=(0, 1))(x, theta)
        return jnp.concatenate([in_p, ravel_pytree(in_theta)[0]])

    more = jax.lax.map(along, jnp.eye(x.size))
    return local._replace(curvature=more[:, : x.size], more=more)


def directional(model: OdeModel, measured: Measurements, p, theta, v: PyTree) -> Array:
    """The derivative of the objective in p along v, from the equations that x and dx obey together.

    One sweep back through it gives a column of the Hessian: diffrax's checkpointed adjoint has no second derivative.
    """
    pair = paired(model).observed(measured, (p, v), theta, model.backward)
    seen, moved = jnp.split(pair, 2, axis=-1)
    return jax.jvp(lambda p, seen: model.terms(measured, p, theta, seen).value, (p, seen), (v, moved))[1]


def paired(model: OdeModel) -> OdeModel:
    """The model of (x, dx) with parameters (p, v): dx is the derivative of x along v.

    At a dose of `amount` whose time moves by `delay` dx changes by d amount and by (rhs before - rhs after) * delay.
    """
    alone = model.simulator

    def moving(f):
        def along(t, pair, both, *rest):
            (x, dx), (p, v) = pair, both
            return jax.jvp(lambda x, p: f(t, x, p, *rest), (x, p), (dx, v))

        return along

    def starting(f):
        return lambda both, *rest: jax.jvp(lambda p: tree.floating(f(p, *rest)), both[:1], both[1:])

    def doses(both, *rest):
        found, moved = starting(alone.given_doses)(both, *rest)
        return Doses(found.times, (found.amounts, moved.amounts, moved.times))

    def leap(t, pair, amounts, both, *rest):
        (x, dx), (amount, change, delay) = pair, amounts
        (after, moved) = jax.jvp(lambda x, amount: alone.leap(t, x, amount, both[0], *rest), (x, amount), (dx, change))
        before, behind = (alone.rhs(t, state, both[0], *rest) for state in (x, after))
        return after, jax.tree.map(lambda m, f, g: m + (f - g) * delay, moved, before, behind)

    def observe(t, pair, both, *rest):
        seen, moved = moving(model.observe)(t, pair, both, *rest)
        return jnp.concatenate([jnp.ravel(seen), jnp.ravel(moved)])

    simulator = replace(
        alone,
        rhs=moving(alone.rhs),
        initial=starting(alone.initial),
        doses=None if alone.doses is None else doses,
        leap=alone.leap if alone.doses is None else leap,
        steady=moving(alone.steady) if callable(alone.steady) else alone.steady,
    )
    return replace(model, simulator=simulator, observe=observe)
