"""Trees of numbers, text and arrays as JSON + named arrays, and back to the last bit; no pickle.

JSON holds scalars and structure. Arrays go beside it under the name of their place (`history.3.theta.l2`). What JSON
cannot say is an object with one key: {"$array": name}, {"$0d": number}, {"$float": "inf"}, {"$tuple": [...]} and
{"$dict": [[key, value], ...]} for dicts whose keys are not plain text.
"""

import math
import re
from typing import Any

import jax
import numpy as np


def encode(value: Any, arrays: dict[str, np.ndarray], place: str) -> Any:
    """The JSON form of `value`; its arrays are added to `arrays`. Raises ValueError for what would need pickle.

    >>> arrays = {}
    >>> encode({"a": np.ones(2), "b": (1, float("inf"))}, arrays, "findings")
    {'a': {'$array': 'findings.a'}, 'b': {'$tuple': [1, {'$float': 'inf'}]}}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating) and np.asarray(value).dtype == np.float64:
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _encode_array(np.asarray(value), arrays, place)
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: encode(part, arrays, f"{place}.{key}") for key, part in value.items()}
        pairs = [[encode(k, arrays, f"{place}.key"), encode(v, arrays, f"{place}.{k}")] for k, v in value.items()]
        return {"$dict": pairs}
    if isinstance(value, list | tuple):
        parts = [encode(part, arrays, f"{place}.{i}") for i, part in enumerate(value)]
        return {"$tuple": parts} if isinstance(value, tuple) else parts
    leaves = jax.tree.leaves(value)
    if leaves and not any(leaf is value for leaf in leaves):
        return encode(tuple(leaves), arrays, place)
    raise ValueError(
        f"{place} is of type {type(value).__name__}, which can't be saved: "
        "numbers, text, lists, dicts and arrays are wanted"
    )


def decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """What `encode` was given; pytrees other than dict, list and tuple come back as the tuple of their leaves."""
    if isinstance(value, list):
        return [decode(part, arrays) for part in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        (mark, content), *_ = value.items()
        if mark == "$array":
            return arrays[content]
        if mark == "$0d":
            return np.asarray(decode(content, arrays), dtype=np.float64)
        if mark == "$float":
            return float(content)
        if mark == "$tuple":
            return tuple(decode(part, arrays) for part in content)
        if mark == "$dict":
            return {decode(k, arrays): decode(v, arrays) for k, v in content}
    return {key: decode(part, arrays) for key, part in value.items()}


def _encode_array(array: np.ndarray, arrays: dict[str, np.ndarray], place: str) -> dict:
    if array.dtype.kind not in "biufcUS":
        raise ValueError(
            f"{place} is an array of dtype {array.dtype}, which can't be saved: numbers or text are wanted"
        )
    if array.shape == () and array.dtype == np.float64:
        return {"$0d": encode(float(array), arrays, place)}
    name = stem = re.sub(r"[^\w.\-]", "_", place)
    number = 1
    while name in arrays:
        number += 1
        name = f"{stem}~{number}"
    arrays[name] = array
    return {"$array": name}
