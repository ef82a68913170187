"""Whether an explicit solver would be held back by stability: a look at the eigenvalues along a trajectory."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate

# An explicit step of order 5 to 8 is stable while |h lambda| is below about this.
STABLE = 3.5
# A step of Rodas5P costs as much as so many explicit ones: it solves eight linear systems and needs df/dx.
DEAR = 6.0
LOOK = 1e-4
# Evaluations of rhs until the look ends without a result.
PATIENCE = 10_000


class _Enough(Exception):
    """The trajectory takes too long: it explodes, or its tolerance cannot be met."""


class Look(NamedTuple):
    """A rough trajectory: `times` (n,) of its steps and `states` (n, size) there."""

    times: np.ndarray
    states: np.ndarray


def look(rhs: Callable, t0: float, t1: float, state: np.ndarray) -> Look | None:
    """A loose trajectory of dx/dt = rhs(t, x) by LSODA; None where it cannot be computed."""
    slope, calls = jax.jit(rhs), 0

    def bounded(t, x):
        nonlocal calls
        calls += 1
        if calls > PATIENCE:
            raise _Enough
        return np.asarray(slope(t, x))

    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a model that cannot be followed, the simulation itself tells
            found = scipy.integrate.solve_ivp(
                bounded, (t0, t1), state, method="LSODA", rtol=LOOK, atol=LOOK * _size(state)
            )
    except (_Enough, ValueError, FloatingPointError):
        return None
    if not found.success or not np.all(np.isfinite(found.y)):
        return None
    return Look(found.t, found.y.T)


def explicit_is_cheaper(rhs: Callable, seen: Look | None, rtol: float) -> bool:
    """Whether stability asks for fewer explicit steps than an implicit solver costs.

    A look gives the steps that accuracy asks for and, through the eigenvalues of df/dx along it, the integral of the
    fastest decay: explicit steps can be no longer than STABLE over that rate. False where nothing could be seen.
    """
    if seen is None:
        return False
    derivative = jax.jit(jax.vmap(jax.jacfwd(rhs, argnums=1)))
    jacobians = np.asarray(derivative(jnp.asarray(seen.times), jnp.asarray(seen.states)))
    if not np.all(np.isfinite(jacobians)):
        return False
    eigenvalues = np.linalg.eigvals(jacobians)
    rate = np.abs(np.where(eigenvalues.real < 0, eigenvalues, 0.0)).max(axis=1)
    for_stability = np.trapezoid(rate, seen.times) / STABLE
    # Of order five: a tolerance a thousand times tighter takes four times the steps.
    for_accuracy = seen.times.size * max((LOOK / rtol) ** 0.2, 1.0)
    return bool(for_stability <= DEAR * for_accuracy)


def _size(state) -> float:
    return float(np.max(np.abs(state), initial=0.0)) or 1.0
