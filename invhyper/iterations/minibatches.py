"""Rows in random order, a minibatch a step."""

import numpy as np
from jaxtyping import Int


def minibatches(rows: int, size: int, steps: int, seed: int = 0) -> Int[np.ndarray, "steps size"]:
    """Numbers of the rows of each minibatch: every epoch is a new order, rows left over at its end sit it out.

    For `batches` of the optimisers: their loss is then loss(x, theta, rows).

    >>> minibatches(6, 2, 4).tolist()
    [[3, 2], [5, 4], [0, 1], [4, 5]]
    """
    for name, value, most in (("size", size, rows), ("steps", steps, np.inf), ("rows", rows, np.inf)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= most:
            raise ValueError(f"minibatches {name} = {value!r}: a whole number from 1 to {most} is wanted")
    rng, each = np.random.default_rng(seed), rows // size
    epochs = [rng.permutation(rows)[: each * size].reshape(each, size) for _ in range(-(-steps // each))]
    return np.concatenate(epochs)[:steps]
