"""The identity on images."""

import equinox as eqx
import lineax as lx
import numpy as np
import scipy.sparse

from invhyper.operators.boundary import check_shape
from invhyper.operators.operator import Operator


class Identity(Operator):
    """A u = u, for images of one shape.

    **Raises** ValueError: a shape that is not of positive whole numbers.

    >>> import numpy as np, invhyper as ih
    >>> ih.Identity((2,)).mv(np.array([1.0, 2.0])).tolist()
    [1.0, 2.0]
    """

    shape_in: tuple[int, ...] = eqx.field(static=True)
    tags = frozenset({lx.symmetric_tag, lx.diagonal_tag, lx.unit_diagonal_tag, lx.positive_semidefinite_tag})

    def __init__(self, shape: tuple[int, ...]):
        self.shape_in = check_shape("Identity", shape)

    @property
    def shape_out(self):
        return self.shape_in

    def _forward(self, x, out):
        return x

    def _adjoint(self, y, out):
        return y

    def symbol(self, boundary):
        return np.ones(self.shape_in)

    def to_scipy(self):
        return scipy.sparse.eye_array(self.in_size()).tocsr()
