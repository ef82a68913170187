"""Accelerated gradient steps on the dual of a denoising problem."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from invhyper.iterations.pdhg import penalty_sizes
from invhyper.operators import Identity
from invhyper.problem import Iteration
from invhyper.tree import like


class DualFISTA(Iteration):
    """Accelerated projected gradient on the dual of a sum of norms with K = I, restarted where momentum misleads.

        maximise over p   min over x in the box of  1/2 |x - y|^2 + sum_k (D_k x).p_k - phi_k*(p_k)

        x     = the nearest point of the box to y - sum_k D_k^T v_k
        p_k_+ = prox of phi_k* / L at v_k + D_k x / L,     L = sum_k |D_k|^2
        v_k_+ = p_k_+ + momentum (p_k_+ - p_k),   momentum = (t - 1) / t_+,   t_+ = (1 + sqrt(1 + 4 t^2)) / 2

    t falls back to 1 where (v - p_+).(p_+ - p) > 0. The state is (p, v, t); the output is x at p. t is no fixed point's
    (`stationary` is False): use it with `Unrolled`, and `SplitBregman` or `PDHG` with `FixedPoint`.

    **Arguments**: `lower`: a lower level of the TV family with forward=None. Raises ValueError for another K.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0]))
    >>> problem = ih.Bilevel(lower, ih.Truth(np.array([0.0, 0.0, 1.0, 1.0])))
    >>> run = ih.Bilevel(ih.TotalVariation(lower.y, solver=ih.DualFISTA(lower)), problem.criterion)
    >>> print(np.round(ih.Unrolled(100)(run, {"weight": 0.2}).solution.x, 6))
    [0.1 0.1 0.9 0.9]

    Beck and Teboulle (2009), doi:10.1109/TIP.2009.2028250; Chambolle and Pock (2016), doi:10.1017/S096249291600009X;
    restarts: O'Donoghue and Candes (2015), doi:10.1007/s10208-013-9150-3.
    """

    __getattribute__ = object.__getattribute__  # see problem.PLAIN_LOOKUP
    rho: ClassVar = None
    stationary: ClassVar[bool] = False
    lower: Any
    sizes: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, lower):
        if not hasattr(lower, "splits"):
            raise TypeError(f"DualFISTA wants a lower level of the TV family; it was given a {type(lower).__name__}")
        if lower.moves or not isinstance(lower.forward_at(None), Identity):
            raise ValueError(
                f"DualFISTA wants K = I; this {type(lower).__name__} has another: use SplitBregman or PDHG"
            )
        self.lower, self.sizes = lower, penalty_sizes(lower)

    def init(self, theta, start=None):
        y = jnp.asarray(self.lower.y)
        zeros = tuple(jnp.zeros(penalty.analysis.shape_out, y.dtype) for penalty in self.lower.penalties.values())
        return zeros, zeros, jnp.ones((), y.dtype)

    def step(self, state, theta, t):
        return like(state, self.advance(state, self.lower.weights(theta), jnp.asarray(self.lower.y))[0])

    def output(self, state):
        return self.primal(state[0], jnp.asarray(self.lower.y))

    def primal(self, p, y):
        """The image that belongs to a dual variable."""
        return self.lower.boxed(self.aim(p, y))

    def aim(self, p, y):
        """The image before it is brought into the box."""
        penalties = self.lower.penalties.values()
        return y - sum(penalty.analysis.rmv(dual) for penalty, dual in zip(penalties, p, strict=True))

    def advance(self, state, weights, y):
        """One step, and d: the entries of D x that the dual variable does not hold at zero. In NumPy or in JAX."""
        p, v, t = state
        x, L = self.primal(v, y), sum(self.sizes)
        new, d = [], []
        for k, penalty in enumerate(self.lower.penalties.values()):
            u = L * v[k] + penalty.analysis.mv(x)
            d.append(self.lower.prox(k, u, weights, 1.0 / L))
            new.append((u - d[k]) / L)
        xp = jnp if isinstance(x, jax.Array) else np
        misleads = sum(xp.vdot(b - c, c - a) for a, b, c in zip(p, v, new, strict=True)) > 0
        t = xp.where(misleads, 1.0, t)
        after = (1.0 + xp.sqrt(1.0 + 4.0 * t * t)) / 2.0
        momentum = xp.where(misleads, 0.0, (t - 1.0) / after)
        v = tuple(b + momentum * (b - a) for a, b in zip(p, new, strict=True))
        return (tuple(new), v, after), tuple(d)

    def penalties(self, theta) -> tuple:
        """What Split Bregman would take as rho: the steps here have no need of it."""
        return self.lower.first_rho(theta)

    def on_host(self, theta, state, rho, forward):
        """The process in NumPy, from a state (z, d, b) of Split Bregman and its rho."""
        return Accelerated(self, theta, state, rho)


class Accelerated:
    """Host steps of dual FISTA. `state` and `duals` are those of Split Bregman: (z, d, b) and rho b."""

    name, every = "dual FISTA", 20

    def __init__(self, iteration: DualFISTA, theta, state, rho):
        self.iteration, self.y = iteration, np.asarray(iteration.lower.y, float)
        self.weights = iteration.lower.weights(theta)
        self.rho, self.steps, self.state = tuple(rho), 0, state
        p = tuple(r * b for r, b, _ in zip(rho, state[2], iteration.sizes, strict=False))
        self._state = (p, p, 1.0)

    def run(self, steps: int):
        for _ in range(steps):
            self._state, d = self.iteration.advance(self._state, self.weights, self.y)
            self.steps += 1
        p = self._state[0]
        aim = self.iteration.aim(p, self.y)
        z = self.iteration.lower.boxed(aim)
        if self.iteration.lower.box is not None:
            d, p = (*d, z), (*p, aim - z)
        self.state = z, d, tuple(dual / r for dual, r in zip(p, self.rho, strict=True))

    def duals(self) -> tuple:
        """The dual variables, feasible after every step."""
        return tuple(r * b for r, b in zip(self.rho, self.state[2], strict=True))
