"""A function mapped over many rows in batches of one size: memory of one batch, one program for all of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
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
    if instead is not None:
        rows = jax.tree.map(lambda leaf: leaf[instead], rows)
    if batches == 1:
        return jax.vmap(function)(rows)
    found = jax.lax.map(jax.vmap(function), jax.tree.map(lambda leaf: _split(leaf, batches, batch), rows))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:size], found)


def _split(leaf, batches: int, batch: int):
    """(batches, batch, ...): the rows in order, and the last one again where there are not enough."""
    leaf = jnp.asarray(leaf)
    more = batches * batch - leaf.shape[0]
    if more:
        leaf = jnp.concatenate([leaf, jnp.repeat(leaf[-1:], more, axis=0)])
    return leaf.reshape(batches, batch, *leaf.shape[1:])
