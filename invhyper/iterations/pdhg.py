"""The primal-dual hybrid gradient method: no linear system, one product with each operator and its adjoint a step."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from invhyper.iterations.sizes import size_bound, size_of_symbol
from invhyper.operators import Identity, Operator
from invhyper.penalties import is_positive
from invhyper.problem import Iteration
from invhyper.tree import like


class PDHG(Iteration):
    """The primal-dual method of Chambolle and Pock for a sum of norms of linear maps, any K, with bounds.

        minimise over z in the box, maximise over p, q    q.(K z - y) - |q|^2 / 2 + sum_k p_k.(D_k z) - phi_k*(p_k)

        z_+   = the nearest point of the box to z - tau (K^T q + sum_k D_k^T p_k)
        p_k_+ = prox of rho_k phi_k* at p_k + rho_k D_k (2 z_+ - z)
        q_+   = (q + sigma (K (2 z_+ - z) - y)) / (1 + sigma),     tau = 1 / (sigma |K|^2 + sum_k rho_k |D_k|^2)

    and then (z, p, q) moves by `relaxation` times the step. With K = I there is no q: z_+ minimises the data term too.
    The state is (z, p), p a tuple with one entry a penalty, and q last. The output is the image.

    **Arguments**: `lower`: a lower level of the TV family; `rho`: a number, or one a penalty, for all steps; None takes
    it from the data and the weights (`lower.solve` then goes on balancing the residuals; in `Unrolled` and
    `FixedPoint` rho is frozen); `relaxation`: between 0 and 2; `size`: an upper bound of |K|^2, needed only if K is a
    function of theta that no transform diagonalises.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0]))
    >>> print(np.round(ih.solve(ih.FixedPoint(ih.PDHG(lower)), {"weight": 0.2}, tol=1e-9).x, 6))
    [0.1 0.1 0.9 0.9]

    Chambolle and Pock (2011), doi:10.1007/s10851-010-0251-1; relaxed, with several terms: Condat (2013),
    doi:10.1007/s10957-012-0245-9; its balance of the steps: Goldstein, Li and Yuan (2015), arXiv:1305.0546.
    """

    __getattribute__ = object.__getattribute__  # see problem.PLAIN_LOOKUP
    lower: Any
    rho: Any = None
    relaxation: float = eqx.field(static=True, default=1.6)
    size: float | None = eqx.field(static=True, default=None)
    sizes: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, lower, rho=None, relaxation: float = 1.6, size: float | None = None):
        self.lower, self.rho, self.relaxation, self.size = lower, rho, relaxation, size
        if not hasattr(lower, "splits"):
            raise TypeError(f"PDHG wants a lower level of the TV family; it was given a {type(lower).__name__}")
        if not 0 < relaxation < 2:
            raise ValueError(f"PDHG relaxation = {relaxation}: a number between 0 and 2 is wanted")
        if size is not None and not size > 0:
            raise ValueError(f"PDHG size = {size}: a positive number is wanted")
        concrete = rho is not None and not isinstance(rho, jax.core.Tracer)
        if concrete and not is_positive(rho):
            raise ValueError(f"PDHG rho = {rho}: a positive number, or one a penalty, is wanted")
        if size is None and not lower.moves:
            self.size = float(size_bound(lower.forward_at(None)))
        self.sizes = penalty_sizes(lower)

    def init(self, theta, start=None):
        z = self.lower.first(theta, start)
        duals = [jnp.zeros(penalty.analysis.shape_out, z.dtype) for penalty in self.lower.penalties.values()]
        forward = self.lower.forward_at(theta)
        if not isinstance(forward, Identity):
            duals.append(forward.mv(z) - jnp.asarray(self.lower.y))
        return z, tuple(duals)

    def step(self, state, theta, t):
        forward = self.lower.forward_at(theta)
        y = jnp.asarray(self.lower.y)
        return like(state, self.advance(state, self.lower.weights(theta), self.penalties(theta), forward, y))

    def output(self, state):
        return self.lower.image(state[0])

    def penalties(self, theta) -> tuple:
        """rho, one number a split (that of the bounds is not used)."""
        count = len(self.lower.splits())
        if self.rho is not None:
            rho = jnp.broadcast_to(jnp.asarray(self.rho), (count,)) if np.ndim(self.rho) < 2 else self.rho
            return tuple(rho[k] for k in range(count))
        return self.lower.first_rho(theta)

    def size_at(self, forward: Operator):
        """The bound of |K|^2."""
        if self.size is not None:
            return self.size
        size = size_of_symbol(forward)
        if size is None:
            raise ValueError(
                f"PDHG has no bound of |K|^2 for a {type(forward).__name__} that is a function of theta: pass size"
            )
        return size

    def advance(self, state, weights, rho, forward, y):
        """One step; in NumPy or in JAX."""
        return self.relaxed(state, self.proximal(state, weights, rho, forward, y)[0])

    def relaxed(self, state, proximal):
        """`relaxation` times the step to the proximal point."""
        return jax.tree.map(lambda old, new: old + self.relaxation * (new - old), state, proximal)

    def proximal(self, state, weights, rho, forward, y):
        """The proximal point ((z, p), d, the box's multiplier): |p_k| <= weight_k, and p_k pulls along d_k."""
        z, p = state
        analyses = [penalty.analysis for penalty in self.lower.penalties.values()]
        # The steepness of the data term's own dual: 1 suits q = K z - y, whose units are those of y.
        tau = sum(r * size for r, size in zip(rho, self.sizes, strict=False))
        pull = sum(analysis.rmv(dual) for analysis, dual in zip(analyses, p, strict=False))
        if len(p) == len(analyses):
            tau = 1.0 / tau
            aim, steep = (z + tau * (y - pull)) / (1.0 + tau), (1.0 + tau) / tau
        else:
            tau = 1.0 / (tau + self.size_at(forward))
            aim, steep = z - tau * (pull + forward.rmv(p[-1])), 1.0 / tau
        new = self.lower.boxed(aim)
        ahead = 2.0 * new - z
        duals, d = [], []
        for k, analysis in enumerate(analyses):
            v = p[k] / rho[k] + analysis.mv(ahead)
            d.append(self.lower.prox(k, v, weights, rho[k]))
            duals.append(rho[k] * (v - d[k]))
        if len(p) > len(analyses):
            duals.append((p[-1] + forward.mv(ahead) - y) / 2.0)
        return (new, tuple(duals)), tuple(d), steep * (aim - new)

    def on_host(self, theta, state, rho, forward):
        """The process in NumPy, from a state (z, d, b) of Split Bregman and its rho."""
        return Paced(self, theta, state, rho, forward)


class Paced:
    """Host steps with rho balanced so that both residuals shrink alike.

    `state` and `duals` are those of Split Bregman, (z, d, b) and rho b, at the proximal point of the last step. Every
    `every` steps rho_k moves by the root of (primal / dual residual) / `ratio`, each relative to its own size.
    """

    name, every, ratio, most, band = "PDHG", 20, 1.0, 3.0, 1.3

    def __init__(self, iteration: PDHG, theta, state, rho, forward):
        lower = iteration.lower
        self.iteration, self.forward, self.y = iteration, forward, np.asarray(lower.y, float)
        self.weights = lower.weights(theta)
        self.rho, self.steps, self.state = list(rho), 0, state
        p = tuple(r * b for r, b, _ in zip(rho, state[2], iteration.sizes, strict=False))
        if not isinstance(forward, Identity):
            p = (*p, np.asarray(forward.mv(state[0])) - self.y)
        self._state = state[0], p

    def run(self, steps: int):
        """`steps` steps, then the balance."""
        for _ in range(steps):
            before = self._state
            found = self.iteration.proximal(before, self.weights, self.rho, self.forward, self.y)
            self._state = self.iteration.relaxed(before, found[0])
            self.steps += 1
        (z, p), d, multiplier = found
        if self.iteration.rho is None:
            self._balance(before, z, p, d)
        p = p[: len(d)]
        if self.iteration.lower.box is not None:
            p, d = (*p, multiplier), (*d, z)
        self.state = z, d, tuple(dual / r for dual, r in zip(p, self.rho, strict=True))

    def _balance(self, before, z, p, d):
        analyses = [penalty.analysis for penalty in self.iteration.lower.penalties.values()]
        for k, analysis in enumerate(analyses):
            image = analysis.mv(z)
            primal = np.linalg.norm(image - d[k]) / max(np.linalg.norm(image), 1e-300)
            moved = np.linalg.norm(analysis.rmv(p[k] - before[1][k] - self.rho[k] * analysis.mv(z - before[0])))
            dual = moved / max(np.linalg.norm(analysis.rmv(p[k])), 1e-300)
            factor = np.sqrt(primal / dual / self.ratio) if primal > 0 and dual > 0 else 1.0
            factor = float(np.clip(factor, 1 / self.most, self.most))
            if not 1 / self.band < factor < self.band:
                self.rho[k] *= factor

    def duals(self) -> tuple:
        """The dual variables, feasible after every step."""
        return tuple(r * b for r, b in zip(self.rho, self.state[2], strict=True))


def penalty_sizes(lower) -> tuple[float, ...]:
    """|D_k|^2 of each penalty."""
    return tuple(float(size_bound(penalty.analysis)) for penalty in lower.penalties.values())
