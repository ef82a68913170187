"""Damped Newton steps within bounds, on the model of the objective that it is given, in traced code.

    (H + mu D) s = -g on the parameters that are free,   x_+ = clip(x + s),   D = |diag(H)|

With H = J^T J it is the Levenberg-Marquardt method; with the exact Hessian it is Newton's. A parameter is fixed while
it stands at a bound and the slope presses it there. Marquardt (1963), doi:10.1137/0111030; damping after Nielsen
(1999); projection after Kanzow, Yamashita and Fukushima (2004), doi:10.1016/j.cam.2004.02.013.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsl
from jaxtyping import Array, Bool, Float

FIRST_DAMPING, MOST_DAMPING = 1e-3, 1e12
# A step must gain this share of what the model foretells; values that differ by less than LEVEL are equal.
GAIN, LEVEL = 1e-4, 1e-9
ROUNDING = 1e-10
TINY = 1e-300


class Local(NamedTuple):
    """The objective near x: value, slope, curvature H, the `size` of the residual; `more` is carried along."""

    x: Float[Array, " p"]
    value: Array
    slope: Float[Array, " p"]
    curvature: Float[Array, "p p"]
    size: Array
    more: Array | None = None


class Found(NamedTuple):
    """Where a descent is: its `error`, the damping and by how much that grows next, and whether steps still help."""

    local: Local
    error: Array
    steps: Array
    damping: Array
    growth: Array
    falling: Array


def scales(local: Local) -> Float[Array, " p"]:
    """sqrt|diag H|: what one unit of each parameter moves, in units of the residual."""
    return jnp.sqrt(jnp.maximum(jnp.abs(jnp.diagonal(local.curvature)), TINY))


def free(local: Local, lower, upper) -> Bool[Array, " p"]:
    """The parameters that no bound holds."""
    held = ((local.x <= lower) & (local.slope > 0)) | ((local.x >= upper) & (local.slope < 0))
    return ~held


def error(local: Local, lower, upper) -> Array:
    """|D^-1/2 g| on the free parameters, relative to the larger of the residual and |D^1/2 x|: free of units."""
    scale = scales(local)
    slope = jnp.where(free(local, lower, upper), local.slope / scale, 0.0)
    return jnp.linalg.norm(slope) / jnp.maximum(jnp.maximum(local.size, jnp.linalg.norm(scale * local.x)), TINY)


def lowest(local: Local, free: Bool[Array, " p"]) -> Array:
    """The lowest eigenvalue of the scaled curvature of the free parameters (about 1 is the largest); 1 without any."""
    scale = scales(local)
    both = free[:, None] & free[None, :]
    scaled = jnp.where(both, local.curvature / (scale[:, None] * scale[None, :]), jnp.eye(local.x.size))
    return jnp.min(jnp.linalg.eigvalsh(jnp.where(jnp.all(jnp.isfinite(scaled)), scaled, jnp.nan)))


def blank(x: Float[Array, " p"], width: int | None = None) -> Local:
    """x before the objective has been looked at; `width`: the columns of `more`."""
    more = None if width is None else jnp.zeros((x.size, width))
    return Local(x, jnp.asarray(jnp.inf, x.dtype), jnp.zeros(x.size), jnp.eye(x.size), jnp.zeros(()), more)


def undone(local: Local, damping: float) -> Found:
    """A descent that has not looked at its point yet."""
    numbers = (jnp.asarray(number, float) for number in (damping, 2.0))
    return Found(local, jnp.asarray(jnp.inf), jnp.asarray(0), *numbers, jnp.asarray(True))


def descend(
    model: Callable, local: Local, lower, upper, damping: float, target: float, max_steps: int, stalled: float = 0.0
) -> Found:
    """Steps from a `blank` until the error is below `target`, or no step helps; `model(x)` gives a `Local`.

    Steps that no longer halve an error below `stalled` end it as well: those of Gauss-Newton are slow where the
    residual is large and bends, and another model of the objective then does better.

    The first look at x counts as a step, so that the model is in the compiled program once.
    """

    def go(found):
        wanted = ~(found.error <= target) & (found.steps < max_steps)
        return wanted & (found.damping < MOST_DAMPING) & found.falling

    def step(found):
        local, damping, first = found.local, found.damping, found.steps == 0
        mask, scale = free(local, lower, upper), scales(local)
        both = mask[:, None] & mask[None, :]
        matrix = jnp.where(both, local.curvature / (scale[:, None] * scale[None, :]), 0.0)
        matrix = matrix + jnp.diag(jnp.where(mask, damping, 1.0))
        factor = jnp.linalg.cholesky(matrix)
        scaled = jsl.cho_solve((factor, True), jnp.where(mask, -local.slope / scale, 0.0))
        move = jnp.clip(local.x + scaled / scale, lower, upper) - local.x
        foretold = -(local.slope @ move + 0.5 * move @ local.curvature @ move)
        solved = jnp.all(jnp.isfinite(move)) & (foretold > 0) & ~first

        trial = model(jnp.where(solved, local.x + move, local.x))
        reached = error(trial, lower, upper)
        gain = (local.value - trial.value) / jnp.where(foretold > 0, foretold, 1.0)
        # Near the end the values no longer tell: then the error does.
        level = local.value + LEVEL * (jnp.abs(local.value) + local.size**2)
        closer = (trial.value <= level) & (reached < found.error)
        good = first | (solved & ((gain > GAIN) | closer))
        good = good & jnp.isfinite(trial.value) & jnp.isfinite(reached)
        gain = jnp.where(closer, jnp.maximum(gain, 1.0), gain)
        shrunk = damping * jnp.maximum(1 / 3, 1 - (2 * jnp.clip(gain, 0.0, 1.0) - 1) ** 3)
        shrunk = jnp.where(first, damping, shrunk)
        grown = jnp.maximum(damping * found.growth, FIRST_DAMPING)
        # An error that is small and no longer halves has arrived at rounding.
        arrived = good & ~first & (reached > 0.5 * found.error) & (reached < jnp.maximum(ROUNDING, stalled))
        return Found(
            jax.tree.map(lambda new, old: jnp.where(good, new, old), trial, local),
            jnp.where(good, reached, found.error),
            found.steps + 1,
            jnp.where(good, shrunk, grown),
            jnp.where(good, 2.0, 2 * found.growth),
            ~arrived & (good | ~first),
        )

    return jax.lax.while_loop(go, step, undone(local, damping))
