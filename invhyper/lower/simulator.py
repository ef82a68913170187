"""Initial value problems with doses, breaks and steady starts, through diffrax.

dx/dt = rhs(t, x, p, theta),   x(t0) = initial(p, theta),   x jumps by amounts[k] at the times of `Doses`
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from invhyper import tree
from invhyper.lower.steady import settle

FORWARD, REVERSE = diffrax.ForwardMode(), diffrax.RecursiveCheckpointAdjoint()
REACHED, STEP_LIMIT, STUCK, UNSETTLED, IRREVERSIBLE, EARLY = range(6)
# No step is shorter than this share of the span: states or slopes that are not finite end a simulation soon.
SHORTEST = 1e-30
FINER = 0.1
# A closer simulation takes this many steps at least (a quarter of `max_steps` where that is fewer): a first one may
# have stepped over a pulse, and an error below atol is no error to its controller.
LOOKS = 64
TIGHT = 1e-6
# Backwards a state may be missed by so many times rtol, relative to its size, and no more.
MISSED = 1e4


class Doses(eqx.Module):
    """Jumps of the state: `amounts[k]` (shape of the state) is added to it at `times[k]`.

    A value at the time of a dose is the value after it. Times in any order, infinite where there is none (padding).

    >>> import numpy as np, invhyper as ih
    >>> ih.Doses(np.array([0.0, 12.0]), np.array([[100.0], [100.0]])).amounts.shape
    (2, 1)
    """

    times: Float[Array, " doses"]
    amounts: PyTree

    def __check_init__(self):
        for leaf in jax.tree.leaves(self.amounts):
            if jnp.shape(leaf)[:1] != jnp.shape(self.times):
                shapes = f"{jnp.shape(self.times)} times and amounts of shape {jnp.shape(leaf)}"
                raise ValueError(f"Doses has {shapes}: one amount, shaped like the state, for each time is wanted")


def _added(t, x: PyTree, amount: PyTree, *given) -> PyTree:
    return jax.tree.map(jnp.add, x, amount)


class Trajectory(NamedTuple):
    """States at the times asked for; `code` (REACHED or why not), the last `time`, the `state` there, `steps` taken."""

    states: PyTree
    code: Array
    time: Array
    state: PyTree
    steps: Array


class Simulator(eqx.Module):
    """x at given times.

    **Arguments**: `rhs(t, x, p, theta)` and `initial(p, theta)`, each with a last argument more, the condition, where
    one is given; x any tree of arrays. `solver`: a diffrax solver; `rtol`, `atol`: of its local error; `max_steps`: of
    each stretch between jumps; `doses`: `Doses`, or a function of (p, theta) that returns them; `breaks`: times at
    which rhs jumps; `steady`: True starts from where rhs at t0 comes to rest, a function like rhs from where that does;
    `longest`: no step is longer than this share of the span; `leap(t, x, amount, p, theta)`: x after a dose.
    """

    rhs: Callable
    initial: Callable
    solver: diffrax.AbstractSolver
    t0: Array
    rtol: Array
    atol: Array
    max_steps: int = eqx.field(static=True)
    doses: Doses | Callable | None = None
    breaks: Array | None = None
    steady: bool | Callable = False
    longest: Array = eqx.field(default_factory=lambda: jnp.asarray(1.0, float))
    leap: Callable = _added

    def __call__(self, times: Float[Array, " times"], p, theta, condition=None, adjoint=FORWARD) -> Trajectory:
        given = (p, theta) if condition is None else (p, theta, condition)
        state = tree.floating(self.initial(*given))
        code, time, settling = jnp.asarray(REACHED), self.t0, 0
        if self.steady:
            still = self.rhs if self.steady is True else self.steady
            numbers = self.rtol, self.atol, self.max_steps
            state, rested, settling = settle(lambda x, *given: still(self.t0, x, *given), state, given, *numbers)
            code = jnp.where(rested, REACHED, UNSETTLED)
        doses = self.given_doses(*given)
        if doses is not None:
            code = jnp.maximum(code, jnp.where(jnp.any(doses.times < self.t0), EARLY, REACHED))
        at, jumps = self._jumps(state, doses)
        span = times[-1] - self.t0
        longest = jax.lax.stop_gradient(self.longest * jnp.where(span > 0, span, 1.0))

        def stretch(carry, row):
            state, code, time, steps = carry
            begin, end, jump = row
            state = state if jump is None else self.leap(begin, state, jump, *given)
            end = jnp.where(code == REACHED, end, begin)
            within = jnp.clip(times, begin, end)
            states, last, now, time, taken = self._solve(begin, end, state, within, longest, given, adjoint)
            states, last = self._beginning(states, last, state, times, within <= begin, begin, end, given)
            if isinstance(adjoint, diffrax.BacksolveAdjoint):
                missed = self._missed(begin, end, state, last, longest, given)
                now = jnp.where((now == REACHED) & ~(missed <= MISSED * self.rtol), IRREVERSIBLE, now)
            return (last, jnp.maximum(code, now), time, steps + taken), states

        carry = (state, code, time, jnp.asarray(settling))
        if jumps is None:
            (last, code, time, steps), states = stretch(carry, (self.t0, times[-1], None))
        else:
            # Not by clip, which halves the derivative of a dose at t0 or at the last time.
            ends = jnp.where(at < self.t0, self.t0, at)
            ends = jnp.where(ends > times[-1], times[-1], ends)
            (last, code, time, steps), states = jax.lax.scan(stretch, carry, (ends[:-1], ends[1:], jumps))
            which = jnp.sum(times[:, None] >= at[None, 1:-1], axis=1)
            states = jax.tree.map(lambda leaf: leaf[which, jnp.arange(times.size)], states)
        return Trajectory(states, code, time, last, steps)

    def finer(self) -> "Simulator":
        """The same at a tenth of the tolerances and in more steps: what a result changes by is about its error."""
        return replace(self.closer(True), rtol=FINER * self.rtol, atol=FINER * self.atol)

    def closer(self, when) -> "Simulator":
        """The same in more steps, where `when` is true."""
        longest = jnp.minimum(0.5 * self.longest, max(1 / LOOKS, 4 / self.max_steps))
        return replace(self, longest=jnp.where(when, longest, self.longest))

    def given_doses(self, *given) -> Doses | None:
        """The doses of (p, theta), and of the condition where there is one."""
        return self.doses(*given) if callable(self.doses) else self.doses

    def _jumps(self, state, doses):
        """The ends of the stretches between jumps, and the amount that is given at the start of each."""
        if doses is None and self.breaks is None:
            return None, None
        like = state if doses is None else jax.tree.map(lambda leaf: leaf[0], doses.amounts)
        none = jax.tree.map(lambda leaf: jnp.zeros((1, *jnp.shape(leaf))), like)
        at, amounts = [], []
        # A dose at a break comes after it, as a value at either does.
        if self.breaks is not None:
            at.append(self.breaks)
            amounts.append(jax.tree.map(lambda leaf: jnp.repeat(leaf, self.breaks.size, axis=0), none))
        if doses is not None:
            at.append(jnp.asarray(doses.times, float))
            amounts.append(doses.amounts)
        order = jnp.argsort(jnp.concatenate(at))
        amounts = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[order], *amounts)
        at = jnp.concatenate([self.t0[None], jnp.concatenate(at)[order], jnp.full(1, jnp.inf)])
        return at, jax.tree.map(lambda first, rest: jnp.concatenate([first, rest]), none, amounts)

    def _beginning(self, states, last, start, times, reached, begin, end, given):
        """`states` with `start` where the stretch has hardly begun (one of no length takes no step and saves none).

        Where begin is the time of a dose that moves, so does the state at a time that does not, and `last` where the
        stretch has no length: by Taylor's series.
        """
        if not callable(self.doses):
            return jax.tree.map(lambda leaf, x: jnp.where(tree.per_row(reached, leaf), x, leaf), states, start), last
        inside = None if self.breaks is None else _inside(begin, jnp.inf)

        def slope(t, x):
            return self.rhs(_within(t, inside), x, *given)

        speed, bend = jax.jvp(slope, (begin, start), (jnp.ones_like(begin), slope(begin, start)))
        since = jnp.where(times == begin, times - begin, 0.0)
        length = jnp.where(end == begin, end - begin, 0.0)

        def series(leaf, h, reached, x, v, a):
            h = tree.per_row(h, leaf)
            return jnp.where(tree.per_row(reached, leaf), x + h * v + 0.5 * h**2 * a, leaf)

        here = start, speed, bend
        states = jax.tree.map(lambda leaf, *row: series(leaf, since, reached, *row), states, *here)
        return states, jax.tree.map(lambda leaf, *row: series(leaf, length, end == begin, *row), last, *here)

    def _missed(self, begin, end, first, last, longest, given) -> Array:
        """By how much integrating back from `last` misses `first`, relative to the larger of the two.

        `BacksolveAdjoint` reconstructs the states like this; where the equations contract, backwards they explode.
        """
        held = jax.lax.stop_gradient((begin, end, last, given))
        _, back, _, _, _ = self._solve(held[1], held[0], held[2], held[0][None], longest, held[3], FORWARD)
        first = jax.lax.stop_gradient(first)
        misses = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), back, first)
        sizes = jax.tree.map(lambda a, b: jnp.maximum(jnp.max(jnp.abs(a)), jnp.max(jnp.abs(b))), first, held[2])
        worst, size = (jax.tree.reduce(jnp.maximum, values) for values in (misses, sizes))
        return worst / jnp.maximum(size, self.atol)

    def _solve(self, begin, end, state, times, longest, given, adjoint):
        """States at `times`, the last state, code, time reached and steps, of one stretch."""
        shortest = SHORTEST * jnp.abs(end - begin)
        control = diffrax.PIDController(self.rtol, self.atol, dtmin=shortest, dtmax=longest, force_dtmin=False)
        if isinstance(self.solver, diffrax.Dopri8):
            # Between its steps Dopri8 is far less accurate than at their ends.
            control = diffrax.ClipStepSizeController(control, step_ts=times)
        at_times, at_end = diffrax.SubSaveAt(ts=times), diffrax.SubSaveAt(t1=True)
        backwards = isinstance(adjoint, diffrax.BacksolveAdjoint)  # which allows no second thing to be saved
        saveat = diffrax.SaveAt(subs=at_times if backwards else [at_times, at_end])
        found = diffrax.diffeqsolve(
            _term(self.rhs),
            self.solver,
            begin,
            end,
            None,
            state,
            (given, None if self.breaks is None else _inside(begin, end)),
            saveat=saveat,
            stepsize_controller=control,
            adjoint=adjoint,
            max_steps=self.max_steps,
            throw=False,
        )
        states, last = (found.ys, found.ys) if backwards else found.ys
        time = (found.ts if backwards else found.ts[1])[-1]
        last = jax.tree.map(lambda leaf: leaf[-1], last)
        return states, last, _code(found.result), time, found.stats["num_steps"]


def check_methods(name: str, solver, adjoint=None):
    """TypeError, in words, for what is no solver or adjoint of diffrax."""
    for what, value, kind, example in (
        ("solver", solver, diffrax.AbstractSolver, "diffrax.Tsit5() or invhyper.Rodas5P()"),
        ("adjoint", adjoint, diffrax.AbstractAdjoint, "diffrax.ForwardMode()"),
    ):
        if value is not None and not isinstance(value, kind):
            raise TypeError(
                f"{name} {what} = {value!r}: one of diffrax, such as {example}, is wanted, or None for a choice"
            )


def explicit(rtol: float) -> diffrax.AbstractSolver:
    """The explicit solver that is cheapest at a tolerance: Tsit5, or Dopri8 where it is tight."""
    return diffrax.Dopri8() if rtol < TIGHT else diffrax.Tsit5()


def _term(rhs):
    return diffrax.ODETerm(lambda t, x, args: rhs(_within(t, args[1]), x, *args[0]))


def _inside(begin, end):
    """The first and the last time of an open interval: at its very ends rhs may be that of the other side of a jump."""
    begin, end = jax.lax.stop_gradient((begin, end))
    low, high = jnp.minimum(begin, end), jnp.maximum(begin, end)
    return jnp.nextafter(low, jnp.inf), jnp.nextafter(high, -jnp.inf)


def _within(t, interval):
    """t moved into the interval, with the derivative of t."""
    return t if interval is None else t + jax.lax.stop_gradient(jnp.clip(t, *interval) - t)


def _code(result) -> Array:
    limit = jnp.where(result == diffrax.RESULTS.max_steps_reached, STEP_LIMIT, STUCK)
    return jnp.where(result == diffrax.RESULTS.successful, REACHED, limit)
