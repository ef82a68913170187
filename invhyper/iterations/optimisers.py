"""First-order optimisers as iterations: gradient descent, momentum and Adam, whose own numbers may be theta."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from invhyper import tree
from invhyper.iterations.schedules import Constant
from invhyper.problem import Iteration, unbounded
from invhyper.theta import call, nearest


class Optimiser(Iteration):
    """What the optimisers share: the loss with its gradient, the first x, step sizes, minibatches.

    Subclasses give `rates` (theta's keys with the first number that is too large for each), `needed` (those without a
    default) and the step; `size` is the key that a schedule stands in for.
    """

    rates: ClassVar[dict[str, float]] = {}
    needed: ClassVar[tuple[str, ...]] = ()
    size: ClassVar[str] = "eta"
    measured: ClassVar[str] = "loss"
    loss: Callable
    start: Any
    schedule: Callable | None
    batches: Any

    def __init__(self, loss: Callable, start: Any, schedule: Callable | None = None, *, batches: Any = None):
        name = type(self).__name__
        for what, value in (("loss", loss), ("schedule", schedule)):
            if not callable(value) and (what == "loss" or value is not None):
                wanted = "loss(x, theta)" if what == "loss" else "schedule(theta, t)"
                raise TypeError(f"{name} wants a function {wanted}; it was given a {type(value).__name__}")
        self.loss, self.schedule, self.batches = loss, schedule, batches
        self.start = start if callable(start) else jax.tree.map(lambda leaf: _start_leaf(name, leaf), start)

    @property
    def stationary(self):
        """Whether a step depends on the state and theta alone, as long as theta holds no number a step."""
        return (self.schedule is None or isinstance(self.schedule, Constant)) and self.batches is None

    @property
    def own(self) -> tuple[str, ...]:
        """theta's keys that are numbers of the optimiser, not of its schedule."""
        return tuple(key for key in self.rates if self.schedule is None or key != self.size)

    def init(self, theta, start=None):
        if start is not None:
            x = start.x
        else:
            x = self.start(theta) if callable(self.start) else self.start
        return self.first(jax.tree.map(_floating, x))

    def first(self, x: PyTree) -> PyTree:
        """The state at t = 0."""
        raise NotImplementedError

    def at(self, x: PyTree, theta: PyTree, t) -> Array:
        """The loss that step t descends."""
        batch = () if self.batches is None else (self._batch(t),)
        value = call(lambda theta: self.loss(x, theta, *batch), theta, "loss(x, theta)")
        if jnp.shape(value) != ():
            raise ValueError(f"the loss of {type(self).__name__} has shape {jnp.shape(value)}: a scalar is wanted")
        return value

    def gradient(self, x: PyTree, theta: PyTree, t) -> PyTree:
        """Of the loss in x."""
        return jax.grad(self.at)(x, theta, t)

    def measure(self, state, theta, t):
        return self.at(self.output(state), theta, t)

    def rate(self, theta: PyTree, t) -> PyTree:
        """The step size: a number, or one for each group of parameters."""
        if self.schedule is None:
            return self.number(theta, self.size, t)
        return call(lambda theta: self.schedule(theta, t), theta, "schedule(theta, t)")

    def moved(self, x: PyTree, direction: PyTree, theta: PyTree, t) -> PyTree:
        """x - eta_t direction."""
        rate = self.rate(theta, t)
        if not _is_prefix(rate, x):
            raise ValueError(
                f"the step size has the groups {tree.paths(rate)}, which are not those of x: {tree.paths(x)}"
            )
        rate = jax.tree.map(lambda r, part: jax.tree.map(lambda _: r, part), rate, x)
        return tree.like(x, jax.tree.map(lambda r, x, d: x - r * d, rate, x, direction))

    def number(self, theta: PyTree, key: str, t, default: float | None = None) -> PyTree:
        """theta[key] at step t, where it may hold one number for all steps or one for each."""
        if key not in theta and default is not None:
            return default
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[t] if jnp.ndim(leaf) else leaf, theta[key])

    def _batch(self, t):
        if callable(self.batches):
            try:
                return self.batches(t)
            except jax.errors.TracerArrayConversionError:
                raise TypeError(
                    "batches(t) indexes a NumPy array by t, which is traced: make it a JAX array, jnp.asarray(rows)[t]"
                ) from None
        count = jnp.shape(jax.tree.leaves(self.batches)[0])[0]
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[t % count], self.batches)

    # --- the door ----------------------------------------------------------------------------------------------

    def bounds(self, theta):
        floor, ceiling = unbounded(theta)
        limits = {key: self.rates[key] for key in self.own} | {getattr(self.schedule, "key", None): np.inf}
        for key, limit in limits.items() if isinstance(theta, dict) else ():
            if key in theta:
                below = np.nextafter(limit, 0.0) if np.isfinite(limit) else limit
                floor[key] = jax.tree.map(np.zeros_like, floor[key])
                ceiling[key] = jax.tree.map(lambda leaf: np.full_like(leaf, below), ceiling[key])  # noqa: B023
        return floor, ceiling

    def check(self, theta, steps=None):
        name, needed = type(self).__name__, [key for key in self.needed if key in self.own]
        if needed and not isinstance(theta, dict):
            kind = type(theta).__name__
            raise ValueError(f"theta is a {kind}; {name} wants a dict with {', '.join(map(repr, needed))}")
        for key in needed:
            if key not in theta:
                near = nearest(key, theta)
                hint = f" (is {near!r} a slip?)" if near else ""
                raise ValueError(f"theta lacks {key!r}{hint}: {name} wants {', '.join(map(repr, needed))}")
        for key in (*self.own, getattr(self.schedule, "key", None)) if isinstance(theta, dict) else ():
            if isinstance(theta.get(key), list | tuple) and not _is_prefix(theta[key], self.start):
                kind = type(theta[key]).__name__
                raise ValueError(f"theta {key!r} is a {kind}: one array of its numbers is wanted, np.array([...])")
        for key in self.own if isinstance(theta, dict) else ():
            if key in theta:
                self._check_shapes(key, theta[key], steps)

    def _check_shapes(self, key, value, steps):
        name = type(self).__name__
        if isinstance(value, dict):
            if key != self.size:
                raise ValueError(f"theta {key!r} is a dict: {name} wants a number, or one number a step")
            if not callable(self.start) and not _is_prefix(value, self.start):
                raise ValueError(
                    f"theta {key!r} has the groups {tree.paths(value)}, which are not those of x: "
                    f"{tree.paths(self.start)}"
                )
        for shape in map(jnp.shape, jax.tree.leaves(value)):
            if len(shape) > 1:
                raise ValueError(f"theta {key!r} has shape {shape}: {name} wants a number, or one number a step")
            if shape and steps is not None and shape != (steps,):
                raise ValueError(
                    f"theta {key!r} holds {shape[0]} numbers, one a step, and the run has {steps} steps: give {steps} "
                    "numbers, or one"
                )

    def varies(self, theta):
        held = [theta[key] for key in self.own if isinstance(theta, dict) and key in theta]
        return not self.stationary or any(jnp.ndim(leaf) for leaf in jax.tree.leaves(held))


class GradientDescent(Optimiser):
    """Gradient descent on any loss, with a step size that is a hyperparameter.

        x_{t+1} = x_t - eta_t grad_x loss(x_t, theta)

    **Arguments**: `loss(x, theta)`: a scalar JAX function of a tree x; with `batches` `loss(x, theta, batch)`; `start`:
    x_0, or a function of theta that returns it; `schedule(theta, t)`: eta_t (`InverseTime()`, `Cosine(steps)`,
    `Piecewise(boundaries)`, your own); None: theta["eta"], a number, one for each step, or a dict of these that names
    groups of x; `batches`: arrays with a first axis over minibatches, taken in turn, or a function of t.

    theta holds "eta" (at least 0; not with a schedule of other keys) and whatever else the loss and the schedule look
    up. Raises ValueError for a missing key, a negative step size, or one number a step where the steps are others.

    >>> import jax.numpy as jnp, numpy as np, invhyper as ih
    >>> run = ih.GradientDescent(lambda x, theta: 0.5 * jnp.sum(x**2), np.ones(2))
    >>> problem = ih.Bilevel(run, lambda x, theta: 0.5 * jnp.sum(x**2))
    >>> found = ih.Unrolled(3)(problem, {"eta": 0.5})
    >>> print(found.solution.x, round(float(found.gradient["eta"]), 6))
    [0.125 0.125] -0.1875

    Cauchy (1847), Comptes rendus 25, 536; its hypergradients: Maclaurin, Duvenaud and Adams (2015), arXiv:1502.03492.
    """

    rates: ClassVar[dict[str, float]] = {"eta": np.inf}
    needed: ClassVar[tuple[str, ...]] = ("eta",)

    def first(self, x):
        return x

    def step(self, state, theta, t):
        g = self.gradient(state, theta, t)
        return self.moved(state, g, theta, t)

    def output(self, state):
        return state


class Momentum(Optimiser):
    """Gradient descent with momentum (the heavy ball).

        v_{t+1} = beta_t v_t + grad_x loss(x_t, theta),   x_{t+1} = x_t - eta_t v_{t+1},   v_0 = 0

    **Arguments**: as for `GradientDescent`. theta holds "eta" (unless there is a schedule) and "beta" (0 <= beta < 1),
    each a number or one for each step.

    >>> import jax.numpy as jnp, numpy as np, invhyper as ih
    >>> run = ih.Momentum(lambda x, theta: 0.5 * jnp.sum(x**2), np.ones(1))
    >>> problem = ih.Bilevel(run, lambda x, theta: jnp.sum(x))
    >>> found = ih.Unrolled(2)(problem, {"eta": 0.5, "beta": 0.5})
    >>> print(found.solution.x, found.gradient)
    [0.] {'beta': array(-0.5), 'eta': array(-1.5)}

    Polyak (1964), doi:10.1016/0041-5553(64)90137-5.
    """

    rates: ClassVar[dict[str, float]] = {"eta": np.inf, "beta": 1.0}
    needed: ClassVar[tuple[str, ...]] = ("eta", "beta")

    def first(self, x):
        return x, jax.tree.map(jnp.zeros_like, x)

    def step(self, state, theta, t):
        x, v = state
        v = tree.like(v, tree.axpy(self.number(theta, "beta", t), v, self.gradient(x, theta, t)))
        return self.moved(x, v, theta, t), v

    def output(self, state):
        return state[0]


class AdamIteration(Optimiser):
    """Adam, with its step size, its two rates of forgetting and its eps as hyperparameters.

        m_{t+1} = beta1 m_t + (1 - beta1) g_t,   v_{t+1} = beta2 v_t + (1 - beta2) g_t^2,   g_t = grad_x loss(x_t)
        x_{t+1} = x_t - alpha m_{t+1} / (1 - beta1^{t+1}) / (sqrt(v_{t+1} / (1 - beta2^{t+1})) + eps)

    Where all gradients of a coordinate were zero, so is the derivative of its root. With one beta for each step the
    powers are products, so that m and v remain weighted means.

    **Arguments**: as for `GradientDescent`. theta holds "alpha" (unless there is a schedule) and, if they are not to be
    0.9, 0.999 and 1e-8, "beta1", "beta2" (in [0, 1)) and "eps" (at least 0): numbers, or one for each step.

    >>> import jax.numpy as jnp, numpy as np, invhyper as ih
    >>> run = ih.AdamIteration(lambda x, theta: 0.5 * jnp.sum(x**2), np.array([1.0, 0.0]))
    >>> found = ih.Unrolled(1)(ih.Bilevel(run, lambda x, theta: jnp.sum(x)), {"alpha": 0.1, "eps": 0.0})
    >>> print(found.solution.x, found.gradient["alpha"])
    [0.9 0. ] -1.0

    Kingma and Ba (2015), arXiv:1412.6980.
    """

    rates: ClassVar[dict[str, float]] = {"alpha": np.inf, "beta1": 1.0, "beta2": 1.0, "eps": np.inf}
    needed: ClassVar[tuple[str, ...]] = ("alpha",)
    size: ClassVar[str] = "alpha"

    @property
    def stationary(self):
        return False

    def first(self, x):
        zeros = jax.tree.map(jnp.zeros_like, x)
        one = jnp.ones((), jnp.result_type(*jax.tree.leaves(x)))
        return x, zeros, zeros, one, one

    def step(self, state, theta, t):
        x, m, v, left1, left2 = state
        beta1, beta2 = self.number(theta, "beta1", t, 0.9), self.number(theta, "beta2", t, 0.999)
        eps = self.number(theta, "eps", t, 1e-8)
        left1, left2 = beta1 * left1, beta2 * left2
        g = self.gradient(x, theta, t)
        m = jax.tree.map(lambda m, g: beta1 * m + (1.0 - beta1) * g, m, g)
        v = jax.tree.map(lambda v, g: beta2 * v + (1.0 - beta2) * g**2, v, g)
        ahead = jax.tree.map(lambda m, v: _ratio(m / (1.0 - left1), root(v / (1.0 - left2)) + eps), m, v)
        return tree.like(state, (self.moved(x, ahead, theta, t), m, v, left1, left2))

    def output(self, state):
        return state[0]


def root(v: Array) -> Array:
    """sqrt(v), with the derivative 0 at 0 (and below, where it is NaN as ever)."""
    flat = v <= 0
    return jnp.where(flat, jnp.where(v < 0, jnp.nan, 0.0).astype(v.dtype), jnp.sqrt(jnp.where(flat, 1.0, v)))


def _ratio(a, b):
    """a / b, and 0 where b is 0."""
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))


def _is_prefix(prefix: PyTree, whole: PyTree) -> bool:
    try:
        jax.tree.map(lambda *_: None, prefix, whole)
    except ValueError:
        return False
    return True


def _floating(leaf):
    """An array of floating point, in single precision if it came so: a number of Python's counts as a double."""
    if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) and hasattr(leaf, "dtype"):
        return jnp.asarray(leaf)
    return jnp.asarray(leaf, float)


def _start_leaf(name: str, leaf):
    if isinstance(leaf, jax.core.Tracer):
        return leaf
    leaf = np.asarray(leaf)
    if leaf.dtype.kind not in "fiub" or not np.all(np.isfinite(leaf)):
        raise ValueError(f"{name} start holds {leaf!r}: finite numbers are wanted")
    return jnp.asarray(leaf if leaf.dtype == np.float32 else leaf.astype(float))
