"""The error of a hypergradient at an unfinished solution: the estimate, when to believe it, the guaranteed bound."""

import error_families
import numpy as np
import pytest
import zoo

import invhyper as ih

FAMILIES = [*error_families.FAMILIES, "seed ODE"]


@pytest.fixture(scope="module")
def cases():
    """family -> its cases, computed once."""
    known = {}

    def of(family):
        if family not in known:
            known[family] = error_families.all_cases(family, range(1 if family == "seed ODE" else 6))
        return known[family]

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_estimate_is_the_error(cases, family):
    """Within a factor of two in 95 % of the cases; where it is not, the certificate says so."""
    qualifying = [case for case in cases(family) if case.qualifies]
    assert len(qualifying) >= 5
    assert np.mean([case.good for case in qualifying]) >= 0.95
    for case in cases(family):
        if case.error >= error_families.QUALIFYING[0] and not case.good:
            assert not case.linear and "not yet in the linear regime" in case.verdict


@pytest.mark.parametrize("family", FAMILIES)
def test_it_does_not_cry_wolf(cases, family):
    believed = [case.linear for case in cases(family) if case.qualifies and case.error <= 0.02]
    assert np.mean(believed) >= 0.95


@pytest.mark.parametrize("family", ["ridge", "logistic"])
def test_bound_is_never_below_the_error(cases, family):
    bounds = [case.bound_ratio for case in cases(family)]
    assert min(bounds) >= 1.0 and "guaranteed" in cases(family)[0].verdict


def test_no_bound_without_constants():
    """A criterion of one's own, no strong convexity, or no known modulus: None, or infinity; never a number."""
    A, y, held, target = zoo.ridge_problem()
    solution = ih.Solution(np.zeros(A.shape[1]))
    method, criterion = ih.Implicit(estimate=True), ih.HeldOut(held, target)
    own = method.at(ih.Bilevel(ih.Ridge(A, y), lambda x, theta: x @ x), {"l2": 1.0}, solution)
    assert own.certificate.bound is None and "guaranteed" not in own.certificate.verdict
    flat = method.at(ih.Bilevel(ih.Ridge(A, y), criterion), {"l2": 0.0}, solution)
    assert flat.certificate.bound == np.inf
    A, labels, held, target = zoo.logistic_problem()
    offset = ih.Bilevel(ih.Logistic(A, labels, intercept=True), ih.HeldOut(held, target))
    assert method.at(offset, {"l2": 1.0}, ih.Solution(np.zeros(A.shape[1] + 1))).certificate.bound is None


def test_adjoint_error_counts_in():
    """A loose adjoint solve leaves an error that the estimate and the bound know of."""
    A, y, held, target = zoo.ridge_problem()
    problem = ih.Bilevel(ih.Ridge(A, y), ih.HeldOut(held, target))
    exact = ih.Implicit()(problem, {"l2": 0.1}, tol=1e-13)
    loose = ih.Implicit(ih.Neumann(20), estimate=True).at(problem, {"l2": 0.1}, exact.solution)
    error = abs(float(loose.gradient["l2"] - exact.gradient["l2"]))
    assert error > 1e-3 * abs(float(exact.gradient["l2"]))
    assert 0.5 * error <= loose.certificate.error_estimate <= 2 * error
    assert loose.certificate.bound >= error


def test_at_a_given_x_is_the_call_at_the_solution():
    A, y, held, target = zoo.ridge_problem()
    problem = ih.Bilevel(ih.Ridge(A, y), ih.HeldOut(held, target))
    called = ih.Implicit()(problem, {"l2": 0.1})
    given = ih.Implicit().at(problem, {"l2": 0.1}, ih.Solution(called.solution.x))
    np.testing.assert_allclose(given.gradient["l2"], called.gradient["l2"], rtol=1e-12)
    assert given.certificate.linear is None and given.certificate.error_estimate is None


def test_host_lower_levels_find_their_own_stratum():
    problem, _, _ = zoo.diabetes_lasso()
    with pytest.raises(TypeError, match=r"FixedPoint\(BPDN"):
        ih.Implicit().at(problem, {"weight": 1.0}, ih.Solution(np.zeros(10)))
