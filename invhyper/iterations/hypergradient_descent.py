"""Learning the step size while training runs, from the inner product of successive gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from invhyper import tree


class HypergradientState(NamedTuple):
    """`rate`: the step size now; `direction`: of the last step, d x / d rate = -direction; `base`: the base's state."""

    rate: Any
    direction: Any
    base: Any


class HypergradientDescent(optax.GradientTransformationExtraArgs):
    """An optax transformation whose step size descends the loss together with x.

        x_{t+1} = x_t - alpha_t u_t,       h_t = -g_t . u_{t-1} = d loss(x_t) / d alpha_{t-1}
        alpha_t = alpha_{t-1} - mu h_t,            or alpha_t = alpha_{t-1} (1 - mu h_t / (|g_t| |u_{t-1}|))

    with u_t the direction that `base` makes of the gradients. It drops into any training loop that takes an optax
    optimiser; the step size of now is `state.rate`.

    **Arguments**: `rate`: alpha_0; `mu`: the step of the step size; `base`: None for gradient descent (u_t = g_t),
    `optax.trace(0.9)` for momentum (`nesterov=True` for Nesterov's), `optax.scale_by_adam()` for Adam, any other
    transformation that does not scale by -rate; `multiplicative`: relative steps, which need no scale of mu.

    >>> import jax.numpy as jnp, optax, invhyper as ih
    >>> optimiser = ih.HypergradientDescent(0.1, 0.01)
    >>> x, state = jnp.ones(2), None
    >>> state = optimiser.init(x)
    >>> for _ in range(3):
    ...     moves, state = optimiser.update(x, state)  # the gradient of |x|^2 / 2 is x
    ...     x = optax.apply_updates(x, moves)
    >>> print(x.round(4), round(float(state.rate), 4))
    [0.6888 0.6888] 0.1323

    Baydin et al. (2018), openreview.net/forum?id=BkrsAzWAb; Almeida et al. (1999), doi:10.1017/CBO9780511569920.007.
    """

    def __new__(cls, rate, mu, base: optax.GradientTransformation | None = None, multiplicative: bool = False):
        base = optax.with_extra_args_support(optax.identity() if base is None else base)

        def init(params):
            dtype = jnp.result_type(*jax.tree.leaves(params))
            nothing = jax.tree.map(jnp.zeros_like, params)
            return HypergradientState(jnp.asarray(rate, dtype), nothing, base.init(params))

        def update(updates, state, params=None, **extra):
            slope = -tree.dot(updates, state.direction)
            if multiplicative:
                sizes = tree.norm(updates) * tree.norm(state.direction)
                now = state.rate * (1.0 - mu * jnp.where(sizes > 0, slope / jnp.where(sizes > 0, sizes, 1.0), 0.0))
            else:
                now = state.rate - mu * slope
            now = jnp.asarray(now, state.rate.dtype)
            direction, inner = base.update(updates, state.base, params, **extra)
            return tree.scale(-now, direction), HypergradientState(now, direction, inner)

        return super().__new__(cls, init, update)
