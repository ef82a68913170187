"""Least squares with a sum of norms of linear maps: what the TV family shares."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jaxtyping import Array, Float

from invhyper import tree
from invhyper.iterations.dual_fista import DualFISTA
from invhyper.iterations.pdhg import PDHG
from invhyper.iterations.split_bregman import SplitBregman
from invhyper.lower.bregman_slope import linearise
from invhyper.lower.bregman_solve import solve
from invhyper.lower.smoothed import SmoothedSum
from invhyper.operators import Identity, Operator
from invhyper.operators.operator import check_adjoint
from invhyper.penalties import Penalty, check_switch, smoothed
from invhyper.problem import LowerLevel, Solution
from invhyper.theta import call, check_theta, nearest


class SumOfNorms(LowerLevel):
    """x*(theta) = argmin_x  1/2 |K x - y|^2 + sum_k sum_g theta_k,g h_k(|(D_k x)_g|),  x in the box.

    Subclasses set `penalties` (name of theta's key -> Penalty, bound to the shape of the unknowns) in their
    constructors by `_set`. The unknowns z are x itself, except where a subclass says otherwise (`image`, `embed`).
    """

    host: ClassVar[bool] = True
    data: ClassVar[tuple[str, ...]] = ("y",)
    y: Float[Array, "..."]
    forward: Operator | Callable | None
    penalties: dict[str, Penalty]
    box: tuple[Any, Any] | None
    solver: SplitBregman | PDHG | DualFISTA | None

    def _set(self, y, penalties, forward, box=None, solver=None, unknowns=None):
        name = type(self).__name__
        self.y = image_data(name, y)
        if isinstance(forward, type):
            kind = forward.__name__
            raise TypeError(f"{name} forward is the class {kind}: an instance is wanted, {kind}(...)")
        callable_matrix = isinstance(forward, scipy.sparse.linalg.LinearOperator)
        if forward is not None and not isinstance(forward, Operator) and (callable_matrix or not callable(forward)):
            kind = type(forward).__name__
            raise TypeError(
                f"{name} forward is a {kind}: an Operator (see from_scipy), a function of theta, or None is wanted"
            )
        shape = tuple(self.y.shape)
        if isinstance(forward, Operator):
            forward = _bound(forward, shape)
            if tuple(forward.shape_out) != shape:
                raise ValueError(
                    f"{name} forward gives arrays of shape {tuple(forward.shape_out)}; y has {shape}: they must agree"
                )
            shape = tuple(forward.shape_in)
            check_adjoint(forward)
        self.forward = forward
        self.penalties = {key: penalty.at(unknowns or shape) for key, penalty in penalties.items()}
        for penalty in self.penalties.values():
            check_adjoint(penalty.analysis)
        self.box = None if box is None else _box(name, box, shape)
        self.solver = None if solver is None else _made_for(self, solver)

    # --- theta -------------------------------------------------------------------------------------------------

    @property
    def keys(self):
        """The penalties' names; any more are the operator's own, if it is a function of theta."""
        return None if self.moves else tuple(self.penalties)

    @property
    def moves(self) -> bool:
        """Whether K is a function of theta."""
        return self.forward is not None and not isinstance(self.forward, Operator)

    def check(self, theta):
        name = type(self).__name__
        if self.moves:
            missing = [key for key in self.penalties if not isinstance(theta, dict) or key not in theta]
            if missing:
                near = nearest(missing[0], theta) if isinstance(theta, dict) else None
                hint = f" (is {near!r} a slip?)" if near else ""
                raise ValueError(
                    f"theta lacks {missing[0]!r}{hint}: {name} wants {tuple(self.penalties)} and forward's"
                )
        theta = check_theta(self, theta)
        for key, penalty in self.penalties.items():
            if penalty.grid(np.shape(theta[key])) is None:
                shapes = dict.fromkeys(penalty.weight_shapes)
                listed = " or ".join(str(shape) if shape else "a scalar" for shape in shapes)
                raise ValueError(
                    f"theta {key!r} has shape {np.shape(theta[key])}: {name} wants {listed}, or equal blocks of these"
                )
        return theta

    def bounds(self, theta):
        floor = jax.tree.map(lambda leaf: np.full(jnp.shape(leaf), -np.inf), theta)
        for key in self.penalties:
            floor[key] = np.zeros(jnp.shape(theta[key]))
        return floor, jax.tree.map(lambda leaf: np.full(jnp.shape(leaf), np.inf), theta)

    def shape(self, theta):
        return jax.ShapeDtypeStruct(self._image_shape(theta), jnp.result_type(self.y.dtype))

    def _image_shape(self, theta):
        return tuple(self.forward.shape_in) if isinstance(self.forward, Operator) else tuple(self.y.shape)

    # --- what the iteration asks -------------------------------------------------------------------------------

    def unknowns(self, theta) -> tuple[int, ...]:
        """The shape of z."""
        return tuple(next(iter(self.penalties.values())).analysis.shape_in)

    def image(self, z):
        """x in the unknowns z."""
        return z

    def embed(self, x):
        """The unknowns whose image is x, zero elsewhere: the adjoint of `image`."""
        return x

    def forward_at(self, theta) -> Operator:
        """K as an operator on the unknowns."""
        if self.forward is None:
            return Identity(tuple(self.y.shape))
        if not self.moves:
            return self.forward
        others = [name for name in tree.paths(theta) if name not in self.penalties]
        forward = call(self.forward, theta, f"{type(self).__name__} forward(theta)", others)
        if not isinstance(forward, Operator):
            kind = type(forward).__name__
            raise TypeError(f"{type(self).__name__} forward(theta) is a {kind}: an Operator is wanted")
        forward = _bound(forward, tuple(self.y.shape))
        if tuple(forward.shape_out) != tuple(self.y.shape):
            raise ValueError(
                f"forward(theta) gives arrays of shape {tuple(forward.shape_out)}; y has {tuple(self.y.shape)}"
            )
        return forward

    def splits(self) -> tuple[Operator, ...]:
        """The operators whose images are split off: one a penalty, the identity for bounds."""
        analyses = tuple(penalty.analysis for penalty in self.penalties.values())
        return analyses if self.box is None else (*analyses, Identity(tuple(analyses[0].shape_in)))

    def weights(self, theta) -> tuple:
        """The weights as the penalties' prox takes them."""
        return tuple(penalty.fill(theta[key]) for key, penalty in self.penalties.items())

    def prox(self, k, v, weights, rho):
        """The proximal step of split k."""
        penalties = tuple(self.penalties.values())
        if k < len(penalties):
            return penalties[k].prox(v, weights[k] / rho)
        return self.boxed(v)

    def boxed(self, z):
        """The nearest point of the box."""
        if self.box is None:
            return z
        xp = jnp if isinstance(z, jax.Array) else np
        return xp.clip(z, *self.box)

    def divide(self, k, v, weights, rho, out=None):
        """(d, v - d), d the proximal step of split k at v; with `out` (NumPy) d stands in v, v - d in `out`."""
        penalties = tuple(self.penalties.values())
        if k == len(penalties):
            d = self.prox(k, v, weights, rho)
            return d, v - d
        excess = penalties[k].excess(v, weights[k] / rho, out)
        return (v - excess if out is None else np.subtract(v, excess, out=v)), excess

    def first(self, theta, start=None):
        """The unknowns at the start."""
        xp = self._namespace(theta)
        if start is not None:
            return self.embed(xp.asarray(start.x))
        return self.forward_at(theta).rmv(xp.asarray(self.y))

    def _namespace(self, theta):
        """NumPy, unless something here is a JAX array."""
        return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((theta, self.y))) else np

    def first_rho(self, theta) -> tuple:
        """rho_k = mean weight / (0.3 mean |D_k K^T y|): the proximal step then removes jumps of the noise's size."""
        xp = self._namespace(theta)
        start = self.forward_at(theta).rmv(xp.asarray(self.y))
        jumps = [xp.mean(xp.abs(split.mv(start))) for split in self.splits()]
        typical = sum(jumps[: len(self.penalties)]) / len(self.penalties)
        rho = []
        for k, weight in enumerate(self.weights(theta)):
            jump = xp.where(jumps[k] > 1e-3 * typical, jumps[k], typical)
            mean = xp.mean(weight)
            rho.append(xp.where((mean > 0) & (jump > 0), mean / xp.where(jump > 0, 0.3 * jump, 1.0), 1.0))
        return (*rho, xp.asarray(1.0)) if self.box is not None else tuple(rho)

    def iteration(self):
        return SplitBregman(self) if self.solver is None else eqx.tree_at(lambda it: it.lower, self.solver, self)

    # --- objective, solution, derivative -----------------------------------------------------------------------

    def objective(self, x, theta):
        misfit = self.forward_at(theta).mv(x) - jnp.asarray(self.y)
        parts = (penalty.value(x, theta[key]) for key, penalty in self.penalties.items())
        return 0.5 * jnp.sum(misfit**2) + sum(parts)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        if start is not None:
            _check_start(type(self).__name__, start, self._image_shape(theta))
        return solve(self, theta, start, tol, throw)

    def linearise(self, solution, theta):
        return linearise(self, solution, theta)

    def smoothed(self, eps) -> SmoothedSum:
        """The same with every norm replaced by sqrt(t^2 + eps^2) - eps; Huber's norms stay as they are.

        >>> import numpy as np, invhyper as ih
        >>> lower = ih.TotalVariation(np.array([0.0, 1.0])).smoothed(1e-6)
        >>> ih.solve(lower, {"weight": 0.25}).x.round(9).tolist()
        [0.25, 0.75]
        """
        name = type(self).__name__
        if all(smoothed(penalty, eps) is penalty for penalty in self.penalties.values()):
            raise TypeError(f"there is nothing to smooth in {name}: Huber's norm has no kink")
        if self.box is not None:
            raise TypeError(f"{name} with bounds has no smoothed form: they have kinks of their own; leave them out")
        return SmoothedSum(self, eps)


def image_data(name: str, y):
    """y as a finite NumPy array (tracers pass)."""
    if isinstance(y, jax.core.Tracer):
        return y
    try:
        y = np.asarray(y)
    except ValueError:
        raise ValueError(f"{name} y is no array: its rows differ in length; rows of one length are wanted") from None
    if y.dtype.kind not in "fbiu":
        raise ValueError(f"{name} y holds entries of type {y.dtype}: real numbers are wanted")
    y = y if y.dtype == np.float32 else y.astype(float)
    if y.ndim == 0 or y.size == 0:
        raise ValueError(f"{name} y has shape {y.shape}: a signal, an image or a volume is wanted")
    bad = ~np.isfinite(y)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} y holds NaN or infinity in {int(bad.sum())} entries, the first at {where}: set them to any number "
            "and leave them out with forward=Mask(keep)"
        )
    return y


def nonnegative_box(name: str, nonnegative: bool) -> tuple[float, float] | None:
    """The box x >= 0, or none."""
    return (0.0, float("inf")) if check_switch(name, "nonnegative", nonnegative) else None


def _check_start(name, start, shape):
    if not isinstance(start, Solution):
        kind = type(start).__name__
        raise TypeError(f"{name} start is a {kind}: a Solution is wanted, one of an earlier solve or Solution(x)")
    if np.shape(start.x) != shape:
        raise ValueError(
            f"{name} start holds x of shape {np.shape(start.x)}; this x has shape {shape}: leave start out, or "
            "interpolate it to this shape and give Solution(x)"
        )


def _made_for(lower, solver):
    """The solver, if it was made for a lower level with these operators (y and the weights may differ)."""
    name = type(lower).__name__
    if not isinstance(solver, SplitBregman | PDHG | DualFISTA):
        kind = type(solver).__name__
        raise TypeError(f"{name} solver is a {kind}: SplitBregman, PDHG, DualFISTA or None is wanted")
    if _operators(solver.lower) != _operators(lower):
        raise ValueError(
            f"{name} solver was made for a lower level with other operators or another shape: make it from one with "
            "the same forward, penalties and bounds"
        )
    return solver


def _operators(lower):
    return jax.tree.structure((lower.forward, lower.penalties, lower.box))


def _bound(forward, shape):
    return forward.at(shape) if forward.shape_in is None else forward


def _box(name, box, shape):
    try:
        low, high = (np.asarray(limit, float) for limit in box)
    except (TypeError, ValueError):
        raise ValueError(f"{name} box = {box!r}: a pair (lowest, highest) is wanted, -inf and inf for none") from None
    for limit in (low, high):
        if limit.shape not in ((), shape) or np.any(np.isnan(limit)):
            raise ValueError(f"{name} box holds shape {limit.shape}: numbers or arrays of shape {shape} are wanted")
    if np.any(low > high):
        raise ValueError(f"{name} box: its lowest value is above its highest")
    return low, high
