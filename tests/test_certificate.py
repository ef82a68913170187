"""The gradient audit: it passes right slopes, fails wrong ones, and says when it cannot tell."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih
from invhyper.problem import LowerLevel, Solution


@pytest.fixture
def ridge():
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((20, 6)), rng.standard_normal(20)
    return ih.Bilevel(ih.Ridge(A, y), ih.Truth(np.ones(6)))


@pytest.mark.parametrize("theta", [{"l2": 0.7}, {"l2": np.linspace(0.1, 1, 6)}], ids=["scalar", "per coefficient"])
def test_right_slopes_pass(ridge, theta):
    audit = ih.certificate.audit(ridge, theta)
    assert audit.passed, audit.verdict
    assert all(
        c.agrees and abs(c.slope - c.difference) <= 1e-7 * abs(c.slope) + 2 * c.uncertainty for c in audit.comparisons
    )


def test_wrong_slopes_fail_and_are_named(ridge):
    audit = ih.certificate.audit(ridge, {"l2": 0.7}, ih.Implicit(ih.Neumann(1)))
    assert not audit.passed
    assert "1 disagree, the worst in l2" in audit.verdict


def test_truncated_run_is_compared_with_itself(ridge):
    exact = ih.Implicit()(ridge, {"l2": 0.7}).gradient["l2"]
    audit = ih.certificate.audit(ridge, {"l2": 0.7}, ih.Unrolled(3))
    assert audit.passed, audit.verdict
    assert abs(audit.comparisons[0].slope - exact) > 1e-3 * abs(exact)


def test_at_a_bound_differences_are_one_sided(ridge):
    audit = ih.certificate.audit(ridge, {"l2": 0.0})
    assert audit.passed, audit.verdict
    assert audit.comparisons[0].relative_error < 1e-7


def test_many_hyperparameters_are_audited_along_directions():
    rng = np.random.default_rng(1)
    A, y = rng.standard_normal((60, 30)), rng.standard_normal(60)
    problem = ih.Bilevel(ih.Ridge(A, y), ih.HeldOut(A[:10] + 1, y[:10]))
    audit = ih.certificate.audit(problem, {"l2": np.full(30, 0.3)})
    assert audit.passed, audit.verdict
    assert [c.direction for c in audit.comparisons] == ["l2 (all entries)"] + [f"random {k}" for k in range(1, 6)]


class Threshold(LowerLevel):
    """max(theta, 0): the known kink at zero, solved on the host with its sign as the stratum."""

    host = True
    keys = ("t",)

    def solve(self, theta, *, start=None, tol=1e-8, throw=True):
        return Solution(np.maximum(theta["t"], 0.0), 0.0, 1, "closed form")

    def linearise(self, solution, theta):
        on = float(theta["t"] > 0)
        margin = float(abs(theta["t"]))
        return ih.Linearisation(
            A=np.eye(1),
            P=lambda c: c,
            P_transpose=np.atleast_1d,
            B=lambda dtheta: -on * np.atleast_1d(dtheta["t"]),
            B_transpose=lambda z: {"t": np.asarray(-on * z[0])},
            stratum=np.array([on]),
            margin=margin,
            margin_of="the sign of t",
        )


@pytest.fixture
def threshold():
    return ih.Bilevel(Threshold(), lambda x, theta: 0.5 * jnp.sum((x - 2.0) ** 2) + theta["t"])


def test_steps_shrink_until_the_stratum_is_the_same(threshold):
    audit = ih.certificate.audit(threshold, {"t": 1e-5}, step=1.0)
    assert audit.passed, audit.verdict
    assert audit.comparisons[0].step < 1e-5
    assert audit.comparisons[0].slope == pytest.approx(1e-5 - 1.0, abs=1e-14)


def test_on_a_kink_the_audit_is_undecided(threshold):
    audit = ih.certificate.audit(threshold, {"t": 0.0})
    assert audit.comparisons[0].agrees is None
    assert not audit.passed
    assert "kink within reach" in audit.verdict
    assert ih.Implicit()(threshold, {"t": 0.0}).certificate.kink


# ---------------------------------------------------------------- curves, eigenvalues


def test_a_curve_is_a_v_that_the_values_foretell():
    """F = t^3: D(h) = 3 t^2 + h^2 exactly, so the truncation is known, and F's rounding is eps F."""
    cube = ih.Bilevel(zoo.Identity(), lambda x, theta: jnp.sum(x**3))
    audit = ih.certificate.audit(cube, {"t": 2.0}, curve=True)
    (curve,) = audit.curves
    np.testing.assert_allclose(curve.steps, 2.0 * np.geomspace(1e-1, 1e-9, 13))
    assert curve.same.all()
    assert curve.truncation == pytest.approx(1 / 12, rel=1 / 30)  # read off where it is 30 times the noise
    assert curve.noise == pytest.approx(np.finfo(float).eps * 8 / 12, rel=0.5)
    np.testing.assert_allclose(curve.errors[:4], curve.steps[:4] ** 2 / 12, rtol=1e-6)
    assert np.all(curve.errors[7:] <= 2 * curve.noise / curve.steps[7:])
    assert curve.errors.argmin() in (5, 6, 7, 8)
    assert audit.rtol == 1e-6 and audit.passed


def test_curves_cost_nothing_unless_asked_for(ridge):
    calls = []

    def counted(problem, theta, **options):
        calls.append(theta)
        return ih.Implicit()(problem, theta, **options)

    assert ih.certificate.audit(ridge, {"l2": 0.7}, counted).curves == ()
    plain = len(calls)
    assert plain == 5
    ih.certificate.audit(ridge, {"l2": 0.7}, counted, curve=True)
    assert len(calls) == 2 * plain + 26


def test_a_wrong_slope_stops_the_v_at_its_error():
    cube = ih.Bilevel(zoo.Identity(), lambda x, theta: jnp.sum(x**3))

    def off(problem, theta, **options):
        found = ih.Implicit()(problem, theta, **options)
        return replace(found, gradient={"t": 1.001 * found.gradient["t"]})

    audit = ih.certificate.audit(cube, {"t": 2.0}, off, curve=True)
    assert not audit.passed
    np.testing.assert_allclose(audit.curves[0].errors[4:-2], 1e-3 / 1.001, rtol=0.05)


def test_points_across_a_kink_are_told():
    """Soft thresholding with its kink at weight 1, looked at from 1 - 1e-4: steps above 1e-4 go across."""
    problem = ih.Bilevel(ih.Lasso(np.eye(1), np.array([1.0])), ih.Truth(np.array([-1.0])))
    audit = ih.certificate.audit(problem, {"weight": 1 - 1e-4}, curve=True, spectrum=True)
    (curve,) = audit.curves
    np.testing.assert_array_equal(curve.same, curve.steps < 1e-4)
    assert curve.errors[curve.same].max() < 1e-6 < 0.1 < curve.errors[0]
    assert audit.passed, audit.verdict
    assert audit.evidence["margin to a kink"].endswith("coefficient 0 leaves the support")
    at_it = ih.certificate.audit(problem, {"weight": 1.0}, curve=True)
    assert not at_it.passed and not at_it.curves[0].same.any()
    assert np.isnan(at_it.curves[0].truncation)


def test_a_curve_at_a_bound_is_one_sided(ridge):
    audit = ih.certificate.audit(ridge, {"l2": 0.0}, curve=True)
    (curve,) = audit.curves
    np.testing.assert_allclose(curve.errors[:3], curve.truncation * curve.steps[:3] ** 2, rtol=0.5)


def test_eigenvalues_of_a_traced_and_a_host_system(ridge):
    A, y = ridge.lower.A, ridge.lower.y
    found = ih.certificate.audit(ridge, {"l2": 0.7}, spectrum=True).spectrum
    exact = np.linalg.eigvalsh(A.T @ A) + 0.7
    assert (found.smallest, found.largest) == pytest.approx((exact[0], exact[-1]))
    assert found.condition == pytest.approx(exact[-1] / exact[0])
    problem = ih.KFold(ih.Lasso, A, y, folds=3)
    audit = ih.certificate.audit(problem, {"weight": 0.5}, spectrum=True)
    blocks = []
    for lower, x in zip(problem.lower.lowers, ih.solve(problem.lower, {"weight": 0.5}).x, strict=True):
        chosen = lower.A[:, np.flatnonzero(x)]
        blocks.append(np.linalg.eigvalsh(chosen.T @ chosen))
    assert audit.spectrum.smallest == pytest.approx(min(b[0] for b in blocks))
    assert audit.spectrum.largest == pytest.approx(max(b[-1] for b in blocks))
    assert "condition number" in audit.evidence["eigenvalues of A"]


def test_where_there_are_no_eigenvalues(ridge):
    assert ih.certificate.audit(ridge, {"l2": 0.7}).spectrum is None
    assert ih.certificate.audit(ridge, {"l2": 0.7}, ih.Unrolled(3), spectrum=True).spectrum is None
    zero = ih.Bilevel(ih.Lasso(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    assert ih.certificate.audit(zero, {"weight": 2.0}, spectrum=True).evidence["eigenvalues of A"].startswith("none")
    constrained = ih.BPDN(np.eye(2), np.array([2.0, 1.0]), equality=(np.ones((1, 2)), np.ones(1)))
    audit = ih.certificate.audit(ih.Bilevel(constrained, ih.Truth(np.ones(2))), {"weight": 0.1}, spectrum=True)
    assert audit.evidence["eigenvalues of A"].endswith("not positive definite") and np.isnan(audit.spectrum.condition)


@pytest.mark.parametrize("bad", [{"step": 0.0}, {"tol": -1.0}, {"rtol": np.nan}, {"step": np.ones(2)}])
def test_bad_numbers_are_refused(ridge, bad):
    with pytest.raises(ValueError, match=f"audit {next(iter(bad))} = .*: a positive number is wanted"):
        ih.certificate.audit(ridge, {"l2": 0.7}, **bad)
