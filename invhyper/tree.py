"""Arithmetic on pytrees: dot product, norm, scaled sums, and flat vectors of theta."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


def dot(a: PyTree, b: PyTree) -> Array:
    """Euclidean inner product of two trees of the same structure."""
    return sum((jnp.vdot(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)), 0.0)


def norm(a: PyTree) -> Array:
    """Euclidean norm of all leaves together; NumPy in gives NumPy out."""
    leaves = jax.tree.leaves(a)
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jnp.sqrt(sum(jnp.vdot(leaf, leaf).real for leaf in leaves))
    return np.sqrt(sum(float(np.vdot(leaf, leaf).real) for leaf in leaves))


def axpy(alpha, x: PyTree, y: PyTree) -> PyTree:
    """alpha x + y, leaf by leaf."""
    return jax.tree.map(lambda u, v: alpha * u + v, x, y)


def subtract(a: PyTree, b: PyTree) -> PyTree:
    """a - b, leaf by leaf."""
    return jax.tree.map(lambda u, v: u - v, a, b)


def scale(alpha, a: PyTree) -> PyTree:
    """alpha a, leaf by leaf."""
    return jax.tree.map(lambda u: alpha * u, a)


def like(a: PyTree, b: PyTree) -> PyTree:
    """b with the dtypes of a: a step taken in double precision for a state in single precision."""
    return jax.tree.map(lambda old, new: new.astype(old.dtype), a, b)


def size(a: PyTree) -> int:
    """Number of scalars in all leaves together."""
    return sum(int(np.prod(jnp.shape(leaf))) for leaf in jax.tree.leaves(a))


def to_numpy(a: PyTree) -> PyTree:
    """The same tree with float64 NumPy leaves (scalars become 0-d arrays)."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype=np.float64), a)


def floating(a: PyTree) -> PyTree:
    """The same tree with floating-point JAX leaves."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), a)


def paths(a: PyTree) -> list[str]:
    """Dotted names of the leaves, in the order of `jax.tree.leaves`.

    >>> paths({"l1": 0.1, "sub": {"q": 2.0}})
    ['l1', 'sub.q']
    """
    leaves = jax.tree_util.tree_leaves_with_path(a)
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]


def per_row(values: Array, leaf: Array) -> Array:
    """One value for each row of `leaf`, in a shape that broadcasts against it.

    >>> per_row(np.array([1.0, 2.0]), np.ones((2, 3))).shape
    (2, 1)
    """
    return values.reshape(values.shape + (1,) * (leaf.ndim - 1))


def entries(a: PyTree) -> list[str]:
    """A name for each number of the leaves: its path, with an index where the leaf is an array.

    >>> entries({"l1": 0.1, "l2": np.ones(2)})
    ['l1', 'l2[0]', 'l2[1]']
    """
    return [
        path + (f"[{','.join(map(str, index))}]" if index else "")
        for path, leaf in zip(paths(a), jax.tree.leaves(a), strict=True)
        for index in np.ndindex(np.shape(leaf))
    ]


def ravel(a: PyTree) -> tuple[np.ndarray, Callable[[np.ndarray], PyTree]]:
    """All leaves in one NumPy vector, and its inverse (`jax.flatten_util.ravel_pytree` is that of traced code).

    >>> flat, unravel = ravel({"l1": 1.0, "l2": np.array([2.0, 3.0])})
    >>> print(flat, unravel(2 * flat)["l2"])
    [1. 2. 3.] [4. 6.]
    """
    leaves, structure = jax.tree.flatten(a)
    leaves = [np.asarray(leaf) for leaf in leaves]
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def unravel(vector):
        parts = zip(np.split(vector, ends), leaves, strict=True)
        return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in parts])

    return np.concatenate([leaf.ravel() for leaf in leaves]), unravel
