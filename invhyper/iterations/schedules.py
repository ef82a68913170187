"""Step sizes as functions of theta and of the step's number t, which counts from 0."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


class Constant(eqx.Module):
    """eta_t = size, a number or a function of theta: it leaves an iteration its fixed point.

    >>> Constant(0.1)({}, 7)
    0.1
    """

    size: Any

    def __call__(self, theta, t) -> Array:
        return self.size(theta) if callable(self.size) else self.size


class InverseTime(eqx.Module):
    """eta_t = exp(theta["a"]) / (1 + t exp(theta["b"])).

    >>> schedule = InverseTime()
    >>> [round(float(schedule({"a": 0.0, "b": 0.0}, t)), 3) for t in range(4)]
    [1.0, 0.5, 0.333, 0.25]

    Robbins and Monro (1951), doi:10.1214/aoms/1177729586.
    """

    a: str = eqx.field(static=True, default="a")
    b: str = eqx.field(static=True, default="b")

    def __call__(self, theta, t) -> Array:
        return jnp.exp(theta[self.a]) / (1.0 + t * jnp.exp(theta[self.b]))


class Cosine(eqx.Module):
    """eta_t = theta[key] (floor + (1 - floor) (1 + cos(pi t / steps)) / 2), and theta[key] floor after `steps`.

    >>> schedule = Cosine(4)
    >>> [round(float(schedule({"eta": 1.0}, t)), 3) for t in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]

    Loshchilov and Hutter (2017), arXiv:1608.03983.
    """

    steps: int = eqx.field(static=True)
    floor: float = eqx.field(static=True, default=0.0)
    key: str = eqx.field(static=True, default="eta")

    def __check_init__(self):
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"Cosine steps = {self.steps!r}: a whole number, at least 1, is wanted")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"Cosine floor = {self.floor!r}: a number from 0 to 1 is wanted")

    def __call__(self, theta, t) -> Array:
        share = jnp.minimum(t / self.steps, 1.0)
        return theta[self.key] * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * share)))


class Piecewise(eqx.Module):
    """eta_t = theta[key][i], i the number of `boundaries` that are at or before t: one value more than boundaries.

    >>> schedule = Piecewise((2, 3))
    >>> [float(schedule({"eta": jnp.array([1.0, 0.5, 0.1])}, t)) for t in range(5)]
    [1.0, 1.0, 0.5, 0.1, 0.1]
    """

    boundaries: tuple[int, ...] = eqx.field(static=True)
    key: str = eqx.field(static=True, default="eta")

    def __init__(self, boundaries, key: str = "eta"):
        self.boundaries, self.key = tuple(int(step) for step in boundaries), key
        if any(after <= before for before, after in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"Piecewise boundaries = {self.boundaries}: increasing numbers of steps are wanted")

    def __call__(self, theta, t) -> Array:
        values, wanted = theta[self.key], len(self.boundaries) + 1
        if jnp.shape(values) != (wanted,):
            raise ValueError(f"theta {self.key!r} has shape {jnp.shape(values)}: Piecewise wants ({wanted},)")
        return jnp.asarray(values)[jnp.searchsorted(np.array(self.boundaries), t, side="right")]
