"""Logistic regression: the reference by Newton and Cholesky, differences, the breast-cancer optimum, and the door."""

import numpy as np
import pytest
import scipy.sparse
import zoo

import invhyper as ih

A, LABELS, HELD, HELD_LABELS = zoo.logistic_problem()


def problem(**options):
    return ih.Bilevel(ih.Logistic(A, LABELS, **options), ih.HeldOut(HELD, HELD_LABELS))


@pytest.mark.parametrize("l2", [0.05, np.linspace(0.01, 0.2, 6)], ids=["shared", "each"])
def test_solution_value_and_gradient_match_the_reference(l2):
    x, value, gradient = zoo.logistic_reference(A, LABELS, l2, HELD, HELD_LABELS)
    evaluation = ih.Implicit()(problem(), {"l2": l2})
    np.testing.assert_allclose(evaluation.solution.x, x, rtol=1e-11)
    assert evaluation.value == pytest.approx(value, rel=1e-12)
    wanted = gradient if np.ndim(l2) else gradient.sum()
    np.testing.assert_allclose(evaluation.gradient["l2"], wanted, rtol=1e-9)


def test_gradient_matches_central_differences():
    l2, direction = np.linspace(0.01, 0.2, 6), np.random.default_rng(1).standard_normal(6)
    gradient = ih.Implicit()(problem(), {"l2": l2}).gradient["l2"]
    measured = zoo.central_difference(lambda w: problem().value({"l2": w}, tol=1e-12), l2, direction, 1e-4)
    assert gradient @ direction == pytest.approx(measured, rel=1e-7)


def test_breast_cancer_optimum():
    rows, labels, held, held_labels = zoo.breast_cancer()
    bilevel = ih.Bilevel(ih.Logistic(rows, labels), ih.HeldOut(held, held_labels))
    best = ih.Implicit()(bilevel, {"l2": 0.0060869560})
    assert best.value == pytest.approx(0.10807402131945, abs=1e-10)
    below, above = (
        float(ih.Implicit()(bilevel, {"l2": 0.0060869560 * k}).gradient["l2"]) for k in (1 - 1e-5, 1 + 1e-5)
    )
    assert below < 0 < above


def test_intercept_is_the_last_entry_and_unpenalised():
    labels = np.where(A[:, 0] + 0.7 > 0, 1.0, -1.0)
    x = np.asarray(ih.solve(ih.Logistic(A, labels, intercept=True), {"l2": 0.3}).x)
    miss = 1 / (1 + np.exp(labels * (A @ x[:-1] + x[-1])))
    assert abs(np.mean(labels * miss)) < 1e-12
    np.testing.assert_allclose(A.T @ (labels * miss) / len(A), 0.3 * x[:-1], atol=1e-12)
    with_ones = ih.Bilevel(ih.Logistic(A, labels, intercept=True), ih.HeldOut(HELD, HELD_LABELS))
    gradient = float(ih.Implicit()(with_ones, {"l2": 0.3}).gradient["l2"])
    measured = zoo.central_difference(lambda w: with_ones.value({"l2": w}), 0.3, 1.0, 1e-4)
    assert gradient == pytest.approx(measured, rel=1e-7)


def test_zero_one_labels_and_sparse_rows_are_the_same_problem():
    plain = ih.Implicit()(problem(), {"l2": 0.05})
    sparse = ih.Logistic(scipy.sparse.csr_array(A), (LABELS > 0).astype(int))
    other = ih.Implicit()(ih.Bilevel(sparse, ih.HeldOut(scipy.sparse.csr_array(HELD), HELD_LABELS > 0)), {"l2": 0.05})
    assert other.value == pytest.approx(plain.value, rel=1e-12)
    assert other.gradient["l2"] == pytest.approx(plain.gradient["l2"], rel=1e-11)


def test_held_out_takes_the_log_loss():
    x = np.asarray(ih.solve(ih.Logistic(A, LABELS), {"l2": 0.05}).x)
    expected = np.mean(np.log1p(np.exp(-HELD_LABELS * (HELD @ x))))
    assert problem().value({"l2": 0.05}) == pytest.approx(expected, rel=1e-12)


def test_many_columns_are_solved_without_a_dense_hessian():
    wide, labels, held, held_labels = zoo.logistic_problem(n=60, p=300, m=30)
    x, value, gradient = zoo.logistic_reference(wide, labels, 0.1, held, held_labels)
    evaluation = ih.Implicit()(ih.Bilevel(ih.Logistic(wide, labels), ih.HeldOut(held, held_labels)), {"l2": 0.1})
    np.testing.assert_allclose(evaluation.solution.x, x, atol=1e-11)
    assert evaluation.gradient["l2"] == pytest.approx(gradient.sum(), rel=1e-7)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ih.Logistic(A, np.arange(80)), "-1/[+]1 or 0/1"),
        (lambda: ih.Logistic(A, np.tile([0.0, -1.0], 40)), "-1/[+]1 or 0/1"),
        (lambda: ih.Logistic(A[:-1], LABELS), r"labels \(n,\)"),
        (lambda: ih.Logistic(A * np.nan, LABELS), "A holds NaN or infinity"),
        (lambda: ih.Logistic(A, ["a"] * 80), "array of numbers"),
        (lambda: ih.Implicit()(problem(), {"l2": -1.0}), "below its bound 0"),
        (lambda: ih.Implicit()(problem(), {"l2": np.ones(5)}), r"a scalar or \(6,\)"),
        (lambda: ih.Implicit()(problem(), {"l1": 1.0}), "did you mean 'l2'"),
    ],
)
def test_bad_input_gets_a_sentence(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_separable_classes_without_decay_have_no_minimum():
    lower = ih.Logistic(np.array([[1.0], [2.0], [-1.0]]), np.array([1, 1, -1]))
    with pytest.raises(ih.NotConverged, match="Logistic"):
        ih.solve(lower, {"l2": 0.0})


@pytest.mark.parametrize("p", [30, 120], ids=["Cholesky factor", "diagonal"])
def test_weights_that_span_eight_decades(p):
    """Curvatures as unequal as these stall descent in the coordinates of x; in those of the Hessian they do not."""
    rng = np.random.default_rng(5)
    A = rng.standard_normal((400, p)) * 10 ** rng.uniform(-2, 2, p)
    labels = np.sign(A[:, 0] / np.std(A[:, 0]) + rng.standard_normal(400))
    l2 = 10 ** rng.uniform(-5, 3, p)
    lower = ih.Logistic(A, labels)
    solution = ih.solve(lower, {"l2": l2})
    x, miss = np.asarray(solution.x), 1 / (1 + np.exp(labels * (A @ solution.x)))
    slope = -A.T @ (labels * miss) / 400 + l2 * x
    assert np.max(np.abs(slope)) <= 1e-11 * np.max(np.abs(A.T) @ miss / 400)
    assert solution.steps < 200
