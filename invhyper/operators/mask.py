"""Pixels that were not measured."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jaxtyping import Array, Bool

from invhyper.operators.operator import Operator


class Mask(Operator):
    """(A u)[i] = u[i] where `keep`, 0 elsewhere: the data stay shaped like the image.

    **Arguments**: `keep`, booleans of the image's shape (zeros and ones are accepted).

    **Raises** ValueError: `keep` holds something else, or no pixel is kept.

    >>> import numpy as np, invhyper as ih
    >>> ih.Mask(np.array([True, False, True])).mv(np.array([1.0, np.nan, 3.0])).tolist()
    [1.0, 0.0, 3.0]
    """

    keep: Bool[Array, "..."]
    tags = frozenset({lx.symmetric_tag, lx.diagonal_tag, lx.positive_semidefinite_tag})

    def __init__(self, keep: Bool[Array, "..."]):
        if not isinstance(keep, jax.Array):
            keep = np.asarray(keep)
        if not isinstance(keep, jax.core.Tracer):
            if not np.all((keep == 0) | (keep == 1)):
                raise ValueError("Mask was given values other than True and False in `keep`: compare first, e.g. y > 0")
            if keep.ndim == 0 or not np.any(keep):
                raise ValueError(f"Mask was given `keep` of shape {keep.shape} that keeps no pixel of an image")
        self.keep = keep.astype(bool)

    @property
    def shape_in(self):
        return self.keep.shape

    @property
    def shape_out(self):
        return self.keep.shape

    @property
    def arrays(self):
        return (self.keep,)

    def _forward(self, x, out):
        # not keep * x: a pixel that was not measured may hold NaN
        if isinstance(x, np.ndarray):
            return np.where(self.keep, x, x.dtype.type(0))
        return jnp.where(self.keep, x, 0)

    def _adjoint(self, y, out):
        return self._forward(y, out)

    def symbol(self, boundary):
        """Ones where every pixel is kept, else None."""
        if isinstance(self.keep, jax.core.Tracer) or not np.all(self.keep):
            return None
        return np.ones(self.shape_in)

    def to_scipy(self):
        return scipy.sparse.diags_array(np.asarray(self.keep, float).ravel()).tocsr()
