"""Four stiff initial value problems with published end points.

Problems and digits: the Test Set for IVP Solvers, Mazzia and Magherini (2008), release 2.4, University of Bari
(before: Lioen and de Swart, CWI), computed there by RADAU and RADAU5 at tolerances of 1e-18; van der Pol in unscaled
time as in its R package deTestSet. `solve_ivp(method="Radau", rtol=3e-13)` gives the same end points to 1e-12.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp


class Stiff(NamedTuple):
    """y' = f(t, y) from y(0) = start; y(end) = known. `scale` is where a component counts as small: atol / rtol."""

    f: Callable
    start: tuple
    end: float
    scale: float
    known: tuple

    def error(self, y):
        """The largest relative error of a component of y(end)."""
        return float(jnp.max(jnp.abs(jnp.asarray(y) / jnp.asarray(self.known) - 1)))


def robertson(t, y, args=None):
    slow, back, fast = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return jnp.stack([back - slow, slow - back - fast, fast])


def van_der_pol(t, y, args=None):
    return jnp.stack([y[1], 1e3 * (1 - y[0] ** 2) * y[1] - y[0]])


def hires(t, y, args=None):
    bound = 280 * y[5] * y[7]
    return jnp.stack(
        [
            -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
            1.71 * y[0] - 8.75 * y[1],
            -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
            8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
            -1.745 * y[4] + 0.43 * (y[5] + y[6]),
            -bound + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
            bound - 1.81 * y[6],
            1.81 * y[6] - bound,
        ]
    )


def oregonator(t, y, args=None):
    fast = 77.27 * (y[1] + y[0] * (1 - 8.375e-6 * y[0] - y[1]))
    return jnp.stack([fast, (y[2] - (1 + y[0]) * y[1]) / 77.27, 0.161 * (y[0] - y[2])])


STIFF = {
    "Robertson": Stiff(
        robertson, (1.0, 0.0, 0.0), 1e11, 1e-14, (0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050)
    ),
    "van der Pol": Stiff(van_der_pol, (2.0, 0.0), 2000.0, 1e-3, (0.1706167732170469e1, -0.8928097010248125e-3)),
    "HIRES": Stiff(
        hires,
        (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
        321.8122,
        1e-4,
        # fmt: off
        (
            0.7371312573325668e-3,
            0.1442485726316185e-3,
            0.5888729740967575e-4,
            0.1175651343283149e-2,
            0.2386356198831331e-2,
            0.6238968252742796e-2,
            0.2849998395185769e-2,
            0.2850001604814231e-2,
        ),
        # fmt: on
    ),
    "OREGO": Stiff(
        oregonator,
        (1.0, 2.0, 3.0),
        360.0,
        1.0,
        (0.1000814870318523e1, 0.1228178521549917e4, 0.1320554942846706e3),
    ),
}
