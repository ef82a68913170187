"""The base of linear maps on images: shapes, adjoint, products, and what lineax asks of an operator.

An operator A maps arrays of shape `shape_in` to arrays of shape `shape_out`; `rmv` is its exact adjoint,
<A x, y> = <x, A^T y>. NumPy arrays are mapped by NumPy and SciPy alone, JAX arrays by JAX.
"""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

# More entries than this are not written out in a matrix: 32 MiB.
DENSE_LIMIT = 2**22


class Operator(lx.AbstractLinearOperator):
    """A linear map A from images of shape `shape_in` to arrays of shape `shape_out`, with its exact adjoint.

    `A.mv(x)` or `A @ x` applies it, `A.rmv(y)` or `A.T @ y` its adjoint; `A @ B` is the product, `A.T @ A` is known to
    be positive semidefinite. It is a lineax operator and a pytree whose leaves are `arrays`.

    A subclass gives `shape_in`, `shape_out`, `_forward(x, out)` and `_adjoint(y, out)`: x is a NumPy array, or a JAX
    one, of the right shape, and `out` may be ignored.

    >>> import numpy as np, invhyper as ih
    >>> D = ih.Differences((3,))
    >>> D.shape_out, D.mv(np.array([1.0, 4.0, 9.0])).tolist(), (D.T @ np.array([[1.0, 0.0, 0.0]])).tolist()
    ((1, 3), [[3.0, 5.0, 0.0]], [-1.0, 1.0, 0.0])
    """

    # equinox wraps methods anew at each look-up, which a hot loop notices.
    __getattribute__ = object.__getattribute__
    __array_ufunc__ = None  # so that NumPy leaves y @ A to the operator

    shape_in: eqx.AbstractVar[tuple[int, ...] | None]
    shape_out: eqx.AbstractVar[tuple[int, ...] | None]
    tags: ClassVar[frozenset] = frozenset()

    @property
    def arrays(self) -> tuple:
        """The arrays that the operator holds: if one of them is a JAX array, so is every product."""
        return ()

    def _forward(self, x, out):
        raise NotImplementedError(f"{type(self).__name__} defines no _forward")

    def _adjoint(self, y, out):
        raise NotImplementedError(f"{type(self).__name__} defines no _adjoint")

    def mv(self, x: Float[Array, "..."], out: np.ndarray | None = None) -> Float[Array, "..."]:
        """A x; written into `out` if that is given (NumPy only). ValueError: x has another shape than `shape_in`."""
        x = self._enter(x, self.shape_in, "maps", out)
        return _leave(self._forward(x, out), out)

    def rmv(self, y: Float[Array, "..."], out: np.ndarray | None = None) -> Float[Array, "..."]:
        """A^T y; written into `out` if that is given (NumPy only). ValueError: y has another shape than `shape_out`."""
        y = self._enter(y, self.shape_out, "its adjoint maps", out)
        return _leave(self._adjoint(y, out), out)

    def _enter(self, x, shape, maps, out):
        if not isinstance(x, np.ndarray | jax.Array):
            x = np.asarray(x)
        if x.shape != shape:
            raise ValueError(f"{type(self).__name__} was given an array of shape {x.shape}; {maps} shape {shape}")
        if x.dtype.kind in "biu":
            x = x.astype(float if isinstance(x, np.ndarray) else jnp.result_type(float))
        if isinstance(x, np.ndarray) and any(isinstance(array, jax.Array) for array in self.arrays):
            x = jnp.asarray(x)
        if out is not None and not isinstance(x, np.ndarray):
            raise TypeError(f"{type(self).__name__} writes into `out` for NumPy arrays only; leave it out in JAX")
        return x

    def symbol(self, boundary: str) -> Float[Array, "..."] | None:
        """Eigenvalues of A^T A, an array of `shape_in`, in the basis that belongs to `boundary`: "periodic" the DFT
        (`scipy.fft.fftn`), "neumann" the DCT-II (`scipy.fft.dctn`). None where A^T A is not diagonal there.
        """
        return None

    def to_scipy(self) -> scipy.sparse.csr_array:
        """The matrix (prod shape_out, prod shape_in) for flat arrays. TypeError: there is no sparse one."""
        rows, columns = self.shape
        if rows * columns > DENSE_LIMIT:
            raise TypeError(
                f"{type(self).__name__} of shape {self.shape} has no sparse matrix: apply it by mv and rmv, or ask for "
                f"a matrix of at most {DENSE_LIMIT} entries"
            )
        return scipy.sparse.csr_array(np.asarray(self.as_matrix()))

    @property
    def shape(self) -> tuple[int, int]:
        """(prod shape_out, prod shape_in)."""
        return self.out_size(), self.in_size()

    def in_size(self) -> int:
        return math.prod(self.in_structure().shape)

    def out_size(self) -> int:
        return math.prod(self.out_structure().shape)

    def in_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape_in, jnp.result_type(float))

    def out_structure(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.shape_out, jnp.result_type(float))

    def transpose(self) -> "Operator":
        return self if lx.is_symmetric(self) else Adjoint(self)

    def _basis_images(self):
        basis = jnp.eye(self.in_size(), dtype=jnp.result_type(float)).reshape(-1, *self.shape_in)
        return jax.vmap(self.mv, out_axes=-1)(basis)

    def as_matrix(self) -> Float[Array, "rows columns"]:
        return self._basis_images().reshape(self.shape)

    def __matmul__(self, other):
        if isinstance(other, Operator):
            if (self is other and lx.is_symmetric(self)) or (isinstance(self, Adjoint) and self.operator is other):
                return Gram(other)
            return Composition(self, other)
        if isinstance(other, lx.AbstractLinearOperator):
            return super().__matmul__(other)
        return self.mv(other)

    def __rmatmul__(self, other):
        return self.rmv(other)


def _leave(result, out):
    if out is None or result is out:
        return result
    out[...] = result
    return out


class Adjoint(Operator):
    """A^T, for the operator A."""

    operator: Operator

    @property
    def shape_in(self):
        return self.operator.shape_out

    @property
    def shape_out(self):
        return self.operator.shape_in

    @property
    def arrays(self):
        return self.operator.arrays

    def _forward(self, x, out):
        return self.operator._adjoint(x, out)

    def _adjoint(self, y, out):
        return self.operator._forward(y, out)

    def transpose(self):
        return self.operator

    def to_scipy(self):
        return self.operator.to_scipy().T.tocsr()


class Composition(Operator):
    """A B: first B, then A."""

    left: Operator
    right: Operator

    def __check_init__(self):
        if self.left.shape_in != self.right.shape_out:
            raise ValueError(
                f"{type(self.left).__name__} maps shape {self.left.shape_in}, but {type(self.right).__name__} before "
                f"it gives shape {self.right.shape_out}: they must be the same"
            )

    @property
    def shape_in(self):
        return self.right.shape_in

    @property
    def shape_out(self):
        return self.left.shape_out

    @property
    def arrays(self):
        return self.left.arrays + self.right.arrays

    def _forward(self, x, out):
        return self.left._forward(self.right._forward(x, None), out)

    def _adjoint(self, y, out):
        return self.right._adjoint(self.left._adjoint(y, None), out)

    def transpose(self):
        return self.right.T @ self.left.T

    def to_scipy(self):
        return self.left.to_scipy() @ self.right.to_scipy()


class Gram(Operator):
    """A^T A, symmetric and positive semidefinite: what conjugate gradients want."""

    operator: Operator
    tags = frozenset({lx.symmetric_tag, lx.positive_semidefinite_tag})

    @property
    def shape_in(self):
        return self.operator.shape_in

    @property
    def shape_out(self):
        return self.operator.shape_in

    @property
    def arrays(self):
        return self.operator.arrays

    def _forward(self, x, out):
        return self.operator._adjoint(self.operator._forward(x, None), out)

    def _adjoint(self, y, out):
        return self._forward(y, out)

    def symbol(self, boundary):
        symbol = self.operator.symbol(boundary)
        return None if symbol is None else symbol**2

    def to_scipy(self):
        matrix = self.operator.to_scipy()
        return (matrix.T @ matrix).tocsr()


def check_adjoint(operator: Operator, seed: int = 0) -> Operator:
    """The operator itself, if <A x, y> = <x, A^T y> for random x and y, to 1e-10 (1e-4 in single precision).

    Skipped where the operator holds traced values. ValueError: the two numbers differ or are not finite, or a product
    has the wrong shape, is complex, or changes its argument in place.

    >>> import invhyper as ih
    >>> check_adjoint(ih.Differences((4, 4))).shape
    (32, 16)
    """
    name = type(operator).__name__
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(operator.shape_in), rng.standard_normal(operator.shape_out)
    given = x.copy(), y.copy()
    image, back = operator.mv(x), operator.rmv(y)
    if isinstance(image, jax.core.Tracer) or isinstance(back, jax.core.Tracer):
        return operator
    for product, found, wanted in (("mv", image.shape, y.shape), ("rmv", back.shape, x.shape)):
        if found != wanted:
            raise ValueError(f"{name}: {product} gave an array of shape {found}, not {wanted}")
    for product, array, before in (("mv", x, given[0]), ("rmv", y, given[1])):
        if not np.array_equal(array, before):
            raise ValueError(f"{name}: {product} changes its argument in place; it must leave it as it is")
    if np.iscomplexobj(image) or np.iscomplexobj(back):
        raise ValueError(f"{name}: a product is complex; give real and imaginary parts an axis of their own")
    left, right = float(np.vdot(np.asarray(image), y)), float(np.vdot(x, np.asarray(back)))
    if not np.isfinite(left + right):
        raise ValueError(
            f"{name}: a product with random numbers is not finite, <A x, y> = {left}, <x, A^T y> = {right}"
        )
    scale = max(np.linalg.norm(image) * np.linalg.norm(y), np.linalg.norm(x) * np.linalg.norm(back))
    single = np.float32 in (image.dtype, back.dtype)
    if abs(left - right) > (1e-4 if single else 1e-10) * scale:
        raise ValueError(
            f"{name}: the adjoint fails the dot test, <A x, y> = {left:.12g} but <x, A^T y> = {right:.12g}: rmv must "
            "be the transpose of mv"
        )
    return operator


DIAGONAL = {lx.diagonal_tag}
# What each predicate of lineax follows from.
_FOLLOWS_FROM = {
    lx.is_symmetric: {lx.symmetric_tag, lx.positive_semidefinite_tag, lx.negative_semidefinite_tag} | DIAGONAL,
    lx.is_diagonal: DIAGONAL,
    lx.is_tridiagonal: {lx.tridiagonal_tag} | DIAGONAL,
    lx.has_unit_diagonal: {lx.unit_diagonal_tag},
    lx.is_lower_triangular: {lx.lower_triangular_tag} | DIAGONAL,
    lx.is_upper_triangular: {lx.upper_triangular_tag} | DIAGONAL,
    lx.is_positive_semidefinite: {lx.positive_semidefinite_tag},
    lx.is_negative_semidefinite: {lx.negative_semidefinite_tag},
}
for predicate, reasons in _FOLLOWS_FROM.items():
    predicate.register(Operator, lambda operator, reasons=reasons: not reasons.isdisjoint(operator.tags))


@lx.linearise.register(Operator)
@lx.conj.register(Operator)
def _itself(operator):
    return operator


@lx.diagonal.register(Operator)
def _diagonal(operator):
    if lx.is_diagonal(operator):
        return operator.mv(jnp.ones(operator.shape_in)).ravel()
    return jnp.diag(operator.as_matrix())


@lx.tridiagonal.register(Operator)
def _tridiagonal(operator):
    matrix = operator.as_matrix()
    return jnp.diag(matrix), jnp.diag(matrix, -1), jnp.diag(matrix, 1)


@lx.materialise.register(Operator)
def _materialise(operator):
    if lx.is_diagonal(operator):
        return lx.DiagonalLinearOperator(lx.diagonal(operator).reshape(operator.shape_in))
    entries = operator._basis_images().reshape(*operator.shape_out, *operator.shape_in)
    return lx.PyTreeLinearOperator(entries, operator.out_structure(), operator.tags)
