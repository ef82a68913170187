"""Calibration: kinetic parameters of an ordinary differential equation, fitted by least squares."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from invhyper.lower import levenberg_marquardt as lm
from invhyper.lower import ode_input as door
from invhyper.lower.levenberg_marquardt import Local
from invhyper.lower.measurements import Measurements, measurements
from invhyper.lower.ode_failure import failure
from invhyper.lower.ode_input import FirstLook
from invhyper.lower.ode_model import OdeModel, first_order, nearest_dose, objective, observations, second_order
from invhyper.lower.simulator import Doses, Simulator, check_methods
from invhyper.problem import (
    ABOVE_TOLERANCE,
    CONVERGED,
    INDEFINITE,
    NOT_FINITE,
    Linearisation,
    LowerLevel,
    Solution,
)

# Gauss-Newton steps until NEAR, or until they are slow below STALLED; exact Newton steps after.
NEAR, EXACT, STALLED = 1e-5, 1e-13, 1e-3
# What a margin is the distance to.
AT_A_BOUND = "a parameter about to reach or to leave its bound"
OR_A_DOSE = ", or a dose about to meet a measurement, a break or t0"
# Where those do not arrive Gauss-Newton's have another go, however slow (in a flat valley the Hessian is no guide), and
# with simulations that look closer: steps are chosen for the state, so that at a state of zero slopes may be anything.
ATTEMPTS = 2
# Below this eigenvalue of the scaled Hessian (largest: about 1) the data do not hold a direction of p.
SINGULAR = 1e-11
# Below this one it bends downwards, beyond what simulation errors make of a flat direction: no minimum.
SADDLE = -1e-6


class Memo(NamedTuple):
    """What a solve leaves: the last `Local`, with the second derivatives [A B] of the objective in `more`; theta."""

    local: Local
    theta: PyTree


class Calibration(LowerLevel):
    """Parameters p of an ODE that fit measurements best.

        p*(theta) = argmin_p  1/2 sum ((data - observe(t, x, p, theta)) / noise)^2 [+ sum log noise] + prior(p, theta)
        dx/dt = rhs(t, x, p, theta),   x(t0) = initial(p, theta),   lower <= p <= upper

    The sum of log noise is there where `noise` is a function, so that the objective is a negative log-likelihood.

    **Arguments**: `rhs(t, state, p, theta)`, `initial(p, theta)`, `observe(t, state, p, theta)`: JAX functions; with
    `conditions` each takes the condition as one argument more. `times` (T,), increasing, from `t0` on; `data` (T,) or
    (T, observables); `mask`: True where data was measured; `noise`: standard deviation, a number, an array like data,
    or a function (p, theta) that returns either. `start`: p of a cold start, any tree of numbers; `bounds`: (lower,
    upper), numbers or trees like `start`; `prior(p, theta)`: a scalar. `conditions`: a list of trees, one for each
    experiment (doses, inputs), and then `times`, `data`, `mask` are lists as well (`times` may be shared). `doses`:
    `Doses`, or a function (p, theta) that returns them; `breaks`: times at which rhs jumps; `steady`: True starts each
    experiment from where rhs at t0 comes to rest, a function like rhs from where that one does. `solver`: a diffrax
    solver; None chooses an explicit one or `Rodas5P` by the stiffness at the first theta. `rtol`, `atol`, `max_steps`:
    of the simulation; `adjoint`: a diffrax adjoint, None for forward mode where there are few parameters and
    checkpointed reverse mode else; `gauss_newton`: True leaves the second derivatives of the simulation out of the
    hypergradient; `certify`: True tightens rtol and atol until the hypergradient is known to `accuracy`, or says that
    it cannot be. `fit_steps`: of the fit.

    The error of a solution is |D^-1/2 g| over the larger of the residual's norm and |D^1/2 p|, with g the slope and D
    the diagonal of the curvature, on the parameters that no bound holds: it is free of units. Raises ValueError at the
    door, `NotConverged` with time, state and parameters where the model cannot be simulated at the start.

    >>> import jax.numpy as jnp, numpy as np, invhyper as ih
    >>> t = np.linspace(0.5, 4.0, 8)
    >>> decay = ih.Calibration(
    ...     rhs=lambda t, x, p, theta: -p["rate"] * x,
    ...     initial=lambda p, theta: theta["x0"],
    ...     observe=lambda t, x, p, theta: x,
    ...     times=t, data=2 * np.exp(-0.7 * t), noise=0.1, start={"rate": 1.0},
    ... )
    >>> print(ih.solve(decay, {"x0": 2.0}).x["rate"].round(6))
    0.7

    Bock (1983), doi:10.1007/978-3-642-68220-9; Raue et al. (2013), doi:10.1371/journal.pone.0074335.
    """

    singular: ClassVar = (
        "the data do not hold a direction of p, which `invhyper.identify` names: fix a parameter, add a prior, or "
        "measure something else"
    )
    constant: ClassVar = ("model", "measured.times", "measured.conditions", "floor", "ceiling", "targets", "accuracy")

    model: OdeModel
    measured: Measurements
    start: PyTree
    floor: Float[Array, " p"]
    ceiling: Float[Array, " p"]
    targets: Float[Array, "2"]
    fit_steps: int = eqx.field(static=True)
    gauss_newton: bool = eqx.field(static=True)
    accuracy: Float[Array, ""] | None
    look: FirstLook = eqx.field(static=True)

    def __init__(
        self,
        rhs: Callable,
        initial: Callable,
        observe: Callable,
        times,
        data,
        *,
        noise,
        start: PyTree,
        t0: float = 0.0,
        prior: Callable | None = None,
        bounds=None,
        mask=None,
        conditions=None,
        doses: Doses | Callable | None = None,
        breaks=None,
        steady: bool | Callable = False,
        solver=None,
        rtol: float = 1e-8,
        atol: float = 1e-8,
        max_steps: int = 10_000,
        fit_steps: int = 200,
        adjoint=None,
        gauss_newton: bool = False,
        certify: bool = False,
        accuracy: float = 1e-6,
    ):
        door.functions(rhs=rhs, initial=initial, observe=observe, prior=prior)
        check_methods("Calibration", solver, adjoint)
        if not isinstance(steady, bool) and not callable(steady):
            raise ValueError(f"Calibration steady = {steady!r}: True, False or a function like rhs is wanted")
        max_steps, fit_steps = door.whole("max_steps", max_steps), door.whole("fit_steps", fit_steps)
        self.measured = measurements(times, data, mask, conditions)
        numbers = [door.positive(name, value) for name, value in (("rtol", rtol), ("atol", atol))]
        t0, breaks = door.times_after(t0, self.measured, doses, breaks)
        simulator = Simulator(rhs, initial, solver, t0, *numbers, max_steps, doses, breaks, steady)
        self.model = OdeModel(simulator, observe, door.noise(noise, self.measured), prior, adjoint)
        self.start = door.start(start)
        self.floor, self.ceiling = door.box(self.start, bounds)
        # As numbers of the compiled program, so that one serves fits from afar and those that begin close by.
        self.targets = jnp.array([NEAR, EXACT])
        self.fit_steps, self.gauss_newton = fit_steps, gauss_newton
        self.accuracy = door.positive("accuracy", accuracy) if certify else None
        self.look = FirstLook()

    def check(self, theta):
        theta = super().check(theta)
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((theta, self.model, self.measured))):
            self.look.at(self.model, self.measured, self.start, theta)
        return theta

    def chosen(self) -> OdeModel:
        """The model with the solver that the first look chose."""
        return self.look.complete(self.model)

    # Its conditions

    def split(self) -> tuple[PyTree, Callable]:
        """The numbers that differ between conditions, their axis in front, and what makes a Calibration of one's."""
        if self.measured.conditions is None:
            raise ValueError("Calibration has no conditions to split: give a list of them, one for each subject")
        return _by_condition(self)(self), lambda mine: self._with(jax.tree.map(lambda leaf: leaf[None], mine))

    def conditions_at(self, which) -> "Calibration":
        """The same for some of the conditions, by their numbers."""
        return self._with(jax.tree.map(lambda leaf: leaf[which], self.split()[0]))

    def _with(self, numbers) -> "Calibration":
        return eqx.tree_at(_by_condition(self), self, numbers)

    # The model

    def simulate(self, p: PyTree, theta: PyTree, times=None) -> Float[Array, "*conditions T observables"]:
        """What would be observed at `times` (those of the data if None), in the shape of data.

        Differentiable in p and theta, in either mode. NaN where the simulation fails.
        """
        measured = self.measured.at(self.measured.times if times is None else times)
        seen = observations(self.chosen(), measured, p, theta)
        return seen[..., 0] if measured.flat else seen

    def states(self, p: PyTree, theta: PyTree, times=None) -> PyTree:
        """The states at `times` (those of the data if None), with a leading axis of conditions where there are some."""
        measured = self.measured if times is None else self.measured.at(times)
        return self.chosen().trajectories(measured, p, theta).states

    def objective(self, x, theta):
        return objective(self.chosen(), self.measured, x, theta)

    def objective_at(self, solution, theta):
        return self.objective(solution.x, theta) if solution.memo is None else solution.memo.local.value

    def residual(self, x, theta):
        return jax.grad(self.objective)(x, theta)

    def deviations(self, p: PyTree, theta: PyTree) -> Float[Array, "*conditions T observables"]:
        """(data - simulation) / noise, zero where nothing was measured."""
        seen = observations(self.chosen(), self.measured, p, theta)
        shape = self.measured.values.shape
        deviations = self.chosen().terms(self.measured, p, theta, seen).residual.reshape(shape)
        return deviations[..., 0] if self.measured.flat else deviations

    def value_and_gradient(self, p: PyTree, theta: PyTree, estimate: bool = True) -> tuple[float, PyTree, float | None]:
        """The objective at p, its gradient in p, and the gradient's error: what a tenth of the tolerances changes.

        The error costs a second, finer simulation; it is None without `estimate`.
        """
        theta = self.check(theta)
        x, unravel = ravel_pytree(door.start(p))
        local = _first_order(self, x, theta)
        error = float(jnp.linalg.norm(_first_order(self.finer(), x, theta).slope - local.slope)) if estimate else None
        return float(local.value), jax.tree.map(np.asarray, unravel(local.slope)), error

    # The lower level

    def cold_start(self, theta):
        x, _ = ravel_pytree(self.start)
        local = lm.blank(x, x.size + ravel_pytree(theta)[0].size)
        return Solution(self.start, memo=Memo(local, jax.tree.map(jnp.asarray, theta)))

    def shape(self, theta):
        return jax.eval_shape(lambda: self.start)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        x, unravel = ravel_pytree(self.start if start is None else jax.tree.map(jnp.asarray, start.x))
        x = jnp.clip(jax.lax.stop_gradient(x), self.floor, self.ceiling)
        model, box = self.chosen(), (self.floor, self.ceiling)

        width = x.size + ravel_pytree(theta)[0].size

        def attempt(carry):
            found, steps, number = carry
            trying = replace(model, simulator=model.simulator.closer(number > 0))

            def near(x):
                return first_order(trying, self.measured, unravel, x, theta)

            def here(x):
                return second_order(trying, self.measured, unravel, x, theta, self.gauss_newton)

            target, stalled = jnp.where(number == 0, jnp.stack([self.targets[0], STALLED]), jnp.array([NEAR, 0.0]))
            blank = lm.blank(found.local.x)
            first = lm.descend(near, blank, *box, lm.FIRST_DAMPING, target, self.fit_steps, stalled)
            found = lm.descend(here, lm.blank(first.local.x, width), *box, 0.0, self.targets[1], self.fit_steps)
            return found, steps + first.steps + found.steps, number + 1

        def unfinished(carry):
            found, _, number = carry
            arrived = (found.error <= tol) | ((number > 0) & ~jnp.isfinite(found.local.value))
            return (number < ATTEMPTS) & ~arrived

        begin = lm.undone(lm.blank(x, width), 0.0), jnp.asarray(0), jnp.asarray(0)
        found, steps, _ = jax.lax.while_loop(unfinished, attempt, begin)
        code = jnp.where(found.error <= tol, CONVERGED, ABOVE_TOLERANCE)
        bent = lm.lowest(found.local, lm.free(found.local, *box)) < SADDLE
        code = jnp.where((code == CONVERGED) & bent, INDEFINITE, code)
        code = jnp.where(jnp.isfinite(found.local.value), code, NOT_FINITE)
        memo = Memo(found.local, jax.tree.map(jnp.asarray, theta))
        return Solution(unravel(found.local.x), found.error, steps, code, memo)

    def linearise(self, solution, theta):
        x, unravel = ravel_pytree(solution.x)
        if solution.memo is None:
            local = second_order(self.chosen(), self.measured, unravel, x, theta, self.gauss_newton)
        else:
            local = solution.memo.local
        flat, unravel_theta = ravel_pytree(theta)
        free = lm.free(local, self.floor, self.ceiling)
        both, scale = free[:, None] & free[None, :], lm.scales(local)
        A = jnp.where(both, local.more[:, : x.size], jnp.diag(scale**2))
        B = jnp.where(free[:, None], local.more[:, x.size :], 0.0)
        scaled = A / (scale[:, None] * scale[None, :])
        seen = jnp.where(lm.lowest(local, free) > SINGULAR, 1.0, jnp.nan)

        def solve(rhs, transpose):
            z = jnp.linalg.solve(scaled, rhs / scale) / scale
            return seen * (z + jnp.linalg.solve(scaled, (rhs - A @ z) / scale) / scale)

        return Linearisation(
            A=lx.MatrixLinearOperator(A, lx.symmetric_tag),
            P=lambda c: unravel(jnp.where(free, c, 0.0)),
            P_transpose=lambda v: jnp.where(free, ravel_pytree(v)[0], 0.0),
            B=lambda dtheta: B @ ravel_pytree(dtheta)[0],
            B_transpose=lambda z: unravel_theta(B.T @ z),
            solve=solve,
            stratum=free,
            margin=jnp.minimum(
                _margin(local, free, self.floor, self.ceiling),
                nearest_dose(self.model, self.measured, solution.x, theta),
            ),
            margin_of=AT_A_BOUND + (OR_A_DOSE if callable(self.model.simulator.doses) else ""),
        )

    def defect(self, solution, theta):
        x, unravel = ravel_pytree(solution.x)
        # Differentiable in the values alone (`constant`): nothing else that is held takes part in reverse mode.
        arrays, rest = eqx.partition((self.chosen(), self.measured), eqx.is_array)
        model, measured = eqx.combine(jax.lax.stop_gradient(arrays), rest)
        local = first_order(model, measured, unravel, x, theta)
        measured = eqx.tree_at(lambda m: m.values, measured, self.measured.values)
        slope = ravel_pytree(jax.grad(lambda p: objective(model, measured, p, theta))(unravel(x)))[0]
        return jnp.where(lm.free(local, self.floor, self.ceiling), slope, 0.0)

    def shifted(self, solution, step):
        x, unravel = ravel_pytree(solution.x)
        return Solution(unravel(x - step))

    def explain(self, solution):
        """Where and why the model cannot be simulated, or what ended the fit before it converged."""
        if not np.isfinite(float(solution.memo.local.value)):
            return failure(self.chosen(), self.measured, solution.x, solution.memo.theta)
        if int(solution.result) != ABOVE_TOLERANCE:
            return None
        reached, steps = float(solution.error), int(solution.steps)
        if steps >= self.fit_steps:
            return f"the fit stopped at {reached:.1e} after {steps} steps: raise fit_steps, or begin nearer (fit_from)"
        rtol = float(self.model.simulator.rtol)
        return (
            f"no step from {reached:.1e} lowers the objective ({steps} steps): errors of the simulation hide its "
            f"slope; lower rtol = {rtol:.0e} and atol, name jumps of rhs as breaks, or raise tol"
        )

    @property
    def tolerance(self):
        return self.model.simulator.rtol

    def finer(self) -> "Calibration":
        """The same with simulations at a tenth of the tolerances."""
        return eqx.tree_at(lambda lower: lower.model.simulator, self, self.model.simulator.finer())


def _by_condition(calibration: Calibration) -> Callable:
    """What has an axis of conditions in front: measurements, conditions, and noise if it was given like data."""
    noise, shape = calibration.model.noise, calibration.measured.values.shape
    like_data = not callable(noise) and noise.shape[:-2] == shape[:-2]

    def where(calibration):
        measured = calibration.measured
        held = measured.times, measured.values, measured.mask, measured.conditions
        return (*held, calibration.model.noise) if like_data else held

    return where


@eqx.filter_jit
def _first_order(lower, x, theta):
    return first_order(lower.chosen(), lower.measured, ravel_pytree(lower.start)[1], x, theta)


def _margin(local: Local, free, floor, ceiling):
    """The smallest of: a held parameter's slope over the residual's size, a free one's relative distance to a bound."""
    pressed = jnp.abs(local.slope) / (lm.scales(local) * jnp.maximum(local.size, lm.TINY))
    away = jnp.minimum(local.x - floor, ceiling - local.x)
    nearest = jnp.where(local.x - floor < ceiling - local.x, floor, ceiling)
    room = away / jnp.maximum(jnp.maximum(jnp.abs(local.x), jnp.abs(nearest)), lm.TINY)
    return jnp.min(jnp.where(free, jnp.where(jnp.isfinite(nearest), room, jnp.inf), pressed))
