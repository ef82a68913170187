"""A sparse matrix as arrays: it can be a field of a lower level, cross jit and be handed to SciPy without a copy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float, Int


class Sparse(eqx.Module):
    """A sparse matrix (m, n) in compressed rows: row i holds `data[indptr[i]:indptr[i+1]]` at `indices[...]`.

    Products with vectors and matrices by `@`, in NumPy/SciPy at NumPy leaves and in JAX else; `T` is the transpose.

    >>> import numpy as np, scipy.sparse
    >>> matrix = Sparse.from_scipy(scipy.sparse.csr_array(np.array([[0.0, 2.0], [1.0, 0.0]])))
    >>> (matrix @ np.array([1.0, 3.0])).tolist(), (matrix.T @ np.array([1.0, 3.0])).tolist()
    ([6.0, 1.0], [3.0, 2.0])
    """

    __array_ufunc__ = None  # so that NumPy leaves y @ matrix to the matrix
    data: Float[Array, " nonzeros"]
    indices: Int[Array, " nonzeros"]
    indptr: Int[Array, " rows+1"]
    shape: tuple[int, int] = eqx.field(static=True)

    @classmethod
    def from_scipy(cls, matrix) -> "Sparse":
        """From any SciPy sparse matrix or array; duplicates are summed, integers become float64."""
        matrix = scipy.sparse.csr_array(matrix)
        matrix.sum_duplicates()
        data = matrix.data if np.issubdtype(matrix.dtype, np.inexact) else matrix.data.astype(float)
        if not np.all(np.isfinite(data)):
            raise ValueError("the sparse matrix holds NaN or infinity: remove or mask these entries")
        return cls(data, matrix.indices, matrix.indptr, matrix.shape)

    def to_scipy(self) -> scipy.sparse.csr_array:
        """The same matrix for SciPy, without a copy (NumPy leaves only)."""
        return scipy.sparse.csr_array((self.data, self.indices, self.indptr), shape=self.shape)

    def __matmul__(self, x):
        if self._on_host(x):
            return self.to_scipy() @ x
        terms = self.data[:, None] * x[self.indices] if x.ndim == 2 else self.data * x[self.indices]
        return jax.ops.segment_sum(terms, self._rows(), self.shape[0], indices_are_sorted=True)

    def __rmatmul__(self, y):
        return self.T @ y

    @property
    def T(self) -> "Transposed":
        return Transposed(self)

    def squared(self) -> "Sparse":
        """The matrix of the squared entries."""
        return Sparse(self.data**2, self.indices, self.indptr, self.shape)

    @property
    def dtype(self):
        return self.data.dtype

    def _rows(self):
        counts = jnp.diff(self.indptr)
        return jnp.repeat(jnp.arange(self.shape[0]), counts, total_repeat_length=self.data.shape[0])

    def _on_host(self, x) -> bool:
        return all(isinstance(leaf, np.ndarray) for leaf in (self.data, self.indices, self.indptr, x))


class Transposed(eqx.Module):
    """The transpose of a `Sparse`."""

    matrix: Sparse

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape[::-1]

    def __matmul__(self, y):
        matrix = self.matrix
        if matrix._on_host(y):
            return matrix.to_scipy().T @ y
        rows = matrix._rows()
        terms = matrix.data[:, None] * y[rows] if y.ndim == 2 else matrix.data * y[rows]
        return jax.ops.segment_sum(terms, matrix.indices, matrix.shape[1])

    @property
    def T(self) -> Sparse:
        return self.matrix


def spectral_bound(A) -> Array:
    """At least |A|_2: the geometric mean of the largest sums of a column and of a row, or |A|_F if that is less.

    >>> float(spectral_bound(jnp.eye(3)))
    1.0
    """
    if isinstance(A, Sparse):
        magnitude, square = Sparse(jnp.abs(A.data), A.indices, A.indptr, A.shape), jnp.sum(A.data**2)
    else:
        magnitude, square = jnp.abs(A), jnp.sum(A**2)
    ones = [jnp.ones(size, square.dtype) for size in A.shape]
    product = jnp.max(magnitude @ ones[1]) * jnp.max(magnitude.T @ ones[0])
    return jnp.sqrt(jnp.minimum(product, square))
