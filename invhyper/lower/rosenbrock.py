"""Rodas5P: a Rosenbrock method of order five for stiff equations, as a diffrax solver.

One step of h for y' = f(t, y), with J = df/dy and W = I / (gamma h) - J at its start, solves eight linear systems:

    W k_i = f(t + c_i h, y + sum_j a_ij k_j) + sum_j C_ij k_j / h + h d_i df/dt,     y_+ = y + sum_j b_j k_j

k_8 is the error estimate. There is no nonlinear equation, so a derivative of the step is the step of the derivative.
Coefficients: Steinebach (2023), doi:10.1007/s10543-023-00967-x, as tabulated in OrdinaryDiffEq.jl.
"""

from collections.abc import Callable
from typing import ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

GAMMA = 0.21193756319429014


def _lower(*rows):
    """Rows of a strictly lower triangular matrix, filled up with zeros."""
    table = np.zeros((8, 8))
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


LAST = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946)
A = _lower(
    (),
    (3.0,),
    (2.849394379747939, 0.45842242204463923),
    (-6.954028509809101, 2.489845061869568, -10.358996098473584),
    (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
    LAST,
    (*LAST, 1.0),
    (*LAST, 1.0, 1.0),
)
C = _lower(
    (),
    (-14.155112264123755,),
    (-17.97296035885952, -2.859693295451294),
    (147.12150275711716, -1.41221402718213, 71.68940251302358),
    (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
    (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
    # fmt: off
    (
        30.91273214028599,
        -3.1208243349937974,
        77.79954646070892,
        34.28646028294783,
        -19.097331116725623,
        -28.087943162872662,
    ),
    (
        37.80277123390563,
        -3.2571969029072276,
        112.26918849496327,
        66.9347231244047,
        -40.06618937091002,
        -54.66780262877968,
        -9.48861652309627,
    ),
    # fmt: on
)
c = np.array([0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0])
d = np.array(
    [0.21193756319429014, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069, 0, 0, 0]
)
# Dense output, of order four: y + s (y_+ - y) + s (1 - s) (H_1 k + s (H_2 k + s H_3 k)) at t + s h.
# fmt: off
H = np.array([
    [25.948786856663858, -2.5579724845846235, 10.433815404888879, -2.3679251022685204, 0.524948541321073,
     1.1241088310450404, 0.4272876194431874, -0.17202221070155493],
    [-9.91568850695171, -0.9689944594115154, 3.0438037242978453, -24.495224566215796, 20.176138334709044,
     15.98066361424651, -6.789040303419874, -6.710236069923372],
    [11.419903575922262, 2.8879645146136994, 72.92137995996029, 80.12511834622643, -52.072871366152654,
     -59.78993625266729, -0.15582684282751913, 4.883087185713722],
])
# fmt: on


class Rodas5P(diffrax.AbstractAdaptiveSolver):
    """The Rosenbrock method Rodas5P, of order 5(4), L-stable, with dense output of order 4.

    For `diffrax.diffeqsolve` on ordinary differential equations, stiff or not, of up to a few hundred states: J is
    computed by forward mode and factored once a step; the eight stages and, under `diffrax.ForwardMode`, all columns of
    the derivative share the factor.

    >>> import diffrax, jax.numpy as jnp, invhyper as ih
    >>> decay = diffrax.ODETerm(lambda t, y, rate: -rate * (y - jnp.cos(t)))
    >>> control = diffrax.PIDController(rtol=1e-8, atol=1e-8)
    >>> y = diffrax.diffeqsolve(decay, ih.Rodas5P(), 0.0, 2.0, None, 0.0, 1e6, stepsize_controller=control).ys[-1]
    >>> bool(abs(y - jnp.cos(2.0) - 1e-6 * jnp.sin(2.0)) < 1e-8)
    True

    Steinebach (2023), doi:10.1007/s10543-023-00967-x; Hairer and Wanner (1996), doi:10.1007/978-3-642-05221-7, IV.7.
    """

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable] = property(lambda self: Quartic)

    def order(self, terms):
        return 5

    def init(self, terms, t0, t1, y0, args):
        return None

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y, unravel = ravel_pytree(y0)
        # Backwards in time diffrax counts t upwards: contr, the step of y, is then -(t1 - t0).
        t, dt, h = (jnp.asarray(each, y.dtype) for each in (t0, t1 - t0, terms.contr(t0, t1)))
        tableau = [jnp.asarray(table, y.dtype) for table in (A, C, c, d)]

        def f(t, y):
            return ravel_pytree(terms.vf(t, unravel(y), args))[0]

        def along(v):
            return jax.jvp(f, (t, y), (v[0], v[1:]))[1]

        columns = jax.vmap(along, out_axes=1)(jnp.eye(y.size + 1, dtype=y.dtype))
        drift, J = columns[:, 0], columns[:, 1:]
        solve = _solver(jnp.eye(y.size, dtype=y.dtype) / (GAMMA * h) - J)

        # A loop, not eight copies of f: the compiled program is a third of the size, which is what users wait for.
        def stage(k, row):
            i, a, c_rows, c_i, d_i = row
            rhs = f(t + c_i * dt, y + a @ k) + c_rows @ k / h + dt * d_i * drift
            return k.at[i].set(solve(rhs)), None

        k, _ = jax.lax.scan(stage, jnp.zeros((8, y.size), y.dtype), (jnp.arange(8), *tableau))
        end, error = y + tableau[0][7] @ k + k[7], k[7]
        # What is not finite is rejected, whatever the norm makes of it; a step that no longer moves t ends the solve.
        finite = jnp.all(jnp.isfinite(end))
        stuck = jnp.logical_not(t1 > t0)
        end = jnp.where(stuck, y, jnp.where(finite, end, jnp.nan))
        error = jnp.where(stuck, 0.0, jnp.where(finite, error, jnp.inf))
        result = diffrax.RESULTS.where(stuck, diffrax.RESULTS.dt_min_reached, diffrax.RESULTS.successful)
        dense = dict(y0=y0, y1=unravel(end), bends=jax.vmap(unravel)(jnp.asarray(H, y.dtype) @ k))
        return unravel(end), unravel(error), dense, None, result


def _solver(W: Array) -> Callable:
    """rhs -> W^-1 rhs with one factor; derivatives reuse it: dk = W^-1 (drhs - dW k).

    The inverse is written out: eight stages pay for it, and on badly scaled W it is the more accurate (Robertson's
    problem at rtol = 1e-10: 2463 steps, where substitution with the factor takes 3834 and errs 100 times as much).
    """
    inverse = jnp.linalg.inv(jax.lax.stop_gradient(W))

    def solve(rhs):
        return jax.lax.custom_linear_solve(
            lambda k: W @ k, rhs, lambda _, rhs: inverse @ rhs, lambda _, rhs: rhs @ inverse
        )

    return solve


class Quartic(diffrax.AbstractLocalInterpolation):
    """The dense output of a step."""

    t0: Array
    t1: Array
    y0: PyTree
    y1: PyTree
    bends: PyTree

    def evaluate(self, t0, t1=None, left=True):
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        length = jnp.where(self.t1 == self.t0, 1.0, self.t1 - self.t0)
        s = (t0 - self.t0) / length

        def at(y0, y1, bends):
            return y0 + s * (y1 - y0) + s * (1 - s) * (bends[0] + s * (bends[1] + s * bends[2]))

        return jax.tree.map(at, self.y0, self.y1, self.bends)
