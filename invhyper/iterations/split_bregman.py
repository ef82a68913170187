"""Split Bregman: the norms of a reconstruction split off, one linear step and one proximal step in turn."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from invhyper.iterations.normal import Traced, normal_equations
from invhyper.penalties import is_positive
from invhyper.problem import Iteration
from invhyper.tree import like


class SplitBregman(Iteration):
    """Split Bregman (the alternating direction method of multipliers) for a sum of norms of linear maps.

        minimise over z, d    1/2 |K z - y|^2 + sum_k phi_k(d_k),   d_k = D_k z

        z_+   = (K^T K + sum_k rho_k D_k^T D_k)^{-1} (K^T y + sum_k rho_k D_k^T (d_k - b_k))
        v_k   = relaxation D_k z_+ + (1 - relaxation) d_k + b_k
        d_k_+ = prox of phi_k / rho_k at v_k,     b_k_+ = v_k - d_k_+

    The state is (z, d, b) with d, b tuples, one entry a penalty (and one for the bounds, if there are any); rho b is
    the dual variable. The output is the image.

    **Arguments**: `lower`: a lower level of the TV family; `rho`: a number, or one a penalty, for all steps; None takes
    it from the data and the weights (`lower.solve` then goes on balancing the residuals, which in `Unrolled` and
    `FixedPoint` would make the step depend on its past: there rho is frozen); `relaxation`: between 1 and 2.

    >>> import numpy as np, invhyper as ih
    >>> lower = ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0]))
    >>> print(np.round(ih.solve(ih.FixedPoint(ih.SplitBregman(lower)), {"weight": 0.2}, tol=1e-9).x, 6))
    [0.1 0.1 0.9 0.9]

    Goldstein and Osher (2009), doi:10.1137/080725891; over-relaxation: Eckstein and Bertsekas (1992),
    doi:10.1007/BF01581204.
    """

    __getattribute__ = object.__getattribute__  # see problem.PLAIN_LOOKUP
    lower: Any
    rho: Any = None
    relaxation: float = eqx.field(static=True, default=1.6)

    def __check_init__(self):
        if not hasattr(self.lower, "splits"):
            name = type(self.lower).__name__
            raise TypeError(f"SplitBregman wants a lower level of the TV family; it was given a {name}")
        if not 0 < self.relaxation < 2:
            raise ValueError(f"SplitBregman relaxation = {self.relaxation}: a number between 0 and 2 is wanted")
        concrete = self.rho is not None and not isinstance(self.rho, jax.core.Tracer)
        if concrete and not is_positive(self.rho):
            raise ValueError(f"SplitBregman rho = {self.rho}: a positive number, or one a penalty, is wanted")

    def init(self, theta, start=None):
        z = self.lower.first(theta, start)
        shapes = [split.shape_out for split in self.lower.splits()]
        xp = jnp if isinstance(z, jax.Array) else np
        zeros = tuple(xp.zeros(shape, z.dtype) for shape in shapes)
        return z, zeros, zeros

    def step(self, state, theta, t):
        forward = self.lower.forward_at(theta)
        rho = self.penalties(theta)
        system = Traced(forward, self.lower.splits(), rho)
        pulled = forward.rmv(jnp.asarray(self.lower.y))
        return like(state, self.advance(state, self.lower.weights(theta), rho, system, pulled))

    def output(self, state):
        return self.lower.image(state[0])

    def penalties(self, theta) -> tuple:
        """rho, one number a split."""
        count = len(self.lower.splits())
        if self.rho is not None:
            rho = jnp.broadcast_to(jnp.asarray(self.rho), (count,)) if np.ndim(self.rho) < 2 else self.rho
            return tuple(rho[k] for k in range(count))
        return self.lower.first_rho(theta)

    def advance(self, state, weights, rho, system, pulled, spare=None):
        """One step with everything that does not change from step to step at hand.

        In JAX, or in NumPy with `spare`, a pair (image, rows) of arrays a split: these and the arrays of `state` are
        then written over, and the old d is free afterwards.
        """
        z, d, b = state
        splits = self.lower.splits()
        spare = ((None, None),) * len(splits) if spare is None else spare
        rhs = pulled
        for k, split in enumerate(splits):
            image, rows = spare[k]
            back = split.rmv(d[k] - b[k] if rows is None else np.subtract(d[k], b[k], out=rows), image)
            back *= rho[k]
            back += rhs
            rhs = back
        z = system.solve(rhs, z)
        new_d, new_b = [], []
        for k, split in enumerate(splits):
            rows, before = spare[k][1], d[k]
            v = split.mv(z, rows)
            v *= self.relaxation
            before *= 1.0 - self.relaxation
            v += before
            v += b[k]
            parts = self.lower.divide(k, v, weights, rho[k], None if rows is None else b[k])
            new_d.append(parts[0])
            new_b.append(parts[1])
        return z, tuple(new_d), tuple(new_b)

    def on_host(self, theta, state, rho, forward):
        """The process in NumPy, from a state (z, d, b) and its rho."""
        return Balance(self, theta, state, rho, forward)


class Balance:
    """Host steps with rho balanced so that both residuals shrink alike.

    Every `every` steps a split's rho moves by the root of (primal / dual residual) / `ratio`, each relative to its own
    size. The ratio was chosen on TV denoising at 64 to 512 pixels a side, where it identifies the regions within a
    tenth of its optimum over fixed rho, from any start.
    """

    every, ratio, most, band = 20, 0.15, 3.0, 1.3

    def __init__(self, iteration: SplitBregman, theta, state, rho, forward):
        self.iteration, self.forward = iteration, forward
        self.weights = iteration.lower.weights(theta)
        self.pulled = np.asarray(forward.rmv(np.asarray(iteration.lower.y)))
        self.state, self.rho, self.steps = jax.tree.map(np.array, state), list(rho), 0
        self.images = [np.empty_like(self.state[0]) for _ in rho]
        self.rows = [np.empty_like(part) for part in self.state[1]]
        self.adaptive = iteration.rho is None
        self._system = None

    @property
    def name(self) -> str:
        return f"Split Bregman ({self.system.kind})"

    @property
    def system(self):
        if self._system is None:
            self._system = normal_equations(self.forward, self.iteration.lower.splits(), self.rho)
        return self._system

    def run(self, steps: int):
        """`steps` steps, then the balance."""
        for left in reversed(range(steps)):
            if left == 0:
                before = [part.copy() for part in self.state[1]]
            spare = list(zip(self.images, self.rows, strict=True))
            self.rows = self.state[1]
            self.state = self.iteration.advance(self.state, self.weights, self.rho, self.system, self.pulled, spare)
            self.steps += 1
        if self.adaptive:
            self._balance(before)

    def _balance(self, before):
        z, d, b = self.state
        moved, scaled = False, []
        for k, split in enumerate(self.iteration.lower.splits()):
            image = split.mv(z)
            primal = np.linalg.norm(image - d[k]) / max(np.linalg.norm(image), 1e-300)
            dual = np.linalg.norm(split.rmv(d[k] - before[k])) / max(np.linalg.norm(split.rmv(b[k])), 1e-300)
            factor = np.sqrt(primal / dual / self.ratio) if primal > 0 and dual > 0 else 1.0
            factor = float(np.clip(factor, 1 / self.most, self.most))
            if 1 / self.band < factor < self.band:
                factor = 1.0
            moved = moved or factor != 1.0
            self.rho[k] *= factor
            scaled.append(b[k] / factor)
        if moved:
            self.state, self._system = (z, d, tuple(scaled)), None

    def duals(self) -> tuple:
        """rho b: the dual variables, feasible after every step."""
        return tuple(rho * b for rho, b in zip(self.rho, self.state[2], strict=True))
