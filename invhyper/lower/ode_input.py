"""The door of `Calibration`: every argument checked before anything is simulated, the solver chosen at a first look."""

import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from invhyper import tree
from invhyper.lower.rosenbrock import Rodas5P
from invhyper.lower.simulator import Doses, explicit
from invhyper.lower.stiffness import Look, explicit_is_cheaper, look
from invhyper.theta import check_start

NAME = "Calibration"
# A state of this many times atol is known to a hundredth at best.
FEW_ATOL = 100


def functions(*, prior, **needed):
    """The model's functions are functions."""
    for name, value in needed.items():
        if not callable(value):
            raise ValueError(f"{NAME} {name} is a {type(value).__name__}: a function is wanted")
    if prior is not None and not callable(prior):
        raise ValueError(
            f"{NAME} prior is a {type(prior).__name__}: a function (p, theta) -> number, or None, is wanted"
        )


def positive(name: str, value):
    """A positive number as an array, so that another one needs no new program."""
    if not np.ndim(value) == 0 or not float(value) > 0 or not np.isfinite(float(value)):
        raise ValueError(f"{NAME} {name} = {value}: a positive number is wanted")
    return jnp.asarray(value, float)


def whole(name: str, value) -> int:
    """A whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{NAME} {name} = {value!r}: a whole number, at least 1, is wanted")
    return int(value)


def times_after(t0, measured, doses, breaks):
    """t0 and breaks as arrays; nothing measured and no dose given before t0."""
    if np.ndim(t0) or isinstance(t0, str):
        raise ValueError(f"{NAME} t0 = {t0!r}: a number is wanted")
    earliest = float(np.min(measured.times))
    if not np.isfinite(t0) or earliest < t0:
        raise ValueError(f"{NAME} times begin at {earliest:g}, before t0 = {t0:g}: start earlier, or leave these out")
    if isinstance(doses, Doses):
        amounts = jax.tree.leaves(doses.amounts)
        if np.any(np.isnan(doses.times)) or not all(np.all(np.isfinite(leaf)) for leaf in amounts):
            raise ValueError(f"{NAME} doses hold NaN: numbers are wanted, and infinite times where there is no dose")
        if np.min(doses.times, initial=np.inf) < t0:
            raise ValueError(f"{NAME} doses are given at {np.min(doses.times):g}, before t0 = {t0:g}")
    elif doses is not None and not callable(doses):
        raise ValueError(f"{NAME} doses is a {type(doses).__name__}: Doses(times, amounts) or a function is wanted")
    if breaks is not None and (np.ndim(breaks) != 1 or not np.all(np.isfinite(breaks))):
        raise ValueError(f"{NAME} breaks = {breaks}: finite times along one axis are wanted")
    return jnp.asarray(t0, float), None if breaks is None else jnp.asarray(breaks, float)


def noise(value, measured):
    """Standard deviations as an array that broadcasts against data, or the function."""
    if callable(value):
        return value
    if isinstance(value, list | tuple) and measured.conditions is not None:
        value = _padded(value, measured)
    value = np.asarray(value, float)
    if not np.all(np.isfinite(value)) or np.any(value <= 0):
        worst = value.ravel()[np.flatnonzero(~(np.isfinite(value) & (value > 0)).ravel())[0]]
        raise ValueError(f"{NAME} noise holds {worst:g}: positive standard deviations are wanted")
    value = value[..., None] if measured.flat and value.ndim else value
    try:
        np.broadcast_shapes(value.shape, measured.values.shape)
    except ValueError:
        raise ValueError(
            f"{NAME} noise has shape {value.shape}: a number, or a shape that fits data {measured.values.shape}, is "
            "wanted"
        ) from None
    return jnp.asarray(value)


def _padded(rows, measured):
    """One entry a condition, each a number, a row of observables or like that condition's data."""
    length = measured.times.shape[-1]
    filled = []
    for row in rows:
        row = np.asarray(row, float)
        row = row[..., None] if measured.flat and row.ndim else row
        if row.ndim == 2 and row.shape[0] < length:
            row = np.concatenate([row, np.ones((length - row.shape[0], row.shape[1]))])
        filled.append(np.broadcast_to(row, measured.values.shape[1:]))
    filled = np.stack(filled)
    return filled[..., 0] if measured.flat else filled


def start(value):
    """The start as a tree of floating-point arrays."""

    def leaf(path, number):
        try:
            number = number if isinstance(number, jax.core.Tracer) else np.asarray(number, float)
        except (TypeError, ValueError):
            raise ValueError(f"{NAME} start {path!r} is {number!r}: a number or an array is wanted") from None
        if not isinstance(number, jax.core.Tracer) and not np.all(np.isfinite(number)):
            raise ValueError(f"{NAME} start {path!r} = {number} is not finite")
        return jnp.asarray(number, float)

    leaves, structure = jax.tree.flatten(value)
    if not leaves:
        raise ValueError(f"{NAME} start holds no number: p needs at least one parameter")
    return jax.tree.unflatten(structure, [leaf(*pair) for pair in zip(tree.paths(value), leaves, strict=True)])


def box(first, bounds):
    """Lower and upper bounds of the flat p; the start must lie between them."""
    flat, _ = ravel_pytree(first)
    if bounds is None:
        return jnp.full(flat.size, -jnp.inf, float), jnp.full(flat.size, jnp.inf, float)
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise ValueError(f"{NAME} bounds = {bounds}: a pair (lower, upper) is wanted")
    sides = [_side(side, first, default) for side, default in zip(bounds, (-np.inf, np.inf), strict=True)]
    for name, low, high in zip(tree.entries(first), *sides, strict=True):
        if not low < high:
            raise ValueError(f"{NAME} bounds of {name!r} are {low:g} and {high:g}: lower < upper is wanted")
    check_start(f"{NAME} start", first, *sides)
    return tuple(jnp.asarray(side) for side in sides)


def _side(side, first, default):
    """A bound for each number in p, from one number, a tree like p, or a dict of some of its keys."""
    if side is None or (np.ndim(side) == 0 and not isinstance(side, dict)):
        return np.full(ravel_pytree(first)[0].size, default if side is None else float(side))
    if isinstance(first, dict) and isinstance(side, dict):
        unknown = [key for key in side if key not in first]
        if unknown:
            raise ValueError(
                f"{NAME} bounds have an unknown key {unknown[0]!r}: start has {', '.join(map(repr, first))}"
            )
        side = {key: side.get(key, default) for key in first}
    try:
        filled = jax.tree.map(lambda leaf, limit: np.broadcast_to(np.asarray(limit, float), leaf.shape), first, side)
    except ValueError:
        raise ValueError(f"{NAME} bounds do not fit start: a number, or a tree like it, is wanted each") from None
    return np.asarray(ravel_pytree(filled)[0], float)


class FirstLook:
    """What is found out once, at the first theta with numbers: that the functions fit together, and the solver.

    Every program is made after the first look, and depends on its solver alone: another calibration with the same
    functions and the same kind of solver runs in the same programs.
    """

    def __init__(self):
        self.solver = None
        self.seen = None

    def __eq__(self, other):
        return isinstance(other, FirstLook) and type(self.solver) is type(other.solver)

    def __hash__(self):
        return hash(type(self.solver))

    def complete(self, model):
        """The model with a solver."""
        if model.simulator.solver is not None:
            return model
        return replace(model, simulator=replace(model.simulator, solver=self.solver or Rodas5P()))

    def at(self, model, measured, p, theta):
        """Shapes always; the choice of the solver at the first theta."""
        structure = jax.tree.structure(theta), tuple(np.shape(leaf) for leaf in jax.tree.leaves(theta))
        if self.seen == structure:
            return
        given = (p, theta)
        if measured.conditions is not None:
            given += (jax.tree.map(lambda leaf: leaf[0], measured.conditions),)
        shapes(model, measured, given)
        self.seen = structure
        if self.solver is None:
            self.solver = choose(model.simulator, measured, given)


def shapes(model, measured, given):
    """rhs returns a tree like the state, observe one row of data, prior a number: else a ValueError."""
    simulator = model.simulator
    t = jnp.zeros(())
    state = _called("initial", simulator.initial, *given)
    slope = _called("rhs", simulator.rhs, t, state, *given)
    if jax.tree.structure(slope) != jax.tree.structure(state) or _sizes(slope) != _sizes(state):
        raise ValueError(f"{NAME} rhs returns shape {_sizes(slope)}, initial {_sizes(state)}: the same is wanted")
    if simulator.doses is not None:
        doses = _called("doses", simulator.given_doses, *given)
        if not isinstance(doses, Doses):
            raise ValueError(f"{NAME} doses returns a {type(doses).__name__}: Doses(times, amounts) is wanted")
        amounts = [leaf.shape[1:] for leaf in jax.tree.leaves(doses.amounts)]
        same = jax.tree.structure(doses.amounts) == jax.tree.structure(state)
        if not same or amounts != [leaf.shape for leaf in jax.tree.leaves(state)]:
            raise ValueError(
                f"{NAME} doses have amounts of shape {_sizes(doses.amounts)}: a tree like the state, {_sizes(state)}, "
                "with the doses as first axis is wanted"
            )
    seen = _called("observe", model.observe, t, state, *given)
    wanted = () if measured.flat else measured.values.shape[-1:]
    if not hasattr(seen, "shape") or seen.shape not in (wanted, (1,) if measured.flat else wanted):
        shown = _sizes(seen)
        raise ValueError(f"{NAME} observe returns shape {shown}: {wanted}, as each row of data, is wanted")
    if model.prior is not None:
        prior = _called("prior", model.prior, *given[:2])
        if getattr(prior, "shape", None) != ():
            raise ValueError(f"{NAME} prior returns shape {_sizes(prior)}: a number is wanted")
    if callable(model.noise):
        noise = _called("noise", model.noise, *given)
        try:
            np.broadcast_shapes(noise.shape, measured.values.shape[-2:][: 1 if measured.flat else 2])
        except (ValueError, AttributeError):
            raise ValueError(f"{NAME} noise returns shape {_sizes(noise)}, which does not fit data") from None


def _called(name, function, *arguments):
    """The shapes a function of the user's returns, its own errors said with its name."""
    try:
        return jax.eval_shape(function, *arguments)
    except KeyError as missing:
        held = {"p": arguments[-2], "theta": arguments[-1]}
        keys = "; ".join(f"{k} has {', '.join(map(repr, v))}" for k, v in held.items() if isinstance(v, dict))
        raise ValueError(f"{NAME} {name} asks for the key {missing}: {keys}") from None
    except TypeError as wrong:
        raise ValueError(f"{NAME} {name} cannot be called with its {len(arguments)} arguments: {wrong}") from None


def _sizes(value):
    sizes = [tuple(leaf.shape) for leaf in jax.tree.leaves(value)]
    return sizes[0] if len(sizes) == 1 else tuple(sizes)


def choose(simulator, measured, given):
    """The solver given, an explicit one where stability lets it win, else Rodas5P; a warning of too large an atol."""
    state, unravel = ravel_pytree(tree.floating(simulator.initial(*given)))
    t0, last = float(simulator.t0), float(np.max(measured.times))

    def rhs(t, x):
        return ravel_pytree(simulator.rhs(t, unravel(x), *given))[0]

    seen = look(rhs, t0, last, np.asarray(state)) if last > t0 else None
    if seen is not None:
        large_enough(unravel(state), seen, float(simulator.atol))
    if simulator.solver is not None:
        return simulator.solver
    rtol = float(simulator.rtol)
    return explicit(rtol) if explicit_is_cheaper(rhs, seen, rtol) else Rodas5P()


def large_enough(state, seen: Look, atol: float):
    """UserWarning for a state so small throughout that atol leaves it unresolved."""
    largest = np.max(np.abs(seen.states), axis=0)
    small = np.flatnonzero((largest > 0) & (largest < FEW_ATOL * atol))
    if small.size:
        name = tree.entries(state)[small[0]]
        warnings.warn(
            f"{NAME} state {name!r} stays below {largest[small[0]]:.1e}, near atol = {atol:.0e}: errors of that size "
            "are not seen; set atol to rtol times a typical state, or scale the states",
            stacklevel=2,
        )
