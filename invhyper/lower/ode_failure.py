"""A simulation that failed, in words: where it stopped, why, at which state and parameters."""

import equinox as eqx
import jax
import numpy as np

from invhyper import tree
from invhyper.lower.measurements import Measurements
from invhyper.lower.simulator import EARLY, IRREVERSIBLE, REACHED, STEP_LIMIT, UNSETTLED

SHOWN = 12


def failure(model, measured: Measurements, p, theta) -> str:
    """The sentence: of the first simulation that failed, or that only the objective is not finite."""
    found = _trajectories(model, measured, p, theta)
    codes = np.atleast_1d(np.asarray(found.code))
    parameters = f"p = {numbers(p)}"
    if not np.any(codes != REACHED):
        return f"the objective is not finite at {parameters}, theta = {numbers(theta)}: check observe, noise and prior"
    which = int(np.flatnonzero(codes != REACHED)[0])

    def row(leaf):
        return leaf if measured.conditions is None else leaf[which]

    time, steps = float(row(found.time)), int(row(found.steps))
    state = jax.tree.map(row, found.state)
    where = "" if codes.size == 1 else f" of condition {which}"
    code = int(codes[which])
    if code == UNSETTLED:
        what = f"came to no rest in {steps} steps: it may oscillate or grow; start from t0 without steady"
    elif code == EARLY:
        what = f"has a dose before it begins, t0 = {float(model.simulator.t0):g}: bound the times of doses, or move t0"
    elif code == IRREVERSIBLE:
        what = (
            f"cannot be run backwards: from t = {time:g} it misses the state that it came from, so that the gradients "
            "of BacksolveAdjoint are wrong; leave adjoint out"
        )
    elif code == STEP_LIMIT:
        what = f"stopped at t = {time:g} after {steps} steps: raise max_steps, loosen rtol, or bound the parameters"
    else:
        what = f"met a slope that is not finite after t = {time:g} ({steps} steps): bound the parameters"
    return f"the simulation{where} {what}; state {numbers(state)}, {parameters}, theta = {numbers(theta)}"


@eqx.filter_jit
def _trajectories(model, measured, p, theta):
    return model.trajectories(measured, p, theta, model.checked)


def numbers(values) -> str:
    """A tree of numbers in short form, with their names."""
    parts = []
    for path, leaf in zip(tree.paths(values), jax.tree.leaves(values), strict=True):
        leaf = np.asarray(leaf).ravel()
        shown = ", ".join(f"{v:.4g}" for v in leaf[:SHOWN]) + (", ..." if leaf.size > SHOWN else "")
        shown = shown if leaf.size == 1 else f"[{shown}]"
        parts.append(f"{path} {shown}" if path else shown)
    return "{" + "; ".join(parts) + "}" if len(parts) != 1 else parts[0]
