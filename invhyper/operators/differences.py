"""Finite differences along every axis of an image: the analysis operator of total variation."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from invhyper.operators.boundary import check_boundary, check_shape
from invhyper.operators.operator import Operator


class Differences(Operator):
    """Differences of neighbours along each axis k of an image u of any dimension.

        order 1:  (D u)[k, i] = u[i + e_k] - u[i]
        order 2:  (D u)[k, i] = u[i + e_k] - 2 u[i] + u[i - e_k]

    The `boundary` says what u is beyond the border: "neumann" its mirror image (the last difference of order 1 is 0:
    there is no edge), "periodic" the opposite end, "zero" nothing. Second differences of a ramp therefore vanish inside
    but not at the border, and a penalty on them bends a ramp there.

    **Arguments**: `shape` of the images, a tuple (n,), (rows, cols), ...; `boundary`; `order` 1 or 2. The output has
    shape `(len(shape), *shape)`.

    **Raises** ValueError: an unknown boundary, another order, a shape that is not of positive whole numbers.

    >>> import numpy as np, invhyper as ih
    >>> ih.Differences((2, 3)).mv(np.array([[0.0, 1.0, 3.0], [5.0, 5.0, 5.0]])).tolist()
    [[[5.0, 4.0, 2.0], [0.0, 0.0, 0.0]], [[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]]
    >>> ih.Differences((4,), order=2).mv(np.array([1.0, 2.0, 3.0, 4.0])).tolist()
    [[1.0, 0.0, 0.0, -1.0]]

    Strang (1999), doi:10.1137/S0036144598336745, for the cosine transform that diagonalises D^T D.
    """

    shape_in: tuple[int, ...] = eqx.field(static=True)
    boundary: str = eqx.field(static=True)
    order: int = eqx.field(static=True)

    def __init__(self, shape: tuple[int, ...], boundary: str = "neumann", order: int = 1):
        self.shape_in = check_shape("Differences", shape)
        self.boundary = check_boundary("Differences", boundary)
        if order not in (1, 2):
            raise ValueError(f"Differences was given the order {order!r}; wanted is 1 or 2")
        self.order = order

    @property
    def shape_out(self):
        return (len(self.shape_in), *self.shape_in)

    def _forward(self, x, out):
        if isinstance(x, np.ndarray):
            out = np.empty(self.shape_out, x.dtype) if out is None else out
            for axis in range(x.ndim):
                (self._first if self.order == 1 else self._second)(x, axis, out[axis])
            return out
        return jnp.stack([self._along(x, axis) for axis in range(x.ndim)])

    def _adjoint(self, y, out):
        if isinstance(y, np.ndarray):
            return self._host_adjoint(y, out)
        if self.order == 2:  # the matrix of each axis is symmetric
            return sum(self._along(v, axis) for axis, v in enumerate(y))
        return sum(self._back(v, axis) for axis, v in enumerate(y))

    def _first(self, x, axis, d):
        low, high, first, last = _slices(x.ndim, axis)
        np.subtract(x[high], x[low], out=d[low])
        if self.boundary == "neumann":
            d[last] = 0.0
        elif self.boundary == "periodic":
            np.subtract(x[first], x[last], out=d[last])
        else:
            # Not np.negative: NumPy 2.4.6 gets it wrong where both strides are 64 bytes (8 columns).
            np.multiply(x[last], -1.0, out=d[last])

    def _second(self, x, axis, d):
        low, high, first, last = _slices(x.ndim, axis)
        np.multiply(x, -2.0, out=d)
        d[low] += x[high]
        d[high] += x[low]
        if self.boundary == "neumann":
            d[first] += x[first]
            d[last] += x[last]
        elif self.boundary == "periodic":
            d[first] += x[last]
            d[last] += x[first]

    def _host_adjoint(self, y, out):
        out = np.empty(self.shape_in, y.dtype) if out is None else out
        if self.order == 2:
            self._second(y[0], 0, out)
            spare = np.empty_like(out)
            for axis in range(1, out.ndim):
                self._second(y[axis], axis, spare)
                out += spare
            return out
        v = y[0]
        np.multiply(v[:1], -1.0, out=out[:1])
        np.subtract(v[:-1], v[1:], out=out[1:])
        if self.boundary == "neumann":
            out[-1:] = v[-2:-1] if len(v) > 1 else 0.0
        elif self.boundary == "periodic":
            out[:1] += v[-1:]
        for axis in range(1, out.ndim):
            low, high, first, last = _slices(out.ndim, axis)
            v = y[axis]
            out[high] += v[low]
            out[low] -= v[low]
            if self.boundary != "neumann":
                out[last] -= v[last]
            if self.boundary == "periodic":
                out[first] += v[last]
        return out

    def _neighbour(self, x, axis, ahead: bool):
        """The image whose pixel i is the neighbour of pixel i in x."""
        low, high, first, last = _slices(x.ndim, axis)
        inside, border, far = (high, last, first) if ahead else (low, first, last)
        beyond = {"neumann": x[border], "periodic": x[far], "zero": jnp.zeros_like(x[border])}[self.boundary]
        return jnp.concatenate([x[inside], beyond] if ahead else [beyond, x[inside]], axis)

    def _along(self, x, axis):
        ahead = self._neighbour(x, axis, True)
        return ahead - x if self.order == 1 else ahead - 2.0 * x + self._neighbour(x, axis, False)

    def _back(self, v, axis):
        low, _, _, last = _slices(v.ndim, axis)
        border = {"neumann": jnp.zeros_like(v[last]), "periodic": v[last], "zero": v[last]}[self.boundary]
        before = border if self.boundary == "periodic" else jnp.zeros_like(border)
        return jnp.concatenate([before, v[low]], axis) - jnp.concatenate([v[low], border], axis)

    def symbol(self, boundary):
        """sum_k (2 sin(f_k / 2))^(2 order), f_k = 2 pi j / n ("periodic") or pi j / n ("neumann"), j = 0 ... n - 1."""
        if boundary != self.boundary or boundary == "zero":
            return None
        turn = 2.0 if boundary == "periodic" else 1.0
        symbol = np.zeros(self.shape_in)
        for axis, n in enumerate(self.shape_in):
            values = (4.0 * np.sin(0.5 * turn * np.pi * np.arange(n) / n) ** 2) ** self.order
            symbol += values.reshape(-1, *(1,) * (len(self.shape_in) - axis - 1))
        return symbol

    def to_scipy(self):
        blocks = []
        for axis, n in enumerate(self.shape_in):
            before, after = np.prod(self.shape_in[:axis], dtype=int), np.prod(self.shape_in[axis + 1 :], dtype=int)
            eye_before, eye_after = scipy.sparse.eye_array(before), scipy.sparse.eye_array(after)
            blocks.append(scipy.sparse.kron(scipy.sparse.kron(eye_before, self._matrix(n)), eye_after))
        matrix = scipy.sparse.csr_array(scipy.sparse.vstack(blocks))
        matrix.eliminate_zeros()  # kron stores zeros where a block is small
        return matrix

    def _matrix(self, n):
        """The differences along one axis of n pixels."""
        shift = scipy.sparse.eye_array(n, k=1).tolil()
        if self.boundary == "periodic":
            shift[n - 1, 0] += 1.0
        if self.order == 2:
            shift = (shift + shift.T).tolil()
            if self.boundary == "neumann":
                shift[0, 0] += 1.0
                shift[n - 1, n - 1] += 1.0
        elif self.boundary == "neumann":
            shift[n - 1, n - 1] += 1.0
        matrix = scipy.sparse.csr_array(shift - self.order * scipy.sparse.eye_array(n))
        matrix.eliminate_zeros()
        return matrix


def _slices(ndim, axis):
    """All but the last, all but the first, the first and the last, along one axis."""
    parts = slice(None, -1), slice(1, None), slice(None, 1), slice(-1, None)
    return [(slice(None),) * axis + (part,) + (slice(None),) * (ndim - axis - 1) for part in parts]
