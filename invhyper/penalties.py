"""Sums of norms of a linear map: values, proximal steps, and how weights spread over their groups.

    w -> sum_g w_g h(|(D x)_g|),   h(t) = t, or Huber's h(t) = t^2 / (2 delta) up to delta and t - delta / 2 above,
                                   or smoothed, h(t) = sqrt(t^2 + eps^2) - eps

A penalty holds its analysis operator D and says which entries of D x share a norm. Written once for NumPy and JAX.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jaxtyping import Array

from invhyper.operators.differences import Differences
from invhyper.operators.operator import Operator

# Newton steps of a smoothed norm's proximal step: the first ones grow t by half each, from eps to (step eps^2)^(1/3).
CLIMBS = 40


class Penalty(eqx.Module):
    """w -> sum_g w_g h(|(D x)_g|).

    **Arguments**: `analysis`: D, an `Operator`, or a function shape -> Operator (for a penalty that takes the shape of
    the image it meets). `groups`: None, every entry of D x has a norm of its own (l1); 0, the entries along the first
    axis of D x share a norm; an integer array of the shape of D x, entries with the same label do. `delta`: Huber's
    threshold, 0 for the norm itself.

    >>> import numpy as np, invhyper as ih
    >>> pairs = Penalty(ih.Identity((4,)), groups=np.array([0, 0, 1, 1])).at((4,))
    >>> float(pairs.value(np.array([3.0, 4.0, 0.0, 1.0]), np.array([1.0, 2.0])))
    7.0
    >>> pairs.prox(np.array([3.0, 4.0, 0.0, 1.0]), 2.5).tolist()
    [1.5, 2.0, 0.0, 0.0]
    """

    __getattribute__ = object.__getattribute__  # see problem.PLAIN_LOOKUP
    analysis: Operator | Callable
    groups: Any = None
    delta: float | Array = 0.0

    def at(self, shape: tuple[int, ...]) -> "Penalty":
        """The same penalty with its operator for images of this shape."""
        analysis = self.analysis
        if callable(analysis) and not isinstance(analysis, Operator | scipy.sparse.linalg.LinearOperator):
            analysis = analysis(shape)
        if not isinstance(analysis, Operator):
            kind = type(analysis).__name__
            raise TypeError(
                f"a penalty's operator is a {kind}: an Operator is wanted; from_scipy(matrix, {tuple(shape)}) makes one"
            )
        if tuple(analysis.shape_in) != tuple(shape):
            raise ValueError(
                f"a penalty's operator takes arrays of shape {tuple(analysis.shape_in)}; the image has {tuple(shape)}"
            )
        groups = self.groups
        if groups is not None and not (type(groups) is int and groups == 0):
            groups = np.asarray(groups)
            if groups.shape != tuple(analysis.shape_out) or not np.issubdtype(groups.dtype, np.integer):
                raise ValueError(
                    f"groups has shape {groups.shape} and dtype {groups.dtype}: None, 0 or whole numbers of the shape "
                    f"{tuple(analysis.shape_out)} of D x are wanted"
                )
            groups = np.unique(groups, return_inverse=True)[1].reshape(groups.shape)
        penalty = replace(self, analysis=analysis, groups=groups)
        if np.shape(self.delta) not in ((), penalty.shape):
            raise ValueError(f"delta has shape {np.shape(self.delta)}: a number or shape {penalty.shape} is wanted")
        return penalty

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of norms: one entry a group."""
        out = tuple(self.analysis.shape_out)
        if self.groups is None:
            return out
        return out[1:] if isinstance(self.groups, int) else (int(np.max(self.groups)) + 1,)

    @property
    def weight_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that a weight may have: one for all, one a group, and one a pixel shared by its entries of D x.

        Coarser ones are blocks: see `grid`.
        """
        out, shape = tuple(self.analysis.shape_out), self.shape
        shared = self.groups is None and len(out) > 1
        return ((), shape, out[1:]) if shared else ((), shape)

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Which of `weight_shapes` a weight of this shape cuts into equal blocks, one an entry; None if none."""
        labelled = self.groups is not None and not isinstance(self.groups, int)
        for fine in self.weight_shapes:
            if shape == fine or (
                len(shape) == len(fine)
                and not labelled
                and all(coarse and size % coarse == 0 for coarse, size in zip(shape, fine, strict=True))
            ):
                return fine
        return None

    def fill(self, weight):
        """The weight of each norm, as an array that broadcasts against them: every block filled with its entry."""
        shape = np.shape(weight)
        for axis, (coarse, size) in enumerate(zip(shape, self.grid(shape), strict=True)):
            weight = weight if coarse == size else weight.repeat(size // coarse, axis)
        return weight

    def gather(self, per_group: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """One number a norm, summed over all that share an entry of a weight of this shape: the adjoint of `fill`."""
        fine = self.grid(shape)
        if fine == ():
            return np.asarray(per_group.sum())
        values = per_group if fine == per_group.shape else per_group.sum(axis=0)
        if shape == fine:
            return values
        blocks = [part for coarse, size in zip(shape, fine, strict=True) for part in (coarse, size // coarse)]
        return values.reshape(blocks).sum(axis=tuple(range(1, 2 * len(shape), 2)))

    def group_of_entry(self) -> np.ndarray:
        """The index of each entry's group in the raveled array of norms."""
        out = tuple(self.analysis.shape_out)
        if self.groups is None:
            return np.arange(int(np.prod(out)))
        if isinstance(self.groups, int):
            return np.broadcast_to(np.arange(int(np.prod(out[1:]))).reshape(out[1:]), out).ravel()
        return self.groups.ravel()

    def norms(self, v):
        """|v_g| for v = D x; differentiable where a group vanishes (with derivative zero)."""
        if self.groups is None:
            return abs(v)
        if isinstance(self.groups, int):
            squares = sum(part * part for part in v)
        elif isinstance(v, np.ndarray):
            squares = np.bincount(self.groups.ravel(), (v * v).ravel(), self.shape[0])
        else:
            squares = jax.ops.segment_sum((v * v).ravel(), self.groups.ravel(), self.shape[0])
        if isinstance(squares, np.ndarray):
            return np.sqrt(squares)
        positive = squares > 0
        return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)

    def spread(self, per_group):
        """An array of one value a group, at every entry of D x (a factor for v)."""
        if self.groups is None or isinstance(self.groups, int):
            return per_group
        return per_group[self.groups]

    def value(self, x, weight):
        """sum_g weight_g h(|(D x)_g|)."""
        sizes = self.norms(self.analysis.mv(x))
        xp = _namespace(sizes, weight)
        delta = self.delta
        if not (isinstance(delta, float) and delta == 0.0):
            inner = xp.where(delta > 0, sizes**2 / (2.0 * xp.where(delta > 0, delta, 1.0)), sizes)
            sizes = xp.where(sizes <= delta, inner, sizes - delta / 2)
        return (self.fill(weight) * sizes).sum()

    def prox(self, v, step):
        """argmin_d  1/2 |d - v|^2 + sum_g step_g h(|d_g|); `step` broadcasts against the norms."""
        return v - self.excess(v, step)

    def excess(self, v, step, out: np.ndarray | None = None):
        """v - prox(v), the part of v that the proximal step takes off: for norms, v projected onto |v_g| <= step_g.

        `out` (NumPy): an array to write it into.
        """
        xp = _namespace(v, step)
        into = {} if out is None else {"out": out}
        huber = not (isinstance(self.delta, float) and self.delta == 0.0)
        if self.groups is None and not huber:
            return xp.clip(v, -step, step, **into)
        # A group within its ball is taken off whole: the factor is then 1 and the difference exactly 0.
        edge = step + self.delta if huber else step
        share = step / xp.maximum(xp.maximum(self.norms(v), edge), np.finfo(v.dtype).tiny)
        return xp.multiply(self.spread(share), v, **into)


class Smoothed(Penalty):
    """w -> sum_g w_g (sqrt(|(D x)_g|^2 + eps^2) - eps): a norm without its kink, for any eps > 0 in the units of D x.

    0 <= |d| - h <= eps. The "- eps" makes h(0) = 0; the minimisers are the same without it.
    """

    eps: float | Array = eqx.field(kw_only=True)

    def value(self, x, weight):
        sizes = self.norms(self.analysis.mv(x))
        # sqrt(t^2 + eps^2) - eps without the difference of two numbers that are all but equal.
        bent = sizes**2 / (_namespace(sizes, self.eps).hypot(sizes, self.eps) + self.eps)
        return (self.fill(weight) * bent).sum()

    def excess(self, v, step, out: np.ndarray | None = None):
        """v - prox(v): the length t of the proximal step obeys t + step t / sqrt(t^2 + eps^2) = |v|."""
        xp = _namespace(v, step)
        into = {} if out is None else {"out": out}
        sizes = self.norms(v)

        # The left side rises and bends down: Newton's method from a t that is too small climbs, and never past it.
        def climb(_, t):
            s = xp.hypot(t, self.eps)
            return t - (t + step * t / s - sizes) / (1 + step * self.eps**2 / s**3)

        t = xp.maximum(sizes - step, sizes / (1 + step / self.eps))
        if xp is jnp:
            t = jax.lax.fori_loop(0, CLIMBS, climb, t)
        else:
            for k in range(CLIMBS):
                t = climb(k, t)
        share = step / (step + xp.hypot(t, self.eps))
        return xp.multiply(self.spread(share), v, **into)


def smoothed(penalty: Penalty, eps) -> Penalty:
    """The same penalty with its norms smoothed; Huber's, which has no kink, as it is."""
    if isinstance(penalty, Smoothed) or not (isinstance(penalty.delta, float) and penalty.delta == 0.0):
        return penalty
    return Smoothed(penalty.analysis, penalty.groups, eps=eps)


def SmoothedL1(analysis: Operator, eps: float, groups=None) -> Penalty:
    """w -> sum_i w_i (sqrt((D x)_i^2 + eps^2) - eps), or over groups of entries: `L1` with its kinks rounded off.

    A lower level with smoothed norms is made from one with sharp ones: `ElasticNet(A, y).smoothed(eps)`.

    >>> import numpy as np, invhyper as ih
    >>> float(ih.SmoothedL1(ih.Identity((2,)), eps=3.0).at((2,)).value(np.array([4.0, 0.0]), 1.0))
    2.0
    """
    return Smoothed(analysis, groups, eps=_checked_eps("SmoothedL1", eps))


def SmoothedTV(eps: float, isotropic: bool = False, boundary: str = "neumann") -> Penalty:
    """w -> sum of w (sqrt(|u_{i+1} - u_i|^2 + eps^2) - eps): `TV` with its kinks rounded off.

    >>> import numpy as np, invhyper as ih
    >>> float(ih.SmoothedTV(eps=3.0).at((2,)).value(np.array([0.0, 4.0]), 1.0))
    2.0

    Acar and Vogel (1994), doi:10.1088/0266-5611/10/6/003.
    """
    return smoothed(TV(isotropic, boundary), _checked_eps("SmoothedTV", eps))


def _checked_eps(owner: str, eps):
    if not isinstance(eps, jax.core.Tracer) and (np.ndim(eps) or not is_positive(eps) or not np.isfinite(eps)):
        raise ValueError(f"{owner} eps = {eps!r}: a positive number is wanted, in the units of what the norms are of")
    return eps


def TV(isotropic: bool = False, boundary: str = "neumann") -> Penalty:
    """Total variation of an image: w -> sum of w |u_{i+1} - u_i| over all edges.

    **Arguments**: `isotropic`: the differences of a pixel share a Euclidean norm (else each has a norm of its own,
    the anisotropic kind); `boundary`: "neumann" (no edge across the border), "periodic" or "zero".

    >>> import numpy as np
    >>> step = np.array([[0.0, 0.0], [1.0, 2.0]])
    >>> float(TV().at((2, 2)).value(step, 1.0)), round(float(TV(isotropic=True).at((2, 2)).value(step, 1.0)), 6)
    (4.0, 4.0)

    Rudin, Osher and Fatemi (1992), doi:10.1016/0167-2789(92)90242-F.
    """
    return Penalty(_DifferencesOf(str(boundary)), 0 if check_switch("TV", "isotropic", isotropic) else None)


def L1(analysis: Operator, groups=None) -> Penalty:
    """w -> sum_i w_i |(D x)_i|, or over groups of entries (see `Penalty`).

    >>> import numpy as np, invhyper as ih
    >>> float(L1(ih.Differences((3,))).at((3,)).value(np.array([0.0, 2.0, 1.0]), 1.0))
    3.0
    """
    return Penalty(analysis, groups)


def Huber(analysis: Operator | None = None, delta: float = 0.01, groups=None, boundary: str = "neumann") -> Penalty:
    """w -> sum_g w_g h(|(D x)_g|), quadratic below `delta`; of first differences if `analysis` is None.

    >>> import numpy as np
    >>> float(Huber(delta=0.5).at((2,)).value(np.array([0.0, 1.0]), 1.0))
    0.75

    Huber (1964), doi:10.1214/aoms/1177703732.
    """
    if not isinstance(delta, jax.core.Tracer) and not is_positive(delta):
        hint = " (write isotropic=True)" if isinstance(delta, bool) else ""
        raise ValueError(f"Huber delta = {delta}: a positive number, or one for each norm, is wanted{hint}")
    return Penalty(_DifferencesOf(str(boundary)) if analysis is None else analysis, groups, delta)


def is_positive(values) -> bool:
    """Whether these are positive numbers; no text, no True."""
    values = np.asarray(values)
    return values.dtype.kind in "fiu" and bool(np.all(values > 0))


def check_switch(owner: str, name: str, value: bool) -> bool:
    """The value, if it is True or False: any other, "no" among them, would be taken for one of the two."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{owner} {name} = {value!r}: True or False is wanted")
    return bool(value)


class _DifferencesOf(eqx.Module):
    """shape -> Differences(shape, boundary): a class, so that it pickles and compares."""

    boundary: str = eqx.field(static=True)

    def __call__(self, shape):
        return Differences(shape, boundary=self.boundary)


def _namespace(*arrays):
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np
