"""The gradient audit: it passes right slopes, fails wrong ones, and says when it cannot tell."""

import jax.numpy as jnp
import numpy as np
import pytest

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
