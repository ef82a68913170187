"""A function mapped over many rows in batches of one size: memory of one batch, one program for all of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def in_batches(function: Callable, rows: PyTree, most: int, instead=None) -> PyTree:
    """function(row) of every row of the leaves of `rows`, at most so many at once; `instead`: rows to take for them.

    The last batch is filled up with the last row: one of another size would be another program.

    >>> in_batches(lambda row: row**2, jnp.arange(5.0), 2).tolist()
    [0.0, 1.0, 4.0, 9.0, 16.0]
    """
    size = jax.tree.leaves(rows)[0].shape[0]
    batches = -(-size // most)
    batch = -(-size // batches)
    if batches == 1 and instead is None:
        return jax.vmap(function)(rows)
    which = np.minimum(np.arange(batches * batch), size - 1).reshape(batches, batch)
    which = which if instead is None else instead[which]
    found = jax.lax.map(jax.vmap(function), jax.tree.map(lambda leaf: jnp.asarray(leaf)[which], rows))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size], found)
