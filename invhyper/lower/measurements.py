"""Measured values over time, of one experiment or of several: checked at the door, padded to one shape."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

# The words of the sentences: what a list of conditions is indexed by.
NAME = "Calibration"


class Measurements(eqx.Module):
    """`times` (T,), `values` and `mask` (T, observables); all with a leading axis of conditions where there are some.

    Where `mask` is False nothing was measured (or the row is padding) and the value is zero.
    """

    times: Float[Array, "*conditions T"]
    values: Float[Array, "*conditions T observables"]
    mask: Bool[Array, "*conditions T observables"]
    conditions: PyTree | None
    flat: bool = eqx.field(static=True)  # whether an observation is a number

    def at(self, times) -> "Measurements":
        """The same experiments seen at other times (T,), or (conditions, T), without values."""
        times = jnp.asarray(times, float)
        if self.conditions is not None:
            times = jnp.broadcast_to(times, (self.times.shape[0], times.shape[-1]))
        shape = (*times.shape, self.values.shape[-1])
        return Measurements(times, jnp.zeros(shape), jnp.ones(shape, bool), self.conditions, self.flat)

    def each(self, one: Callable):
        """one(times, rows) or one(times, rows, condition) of all conditions at once, with their axis in front.

        `rows` (T,): whether anything was measured then.
        """
        rows = jnp.any(self.mask, axis=-1)
        if self.conditions is None:
            return one(self.times, rows)
        return jax.vmap(one)(self.times, rows, self.conditions)

    @property
    def count(self) -> int:
        """The number of measured values."""
        return int(np.sum(self.mask))


def measurements(times, data, mask=None, conditions=None) -> Measurements:
    """What was measured; a ValueError in words for times out of order, NaN without a mask, shapes that do not fit."""
    if conditions is None:
        at, values, seen, flat = _experiment(times, data, mask, "")
        if not np.any(seen):
            raise ValueError(f"{NAME} mask leaves no value: at least one measurement is wanted")
        return Measurements(jnp.asarray(at), jnp.asarray(values), jnp.asarray(seen), None, flat)
    conditions = list(_rows(conditions))
    if not conditions:
        raise ValueError(f"{NAME} conditions is empty: give one per experiment, or leave it out")
    count = len(conditions)
    columns = [_each(name, value, count) for name, value in (("times", times), ("data", data), ("mask", mask))]
    rows = [_experiment(*row, f" of condition {i}") for i, row in enumerate(zip(*columns, strict=True))]
    flat = {row[3] for row in rows}
    widths = {row[1].shape[1] for row in rows}
    if len(flat) > 1 or len(widths) > 1:
        raise ValueError(f"{NAME} data hold {sorted(widths)} observables in different conditions: one number is wanted")
    longest = max(row[0].size for row in rows)
    padded = [[_pad(part, longest) for part in row[:3]] for row in rows]
    at, values, seen = (jnp.asarray(np.stack(column)) for column in zip(*padded, strict=True))
    return Measurements(at, values, seen, _stacked(conditions), flat.pop())


def _rows(conditions):
    """One tree a condition, from a list of them or from a tree of arrays with a leading axis."""
    if isinstance(conditions, list | tuple):
        return conditions
    leaves = jax.tree.leaves(conditions)
    sizes = {np.shape(leaf)[:1] for leaf in leaves}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(f"{NAME} conditions: a list, or a tree of arrays with one leading axis is wanted")
    structure = jax.tree.structure(conditions)
    return [jax.tree.unflatten(structure, row) for row in zip(*leaves, strict=True)]


def _stacked(conditions):
    structures = {jax.tree.structure(condition) for condition in conditions}
    shapes = {tuple(np.shape(leaf) for leaf in jax.tree.leaves(condition)) for condition in conditions}
    if len(structures) > 1 or len(shapes) > 1:
        raise ValueError(f"{NAME} conditions differ in their keys or shapes: all must have the same")
    return jax.tree.map(
        lambda *leaves: jnp.asarray(np.stack([np.asarray(leaf, float) for leaf in leaves])), *conditions
    )


def _each(name, value, count):
    """One entry for each condition: `times` may be shared, `data` and `mask` may not."""
    if value is None:
        return [None] * count
    if name == "times" and not isinstance(value, list | tuple) and np.ndim(value) == 1:
        return [value] * count
    if name == "times" and isinstance(value, list | tuple) and all(np.ndim(entry) == 0 for entry in value):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{NAME} {name} has {len(value)} entries for {count} conditions: one each is wanted")
    return list(value)


def _experiment(times, data, mask, where):
    """times (T,), values (T, observables), mask (T, observables), and whether an observation is a number."""
    times, values = _numbers("times", times, where), _numbers("data", data, where)
    if times.ndim != 1 or not times.size:
        raise ValueError(f"{NAME} times{where} has shape {times.shape}: one axis with at least one time is wanted")
    if not np.all(np.isfinite(times)):
        raise ValueError(f"{NAME} times{where} hold NaN or infinity at entry {_first(~np.isfinite(times))}")
    if np.any(np.diff(times) <= 0):
        i = _first(np.diff(times) <= 0)
        kind = "twice" if times[i] == times[i + 1] else f"after {times[i]:g}"
        raise ValueError(
            f"{NAME} times{where} hold {times[i + 1]:g} {kind} (entry {i + 1}): increasing times are wanted; put what "
            "was measured at one time side by side in data, repetitions as observables of their own"
        )
    if values.shape[:1] != times.shape or values.ndim > 2:
        raise ValueError(
            f"{NAME} data{where} has shape {values.shape}: ({times.size},) or ({times.size}, observables) is wanted"
        )
    if mask is None:
        seen = np.ones(values.shape, bool)
    else:
        seen = np.asarray(mask)
        if seen.dtype != bool or seen.shape not in (values.shape, times.shape):
            raise ValueError(
                f"{NAME} mask{where} is {seen.dtype} of shape {seen.shape}: True where data, of shape {values.shape}, "
                "was measured is wanted"
            )
        seen = np.broadcast_to(seen.reshape(seen.shape + (1,) * (values.ndim - seen.ndim)), values.shape)
    if np.any(seen & ~np.isfinite(values)):
        i = tuple(int(k) for k in np.argwhere(seen & ~np.isfinite(values))[0])
        raise ValueError(
            f"{NAME} data{where} is {values[i]} at entry {i if len(i) > 1 else i[0]}: leave out what was not measured "
            "with mask=np.isfinite(data)"
        )
    values = np.where(seen, values, 0.0)
    flat = values.ndim == 1
    return times, values.reshape(times.size, -1), seen.reshape(times.size, -1), flat


def _pad(part, length):
    """Rows added at the end: the last time again, no value, nothing seen."""
    extra = length - part.shape[0]
    if part.ndim == 1:
        return np.append(part, np.full(extra, part[-1]))
    return np.concatenate([part, np.zeros((extra, part.shape[1]), part.dtype)])


def _numbers(name, value, where):
    try:
        return np.asarray(value, float)
    except (TypeError, ValueError):
        raise ValueError(f"{NAME} {name}{where} is not an array of numbers: {str(value)[:80]}") from None


def _first(where) -> int:
    return int(np.flatnonzero(where)[0])
