"""Least squares with a sum of norms of linear maps: what the TV family shares."""

import difflib
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from invhyper.iterations.normal import size_of
from invhyper.iterations.split_bregman import Balance, SplitBregman
from invhyper.operators import Identity, Operator
from invhyper.penalties import Penalty
from invhyper.problem import Linearisation, LowerLevel, NotConverged, Solution, check_theta
from invhyper.strata import norms
from invhyper.strata.norms import Model, Polished, Stratum

MAX_STEPS = 5000


class Structure(NamedTuple):
    """What does not depend on theta: D of all penalties stacked, the kinds of its rows, the group of each row."""

    D: scipy.sparse.csr_array
    rows: Any
    group: np.ndarray
    sizes: tuple[int, ...]  # rows of each penalty
    groups: tuple[int, ...]  # groups of each penalty


class Memo(NamedTuple):
    """What a solve leaves for `linearise` and for the next start."""

    lower: "SumOfNorms"
    structure: Structure
    forward: Operator
    state: tuple
    rho: tuple
    dual: np.ndarray
    polished: Polished
    theta: Any

    def about(self, lower: "SumOfNorms") -> bool:
        same = self.lower.y is lower.y and self.lower.forward is lower.forward
        return same and self.lower.penalties is lower.penalties


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
    solver: SplitBregman | None

    def _set(self, y, penalties, forward, box=None, solver=None, unknowns=None):
        name = type(self).__name__
        self.y = image_data(name, y)
        if forward is not None and not callable(forward) and not isinstance(forward, Operator):
            kind = type(forward).__name__
            raise TypeError(f"{name} forward is a {kind}: an Operator, a function of theta, or None is wanted")
        shape = self.y.shape
        if isinstance(forward, Operator):
            forward = _bound(forward, shape)
            if tuple(forward.shape_out) != shape:
                raise ValueError(
                    f"{name} forward gives arrays of shape {tuple(forward.shape_out)}; y has {shape}: they must agree"
                )
            shape = tuple(forward.shape_in)
        self.forward = forward
        self.penalties = {key: penalty.at(unknowns or shape) for key, penalty in penalties.items()}
        self.box = None if box is None else _box(name, box, shape)
        self.solver = solver

    # --- theta -------------------------------------------------------------------------------------------------

    @property
    def keys(self):
        """The penalties' names; any more are the operator's own, if it is a function of theta."""
        return None if self._operator_of_theta else tuple(self.penalties)

    @property
    def _operator_of_theta(self):
        return self.forward is not None and not isinstance(self.forward, Operator)

    def check(self, theta):
        name = type(self).__name__
        if self._operator_of_theta:
            missing = [key for key in self.penalties if not isinstance(theta, dict) or key not in theta]
            if missing:
                near = difflib.get_close_matches(missing[0], map(str, theta), n=1, cutoff=0.6)
                hint = f" (is {near[0]!r} a slip?)" if near else ""
                raise ValueError(f"theta lacks {missing[0]!r}{hint}: {name} wants {tuple(self.penalties)} and forward's")
        theta = check_theta(self, theta)
        for key, penalty in self.penalties.items():
            shapes = penalty.weight_shapes
            if np.shape(theta[key]) not in shapes:
                listed = " or ".join(str(shape) if shape else "a scalar" for shape in dict.fromkeys(shapes))
                raise ValueError(f"theta {key!r} has shape {np.shape(theta[key])}: {name} wants {listed}")
        return theta

    def bounds(self, theta):
        floor = jax.tree.map(lambda leaf: np.full(jnp.shape(leaf), -np.inf), theta)
        for key in self.penalties:
            floor[key] = np.zeros(jnp.shape(theta[key]))
        return floor, jax.tree.map(lambda leaf: np.full(jnp.shape(leaf), np.inf), theta)

    def shape(self, theta):
        return jax.ShapeDtypeStruct(self._image_shape(theta), jnp.zeros(()).dtype)

    def _image_shape(self, theta):
        return tuple(self.forward.shape_in) if isinstance(self.forward, Operator) else tuple(self.y.shape)

    # --- what the iteration asks -------------------------------------------------------------------------------

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
        if not self._operator_of_theta:
            return self.forward
        forward = _bound(self.forward(theta), tuple(self.y.shape))
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
        return tuple(theta[key] for key in self.penalties)

    def prox(self, k, v, weights, rho):
        """The proximal step of split k."""
        penalties = tuple(self.penalties.values())
        if k < len(penalties):
            return penalties[k].prox(v, weights[k] / rho)
        xp = jnp if isinstance(v, jax.Array) else np
        return xp.clip(v, *self.box)

    def first(self, theta, start=None):
        """The unknowns at the start."""
        if start is not None:
            return self.embed(jnp.asarray(start.x))
        forward = self.forward_at(theta)
        return forward.rmv(jnp.asarray(self.y))

    def first_rho(self, theta) -> tuple:
        """rho_k = mean weight / (0.3 mean |D_k K^T y|): the proximal step then removes jumps of the noise's size."""
        xp = jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((theta, self.y))) else np
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
        return SplitBregman(self) if self.solver is None else self.solver

    # --- objective, solution, derivative -----------------------------------------------------------------------

    def objective(self, x, theta):
        misfit = self.forward_at(theta).mv(x) - jnp.asarray(self.y)
        parts = (penalty.value(x, theta[key]) for key, penalty in self.penalties.items())
        return 0.5 * jnp.sum(misfit**2) + sum(parts)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        return solve(self, theta, start, tol, throw)

    def linearise(self, solution, theta):
        return linearise(self, solution, theta)


def image_data(name: str, y):
    """y as a finite NumPy array (tracers pass)."""
    if isinstance(y, jax.core.Tracer):
        return y
    try:
        y = np.asarray(y)
        y = y if y.dtype == np.float32 else y.astype(float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} y is a {type(y).__name__}: an array of numbers is wanted") from None
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


# Functions, not methods: see l1_regression.


def solve(lower: SumOfNorms, theta, start: Solution | None, tol: float, throw: bool) -> Solution:
    """Split Bregman until the stratum's own solution is certified by the dual variable to `tol`."""
    memo = start.memo if start is not None and isinstance(start.memo, Memo) and start.memo.about(lower) else None
    structure = make_structure(lower) if memo is None else memo.structure
    theta = jax.tree.map(np.asarray, theta)
    forward = _on_host(lower.forward_at(theta))
    model = make_model(lower, theta, structure, forward)
    iteration = lower.iteration()
    steps = Balance(iteration, theta, *_start(lower, iteration, theta, start, memo, forward), forward)
    best, pause = None, Balance.every
    while steps.steps < MAX_STEPS:
        steps.run(pause)
        if not np.all(np.isfinite(steps.state[0])):
            break
        dual = np.concatenate([p.ravel() for p in steps.duals()[: len(lower.penalties)]])
        found = norms.certify(norms.polish(model, stratum_of(lower, model, steps.state), steps.state[0].ravel()), dual)
        if best is None or found.certified < best[0].certified:
            best = found, dual
        if found.certified <= tol:
            break
    found, dual = best if best is not None else (None, None)
    if found is None:
        raise NotConverged(f"{type(lower).__name__} met NaN or infinity: scale y, the operator and the weights")
    x = np.asarray(lower.image(found.z.reshape(steps.state[0].shape)))
    result = _sentence(lower, found, steps, tol)
    if throw and not found.certified <= tol:
        raise NotConverged(result)
    memo = Memo(lower, structure, forward, steps.state, tuple(steps.rho), dual, found, theta)
    return Solution(x.astype(lower.y.dtype), found.certified, steps.steps, result, memo)


def make_structure(lower: SumOfNorms) -> Structure:
    """D, its rows and its groups, once for a lower level."""
    matrices = [penalty.analysis.to_scipy() for penalty in lower.penalties.values()]
    D = matrices[0] if len(matrices) == 1 else scipy.sparse.csr_array(scipy.sparse.vstack(matrices))
    D.eliminate_zeros()
    counts = tuple(int(np.prod(penalty.shape)) for penalty in lower.penalties.values())
    offsets = np.cumsum((0, *counts[:-1]))
    pairs = zip(lower.penalties.values(), offsets, strict=True)
    group = np.concatenate([penalty.group_of_entry() + offset for penalty, offset in pairs])
    return Structure(D, norms.make_rows(D), group, tuple(m.shape[0] for m in matrices), counts)


def make_model(lower: SumOfNorms, theta, structure: Structure, forward: Operator) -> Model:
    """The numbers at one theta."""
    shape, out = tuple(forward.shape_in), tuple(forward.shape_out)
    weight, delta = [], []
    for key, penalty in lower.penalties.items():
        weight.append(np.broadcast_to(np.asarray(theta[key], float), penalty.shape).ravel())
        delta.append(np.broadcast_to(np.asarray(penalty.delta, float), penalty.shape).ravel())
    try:
        matrix = None if isinstance(forward, Identity) else forward.to_scipy()
        normal = 1.0 if matrix is None else scipy.sparse.csr_array(matrix.T @ matrix)
    except TypeError:
        normal = None
    identity = isinstance(forward, Identity)
    box = None if lower.box is None else tuple(np.broadcast_to(limit, shape).ravel() for limit in lower.box)
    return Model(
        forward=(lambda z: z) if identity else lambda z: np.asarray(forward.mv(z.reshape(shape))).ravel(),
        adjoint=(lambda r: r) if identity else lambda r: np.asarray(forward.rmv(r.reshape(out))).ravel(),
        normal=normal,
        size=1.0 if identity else size_of(forward),
        y=np.asarray(lower.y, float).ravel(),
        D=structure.D,
        rows=structure.rows,
        group=structure.group,
        weight=np.concatenate(weight),
        delta=np.concatenate(delta),
        box=box,
        curved=structure.D.shape[0] > sum(structure.groups),
    )


def _on_host(operator):
    return jax.tree.map(lambda leaf: np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf, operator)


def _start(lower, iteration, theta, start, memo, forward):
    """The state and rho to begin with: those of the memo, its dual variables brought inside the new weights."""
    if memo is not None and iteration.rho is None:
        z, d, b = memo.state
        return (z, d, b), memo.rho
    rho = tuple(float(r) for r in iteration.penalties(theta))
    guess = start if start is not None and np.all(np.isfinite(start.x)) else None
    state = jax.tree.map(lambda leaf: np.asarray(leaf, float), iteration.init(theta, guess))
    return state, rho


def stratum_of(lower: SumOfNorms, model: Model, state) -> Stratum:
    """Vanishing groups and pinned entries, read off the proximal steps."""
    _, d, _ = state
    count = len(lower.penalties)
    flat = np.concatenate([part.ravel() for part in d[:count]])
    vanishing = (model.norms(flat) == 0.0) & (model.weight > 0) & (model.delta == 0)
    n = model.D.shape[1]
    pinned, values = np.zeros(n, bool), np.zeros(n)
    if model.box is not None:
        for bound in model.box:
            at = d[count].ravel() == bound
            pinned |= at
            values[at] = bound[at]
    return Stratum(vanishing, pinned, values)


def _sentence(lower, found, steps, tol) -> str:
    name = type(lower).__name__
    how = f"Split Bregman ({steps.kind})"
    if not found.certified <= tol:
        return (
            f"{name} stopped at {found.certified:.1e}, above tol {tol:.1e}, after {steps.steps} steps of {how}: "
            "loosen tol, or move theta off the kink"
        )
    return (
        f"{name} converged to {found.certified:.1e} in {steps.steps} steps of {how}: {found.regions.count} flat "
        f"regions, duality gap {found.gap:.1e}"
    )


def linearise(lower: SumOfNorms, solution: Solution, theta) -> Linearisation:
    """The reduced system on the stratum; solved for again if `solution` is not from here or is of another theta."""
    memo = solution.memo
    if not (isinstance(memo, Memo) and memo.about(lower) and _same(memo.theta, theta)):
        memo = solve(lower, theta, solution, np.inf, False).memo
    found, structure = memo.polished, memo.structure
    model, regions, m = found.model, found.regions, found.regions.free
    extra = 0 if found.constraints is None else found.constraints.shape[0]
    kept = np.where(found.stratum.vanishing, 0.0, model.factor(found.sizes))
    moves = lower._operator_of_theta

    def P(c):
        return np.asarray(lower.image(regions.expand(c[:m]).reshape(memo.state[0].shape)))

    def P_transpose(v):
        return np.append(regions.gather(np.asarray(lower.embed(np.asarray(v, float))).ravel()), np.zeros(extra))

    def solve_reduced(rhs, transpose=False):
        return found.system.solve(rhs[:m], rhs[m:])

    def B(dtheta):
        spread = [
            np.broadcast_to(dtheta[key], penalty.shape).ravel() for key, penalty in lower.penalties.items()
        ]
        change = model.D.T @ ((kept * np.concatenate(spread))[model.group] * found.d)
        if moves:
            change = change + _pushed(lower, theta, dtheta, found.z, memo.state[0].shape)
        return np.append(regions.gather(change), np.zeros(extra))

    def B_transpose(z):
        q = regions.expand(z[:m])
        along = found.d * (model.D @ q)
        along = kept * (np.bincount(model.group, along, kept.size) if model.curved else along)
        gradient = {key: np.zeros(np.shape(value)) for key, value in theta.items()} if moves else {}
        if moves:
            gradient = _pulled(lower, theta, q, found.z, memo.state[0].shape)
        first = 0
        for (key, penalty), count in zip(lower.penalties.items(), structure.groups, strict=True):
            own = _onto(along[first : first + count].reshape(penalty.shape), np.shape(theta[key]))
            gradient[key] = gradient[key] + own if moves else own
            first += count
        return gradient

    def data_transpose(z):
        return {"y": -model.forward(regions.expand(z[:m])).reshape(lower.y.shape)}

    margin, margin_of = norms.margin(found, memo.dual)
    return Linearisation(
        A=found.system.matrix(),
        P=P,
        P_transpose=P_transpose,
        B=B,
        B_transpose=B_transpose,
        solve=solve_reduced,
        stratum=found.key,
        margin=margin,
        margin_of=margin_of,
        data_transpose=data_transpose,
        residual=found.residual,
    )


def _same(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.array_equal(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _onto(values, shape):
    """Sums over the axes along which a weight of this shape was spread."""
    if shape == ():
        return np.asarray(values.sum())
    return values if values.shape == shape else values.sum(axis=0)


def _reduced_force(lower, z):
    """theta -> K(theta)^T (K(theta) z - y), a JAX function."""

    def force(theta):
        forward = lower.forward_at(theta)
        return forward.rmv(forward.mv(z) - jnp.asarray(lower.y, float))

    return force


def _pulled(lower, theta, q, z, shape):
    force = _reduced_force(lower, jnp.asarray(z.reshape(shape)))
    _, back = jax.vjp(force, jax.tree.map(jnp.asarray, theta))
    return jax.tree.map(np.asarray, back(jnp.asarray(q.reshape(shape)))[0])


def _pushed(lower, theta, dtheta, z, shape):
    force = _reduced_force(lower, jnp.asarray(z.reshape(shape)))
    primal, tangent = (jax.tree.map(jnp.asarray, tree) for tree in (theta, dtheta))
    return np.asarray(jax.jvp(force, (primal,), (tangent,))[1]).ravel()
