"""Linear maps from elsewhere: SciPy's operators and matrices, and plain pairs of functions."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg as ssl
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from invhyper.operators.boundary import check_shape
from invhyper.operators.operator import Operator, check_adjoint
from invhyper.operators.sparse import Sparse


def from_scipy(linear_operator, shape_in: tuple[int, ...], shape_out: tuple[int, ...] | None = None) -> Operator:
    """A SciPy `LinearOperator`, a SciPy sparse matrix or a NumPy matrix as an operator on images.

    (A u) = reshape(M flatten(u)), rows first (C order). A matrix is applied by JAX where JAX arrays come in; a
    `LinearOperator` is called back on the host, and its `rmatvec` is its derivative.

    **Arguments**: `linear_operator` (m, n); `shape_in` with product n; `shape_out` with product m (None: (m,)).

    **Raises** ValueError: the shapes do not fit, the matrix holds NaN, or `rmatvec` fails the dot test.

    >>> import numpy as np, scipy.sparse, invhyper as ih
    >>> sums = ih.from_scipy(scipy.sparse.csr_array(np.ones((1, 4))), (2, 2))
    >>> sums.mv(np.array([[1.0, 2.0], [3.0, 4.0]])).tolist(), sums.rmv(np.ones(1)).tolist()
    ([10.0], [[1.0, 1.0], [1.0, 1.0]])
    """
    if getattr(linear_operator, "dtype", None) is not None and np.dtype(linear_operator.dtype).kind == "c":
        raise ValueError("from_scipy was given a complex operator; give real and imaginary parts an axis of their own")
    if not isinstance(linear_operator, ssl.LinearOperator) and not scipy.sparse.issparse(linear_operator):
        linear_operator = np.asarray(linear_operator, dtype=float)
        if linear_operator.ndim != 2:
            raise ValueError(f"from_scipy was given an array of shape {linear_operator.shape}; wanted is a matrix")
        if not np.all(np.isfinite(linear_operator)):
            raise ValueError("from_scipy was given a matrix with NaN or infinity: remove or mask these entries")
    rows, columns = linear_operator.shape
    shape_in = check_shape("from_scipy", shape_in)
    shape_out = (rows,) if shape_out is None else check_shape("from_scipy", shape_out)
    for name, shape, size in (("shape_in", shape_in, columns), ("shape_out", shape_out, rows)):
        if math.prod(shape) != size:
            raise ValueError(
                f"from_scipy was given {name} {shape} of {math.prod(shape)} numbers, but a matrix of shape "
                f"({rows}, {columns}): wanted is a shape of {size} numbers"
            )
    if isinstance(linear_operator, ssl.LinearOperator):
        return from_functions(_Flat(linear_operator.matvec), _Flat(linear_operator.rmatvec), shape_in, shape_out)
    matrix = Sparse.from_scipy(linear_operator) if scipy.sparse.issparse(linear_operator) else linear_operator
    return Matrix(matrix, shape_in, shape_out)


def from_functions(mv: Callable, rmv: Callable, shape_in: tuple[int, ...], shape_out: tuple[int, ...]) -> Operator:
    """A pair of functions, A u = `mv(u)` and A^T v = `rmv(v)`, as an operator.

    Functions that JAX can trace are traced; others (NumPy, SciPy, anything on the host) are called back where JAX
    arrays come in, and are differentiated by each other. A function is part of the compiled program: make the operator
    once. Functions with arrays to be differentiated are `equinox.Module`s or `jax.tree_util.Partial`s.

    **Arguments**: `mv` from arrays of `shape_in` to arrays of `shape_out`, `rmv` back; both linear and real.

    **Raises** ValueError: a result has the wrong shape or is not finite, or rmv is not the transpose of mv (dot test
    with random numbers, to 1e-10; to 1e-4 for single precision).

    >>> import numpy as np, invhyper as ih
    >>> shift = ih.from_functions(lambda u: np.roll(u, 1), lambda v: np.roll(v, -1), (3,), (3,))
    >>> shift.mv(np.array([1.0, 2.0, 3.0])).tolist()
    [3.0, 1.0, 2.0]
    >>> ih.from_functions(lambda u: np.roll(u, 1), lambda v: np.roll(v, 1), (3,), (3,))
    Traceback (most recent call last):
    ValueError: Functions: the adjoint fails the dot test, <A x, y> = ... but <x, A^T y> = ...: rmv must be the ...
    """
    for name, function in (("mv", mv), ("rmv", rmv)):
        if not callable(function):
            raise TypeError(f"from_functions was given {name} = {function!r}; wanted is a function")
    shape_in, shape_out = check_shape("from_functions", shape_in), check_shape("from_functions", shape_out)
    traceable = _traceable(mv, shape_in) and _traceable(rmv, shape_out)
    return check_adjoint(Functions(_node(mv), _node(rmv), shape_in, shape_out, traceable))


def _node(function):
    """The function as a pytree: its own, or one without leaves."""
    return function if isinstance(function, eqx.Module) else jax.tree_util.Partial(function)


def _traceable(function, shape) -> bool:
    try:
        jax.eval_shape(function, jax.ShapeDtypeStruct(shape, jnp.result_type(float)))
    except Exception:  # whatever a function of NumPy raises when it meets a tracer
        return False
    return True


class _Flat:
    """matvec or rmatvec of a SciPy operator on flat arrays."""

    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(np.asarray(x).ravel())


class Matrix(Operator):
    """A matrix, dense or `Sparse`, on flattened images; `from_scipy` makes one."""

    matrix: Any
    shape_in: tuple[int, ...] = eqx.field(static=True)
    shape_out: tuple[int, ...] = eqx.field(static=True)

    @property
    def arrays(self):
        return (self.matrix.data,) if isinstance(self.matrix, Sparse) else (self.matrix,)

    def _forward(self, x, out):
        return (self.matrix @ x.reshape(-1)).reshape(self.shape_out)

    def _adjoint(self, y, out):
        return (self.matrix.T @ y.reshape(-1)).reshape(self.shape_in)

    def to_scipy(self):
        return self.matrix.to_scipy() if isinstance(self.matrix, Sparse) else scipy.sparse.csr_array(self.matrix)


class Functions(Operator):
    """A pair of functions; `from_functions` makes one."""

    function: Callable
    adjoint: Callable
    shape_in: tuple[int, ...] = eqx.field(static=True)
    shape_out: tuple[int, ...] = eqx.field(static=True)
    traceable: bool = eqx.field(static=True)

    @property
    def arrays(self):
        return tuple(leaf for leaf in jax.tree.leaves((self.function, self.adjoint)) if eqx.is_array(leaf))

    def _forward(self, x, out):
        return self._apply(x, self.function, self.adjoint, self.shape_out, self.shape_in)

    def _adjoint(self, y, out):
        return self._apply(y, self.adjoint, self.function, self.shape_in, self.shape_out)

    def _apply(self, x, function, adjoint, shape, back):
        if isinstance(x, np.ndarray):
            return _on_host(function, x, shape)
        if self.traceable:
            return _reshaped(function(x), shape)
        return _call.bind(x, function=function, adjoint=adjoint, shape=shape, back=back)


def _reshaped(result, shape):
    """A flat result in its shape; anything else as it came, for the dot test to refuse."""
    return result.reshape(shape) if result.size == math.prod(shape) else result


def _on_host(function, x, shape):
    return _reshaped(np.asarray(function(x)), shape)


# A call of host functions that JAX can differentiate in both modes, transpose and vectorise: one primitive, whose
# transpose is itself with the two functions exchanged.
_call = Primitive("linear_host_call")


@_call.def_impl
def _run(x, *, function, adjoint, shape, back):
    def host(x):
        return _on_host(function, np.asarray(x), shape).astype(x.dtype, copy=False)

    return jax.pure_callback(host, jax.ShapeDtypeStruct(shape, x.dtype), x, vmap_method="sequential")


@_call.def_abstract_eval
def _abstract(x, *, function, adjoint, shape, back):
    return jax.core.ShapedArray(shape, x.dtype)


def _transpose(cotangent, x, *, function, adjoint, shape, back):
    return [_call.bind(cotangent, function=adjoint, adjoint=function, shape=back, back=shape)]


def _batch(arguments, axes, **parameters):
    batch = jnp.moveaxis(arguments[0], axes[0], 0)
    return jax.lax.map(lambda x: _call.bind(x, **parameters), batch), 0


mlir.register_lowering(_call, mlir.lower_fun(_run, multiple_results=False))
ad.deflinear2(_call, _transpose)
batching.primitive_batchers[_call] = _batch
