"""The band of a fitted curve: what the uncertainty of p leaves open in what would be observed."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from invhyper.identifiability.fisher import Fisher
from invhyper.lower.ode import Calibration


@dataclass(frozen=True)
class Band:
    """`mean` and standard `deviation` of what a fit would observe at `times`; see `band`."""

    times: Float[np.ndarray, " T"]
    mean: Float[np.ndarray, "*conditions T observables"]
    deviation: Float[np.ndarray, "*conditions T observables"]


def band(calibration: Calibration, theta: PyTree, fisher: Fisher, times) -> Band:
    """The fitted curve at `times` and its standard deviation, by the delta method.

        deviation^2 = J V J^T,   J = d simulate / dp at the fit,   V the covariance, `fisher.covariance`

    theta is taken as it is: what choosing it adds to the uncertainty is not in it, nor is the noise of a measurement.

    **Arguments**: `calibration`, `theta`: the problem; `fisher`: its information at the fit, as `ih.fisher` gives it;
    `times` (T,). Raises ValueError where the data leave a direction of p open: the band has no width there.

    >>> import numpy as np, invhyper as ih
    >>> t = np.array([0.5, 1.0, 2.0, 4.0])
    >>> constant = ih.Calibration(
    ...     rhs=lambda t, x, p, theta: 0.0 * x, initial=lambda p, theta: p, observe=lambda t, x, p, theta: x,
    ...     times=t, data=np.ones(4), noise=0.1, start=1.0,
    ... )
    >>> fisher = ih.fisher(constant, {}, ih.Solution(1.0))
    >>> print(ih.band(constant, {}, fisher, [3.0]).deviation)
    [0.05]

    Seber and Wild (1989), doi:10.1002/0471725315.
    """
    if fisher.rank < len(fisher.names):
        open_ones = ", ".join(name for name, unseen in zip(fisher.names, fisher.unseen, strict=True) if unseen)
        raise ValueError(f"band: the data do not determine {open_ones}: fix one of them, or add a prior")
    theta, times = calibration.check(theta), jnp.asarray(times, float)
    unravel = ravel_pytree(calibration.start)[1]

    def curve(x):
        seen = calibration.simulate(unravel(x), theta, times)
        return seen, seen

    J, mean = jax.jit(jax.jacfwd(curve, has_aux=True))(fisher.values)
    variance = np.einsum("...i,ij,...j->...", J, fisher.covariance, J)
    return Band(np.asarray(times), np.asarray(mean), np.sqrt(variance))
