"""Subjects of a population: what was measured of each, padded to one shape, and the density of a subject's data.

Phi(eta) = sum_j [ (y_j - f_j)^2 / V_j + log V_j ] + eta^T Omega^-1 eta,   f = predict(individual(fixed, eta))
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from invhyper import tree
from invhyper.batches import in_batches
from invhyper.criteria.error_models import ErrorModel
from invhyper.criteria.taylor import Expansion, expand

# Subjects computed at once: their arrays stay in the processor's cache, and their modes wait for none but their own.
MOST = 512


@dataclass(frozen=True)
class Records:
    """What was measured of one subject.

    **Arguments**: `times` (T,), `values` (T,): measurements, at least one, all finite (leave missing ones out);
    `covariates`: a tree of numbers that `predict` and `individual` are given, of the same form for all subjects;
    `name`: what sentences and tables call the subject (empty: its place, counted from 1).

    >>> import invhyper as ih
    >>> ih.Records([0.5, 1.0], [3.1, 2.2], {"dose": 4.0}, name="S7").values.tolist()
    [3.1, 2.2]
    """

    times: Float[np.ndarray, " T"]
    values: Float[np.ndarray, " T"]
    covariates: PyTree = None
    name: str = ""

    def __post_init__(self):
        who = f"Records of subject {self.name!r}" if self.name else "Records"
        for field in ("times", "values"):
            value = _numbers(getattr(self, field), f"{who}: {field}")
            if value.ndim != 1:
                raise ValueError(f"{who}: {field} has shape {value.shape}: a row of numbers is wanted")
            object.__setattr__(self, field, value)
        times, values = self.times, self.values
        if times.shape != values.shape:
            raise ValueError(f"{who}: {times.size} times and {values.size} values: as many of each are wanted")
        if times.size == 0:
            raise ValueError(f"{who}: there is no measurement: leave a subject without data out")
        for field in ("times", "values"):
            value = getattr(self, field)
            bad = np.flatnonzero(~np.isfinite(value))
            if bad.size:
                raise ValueError(f"{who}: {field}[{bad[0]}] = {value[bad[0]]}: leave missing measurements out")
        covariates = tree.paths(self.covariates)
        leaves, structure = jax.tree.flatten(self.covariates)
        leaves = [_numbers(leaf, f"{who}: covariate {path!r}") for path, leaf in zip(covariates, leaves, strict=True)]
        for path, leaf in zip(covariates, leaves, strict=True):
            if not np.all(np.isfinite(leaf)):
                raise ValueError(f"{who}: covariate {path!r} = {leaf} is not finite")
        object.__setattr__(self, "covariates", jax.tree.unflatten(structure, leaves))


class Prior(NamedTuple):
    """The density of the random effects: `precision` = Omega^-1 and log det Omega."""

    precision: Float[Array, "d d"]
    log_determinant: Array


class Subject(eqx.Module):
    """One subject: its padded rows and the model that all share."""

    predict: Callable
    individual: Callable
    error: ErrorModel
    times: Float[Array, " T"]
    values: Float[Array, " T"]
    mask: Bool[Array, " T"]
    covariates: PyTree

    def phi(self, theta: PyTree, eta: Float[Array, " d"]) -> Float[Array, " m"]:
        """The individual parameters as a flat vector."""
        return ravel_pytree(tree.floating(self.individual(theta["fixed"], eta, self.covariates)))[0]

    def expand(self, theta: PyTree, eta: Float[Array, " d"], order: int) -> Expansion:
        """The prediction around the individual parameters of eta."""
        given = tree.floating(self.individual(theta["fixed"], eta, self.covariates))
        at, unravel = ravel_pytree(given)

        def predicted(phi):
            return jnp.asarray(self.predict(unravel(phi), self.covariates, self.times), float)

        return expand(predicted, at, order)

    def variance(self, theta: PyTree, f: Float[Array, " T"]) -> Float[Array, " T"]:
        """The variance of each measurement, one where there is none."""
        return jnp.where(self.mask, self.error.variance(jnp.where(self.mask, f, 1.0), theta["sigma"]), 1.0)

    def deviations(self, f: Float[Array, " T"]) -> Float[Array, " T"]:
        """y - f, zero where there is no measurement."""
        return jnp.where(self.mask, self.values - f, 0.0)

    def density(self, prior: Prior, eta, f, variance) -> Array:
        """Phi: -2 log of the joint density of data and random effects, without log det Omega and log 2 pi."""
        misfit = self.deviations(f) ** 2 / variance + jnp.log(variance)
        return jnp.sum(misfit) + eta @ prior.precision @ eta


class Subjects(eqx.Module):
    """All subjects, each a row of `times`, `values`, `mask` (N, T) and of the leaves of `covariates`."""

    predict: Callable
    individual: Callable
    error: ErrorModel
    times: Float[Array, "N T"]
    values: Float[Array, "N T"]
    mask: Bool[Array, "N T"]
    covariates: PyTree
    names: tuple[str, ...] = eqx.field(static=True)

    def __len__(self):
        return len(self.names)

    def each(self, function: Callable, *rows) -> Any:
        """function(subject, *row) for all subjects at once; `rows` have a leading axis of subjects."""

        def one(times, values, mask, covariates, *row):
            shared = (self.predict, self.individual, self.error)
            return function(Subject(*shared, times, values, mask, covariates), *row)

        rows = (self.times, self.values, self.mask, self.covariates, *rows)
        return in_batches(lambda row: one(*row), rows, MOST)

    def prior(self, theta: PyTree) -> Prior:
        """The density of the random effects, from the symmetric part of theta["omega"]."""
        root = jnp.linalg.cholesky(jnp.asarray(theta["omega"], float))
        precision = jax.scipy.linalg.cho_solve((root, True), jnp.eye(root.shape[0]))
        return Prior(precision, 2 * jnp.sum(jnp.log(jnp.diagonal(root))))

    def keep(self, chosen: Sequence[int]) -> "Subjects":
        """Those at the places `chosen`."""
        chosen = np.asarray(chosen, int)
        times, values, mask = (np.asarray(x)[chosen] for x in (self.times, self.values, self.mask))
        rows = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], self.covariates)
        names = tuple(self.names[i] for i in chosen)
        return Subjects(self.predict, self.individual, self.error, times, values, mask, rows, names)

    @property
    def measurements(self) -> int:
        """How many values were measured in all."""
        return int(np.sum(self.mask))


def stack(predict: Callable, individual: Callable, records: Sequence[Records], error: ErrorModel) -> Subjects:
    """Records as `Subjects`: rows are padded to the longest with their last time, and masked."""
    records = list(records)
    if not records:
        raise ValueError("MixedEffects was given no records: at least one subject is wanted")
    names = [record.name or str(place) for place, record in enumerate(records, 1)]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"MixedEffects records: two subjects are called {name!r}: give each its own name")
    first = records[0].covariates
    for name, record in zip(names, records, strict=True):
        _check_alike(names[0], first, name, record.covariates)
    longest = max(record.times.size for record in records)
    mask = np.array([np.arange(longest) < record.times.size for record in records])
    times, values = (
        np.array([np.pad(getattr(r, field), (0, longest - r.times.size), mode="edge") for r in records])
        for field in ("times", "values")
    )
    covariates = jax.tree.map(lambda *leaves: np.stack(leaves), *[record.covariates for record in records])
    return Subjects(predict, individual, error, times, values, mask, covariates, tuple(names))


def _check_alike(first_name, first, name, other):
    wanted = dict(zip(tree.paths(first), jax.tree.leaves(first), strict=True))
    given = dict(zip(tree.paths(other), jax.tree.leaves(other), strict=True))
    for path in [*wanted, *given]:
        if path not in given or path not in wanted:
            lacking, having = (name, first_name) if path not in given else (first_name, name)
            raise ValueError(
                f"subject {lacking!r} has no covariate {path!r}, which subject {having!r} has: "
                "all subjects want the same covariates"
            )
        if np.shape(given[path]) != np.shape(wanted[path]):
            raise ValueError(
                f"covariate {path!r} has shape {np.shape(given[path])} in subject {name!r} and "
                f"{np.shape(wanted[path])} in subject {first_name!r}: one shape is wanted"
            )
    if jax.tree.structure(first) != jax.tree.structure(other):
        raise ValueError(f"the covariates of subjects {first_name!r} and {name!r} are trees of different kinds")


def _numbers(value, what: str) -> np.ndarray:
    try:
        if np.asarray(value).dtype.kind in "SUc":
            raise TypeError
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what} is {value!r}: numbers are wanted") from None
