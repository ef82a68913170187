"""Many subjects that share theta: one traced program, mapped over padded and masked data."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from invhyper import tree
from invhyper.batches import in_batches
from invhyper.problem import CONVERGED, NOT_FINITE, Linearisation, LowerLevel, Solution, sentence

# Subjects that are solved in step: a batch takes as long as its slowest one, and its arrays fit the cache.
BATCH = 64
SHOWN = 5


class Memo(NamedTuple):
    """What a solve leaves: each subject's `Solution` (leaves with the axis of subjects in front), and `tol`."""

    subjects: Solution
    tol: Array


class Population(LowerLevel):
    """The solutions of many subjects that share theta: the traced twin of `Together`.

        x*(theta) = (x*_1(theta), ..., x*_N(theta)),   R_i(x_i, theta) = 0,   A = diag(A_1, ..., A_N)

    x is the tree of one subject with an axis of subjects in front. Subjects are solved, and differentiated, in batches
    of one compiled program: time and memory grow in proportion to N. A_i is held as a dense matrix.

    **Arguments**: `subjects`: a `Calibration` with `conditions`, each of which becomes a subject with its own p (a
    Calibration alone gives them one p), or a list of traced lower levels of one kind: the same functions, the same
    shapes. `names`: of the subjects, for sentences (None: their numbers). `skip_failed`: False stops where a subject
    fails; True goes on without it: its x is NaN, it counts for nothing in `deviations` and in the derivative, and the
    solution's `result` names it. Raises ValueError for subjects that do not fit together, TypeError for lower levels
    that are solved on the host.

    `Misfit(Population(...))` judges by other measurements of the same subjects, `subset` takes some of them.

    >>> import numpy as np, invhyper as ih
    >>> cells = ih.Population(ih.Calibration(
    ...     lambda t, x, p, theta, dose: -p * x, lambda p, theta, dose: dose * theta["scale"],
    ...     lambda t, x, p, theta, dose: x, times=[1.0, 2.0], data=[[0.5, 0.25], [1.8, 1.62]], noise=0.1, start=1.0,
    ...     conditions=[1.0, 2.0],
    ... ))
    >>> print(ih.solve(cells, {"scale": 1.0}).x.round(3))
    [0.693 0.105]
    """

    lowers: LowerLevel
    names: tuple[str, ...] = eqx.field(static=True)
    skip_failed: bool = eqx.field(static=True)
    listed: bool = eqx.field(static=True)

    def __init__(
        self, subjects: LowerLevel | Sequence[LowerLevel], names: Sequence | None = None, skip_failed: bool = False
    ):
        self.listed = not isinstance(subjects, LowerLevel)
        if not self.listed and not hasattr(subjects, "split"):
            kind = type(subjects).__name__
            raise TypeError(f"Population was given one {kind}: a Calibration with conditions, or a list, is wanted")
        self.lowers = _stacked(list(subjects)) if self.listed else subjects
        size = jax.tree.leaves(self._split()[0])[0].shape[0]
        names = range(size) if names is None else names
        if len(names) != size:
            raise ValueError(f"Population names has {len(names)} entries for {size} subjects: one each is wanted")
        self.names = tuple(str(name) for name in names)
        self.skip_failed = bool(skip_failed)

    # The subjects

    @property
    def size(self) -> int:
        """The number of subjects."""
        return len(self.names)

    def subject(self, which: int) -> LowerLevel:
        """The lower level of one subject."""
        numbers, one = self._split()
        return one(jax.tree.map(lambda leaf: leaf[which], numbers))

    def subset(self, which) -> "Population":
        """Some of the subjects: `which` is a slice, a mask or an array of their numbers. ValueError for none."""
        keep = np.arange(self.size)[which]
        if keep.ndim != 1 or not keep.size:
            raise ValueError(f"Population subset({which}) holds no subject: numbers below {self.size} are wanted")
        names = [self.names[i] for i in keep]
        if self.listed:
            return Population([self.subject(i) for i in keep], names, self.skip_failed)
        return Population(self.lowers.conditions_at(keep), names, self.skip_failed)

    def failed(self, solution: Solution) -> list[str]:
        """The names of the subjects whose solve failed."""
        return [name for name, bad in zip(self.names, ~np.asarray(_converged(solution.memo)), strict=True) if bad]

    def _split(self) -> tuple[PyTree, Callable]:
        """The numbers that differ between subjects, their axis in front, and what makes a lower level of one's."""
        if not self.listed:
            return self.lowers.split()
        numbers, rest = eqx.partition(self.lowers, eqx.is_array)
        return numbers, lambda mine: eqx.combine(mine, rest)

    def _each(self, function: Callable, *trees: PyTree, instead=None) -> PyTree:
        """function(lower, *rows) of every subject, rows: its parts of trees; `instead`: the subjects taken for them."""
        numbers, one = self._split()
        return in_batches(lambda row: function(one(row[0]), *row[1:]), (numbers, *trees), BATCH, instead)

    # The model, where the subjects are calibrations

    def simulate(self, p: PyTree, theta: PyTree, times=None) -> Float[Array, "subjects T *observables"]:
        """What would be observed of each subject at `times` (T,) or (subjects, T); None: those of its data."""
        if times is None:
            return self._each(lambda lower, p: lower.simulate(p, theta)[0], p)
        times = jnp.asarray(times, float)
        times = jnp.broadcast_to(times, (self.size, times.shape[-1]))
        return self._each(lambda lower, p, times: lower.simulate(p, theta, times)[0], p, times)

    def deviations(self, p: PyTree, theta: PyTree) -> Float[Array, "subjects T *observables"]:
        """(data - simulation) / noise; zero where nothing was measured, and for subjects that failed."""

        found = jnp.all(jnp.isfinite(jax.vmap(lambda p: ravel_pytree(p)[0])(p)), axis=1)
        # Another subject takes the place of one that failed, so that nothing infinite enters the derivatives.
        instead = jnp.where(found, jnp.arange(self.size), jnp.argmax(found)) if self.skip_failed else None
        deviations = self._each(lambda lower, p: lower.deviations(p, theta)[0], p, instead=instead)
        return jnp.where(tree.per_row(found, deviations), deviations, 0.0) if self.skip_failed else deviations

    # The lower level

    @property
    def keys(self):
        return self.lowers.keys

    @property
    def accuracy(self):
        return self.lowers.accuracy

    @property
    def tolerance(self):
        return self.lowers.tolerance

    @property
    def singular(self):
        return self.lowers.singular

    def check(self, theta):
        return (self.subject(0) if self.listed else self.lowers).check(theta)

    def bounds(self, theta):
        return self.subject(0).bounds(theta)

    def finer(self):
        lowers = self.lowers.finer()
        return None if lowers is None else eqx.tree_at(lambda population: population.lowers, self, lowers)

    def shape(self, theta):
        one = self.subject(0).shape(theta)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((self.size, *leaf.shape), leaf.dtype), one)

    def cold_start(self, theta):
        first = self.subject(0).cold_start(theta)
        if first is None:
            return None
        x, memo = jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], self.size, 0), (first.x, first.memo))
        zeros = jnp.zeros(self.size), jnp.zeros(self.size, int), jnp.zeros(self.size, int)
        return Solution(x, memo=Memo(Solution(x, *zeros, memo), jnp.asarray(0.0, float)))

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        def one(lower, start=None):
            start = None if start is None else Solution(start[0], memo=start[1])
            found = lower.solve(theta, start=start, tol=tol, throw=False)
            numbers = jnp.asarray(found.error, float), jnp.asarray(found.steps, int), jnp.asarray(found.result, int)
            return Solution(found.x, *numbers, found.memo)

        if start is None:
            found = self._each(one)
        else:
            found = self._each(one, (start.x, None if start.memo is None else start.memo.subjects.memo))
        memo = Memo(found, jnp.asarray(tol, float))
        good = _converged(memo)
        if not self.skip_failed:
            return Solution(found.x, jnp.max(found.error), jnp.max(found.steps), jnp.max(found.result), memo)
        x = jax.tree.map(lambda leaf: jnp.where(tree.per_row(good, leaf), leaf, jnp.nan), found.x)
        code = jnp.where(jnp.any(good), CONVERGED, NOT_FINITE)
        error = jnp.where(jnp.any(good), jnp.max(jnp.where(good, found.error, 0.0)), jnp.inf)
        return Solution(x, error, jnp.max(found.steps), code, memo)

    def residual(self, x, theta):
        return self._each(lambda lower, x: lower.residual(x, theta), x)

    def objective(self, x, theta):
        return jnp.sum(self._each(lambda lower, x: lower.objective(x, theta), x))

    def defect(self, solution, theta):
        return self._each(lambda lower, part: ravel_pytree(lower.defect(_solution(part), theta))[0], _parts(solution))

    def shifted(self, solution, step):
        def one(lower, part, step):
            unravel = ravel_pytree(part[0])[1]
            return lower.shifted(_solution(part), unravel(step)).x

        return Solution(self._each(one, _parts(solution), step))

    def linearise(self, solution, theta):
        flat, unravel_theta = ravel_pytree(theta)
        parts = _parts(solution)
        good = _converged(solution.memo) if self.skip_failed and solution.memo is not None else True
        first = jax.tree.map(lambda leaf: leaf[0], solution.x)
        _, unravel = ravel_pytree(first)
        margin_of = []

        def one(lower, part):
            found = lower.linearise(_solution(part), theta)
            margin_of.append(found.margin_of)
            eye = jnp.eye(found.A.in_size())
            B = jax.vmap(lambda v: ravel_pytree(found.B(unravel_theta(v)))[0], out_axes=1)(jnp.eye(flat.size))
            P = jax.vmap(lambda c: ravel_pytree(found.P(_as(found.A.in_structure(), c)))[0], out_axes=1)(eye)
            return found.A.as_matrix(), B, P, jnp.asarray(found.margin, float), found.stratum

        A, B, P, margin, stratum = self._each(one, parts)
        keep = jnp.broadcast_to(good, margin.shape)
        B, P = (jnp.where(keep[:, None, None], leaf, 0.0) for leaf in (B, P))
        A = jnp.where(keep[:, None, None], A, jnp.eye(A.shape[-1]))

        def solve(rhs, transpose):
            def block(lower, part, A, row):
                found = lower.linearise(_solution(part), theta)
                if found.solve is None:
                    return jnp.linalg.solve(A.T if transpose else A, row)
                return ravel_pytree(found.solve(_as(found.A.in_structure(), row), transpose))[0]

            z = self._each(block, parts, A, rhs)
            return jnp.where(keep[:, None], z, rhs)

        return Linearisation(
            A=lx.FunctionLinearOperator(
                lambda c: jnp.einsum("nij,nj->ni", A, c), jax.ShapeDtypeStruct(A.shape[:2], A.dtype)
            ),
            P=lambda c: jax.vmap(unravel)(jnp.einsum("nij,nj->ni", P, c)),
            P_transpose=lambda v: jnp.einsum("nij,ni->nj", P, _rows(v, keep)),
            B=lambda dtheta: jnp.einsum("nij,j->ni", B, ravel_pytree(dtheta)[0]),
            B_transpose=lambda z: unravel_theta(jnp.einsum("nij,ni->j", B, z)),
            solve=solve,
            stratum=stratum,
            margin=jnp.min(jnp.where(keep, margin, jnp.inf)),
            margin_of=margin_of[0],
        )

    def explain(self, solution):
        """Which subjects failed, and why the first of them did."""
        bad = np.flatnonzero(~np.asarray(_converged(solution.memo)))
        if not bad.size:
            return None
        mine = jax.tree.map(lambda leaf: leaf[bad[0]], solution.memo.subjects)
        said = sentence(self.subject(bad[0]), mine, float(solution.memo.tol)).result
        named = ", ".join(repr(self.names[i]) for i in bad[:SHOWN]) + (", ..." if bad.size > SHOWN else "")
        what = "goes on without" if int(solution.result) == CONVERGED else "failed for"
        return f"{what} {bad.size} of {self.size} subjects ({named}): subject {self.names[bad[0]]!r}: {said}"


def _converged(memo: Memo) -> Bool[Array, " subjects"]:
    return (memo.subjects.result == CONVERGED) & (memo.subjects.error <= memo.tol)


def _parts(solution: Solution):
    """(x, memo) of all subjects: what `_solution` makes a Solution of one from."""
    return solution.x, None if solution.memo is None else solution.memo.subjects.memo


def _solution(part) -> Solution:
    return Solution(part[0], memo=part[1])


def _rows(v: PyTree, keep) -> Array:
    """A tree with the axis of subjects in front as a matrix; zero for those left out, whatever they hold."""
    rows = jax.vmap(lambda v: ravel_pytree(v)[0])(v)
    return jnp.where(keep[:, None], rows, 0.0)


def _as(structure: PyTree, flat: Array) -> PyTree:
    """A flat vector as a tree of this structure."""
    return ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), structure))[1](flat)


def _stacked(subjects: list[LowerLevel]) -> LowerLevel:
    """One lower level whose arrays have an axis of subjects in front."""
    if not subjects:
        raise ValueError("Population was given no subject: at least one is wanted")
    for i, lower in enumerate(subjects):
        if not isinstance(lower, LowerLevel) or lower.host:
            how = "is solved on the host: use Together" if isinstance(lower, LowerLevel) else "is no lower level"
            raise TypeError(f"Population subject {i} ({type(lower).__name__}) {how}; traced lower levels are wanted")
    numbers, rests = zip(*(eqx.partition(lower, eqx.is_array) for lower in subjects), strict=True)
    for i, (mine, rest) in enumerate(zip(numbers, rests, strict=True)):
        if not eqx.tree_equal(rest, rests[0]):
            raise ValueError(
                f"Population subject {i} is of another kind than subject 0: functions or settings differ; give all the "
                "same function objects (a lambda made anew for each is another one) and data as arrays"
            )
        shapes = [leaf.shape for leaf in jax.tree.leaves(mine)]
        if shapes != [leaf.shape for leaf in jax.tree.leaves(numbers[0])]:
            raise ValueError(f"Population subject {i} has arrays of shapes {shapes}, not those of subject 0: pad them")
    return eqx.combine(jax.tree.map(lambda *leaves: jnp.stack(leaves), *numbers), rests[0])
