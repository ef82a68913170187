"""What a problem is made of, and what passes between its two levels.

    minimise over theta   F(theta) = C(x*(theta), theta),   where x*(theta) solves R(x, theta) = 0.

`LowerLevel` defines x*, `Iteration` a process that leads there or elsewhere, and `Linearisation` is the seam between a
lower level and its derivative: on the stratum where the solution lives, A dc + B dtheta = 0 and dx = P dc.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from invhyper import tree
from invhyper.theta import check_theta

CONVERGED, ABOVE_TOLERANCE, NOT_FINITE, INDEFINITE = 0, 1, 2, 3

# equinox builds a Module around a method each time it is looked up (50 us), which a solve of half a millisecond
# notices: the classes of the spine look their methods up as any object does.
PLAIN_LOOKUP = object.__getattribute__


class NotConverged(RuntimeError):
    """The lower level or the adjoint stopped short of its tolerance; the message says by how much and what to do.

    `evaluation`: what is known all the same, above all the hypergradient of the finite part of a run that diverged.
    """

    def __init__(self, message: str = "", evaluation: "Evaluation | None" = None):
        super().__init__(message)
        self.evaluation = evaluation


class Solution(eqx.Module):
    """A lower-level solution: `x` at full shape, the `error` reached (relative to the scale of R's terms), the `steps`
    spent, `result` (a sentence; an integer code inside traced code) and `memo` (stratum, duals, factor: opaque,
    reused).
    """

    __getattribute__ = PLAIN_LOOKUP

    x: PyTree
    error: Any = 0.0
    steps: Any = 0
    result: Any = CONVERGED
    memo: Any = None


@dataclass(frozen=True)
class Linearisation:
    """The first-order system of a solution on its stratum: A dc + B dtheta = 0, dx = P dc.

    `A` is a lineax operator (traced lower levels) or a NumPy/SciPy matrix (host ones); `P`, `P_transpose`, `B`,
    `B_transpose` are functions. `solve(rhs, transpose)` is the lower level's own factor. `margin` is the relative
    distance to the edge of the stratum and `margin_of` says what stands there. `degenerate(tolerance, thorough=False)`
    gives the `CriticalCone` over the conditions whose relative values are no more than that (`thorough`: whatever that
    costs), or is None. `data_transpose(z)` gives {field of the lower level: D^T z} where A dc + D dfield = 0.
    `residual` is what is left of R at the solution, in the coordinates of the stratum (host lower levels: it prices the
    error estimate). `blocks` replaces `A` where the system is block-diagonal. `singular`: A may be, with systems that
    have solutions all the same.
    """

    A: Any
    P: Callable
    P_transpose: Callable
    B: Callable
    B_transpose: Callable
    solve: Callable | None = None
    stratum: Any = None
    margin: Any = float("inf")
    margin_of: str = ""
    degenerate: Callable | None = None
    data_transpose: Callable | None = None
    residual: Any = None
    blocks: tuple = ()
    singular: bool = False


@dataclass(frozen=True)
class Certificate:
    """How far a hypergradient can be trusted.

    `lower_residual` and `adjoint_residual` are the relative residuals reached. `error_estimate` is the absolute
    Euclidean error of the gradient in natural scale (None: not computed), to be believed where `linear` is true: errors
    are then linear in the distance to x*. `bound` is a guaranteed one (None: not known). `margin` is the
    relative distance to the nearest kink; `kink` is true below 1e-8, where the slope is one-sided.
    """

    lower_residual: float
    adjoint_residual: float
    error_estimate: float | None = None
    bound: float | None = None
    linear: bool | None = None
    margin: float = float("inf")
    margin_of: str = ""
    kink: bool = False
    verdict: str = ""


@dataclass(frozen=True)
class Evaluation:
    """F(theta), its gradient (the tree of theta, natural scale), what they rest on; `adjoint` warm-starts the next."""

    value: float
    gradient: PyTree
    solution: Solution
    adjoint: PyTree = field(repr=False)
    certificate: Certificate


class Constants(NamedTuple):
    """What a lower level knows of its residual at an x: R is strongly monotone with `modulus`; `lipschitz_A` and
    `lipschitz_B` are Lipschitz constants of A and B in x, `cross` is |B|, `curvature` at least |A|, `rounding` the size
    of R's terms.
    """

    modulus: Any
    lipschitz_A: Any
    lipschitz_B: Any
    cross: Any
    curvature: Any
    rounding: Any


class Iteration(eqx.Module):
    """A process state_{t+1} = step(state_t, theta, t), x = output(state); not `stationary` if the step depends on t."""

    stationary: ClassVar[bool] = True
    measured: ClassVar[str] = "size of its state"

    def init(self, theta: PyTree, start: Solution | None = None) -> PyTree:
        """The state at t = 0, or the one that `start` suggests."""
        raise NotImplementedError

    def step(self, state: PyTree, theta: PyTree, t: Array) -> PyTree:
        """One step."""
        raise NotImplementedError

    def output(self, state: PyTree) -> PyTree:
        """The x that belongs to a state."""
        raise NotImplementedError

    def measure(self, state: PyTree, theta: PyTree, t: Array) -> Array:
        """What must stay finite while it runs, called `measured` in sentences: of an optimiser, the loss."""
        return tree.norm(eqx.filter(state, eqx.is_inexact_array))

    def bounds(self, theta: PyTree) -> tuple[PyTree, PyTree]:
        """Lower and upper bounds of theta, trees like theta."""
        return unbounded(theta)

    def check(self, theta: PyTree, steps: int | None = None):
        """ValueError for a theta that this process cannot run with, for `steps` steps if that is known."""

    def varies(self, theta: PyTree) -> bool:
        """Whether the step depends on t at this theta."""
        return not self.stationary


class LowerLevel(eqx.Module):
    """One way of defining x*(theta). Subclasses give `solve` and either `residual` (then `linearise` follows by
    automatic differentiation) or `linearise`.

    Class attributes: `host` (True: NumPy/SciPy, never traced), `keys` (theta's keys; None: any tree), `tags` (lineax
    tags of A), `data` (fields whose cotangents `layer` may ask of a host lower level),
    `constant` (beginnings of the dotted names that it may not ask of a traced one), `loss` (the loss of `HeldOut`
    that belongs to this model; None: squared), `accuracy` (what simulations are made finer for until the hypergradient
    is known to it, relatively; None: its error is estimated and left), `tolerance` (relative, of its simulations),
    `singular` (what a gradient that is not finite means, and what to do).
    """

    __getattribute__ = PLAIN_LOOKUP

    host: ClassVar[bool] = False
    keys: ClassVar[tuple[str, ...] | None] = None
    tags: ClassVar[Any] = ()
    data: ClassVar[tuple[str, ...]] = ()
    constant: ClassVar[tuple[str, ...]] = ()
    accuracy: ClassVar[float | None] = None
    tolerance: ClassVar[float] = 0.0
    singular: ClassVar[str] = "A is singular on the stratum"
    loss: ClassVar[Callable | None] = None

    def solve(self, theta: PyTree, *, start: Solution | None = None, tol: float = 1e-8, throw: bool = True) -> Solution:
        """x*(theta) to the relative residual `tol`."""
        raise NotImplementedError(f"{type(self).__name__} defines no solve")

    def residual(self, x: PyTree, theta: PyTree) -> PyTree:
        """R(x, theta), zero at the solution."""
        raise NotImplementedError(f"{type(self).__name__} defines no residual")

    def objective(self, x: PyTree, theta: PyTree) -> Array:
        """The function that x*(theta) minimises, exactly as the class docstring writes it."""
        raise NotImplementedError(f"{type(self).__name__} minimises no objective: it is defined by its residual")

    def objective_at(self, solution: Solution, theta: PyTree) -> Array:
        """The objective at a solution of this lower level; a solve may have left it in the memo."""
        return self.objective(solution.x, theta)

    def linearise(self, solution: Solution, theta: PyTree) -> Linearisation:
        """A, B and P at the solution; by default from automatic differentiation of `residual`, with P the identity."""
        x = solution.x
        _, along_x = jax.linearize(lambda x: self.residual(x, theta), x)
        _, along_theta = jax.linearize(lambda theta: self.residual(x, theta), theta)
        structure = jax.eval_shape(lambda: x)
        back = jax.linear_transpose(along_theta, theta)
        return Linearisation(
            A=lx.FunctionLinearOperator(along_x, structure, self.tags),
            P=lambda c: c,
            P_transpose=lambda v: v,
            B=along_theta,
            B_transpose=lambda z: back(z)[0],
        )

    def defect(self, solution: Solution, theta: PyTree) -> PyTree:
        """R at the solution in the coordinates of the linearisation: here `residual`, in x."""
        return self.residual(solution.x, theta)

    def shifted(self, solution: Solution, step: PyTree) -> Solution:
        """The solution moved by -step in the coordinates of the linearisation: a Newton step, for the estimate."""
        return Solution(tree.subtract(solution.x, step))

    def constants(self, x: PyTree, theta: PyTree) -> Constants | None:
        """What a guaranteed bound of the hypergradient's error at x needs; None where it is not known."""
        return None

    def bounds(self, theta: PyTree) -> tuple[PyTree, PyTree]:
        """Lower and upper bounds of theta, trees like theta."""
        return unbounded(theta)

    def iteration(self) -> Iteration:
        """The process that solves this problem, for `Unrolled`; a TypeError with the reason where there is none."""
        raise TypeError(f"Unrolled needs an Iteration (init, step); {type(self).__name__} has none. Use Implicit.")

    def smoothed(self, eps) -> "LowerLevel":
        """The same with every norm replaced by sqrt(t^2 + eps^2) - eps; a TypeError in words where there is none."""
        name, have = type(self).__name__, "ElasticNet, BPDN, the TV family and a Together of these have"
        if self.host:
            raise TypeError(f"{name} has no smoothed form: {have} one")
        raise TypeError(f"there is nothing to smooth in {name}: {have} norms with kinks")

    def shape(self, theta: PyTree) -> PyTree:
        """Shape and dtype of x as a tree of `jax.ShapeDtypeStruct`; `layer` needs it of host lower levels."""
        raise NotImplementedError(f"{type(self).__name__} defines no shape: layer needs it")

    def cold_start(self, theta: PyTree) -> Solution | None:
        """The Solution that a solve without `start` begins from: cold and warm calls share one compiled program."""
        return None

    def finer(self) -> "LowerLevel | None":
        """The same with simulations at a tenth of their tolerances; None: nothing is simulated."""
        return None

    def explain(self, solution: Solution) -> str | None:
        """What this lower level knows of a solve beyond its code, above all why it failed; None: nothing."""
        return None

    def check(self, theta: PyTree) -> PyTree:
        """theta with array leaves, or a ValueError that names what is wrong: key, value, bound (if concrete)."""
        return check_theta(self, theta)

    def check_run(self, theta: PyTree, steps: int | None):
        """ValueError if `iteration` cannot make a run of `steps` steps at this theta."""


def sentence(lower: LowerLevel, solution: Solution, tol: float) -> Solution:
    """The same solution with `result` said in words (host code says it itself)."""
    if isinstance(solution.result, str):
        return solution
    code, error, steps = int(solution.result), float(solution.error), int(solution.steps)
    name = type(lower).__name__
    explained = lower.explain(solution)
    if explained is not None:
        said = f"{name}: {explained}"
    elif code == CONVERGED:
        said = f"{name} converged to {error:.1e} in {steps} steps"
    elif code == NOT_FINITE:
        advice = "check the data, the start and theta, or scale the problem"
        said = f"{name} met NaN or infinity after {steps} steps: {advice}"
    elif code == INDEFINITE:
        said = (
            f"{name} stands where the second derivative is not positive definite (a saddle, a maximum or a flat "
            "direction): x* is no strict minimum and has no derivative; change the start, or raise the regularisation"
        )
    else:
        said = f"{name} stopped at {error:.1e}, above tol {tol:.1e}, after {steps} steps: raise max_steps or loosen tol"
    return Solution(solution.x, error, steps, said, solution.memo)


def solve(lower: LowerLevel, theta: PyTree, *, start: Solution | None = None, tol=1e-8, throw: bool = True) -> Solution:
    """`lower.solve` from the rim: compiled if the lower level is traced, its result a sentence, raised if `throw`.

    >>> import numpy as np, invhyper as ih
    >>> ih.solve(ih.Ridge(np.eye(2), np.ones(2)), {"l2": np.array(1.0)}).x.tolist()
    [0.5, 0.5]
    """
    if isinstance(lower, Iteration):
        name = type(lower).__name__
        raise TypeError(f"solve wants a lower level; {name} is an iteration: FixedPoint({name}(...)) makes one of it")
    theta = lower.check(theta)
    if lower.host:
        solution = lower.solve(theta, start=start, tol=tol, throw=throw)
    else:
        solution = wordless(lower, theta, start, tol)
    failed = not float(solution.error) <= tol or has_failed(solution)
    solution = sentence(lower, solution, tol)
    if throw and failed:
        raise NotConverged(solution.result)
    return solution


def wordless(lower: LowerLevel, theta: PyTree, start: Solution | None = None, tol: float = 1e-8) -> Solution:
    """`solve` of a traced lower level with its code as `result`: a sentence may cost a simulation, and not be read."""
    return _solve(lower, theta, restart(lower, theta, start), np.asarray(tol))


def has_failed(solution: Solution) -> bool:
    """Whether the integer code of a traced solution is another than CONVERGED (a sentence: judged by its error)."""
    return not isinstance(solution.result, str) and int(solution.result) != CONVERGED


def restart(lower: LowerLevel, theta: PyTree, start: Solution | None) -> Solution | None:
    """`start` (or the cold start) with the fields that vary from call to call made constant: one program for both."""
    if start is None:
        return lower.cold_start(theta)
    return Solution(start.x, memo=start.memo)


@eqx.filter_jit
def _solve(lower, theta, start, tol):
    return lower.solve(theta, start=start, tol=tol, throw=False)


def unbounded(theta: PyTree) -> tuple[PyTree, PyTree]:
    """Bounds that bound nothing."""
    infinite = jax.tree.map(lambda leaf: np.full(jnp.shape(leaf), np.inf), theta)
    return jax.tree.map(np.negative, infinite), infinite
