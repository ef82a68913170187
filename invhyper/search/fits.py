"""One fit from many starts, in one compiled program, and what came of each."""

import io
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.stats import qmc

from invhyper import tree
from invhyper.parameters import Parameters
from invhyper.problem import LowerLevel, NotConverged, Solution, has_failed, sentence
from invhyper.theta import check_start

# Objectives this close to the best are the best: a tenth of a standard deviation's worth, were it all in one datum.
WITHIN = 5e-3


@dataclass(frozen=True)
class Fits:
    """The fits from all starts, the best first, those that failed last.

    `solutions`: a `Solution` each, `result` a sentence that says how it ended; `values`: the objective reached (n,),
    infinite where the start failed; `converged`: to `tol` (n,); `starts`: where each began; `order`: its place among
    the starts given. A start fails where the objective can't be evaluated there; one that has a value but did not
    converge keeps it, and is never the best.
    """

    solutions: list[Solution]
    values: Float[np.ndarray, " n"]
    converged: Bool[np.ndarray, " n"]
    starts: list[PyTree]
    order: Int[np.ndarray, " n"]

    @property
    def best(self) -> Solution:
        """The converged fit of the lowest objective."""
        return self.solutions[int(np.flatnonzero(self.converged)[0])]

    @property
    def value(self) -> float:
        """The objective of the best fit."""
        return float(self.values[self.converged][0])

    @property
    def failures(self) -> dict[int, str]:
        """{place among the starts given: why it has no value}"""
        return {int(self.order[i]): self.solutions[i].result for i in np.flatnonzero(~np.isfinite(self.values))}

    def reached(self, within: float = WITHIN) -> int:
        """How many converged fits lie within `within` of the best objective (one standard deviation is worth 1/2)."""
        return int(np.sum(self.converged & (self.values <= self.value + within)))

    def minima(self, within: float = WITHIN) -> Float[np.ndarray, " minima"]:
        """The objectives reached, those closer than `within` to the one before counted once."""
        values = self.values[self.converged]
        return values[np.diff(values, prepend=-np.inf) > within]

    def summary(self, within: float = WITHIN) -> str:
        """How many reached the best, how many other objectives, how many did not converge, how many failed."""
        n, failed, others = len(self.solutions), len(self.failures), len(self.minima(within)) - 1
        parts = [f"{self.reached(within)} of {n} starts reached the best objective, {self.value:.6g}"]
        if others:
            parts.append(f"{others} other{'s' if others > 1 else ''} up to {self.values[self.converged][-1]:.6g}")
        open_ends = n - failed - int(np.sum(self.converged))
        if open_ends:
            below = np.isfinite(self.values) & ~self.converged & (self.values < self.value - within)
            parts.append(
                f"{open_ends} did not converge" + (f", {np.sum(below)} of them below it" if below.any() else "")
            )
        if failed:
            parts.append(f"{failed} failed")
        return "; ".join(parts)

    def table(self, limit: int = 20, width: int = 120) -> str:
        """Aligned lines, the best first: objective, error, steps, parameters, how it ended; every failure is listed.

        **Arguments**: `limit`: fits shown before the failures; `width`: columns of text.
        """
        names = tree.entries(self.starts[0])
        shown = Table(box=box.SIMPLE_HEAD, width=width, pad_edge=False)
        for name in ("start", "objective", "error", "steps", *names):
            shown.add_column(name, justify="right", no_wrap=True)
        shown.add_column("", ratio=1)
        valued = np.flatnonzero(np.isfinite(self.values))
        for i in valued[:limit]:
            x = [f"{v:.4g}" for v in _flat(self.solutions[i].x)]
            said = "" if self.converged[i] else self.solutions[i].result
            numbers = (f"{self.values[i]:.6g}", f"{self.solutions[i].error:.1e}", str(self.solutions[i].steps))
            shown.add_row(str(self.order[i]), *numbers, *x, said)
        lines = io.StringIO()
        console = Console(file=lines, width=width, highlight=False, markup=False, emoji=False)
        console.print(shown)
        if valued.size > limit:
            console.print(f"... and {valued.size - limit} more")
        for place, said in self.failures.items():
            console.print(f"start {place} failed: {said}")
        console.print(self.summary())
        return "\n".join(line.rstrip() for line in lines.getvalue().strip("\n").splitlines())

    def __str__(self):
        return self.table()


def latin_hypercube(parameters: Parameters | tuple[PyTree, PyTree], n: int, seed: int = 0) -> list[PyTree]:
    """`n` starts between the bounds, one in each of n equal layers of every parameter, on its search scale.

    **Arguments**: `parameters`: `Parameters`, whose scales say whether a layer is equal in the parameter or in its
    logarithm, or a pair (lower, upper) of trees for linear scales; `n`: how many; `seed`: the same one draws the same
    starts. Returns trees in natural scale. Raises ValueError for a bound that is not finite on its scale.

    >>> import invhyper as ih
    >>> box = ih.Parameters(rate=ih.log10(1.0, 1e-3, 1e3), shift=ih.linear(0.0, -1.0, 1.0))
    >>> starts = ih.latin_hypercube(box, 3, seed=1)
    >>> sorted(bool(-1 < np.log10(start["rate"]) < 1) for start in starts)
    [False, False, True]

    McKay, Beckman and Conover (1979), doi:10.1080/00401706.1979.10489755.
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"latin_hypercube n = {n!r}: a whole number, at least 1, is wanted")
    if not isinstance(parameters, Parameters):
        parameters = _between(parameters)
    lower, upper = parameters.bounds
    for name, low, high in zip(parameters.names, lower, upper, strict=True):
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(
                f"latin_hypercube: {name} has bounds {low:g} and {high:g} on its search scale: finite ones are wanted"
            )
    drawn = qmc.LatinHypercube(parameters.size, rng=np.random.default_rng(seed)).random(n)
    return [parameters.natural(row) for row in lower + drawn * (upper - lower)]


def fit_from(
    lower: LowerLevel,
    theta: PyTree,
    starts: Iterable[PyTree],
    executor: Executor | None = None,
    *,
    chunk: int = 1,
    tol: float = 1e-8,
) -> Fits:
    """The lower level at one theta solved from every start: for a fit that has several minima.

    **Arguments**: `lower`: a lower level that is solved in JAX from a start, such as `Calibration` or `Smooth`;
    `starts`: trees like its x; `executor`: any `concurrent.futures.Executor`, to which the chunks go (None: one after
    the other; a process pool wants the model's functions at module level); `chunk`: starts that are solved together,
    as lanes of one compiled program that ends with the slowest: many on an accelerator, one on a CPU, whose other
    cores threads keep busy; `tol`: of each fit.

    Every start costs itself alone: where it fails, its sentence says at which time, state and parameters. Raises
    ValueError for a start of another shape, not finite or outside the bounds, TypeError for a lower level that is
    solved outside JAX, NotConverged where no start leads anywhere.

    >>> import jax.numpy as jnp, invhyper as ih
    >>> lower = ih.Smooth(lambda x, theta: (x**2 - 1) ** 2 + theta["tilt"] * x, start=0.0)
    >>> fits = ih.fit_from(lower, {"tilt": 0.3}, [-2.0, 0.5, 2.0])
    >>> print(fits.summary())
    1 of 3 starts reached the best objective, -0.305428; 1 other up to 0.294146
    >>> print(fits.best.x.round(6))
    -1.035579

    Raue et al. (2013), doi:10.1371/journal.pone.0074335.
    """
    if lower.host:
        raise TypeError(
            f"fit_from solves all starts in one JAX program; {type(lower).__name__} is solved outside: see multistart"
        )
    if isinstance(chunk, bool) or not isinstance(chunk, int | np.integer) or chunk < 1:
        raise ValueError(f"fit_from chunk = {chunk!r}: a whole number, at least 1, is wanted")
    theta = lower.check(theta)
    starts = _checked(lower, theta, starts)
    size = min(int(chunk), len(starts))
    groups = [starts[i : i + size] for i in range(0, len(starts), size)]
    # The last chunk is filled up with its last start: every chunk runs the same program.
    stacks = [_stack(group + group[-1:] * (size - len(group))) for group in groups]
    if executor is None:
        solved = [_solved(lower, theta, stack, tol) for stack in stacks]
    else:
        solved = [future.result() for future in [executor.submit(_solved, lower, theta, s, tol) for s in stacks]]
    rows = [jax.tree.map(lambda leaf, k=k: leaf[k], both) for both in solved for k in range(size)][: len(starts)]
    values = np.array([value for _, value in rows], float)
    values = np.where(np.isfinite(values), values, np.inf)
    done = np.array([float(s.error) <= tol and not has_failed(s) for s, _ in rows]) & np.isfinite(values)
    said = [sentence(lower, solution, tol) for solution, _ in rows]
    if not done.any():
        raise NotConverged(f"fit_from: none of {len(starts)} starts converged; the first: {said[0].result}")
    order = np.lexsort((np.arange(len(starts)), values))
    return Fits([said[i] for i in order], values[order], done[order], [starts[i] for i in order], order)


@eqx.filter_jit
def _together(lower, theta, x, tol):
    def one(x):
        solution = lower.solve(theta, start=Solution(x), tol=tol, throw=False)
        return solution, lower.objective_at(solution, theta)

    if jax.tree.leaves(x)[0].shape[0] > 1:
        return jax.vmap(one)(x)
    # A lane alone would pay for lanes: under vmap both branches of every condition run.
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], one(jax.tree.map(lambda leaf: leaf[0], x)))


def _solved(lower, theta, x, tol):
    """Solutions and objectives with a leading axis of starts, in NumPy (they may come from another process)."""
    return jax.tree.map(np.asarray, _together(lower, theta, x, jnp.asarray(tol)))


def _checked(lower, theta, starts):
    """The starts as trees of arrays like x, each finite and within the bounds that the lower level has."""
    starts = list(starts)
    if not starts:
        raise ValueError("fit_from was given no start: at least one is wanted")
    like = lower.shape(theta)
    names, wanted = tree.paths(like), jax.tree.leaves(like)
    floor, ceiling = getattr(lower, "floor", None), getattr(lower, "ceiling", None)
    found = []
    for k, start in enumerate(starts):
        if jax.tree.structure(start) != jax.tree.structure(like):
            given = ", ".join(map(repr, tree.paths(start)))
            raise ValueError(f"fit_from start {k} holds {given}: {', '.join(map(repr, names))} is wanted")
        leaves = [np.asarray(leaf, want.dtype) for leaf, want in zip(jax.tree.leaves(start), wanted, strict=True)]
        for name, leaf, want in zip(names, leaves, wanted, strict=True):
            if leaf.shape != want.shape:
                raise ValueError(f"fit_from start {k}: {name!r} has shape {leaf.shape}, {want.shape} is wanted")
            if not np.all(np.isfinite(leaf)):
                raise ValueError(f"fit_from start {k}: {name!r} = {leaf} is not finite")
        found.append(jax.tree.unflatten(jax.tree.structure(like), leaves))
        if floor is not None:
            check_start(f"fit_from start {k}", found[-1], floor, ceiling)
    return found


def _stack(group):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *group)


def _between(bounds) -> Parameters:
    """Parameters on linear scales from (lower, upper), which start halfway."""
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise ValueError(
            f"latin_hypercube was given {bounds!r}: Parameters, or a pair (lower, upper) of trees, is wanted"
        )
    middle = jax.tree.map(lambda low, high: 0.5 * (np.asarray(low, float) + np.asarray(high, float)), *bounds)
    return Parameters.plain(middle, bounds)


def _flat(x):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)])
