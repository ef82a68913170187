"""Proximal gradient descent, the process behind an l1-penalised fit."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invhyper.problem import Iteration


def soft_threshold(x: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, "..."]:
    """The prox of weight |x|_1: sign(x) max(|x| - weight, 0).

    >>> print(soft_threshold(jnp.array([3.0, -0.5]), 1.0))
    [ 2. -0.]
    """
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - weight, 0.0)


class ProximalGradient(Iteration):
    """Forward-backward splitting with a fixed step.

        x_{t+1} = prox(x_t - length gradient(x_t, theta), theta)

    **Arguments**: `gradient(x, theta)` of the smooth part; `prox(x, theta)` of `length` times the other; `start`: x_0;
    `length`: the step, at most 1/L, L the Lipschitz constant of the gradient.

    >>> descent = ProximalGradient(lambda x, theta: x - 3.0, soft_threshold, jnp.zeros(1), 1.0)
    >>> print(descent.step(descent.init(1.0), 1.0, 0))
    [2.]

    Combettes and Wajs (2005), doi:10.1137/050626090.
    """

    gradient: Callable
    prox: Callable
    start: PyTree
    length: Float[Array, ""]

    def init(self, theta, start=None):
        return self.start if start is None else start.x

    def step(self, state, theta, t):
        return self.prox(state - self.length * self.gradient(state, theta), theta)

    def output(self, state):
        return state
