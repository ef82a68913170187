"""Split Bregman as a process: run out or differentiated at its fixed point it has the slope of the stratum."""

import jax
import numpy as np
import pytest
import zoo

import invhyper as ih

SIDE = 24


def camera(side=SIDE):
    truth, y = zoo.camera(side)
    return ih.Bilevel(ih.TotalVariation(y), ih.Truth(truth)), {"weight": 0.08}


def exact():
    problem, theta = camera()
    return ih.Implicit()(problem, theta)


def test_one_step_by_hand():
    # y = (0, 2), K = I, rho = 1, no relaxation: (I + D^T D) z = y has z = (2, 4) / 3, D z = 2 / 3, soft at 1/2: 1/6.
    lower = ih.TotalVariation(np.array([0.0, 2.0]))
    iteration = ih.SplitBregman(lower, rho=1.0, relaxation=1.0)
    z, (d,), (b,) = iteration.step(iteration.init({"weight": 0.5}), {"weight": 0.5}, 0)
    np.testing.assert_allclose(z, [2 / 3, 4 / 3], rtol=1e-14)
    np.testing.assert_allclose(d, [[1 / 6, 0.0]], atol=1e-14)
    np.testing.assert_allclose(b, [[1 / 2, 0.0]], atol=1e-14)


def test_unrolled_reaches_the_slope_of_the_stratum():
    problem, theta = camera()
    run = ih.Unrolled(200)(problem, theta)
    assert float(run.gradient["weight"]) == pytest.approx(float(exact().gradient["weight"]), rel=1e-6)
    np.testing.assert_allclose(run.solution.x, exact().solution.x, atol=1e-9)


def test_fixed_point_with_gmres_reaches_the_slope_of_the_stratum():
    problem, theta = camera()
    fixed = ih.Bilevel(ih.FixedPoint(problem.lower.iteration()), problem.criterion)
    evaluation = ih.Implicit()(fixed, theta, tol=1e-9)
    assert float(evaluation.gradient["weight"]) == pytest.approx(float(exact().gradient["weight"]), rel=1e-6)
    assert evaluation.certificate.adjoint_residual <= 1e-8


def test_a_few_unknowns_with_free_duals():
    # The edge across the border is absent: nothing holds its dual variable, and I - d step / d state is singular.
    lower = ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0]))
    problem = ih.Bilevel(ih.FixedPoint(ih.SplitBregman(lower)), ih.Truth(np.array([0.0, 0.0, 1.0, 1.0])))
    for solver in (None, ih.Neumann(300, step=1.0)):
        slope = ih.Implicit(solver)(problem, {"weight": 0.2}, tol=1e-10).gradient["weight"]
        assert float(slope) == pytest.approx(0.2, rel=1e-8)


def test_a_solver_is_bound_to_the_lower_level_that_holds_it():
    short = ih.TotalVariation(np.zeros(4))
    lower = ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0]), solver=ih.SplitBregman(short, rho=2.0))
    iteration = lower.iteration()
    assert iteration.lower.y is lower.y and iteration.rho == 2.0
    np.testing.assert_allclose(ih.solve(lower, {"weight": 0.2}).x, [0.1, 0.1, 0.9, 0.9], atol=1e-12)
    with pytest.raises(ValueError, match="other operators or another shape"):
        ih.TotalVariation(np.zeros(5), solver=ih.SplitBregman(short))
    with pytest.raises(TypeError, match="solver is a Ridge"):
        ih.TotalVariation(np.zeros(4), solver=ih.Ridge(np.eye(2), np.ones(2)))


@pytest.mark.parametrize("bad", [{"rho": -1.0}, {"rho": np.array([1.0, 0.0])}, {"relaxation": 2.0}])
def test_arguments_are_checked(bad):
    with pytest.raises(ValueError, match=f"SplitBregman {next(iter(bad))}"):
        ih.SplitBregman(ih.TotalVariation(np.zeros(4)), **bad)
    with pytest.raises(TypeError, match="TV family"):
        ih.SplitBregman(ih.Ridge(np.eye(2), np.ones(2)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Unrolled.*Forward")  # forward mode is cheaper here, and not what is tested
def test_the_public_slope_at_128():
    problem, theta = camera(128)
    for steps, rel in ((400, 1e-4), (800, 1e-6)):
        assert float(ih.Unrolled(steps)(problem, theta).gradient["weight"]) == pytest.approx(86.95676615926, rel=rel)
    jax.clear_caches()
    fixed = ih.Bilevel(ih.FixedPoint(problem.lower.iteration()), problem.criterion)
    assert float(ih.Implicit()(fixed, theta).gradient["weight"]) == pytest.approx(86.95676615926, rel=1e-6)
