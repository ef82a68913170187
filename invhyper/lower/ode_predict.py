"""An ordinary differential equation as the prediction of a population."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invhyper.lower.rosenbrock import Rodas5P
from invhyper.lower.simulator import FORWARD, REACHED, Doses, Simulator, check_methods


class OdePredict(eqx.Module):
    """predict(phi, covariates, times) by simulation; see `ode_predict`."""

    simulator: Simulator
    observe: Callable

    def __call__(self, phi: PyTree, covariates: PyTree, times: Float[Array, " T"]) -> Float[Array, " T"]:
        # Simulations want times in order; padded ones are equal.
        order = jnp.argsort(times)
        found = self.simulator(times[order], phi, covariates, adjoint=FORWARD)
        seen = jax.vmap(lambda t, x: self.observe(t, x, phi, covariates))(times[order], found.states)
        failed = jnp.where(found.code == REACHED, 0.0, jnp.nan)
        return jnp.zeros_like(seen).at[order].set(seen) + failed


def ode_predict(
    rhs: Callable,
    initial: Callable,
    observe: Callable,
    *,
    t0: float = 0.0,
    doses: Doses | Callable | None = None,
    breaks=None,
    steady: bool | Callable = False,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-8,
    max_steps: int = 4096,
) -> OdePredict:
    """predict(phi, covariates, times) for `MixedEffects` from an ordinary differential equation.

        dx/dt = rhs(t, x, phi, covariates),   x(t0) = initial(phi, covariates),   f = observe(t, x, phi, covariates)

    **Arguments**: `rhs`, `initial`, `observe`: JAX functions; x is any tree of arrays, `observe` returns a number.
    `doses`: `Doses`, or a function (phi, covariates) that returns them; `breaks`: times at which rhs jumps; `steady`:
    True starts from where rhs at t0 comes to rest. `solver`: a diffrax solver; None takes `Rodas5P()`, whose
    derivatives are as accurate as its states, stiff or not (Tsit5 is faster for FOCE and FOCEI, but derivatives of
    third order, which Laplace takes, lose several digits). `rtol`, `atol`, `max_steps`: of the simulation. Derivatives
    in phi are taken forward, up to third order, along one simulation. A simulation that fails predicts NaN, and the
    subject is named.

    >>> import jax.numpy as jnp, invhyper as ih
    >>> decay = ih.ode_predict(
    ...     rhs=lambda t, x, phi, covariates: -phi * x,
    ...     initial=lambda phi, covariates: covariates["dose"],
    ...     observe=lambda t, x, phi, covariates: x,
    ... )
    >>> decay(0.5, {"dose": 2.0}, jnp.array([0.0, 1.0])).round(6).tolist()
    [2.0, 1.213061]
    """
    for name, function in (("rhs", rhs), ("initial", initial), ("observe", observe)):
        if not callable(function):
            raise TypeError(f"ode_predict {name} is a {type(function).__name__}: a function is wanted")
    check_methods("ode_predict", solver)
    for name, value in (("rtol", rtol), ("atol", atol), ("max_steps", max_steps)):
        if not value > 0:
            raise ValueError(f"ode_predict {name} = {value!r}: a positive number is wanted")
    simulator = Simulator(
        rhs=rhs,
        initial=initial,
        solver=Rodas5P() if solver is None else solver,
        t0=jnp.asarray(t0, float),
        rtol=jnp.asarray(rtol, float),
        atol=jnp.asarray(atol, float),
        max_steps=max_steps,
        doses=doses,
        breaks=None if breaks is None else jnp.asarray(breaks, float),
        steady=steady,
    )
    return OdePredict(simulator, observe)
