"""theta at the door: keys, types, finite values and bounds, and what a function of theta looks up in vain; a start
against its bounds."""

import difflib
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree

from invhyper import tree


def check_theta(lower, theta: PyTree, name: str | None = None) -> PyTree:
    """Keys, types, finiteness and bounds of theta in a lower level, checked before anything is solved.

    `name`: what the sentences call it, if not by its class.
    """
    name = type(lower).__name__ if name is None else name
    if lower.keys is not None:
        if not isinstance(theta, dict):
            kind = type(theta).__name__
            raise ValueError(f"theta is a {kind}; {name} wants a dict with the keys {_listed(lower.keys)}")
        for key in theta:
            if key not in lower.keys:
                near = nearest(key, lower.keys)
                hint = f"did you mean {near!r}? " if near else ""
                raise ValueError(f"theta has an unknown key {key!r}: {hint}{name} wants {_listed(lower.keys)}")
        missing = [key for key in lower.keys if key not in theta]
        if missing:
            raise ValueError(f"theta lacks {_listed(missing)}: {name} wants {_listed(lower.keys)}")
        theta = {key: _number(v, key) if isinstance(v, list | tuple) else v for key, v in theta.items()}
    if isinstance(theta, dict):
        for key in (key for key, value in theta.items() if value is None):  # to JAX None is no leaf: unseen below
            raise ValueError(f"theta {key!r} is None: a number or an array of numbers is wanted")
    names = tree.paths(theta)
    leaves, structure = jax.tree.flatten(theta)
    checked = [_number(leaf, path) for leaf, path in zip(leaves, names, strict=True)]
    theta = jax.tree.unflatten(structure, checked)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in checked):
        return theta
    floor, ceiling = lower.bounds(theta)
    limits = zip(names, checked, jax.tree.leaves(floor), jax.tree.leaves(ceiling), strict=True)
    for path, value, low, high in limits:
        if not np.all(np.isfinite(value)):
            raise ValueError(f"theta {path!r} = {_first(value, ~np.isfinite(value))} is not a finite number")
        if np.any(value < low):
            shown = _first(value, value < low)
            raise ValueError(f"theta {path!r} = {shown} is below its bound {np.min(low):g} in {name}")
        if np.any(value > high):
            shown = _first(value, value > high)
            raise ValueError(f"theta {path!r} = {shown} is above its bound {_limit(high, shown)} in {name}")
    return theta


def check_start(what: str, start: PyTree, lower, upper):
    """ValueError for the first number of a start that is outside its bounds, or is NaN; `what` begins the sentence.

    `lower`, `upper`: for each number of the flat start, in the order of its leaves.
    """
    flat, lower, upper = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)]) for x in (start, lower, upper)
    )
    outside = np.flatnonzero(~((lower <= flat) & (flat <= upper)))
    if outside.size:
        i = outside[0]
        name = tree.entries(start)[i]
        name = f" {name!r}" if name and not name.startswith("[") else name
        raise ValueError(f"{what}{name} = {flat[i]:g} is outside its bounds {lower[i]:g} to {upper[i]:g}")


def nearest(key, names) -> str | None:
    """The name that `key` is a slip of, if one is alike, whatever its case (l1 for l2 is: one letter of two)."""
    names = {str(name).lower(): name for name in names}
    near = difflib.get_close_matches(str(key).lower(), names, n=1, cutoff=0.5)
    return names[near[0]] if near else None


def call(function: Callable, theta: PyTree, name: str, slips=()):
    """function(theta); ValueError for a key that theta lacks, with the one of `slips` that it may be a slip of.

    `name` is what the sentence calls the function.
    """
    try:
        return function(theta)
    except KeyError as error:
        known = tree.paths(theta)
        if not error.args or error.args[0] in known:
            raise  # of another dict
        key = error.args[0]
        near = nearest(key, slips)
        hint = f" (is {near!r} a slip?)" if near else ""
        has = _listed(known) or "no keys"
        raise ValueError(
            f"{name} looks up {key!r}, which theta lacks{hint}: theta has {has}; add the key or rename it"
        ) from error


def _listed(names) -> str:
    return ", ".join(repr(name) for name in names)


def _limit(high, shown: str) -> str:
    """The bound in digits enough to differ from the value that is above it."""
    short = f"{np.max(high):g}"
    return short if short != shown.split()[0] else f"{np.max(high):.16g}"


def _first(value, where) -> str:
    value, where = np.atleast_1d(value), np.atleast_1d(where)
    index = int(np.flatnonzero(where)[0])
    if value.ndim > 1:
        place = f" (entry {tuple(int(i) for i in np.unravel_index(index, value.shape))} of shape {value.shape})"
    else:
        place = f" (entry {index} of {value.size})" if value.size > 1 else ""
    return f"{value.ravel()[index]:g}{place}"


def _number(leaf, path):
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    try:
        if np.asarray(leaf).dtype.kind in "SUc":  # NumPy would read "0.1" as a number, and drop an imaginary part
            raise TypeError
        return np.asarray(leaf, dtype=np.result_type(np.asarray(leaf).dtype, np.float32) if _is32(leaf) else np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"theta {path!r} is {leaf!r}: a number or an array of numbers is wanted") from None


def _is32(leaf) -> bool:
    return getattr(leaf, "dtype", None) == np.float32
