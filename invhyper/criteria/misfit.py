"""The misfit of a simulated model to other measurements: the held-out error of a calibration."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from invhyper.problem import LowerLevel


class Misfit(eqx.Module):
    """The sum of squared deviations from measurements, in units of their noise.

        C(p, theta) = sum ((data - observe(t, x(t), p, theta)) / noise)^2

    **Arguments**: `calibration`: a `Calibration` that holds what is to be predicted: times, data or conditions that the
    lower level has not seen; its own start, prior and bounds play no part. Divide by its `measured.count` for a mean.
    Raises TypeError for a lower level without `deviations(p, theta)`.

    >>> import numpy as np, invhyper as ih
    >>> late = ih.Calibration(
    ...     lambda t, x, p, theta: -p * x, lambda p, theta: theta["x0"], lambda t, x, p, theta: x,
    ...     times=[5.0, 6.0], data=[0.0, 0.0], noise=1.0, start=1.0,
    ... )
    >>> print(ih.Misfit(late)(0.0, {"x0": 3.0}).round(6))
    18.0
    """

    calibration: LowerLevel

    def __init__(self, calibration: LowerLevel):
        if not hasattr(calibration, "deviations"):
            raise TypeError(f"Misfit wants a Calibration; it was given {type(calibration).__name__}")
        self.calibration = calibration

    def __call__(self, x: PyTree, theta: PyTree) -> Array:
        return jnp.sum(self.calibration.deviations(x, theta) ** 2)

    def check(self, theta: PyTree) -> PyTree:
        """theta seen by the calibration that is predicted: it chooses its solver at the first one."""
        return self.calibration.check(theta)

    def finer(self) -> "Misfit":
        """The same with simulations at a tenth of the tolerances."""
        return Misfit(self.calibration.finer())
