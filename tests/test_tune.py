"""The front door: defaults, budgets, failures on the way, interruptions, warm starts, watches, what is returned."""

import io
import time

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih


def quadratic(x, theta):
    """Smallest at t = 2, F = 1 there."""
    return 1.0 + jnp.sum((x - 2.0) ** 2)


def start(t=8.0, lower=0.0, upper=100.0):
    return ih.Parameters(t=ih.linear(t, lower, upper))


class Walk(ih.Search):
    """Visits t = 8, 7, 6, ... and never ends by itself."""

    def run(self, objective):
        for k in range(1000):
            objective(objective.start - k)
        return "walked"


def test_ridge_optimum_known_in_closed_form():
    """A = I: x* = y / (1 + l2), F = 1/2 |y|^2 (1/(1 + l2) - c)^2, smallest at l2 = 1/c - 1."""
    problem = ih.Bilevel(ih.Ridge(np.eye(3), np.ones(3)), ih.Truth(np.full(3, 0.4)))
    for search in (None, ih.LBFGSB(), ih.Bracket(), ih.Descent(), ih.Adam(steps=400)):
        report = ih.tune(problem, ih.Parameters(l2=ih.log(1e-2, 1e-6, 1e4)), search=search)
        assert float(report.theta["l2"]) == pytest.approx(1.5, rel=1e-4), search
        assert report.value < 1e-9


def test_default_search_is_bracket_for_one_bounded_scalar_else_lbfgsb():
    problem = ih.Bilevel(zoo.Identity(), quadratic)
    assert "Bracket" in ih.tune(problem, start()).provenance["search"]
    assert "LBFGSB" in ih.tune(problem, {"t": 8.0}).provenance["search"]
    assert "LBFGSB" in ih.tune(problem, ih.Parameters(t=ih.linear([8.0, 1.0], 0, 9))).provenance["search"]


def test_plain_tree_is_held_to_the_lower_levels_bounds():
    """The optimum in l2 is negative; the weight stops at its bound, zero."""
    problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 1.3)))
    report = ih.tune(problem, {"l2": 1.0})
    assert float(report.theta["l2"]) == 0.0 and "stationary" in report.message


@pytest.mark.parametrize("search", [Walk(), ih.LBFGSB(), ih.Bracket(), ih.Adam(), ih.Descent()])
def test_budget_of_solves_holds_and_the_best_is_returned(search):
    lower = zoo.Identity(calls=[])
    report = ih.tune(ih.Bilevel(lower, lambda x, theta: (x - 2.0) ** 4), start(), search=search, solves=3)
    assert len(lower.calls) == 3 == len(report.history) == report.history[-1].solves
    assert report.message.startswith("the budget of 3 lower-level solves is spent") or "Bracket spent" in report.message
    assert report.value == min(step.value for step in report.history)


def test_budget_of_steps_and_of_seconds():
    problem = ih.Bilevel(zoo.Identity(), quadratic)
    report = ih.tune(problem, start(), search=Walk(), steps=4)
    assert len(report.history) == 4 and "the budget of 4 steps is spent" in report.message
    report = ih.tune(problem, start(), search=Walk(), seconds=0.3, watch=[lambda step: time.sleep(0.1)])
    assert len(report.history) == 3 and "0.3 seconds is spent" in report.message


def test_the_point_returned_is_the_best_seen_not_the_last():
    report = ih.tune(ih.Bilevel(zoo.Identity(), quadratic), start(), search=Walk(), steps=9)
    assert float(report.history[-1].theta["t"]) == 0.0
    assert float(report.theta["t"]) == 2.0 and report.value == 1.0
    assert float(report.solution.x) == 2.0


def test_first_evaluation_that_fails_raises():
    problem = ih.Bilevel(zoo.Identity(fails=lambda t: True), quadratic)
    for search in (ih.LBFGSB(), ih.Bracket(), ih.Adam(), ih.Descent()):
        with pytest.raises(ih.NotConverged, match="Identity stopped at"):
            ih.tune(problem, start(), search=search)


@pytest.mark.parametrize("search", [ih.LBFGSB(), ih.Adam(rate=0.5), ih.Descent(), ih.Bracket()])
def test_search_backs_off_from_a_region_that_fails(search):
    """The lower level fails below 1.5; the first steps jump there, the optimum at 2 is still found."""
    lower = zoo.Identity(fails=lambda t: t < 1.5, calls=[])
    report = ih.tune(ih.Bilevel(lower, lambda x, theta: 10 * (x - 2.0) ** 2), start(), search=search)
    assert float(report.theta["t"]) == pytest.approx(2.0, abs=2e-2)
    assert report.history[-1].solves <= len(lower.calls)


@pytest.mark.parametrize("search", [ih.LBFGSB(failures=4), ih.Adam(failures=4), ih.Descent(failures=4), ih.Bracket()])
def test_failures_without_end_return_the_best_so_far(search):
    lower = zoo.Identity(calls=[])
    failing = zoo.Identity(fails=lambda t: len(lower.calls) >= 0 and t != 8.0, calls=lower.calls)
    report = ih.tune(ih.Bilevel(failing, quadratic), start(), search=search)
    assert float(report.theta["t"]) == 8.0 and report.value == 37.0
    assert "failed 4 times in a row: Identity stopped at" in report.message or "not be evaluated" in report.message


def test_search_that_lets_a_failure_pass_ends_with_a_sentence():
    problem = ih.Bilevel(zoo.Identity(fails=lambda t: t < 6), quadratic)
    report = ih.tune(problem, start(), search=Walk())
    assert len(report.history) == 3 and float(report.theta["t"]) == 6.0
    assert report.message.startswith("the lower level failed, the best point before that is returned: Identity stopped")


def test_criterion_that_is_not_finite_on_the_way_loses_nothing():
    problem = ih.Bilevel(zoo.Identity(), lambda x, theta: jnp.sqrt(x - 4.5))
    report = ih.tune(problem, start(), search=Walk())
    assert float(report.theta["t"]) == 5.0 and "the criterion is nan" in report.message


def test_interrupt_returns_the_best_so_far():
    problem = ih.Bilevel(zoo.Identity(interrupt=5, calls=[]), quadratic)
    report = ih.tune(problem, start(), search=Walk())
    assert report.message == "interrupted after 4 steps; the best so far is returned"
    assert float(report.theta["t"]) == 5.0
    for search in (ih.LBFGSB(), ih.Bracket(), ih.Adam(), ih.Descent()):
        quartic = ih.Bilevel(zoo.Identity(interrupt=3, calls=[]), lambda x, theta: (x - 2.0) ** 4)
        report = ih.tune(quartic, start(), search=search)
        assert report.message.startswith("interrupted after 2 steps")
        assert report.value == min(step.value for step in report.history)
    with pytest.raises(KeyboardInterrupt):
        ih.tune(ih.Bilevel(zoo.Identity(interrupt=1, calls=[]), quadratic), start(), search=Walk())


def test_steps_tell_theta_value_gradient_and_costs():
    problem = ih.Bilevel(zoo.Identity(), quadratic)
    parameters = ih.Parameters(t=ih.log(4.0, 1e-3, 1e3))
    seen = []
    report = ih.tune(problem, parameters, search=Walk(), steps=2, watch=[seen.append])
    assert seen == report.history
    step = report.history[0]
    assert (step.k, step.solves, step.tol, step.kink) == (0, 1, 1e-8, False)
    assert float(step.theta["t"]) == pytest.approx(4.0) and step.value == pytest.approx(5.0)
    assert float(step.gradient["t"]) == pytest.approx(4.0)
    assert step.gradient_norm == pytest.approx(np.log(4.0) - np.log(1e-3)), "cut at the distance to the bound"
    assert 0 < step.seconds < report.history[1].seconds
    assert [step.work for step in report.history] == [1, 2], "one lower-level step a solve"


def test_evaluations_start_from_the_nearest_one_kept():
    starts = []

    class Watched(zoo.Identity):
        def solve(self, theta, *, start=None, tol=1e-8, throw=True):
            starts.append(None if start is None else float(start.x))
            return super().solve(theta, start=start, tol=tol, throw=throw)

    class Jump(ih.Search):
        def run(self, objective):
            for t in (8.0, 2.0, 50.0, 3.0):
                objective(np.array([t]))
            return "jumped"

    ih.tune(ih.Bilevel(Watched(), quadratic), start(), search=Jump())
    assert starts == [None, 8.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: ih.tune(p, start(), tol=0.0), "tune tol = 0.0: a positive number"),
        (lambda p: ih.tune(p, start(), solves=-1), "tune solves = -1"),
        (lambda p: ih.tune(p, start(), seconds=float("nan")), "tune seconds = nan"),
        (lambda p: ih.tune(p, {"q": 1.0}), "unknown key 'q'"),
        (lambda p: ih.tune(p, ih.Parameters(q=ih.linear(1.0))), "unknown key 'q'"),
        (lambda p: ih.tune(p, {"t": np.nan}), "'t' = nan is not a finite number"),
        (lambda p: ih.tune(p, {"t": np.ones(2)}, search=ih.Bracket()), "Bracket searches one scalar; theta has 2"),
        (lambda p: ih.tune(p, {"t": 1.0}, search=ih.Bracket()), r"Bracket wants finite bounds; t has \[-inf, inf\]"),
        (lambda p: ih.LBFGSB(memory=0), "LBFGSB memory = 0"),
        (lambda p: ih.Bracket(grid=1), "Bracket grid = 1"),
        (lambda p: ih.Adam(rate=-1.0), "Adam rate = -1.0"),
        (lambda p: ih.Descent(first=1.0), "Descent first = 1.0"),
    ],
)
def test_bad_input_gets_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(ih.Bilevel(zoo.Identity(), quadratic))


def test_wrong_kinds_get_a_sentence():
    problem = ih.Bilevel(zoo.Identity(), quadratic)
    with pytest.raises(TypeError, match="tune wants a search such as LBFGSB"):
        ih.tune(problem, start(), search="lbfgsb")
    with pytest.raises(TypeError, match="tune wants a Bilevel"):
        ih.tune(zoo.Identity(), start())


def test_table_prints_one_aligned_line_a_step_and_the_end():
    stream = io.StringIO()
    report = ih.tune(ih.Bilevel(zoo.Identity(), quadratic), start(), search=Walk(), steps=3, watch=[ih.table(stream)])
    lines = stream.getvalue().splitlines()
    assert lines[0].split() == ["k", "F", "|grad|", "lower", "adjoint", "tol", "seconds"]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ["0", "37", "8.00e+00"],
        ["1", "26", "7.00e+00"],
        ["2", "17", "6.00e+00"],
    ]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[4:] == [report.message]


def test_table_is_one_header_a_run_and_live_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    problem = ih.Bilevel(zoo.Identity(), quadratic)
    watch = ih.table(plain := io.StringIO())
    for _ in range(2):
        ih.tune(problem, start(), search=Walk(), steps=2, watch=[watch])
    assert plain.getvalue().count("|grad|") == 2
    ih.tune(problem, start(), search=Walk(), steps=2, watch=[ih.table(terminal := Terminal())])
    assert terminal.getvalue().count("|grad|") == 1 and "2 lower-level solves" in terminal.getvalue()


def test_watch_that_finishes_is_told_the_end_even_after_an_error():
    ends = []

    class Watch:
        def __call__(self, step):
            if step.k == 1:
                raise RuntimeError("the watch broke")

        def finish(self, report):
            ends.append(report)

    with pytest.raises(RuntimeError, match="the watch broke"):
        ih.tune(ih.Bilevel(zoo.Identity(), quadratic), start(), search=Walk(), watch=[Watch()])
    assert ends == [None]
