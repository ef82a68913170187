"""What `Calibration` says of bad input, and of simulations that fail."""

import re

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import invhyper as ih
from invhyper.lower.levenberg_marquardt import Local
from invhyper.lower.ode import Memo
from invhyper.lower.ode_failure import failure
from invhyper.problem import ABOVE_TOLERANCE, Solution

TIMES, DATA = np.array([1.0, 2.0, 3.0]), np.array([0.4, 0.2, 0.1])


# The same functions for every calibration that is built: its programs are compiled once for all tests.
def decay(t, x, p, theta):
    return -p["rate"] * x


def twice(p, theta):
    return theta["x0"] * jnp.ones(2)


def the_first(t, x, p, theta):
    return x[0]


def calibration(times=TIMES, data=DATA, *, rhs=decay, initial=twice, observe=the_first, **options):
    """An exponential decay, or what is left of it."""
    return ih.Calibration(rhs, initial, observe, times, data, **{"noise": 0.1, "start": {"rate": 1.0}, **options})


REFUSED_AT_THE_DOOR = {
    "unsorted times": ({"times": [1.0, 3.0, 2.0]}, r"times hold 2 after 3 \(entry 2\): increasing times are wanted"),
    "duplicate times": ({"times": [1.0, 2.0, 2.0]}, r"times hold 2 twice \(entry 2\).*repetitions as observables"),
    "a time that is NaN": ({"times": [1.0, np.nan, 2.0]}, "times hold NaN or infinity at entry 1"),
    "times in a table": ({"times": np.ones((3, 1))}, r"times has shape \(3, 1\): one axis"),
    "times before t0": ({"t0": 1.5}, "times begin at 1, before t0 = 1.5: start earlier, or leave these out"),
    "NaN without a mask": (
        {"data": [0.4, np.nan, 0.1]},
        r"data is nan at entry 1: leave out what was not measured with mask=np.isfinite\(data\)",
    ),
    "NaN that the mask leaves": (
        {"data": [0.4, np.nan, 0.1], "mask": np.array([False, True, True])},
        "data is nan at entry 1",
    ),
    "mask of numbers": ({"mask": np.ones(3)}, "mask is float64 of shape .*True where data"),
    "mask too short": ({"mask": np.ones(2, bool)}, r"mask is bool of shape \(2,\): True where data, of shape \(3,\)"),
    "data too short": ({"data": [0.4, 0.2]}, r"data has shape \(2,\): \(3,\) or \(3, observables\) is wanted"),
    "data in words": ({"data": ["a", "b", "c"]}, "data is not an array of numbers"),
    "all masked": ({"mask": np.zeros(3, bool)}, "mask leaves no value: at least one measurement is wanted"),
    "steps by halves": ({"max_steps": 1e4}, r"max_steps = 10000.0: a whole number, at least 1, is wanted"),
    "no fit steps": ({"fit_steps": 0}, "fit_steps = 0: a whole number"),
    "t0 in words": ({"t0": "0"}, "t0 = '0': a number is wanted"),
    "steady in words": ({"steady": "yes"}, "steady = 'yes': True, False or a function like rhs is wanted"),
    "a dose that is NaN": (
        {"doses": ih.Doses(np.array([1.0]), np.array([[np.nan, 1.0]]))},
        "doses hold NaN: numbers are wanted",
    ),
    "zero noise": ({"noise": 0.0}, "noise holds 0: positive standard deviations are wanted"),
    "one noise zero": ({"noise": [0.1, 0.0, 0.1]}, "noise holds 0: positive"),
    "noise too short": (
        {"noise": [0.1, 0.1]},
        r"noise has shape \(2, 1\): a number, or a shape that fits data \(3, 1\)",
    ),
    "start outside its bounds": (
        {"bounds": ({"rate": 2.0}, {"rate": 3.0})},
        "start 'rate' = 1 is outside its bounds 2 to 3",
    ),
    "bounds crossed": ({"bounds": (3.0, 2.0)}, "bounds of 'rate' are 3 and 2: lower < upper is wanted"),
    "bounds of another parameter": ({"bounds": ({"speed": 0.0}, None)}, "unknown key 'speed': start has 'rate'"),
    "one bound": ({"bounds": 0.0}, r"bounds = 0.0: a pair \(lower, upper\) is wanted"),
    "start that is NaN": ({"start": {"rate": np.nan}}, "start 'rate' = nan is not finite"),
    "start in words": ({"start": {"rate": "fast"}}, "start 'rate' is 'fast': a number or an array is wanted"),
    "no parameter": ({"start": {}}, "start holds no number: p needs at least one parameter"),
    "no function": ({"rhs": 3.0}, "rhs is a float: a function is wanted"),
    "prior no function": ({"prior": 1.0}, r"prior is a float: a function \(p, theta\) -> number, or None, is wanted"),
    "negative tolerance": ({"rtol": -1e-8}, "rtol = -1e-08: a positive number is wanted"),
    "accuracy zero": ({"certify": True, "accuracy": 0.0}, "accuracy = 0.0: a positive number is wanted"),
    "doses of numbers": ({"doses": 3.0}, r"doses is a float: Doses\(times, amounts\) or a function is wanted"),
    "doses before t0": (
        {"doses": ih.Doses(np.array([-1.0]), np.ones((1, 2)))},
        "doses are given at -1, before t0 = 0",
    ),
    "breaks no times": ({"breaks": [1.0, np.inf]}, "breaks = .*: finite times along one axis are wanted"),
    "no conditions": ({"conditions": []}, "conditions is empty: give one per experiment, or leave it out"),
    "data for one condition": (
        {"conditions": [{"dose": 1.0}, {"dose": 2.0}], "data": [DATA]},
        "data has 1 entries for 2 conditions: one each is wanted",
    ),
    "unsorted times of a condition": (
        {"conditions": [1.0, 2.0], "times": [TIMES, TIMES[::-1]], "data": [DATA, DATA]},
        "times of condition 1 hold 2 after 3",
    ),
    "conditions that differ": (
        {"conditions": [{"dose": 1.0}, {"drug": 2.0}], "data": [DATA, DATA]},
        "conditions differ in their keys or shapes: all must have the same",
    ),
}


@pytest.mark.parametrize("name", REFUSED_AT_THE_DOOR)
def test_refused_at_the_door(name):
    changed, sentence = REFUSED_AT_THE_DOOR[name]
    with pytest.raises(ValueError, match=f"^Calibration .*{sentence}"):
        calibration(**changed)


REFUSED_AT_THE_FIRST_LOOK = {
    "rhs of another shape": (
        {"rhs": lambda t, x, p, theta: -p["rate"] * x[0]},
        r"rhs returns shape \(\), initial \(2,\): the same is wanted",
    ),
    "rhs of another structure": ({"rhs": lambda t, x, p, theta: (x, x)}, "rhs returns shape .*: the same is wanted"),
    "observe of another shape": (
        {"observe": lambda t, x, p, theta: x},
        r"observe returns shape \(2,\): \(\), as each row of data, is wanted",
    ),
    "observe too few": (
        {"data": np.ones((3, 2)), "observe": lambda t, x, p, theta: x[0]},
        r"observe returns shape \(\): \(2,\), as each row of data, is wanted",
    ),
    "prior of a vector": (
        {"prior": lambda p, theta: jnp.ones(2) * p["rate"]},
        r"prior returns shape \(2,\): a number is wanted",
    ),
    "noise of a matrix": ({"noise": lambda p, theta: jnp.ones(2)}, r"noise returns shape \(2,\), which does not fit"),
    "a key that theta lacks": (
        {"initial": lambda p, theta: theta["start"] * jnp.ones(2)},
        "initial asks for the key 'start': p has 'rate'; theta has 'x0'",
    ),
    "a key that p lacks": (
        {"rhs": lambda t, x, p, theta: -p["speed"] * x},
        "rhs asks for the key 'speed': p has 'rate'; theta has 'x0'",
    ),
    "doses of another shape": (
        {"doses": ih.Doses(np.array([1.0]), np.array([1.0]))},
        r"doses have amounts of shape \(1,\): a tree like the state, \(2,\), with",
    ),
    "doses that are none": ({"doses": lambda p, theta: p["rate"]}, "doses returns a "),
    "an argument too few": ({"rhs": lambda t, x, p: -x}, "rhs cannot be called with its 4 arguments: .*takes 3"),
}


@pytest.mark.parametrize("name", REFUSED_AT_THE_FIRST_LOOK)
def test_refused_at_the_first_look(name):
    changed, sentence = REFUSED_AT_THE_FIRST_LOOK[name]
    with pytest.raises(ValueError, match=f"^Calibration {sentence}"):
        ih.solve(calibration(**changed), {"x0": 1.0})


def test_a_fit_that_cannot_be_simulated():
    """Where, why, at which state and parameters."""
    sentence = (
        r"Calibration: the simulation stopped at t = 0\.\d+ after 5 steps: raise max_steps, loosen rtol, or bound the "
        r"parameters; state \[0\.\d+, 0\.\d+\], p = rate 1, theta = x0 1"
    )
    with pytest.raises(ih.NotConverged, match=sentence):
        ih.solve(calibration(max_steps=5, solver=diffrax.Tsit5()), {"x0": 1.0})


STUCK = "the simulation met a slope that is not finite after t = "
FAILED = {
    "a slope that is not finite": (
        {"rhs": lambda t, x, p, theta: p["rate"] * jnp.log(0.5 - x)},
        STUCK + r"0 \(\d+ steps\): bound the parameters; state \[1, 1\]",
    ),
    "a slope that ceases to be": (
        {"rhs": lambda t, x, p, theta: -p["rate"] * (1 + 0 * jnp.sqrt(x - 0.5))},
        STUCK + r"0\.(4|5)\d* \(\d+ steps\)",
    ),
    "a state that explodes": (
        {"rhs": lambda t, x, p, theta: p["rate"] * x**2},
        r"the simulation stopped at t = (1|0\.99\d*) after 500 steps: raise max_steps.*; state \[\d\.\d+e",
    ),
    "no rest": (
        {"rhs": lambda t, x, p, theta: p["rate"] * jnp.stack([x[1], -x[0]]), "steady": True},
        "the simulation came to no rest in 500 steps: it may oscillate or grow; start from t0 without steady; state ",
    ),
    "the second experiment": (
        {
            "rhs": lambda t, x, p, theta, c: p["rate"] * jnp.log(c - x),
            "initial": lambda p, theta, c: theta["x0"] * jnp.ones(2),
            "observe": lambda t, x, p, theta, c: x[0],
            "conditions": [5.0, 0.5],
            "data": [DATA, DATA],
        },
        "the simulation of condition 1 met a slope that is not finite after t = 0",
    ),
    "an observation that is not finite": (
        {"observe": lambda t, x, p, theta: jnp.log(-x[0])},
        "the objective is not finite at p = rate 1, theta = x0 1: check observe, noise and prior",
    ),
}


@pytest.mark.parametrize("name", FAILED)
def test_what_is_said_of_a_failed_simulation(name):
    changed, sentence = FAILED[name]
    lower = calibration(solver=diffrax.Tsit5(), max_steps=500, **changed)
    said = failure(lower.chosen(), lower.measured, lower.start, {"x0": 1.0})
    assert re.match(sentence, said), said
    assert "p = rate 1" in said and said.count("theta = x0 1") == 1


def stopped(error, steps, x=1.0):
    """What is said of a fit that ended with this error after so many steps."""
    lower = calibration(solver=diffrax.Tsit5(), fit_steps=20)
    local = Local(jnp.ones(1), jnp.ones(()), jnp.ones(1), jnp.eye(1), jnp.ones(()))
    return lower.explain(Solution({"rate": x}, error, steps, ABOVE_TOLERANCE, Memo(local, {"x0": 1.0})))


def test_what_is_said_of_a_fit_that_ended_early():
    assert stopped(1e-3, 25) == "the fit stopped at 1.0e-03 after 25 steps: raise fit_steps, or begin nearer (fit_from)"
    assert stopped(1e-3, 9).startswith("no step from 1.0e-03 lowers the objective (9 steps): errors of the simulation")


def test_a_state_that_atol_hides_is_named():
    """In mol a signal of 1e-9 is below the default tolerance; the same in nmol is not."""
    lower = calibration()
    with pytest.warns(UserWarning, match=r"^Calibration state '.*\[0\]' stays below 1.0e-09, near atol = 1e-08"):
        lower.check({"x0": 1e-9})
    calibration().check({"x0": 1.0})
    calibration().check({"x0": 0.0})  # zero is no signal


def test_methods_by_name_and_doses_that_do_not_match():
    with pytest.raises(TypeError, match=r"^Calibration solver = 'Rodas5P': one of diffrax, such as diffrax.Tsit5\(\)"):
        calibration(solver="Rodas5P")
    with pytest.raises(TypeError, match=r"^Calibration adjoint = 'backsolve': one of diffrax"):
        calibration(adjoint="backsolve")
    with pytest.raises(ValueError, match=r"^Doses has \(2,\) times and amounts of shape \(1, 2\): one amount"):
        ih.Doses(np.array([1.0, 2.0]), np.ones((1, 2)))


def test_calibrations_of_the_same_functions_run_in_the_same_programs():
    """What is not an array, by which programs are cached, is equal, unless stability asks for another solver."""
    first, again, stiff = calibration(), calibration(data=2 * DATA), calibration(start={"rate": 1e5})
    for each in (first, again, stiff):
        each.check({"x0": 1.0})
    kept = [jax.tree.flatten(eqx.partition(each, eqx.is_array)[1]) for each in (first, again, stiff)]
    assert kept[0] == kept[1] and hash(kept[0][1]) == hash(kept[1][1])
    assert kept[0] != kept[2]
