"""PDHG and dual FISTA find the solution that Split Bregman's stratum certifies, and carry its slope."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih

SIDE = 12


def cases():
    """name: (lower level, theta, steps that PDHG and dual FISTA need for 1e-6; None: K is not the identity)."""
    y = zoo.camera(SIDE)[1]
    second = ih.Differences((SIDE, SIDE), order=2)
    blur = ih.Blur(np.ones((3, 3)) / 9, shape=(SIDE, SIDE), boundary="periodic")
    called = ih.from_functions(lambda u: 2.0 * u[1:] - u[:-1], transposed, (SIDE, SIDE), (SIDE - 1, SIDE))
    return {
        "anisotropic": (ih.TotalVariation(y), {"weight": 0.08}, 400, 400),
        "isotropic": (ih.TotalVariation(y, isotropic=True), {"weight": 0.08}, 4000, 2000),
        "pixel weights": (ih.TotalVariation(y), {"weight": 0.05 + 0.1 * y**2}, 1000, 1000),
        "nonnegative": (ih.TotalVariation(y - 0.4, nonnegative=True), {"weight": 0.05}, 800, 800),
        "Huber": (ih.HuberTV(y, delta=0.05), {"weight": 0.08}, 300, 300),
        "composite": (
            ih.Composite(y, {"jumps": ih.TV(), "bends": ih.L1(second)}, box=(0.2, 0.6)),
            {"jumps": 0.05, "bends": 0.02},
            6000,
            4000,
        ),
        "blur": (ih.TotalVariation(blur.mv(y), blur, boundary="periodic"), {"weight": 0.02}, 6000, None),
        "functions": (ih.TotalVariation(called.mv(y), called), {"weight": 0.02}, 4000, None),
    }


def transposed(v):
    zero = jnp.zeros((1, SIDE)) if isinstance(v, jax.Array) else np.zeros((1, SIDE))
    xp = jnp if isinstance(v, jax.Array) else np
    return 2.0 * xp.concatenate([zero, v]) - xp.concatenate([v, zero])


def run(iteration, theta, steps):
    theta = jax.tree.map(jnp.asarray, theta)

    def all_steps(theta):
        return jax.lax.fori_loop(0, steps, lambda t, state: iteration.step(state, theta, t), iteration.init(theta))

    return iteration.output(jax.jit(all_steps)(theta))


@pytest.mark.parametrize("name", cases())
def test_both_find_the_certified_solution(name):
    lower, theta, pdhg, fista = cases()[name]
    x = ih.solve(lower, theta, tol=1e-9).x
    np.testing.assert_allclose(run(ih.PDHG(lower), theta, pdhg), x, atol=1e-6)
    if fista is not None:
        np.testing.assert_allclose(run(ih.DualFISTA(lower), theta, fista), x, atol=1e-6)


def test_pdhg_on_the_unknowns_of_tgv():
    lower, theta = ih.TGV(zoo.camera(8)[1]), {"weight": 0.06, "weight2": 0.1}
    np.testing.assert_allclose(run(ih.PDHG(lower), theta, 8000), ih.solve(lower, theta).x, atol=1e-5)


def slopes():
    truth, y = zoo.camera(SIDE)
    problem = ih.Bilevel(ih.TotalVariation(y), ih.Truth(truth))
    return problem, float(ih.Implicit()(problem, {"weight": 0.08}).gradient["weight"])


@pytest.mark.parametrize("kind", [ih.PDHG, ih.DualFISTA])
def test_unrolled_reaches_the_slope_of_the_stratum(kind):
    problem, exact = slopes()
    lower = ih.TotalVariation(problem.lower.y, solver=kind(problem.lower))
    slope = ih.Unrolled(500)(ih.Bilevel(lower, problem.criterion), {"weight": 0.08}).gradient["weight"]
    assert float(slope) == pytest.approx(exact, rel=1e-6)


def test_fixed_point_of_pdhg_reaches_the_slope_of_the_stratum():
    problem, exact = slopes()
    fixed = ih.Bilevel(ih.FixedPoint(ih.PDHG(problem.lower)), problem.criterion)
    assert float(ih.Implicit()(fixed, {"weight": 0.08}, tol=1e-9).gradient["weight"]) == pytest.approx(exact, rel=1e-6)
    with pytest.raises(ValueError, match="DualFISTA has no fixed point"):
        ih.FixedPoint(ih.DualFISTA(problem.lower))


def test_one_pdhg_step_by_hand():
    # K = I, y = (0, 2), rho = 1, |D|^2 <= 4: tau = 1/4, from z = y, p = 0: z_+ = y, p_+ = the clip of D y = 2 at 1/2.
    iteration = ih.PDHG(ih.TotalVariation(np.array([0.0, 2.0])), rho=1.0, relaxation=1.0)
    z, (p,) = iteration.step(iteration.init({"weight": 0.5}), {"weight": 0.5}, 0)
    np.testing.assert_allclose(z, [0.0, 2.0])
    np.testing.assert_allclose(p, [[0.5, 0.0]])


def test_one_dual_fista_step_by_hand():
    # |D|_1 |D|_inf = 1 * 2 for two pixels: p_+ = the clip of D y / 2 = 1 at 1/4.
    lower = ih.TotalVariation(np.array([0.0, 2.0]))
    iteration = ih.DualFISTA(lower)
    p, v, t = iteration.step(iteration.init({"weight": 0.25}), {"weight": 0.25}, 0)
    np.testing.assert_allclose(p[0], [[0.25, 0.0]])
    np.testing.assert_allclose(iteration.output((p, v, t)), [0.25, 1.75])
    assert float(t) == pytest.approx((1 + 5**0.5) / 2)


def test_a_moving_operator_needs_a_bound():
    def forward(theta):
        return ih.Blur(theta["gain"] * np.array([1.0]), boundary="zero")

    lower, theta = ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0]), forward), {"weight": 0.2, "gain": 1.0}
    with pytest.raises(ValueError, match="pass size"):
        run(ih.PDHG(lower), theta, 1)
    np.testing.assert_allclose(run(ih.PDHG(lower, size=1.0), theta, 300), [0.1, 0.1, 0.9, 0.9], atol=1e-6)


def test_arguments_are_checked():
    lower = ih.TotalVariation(np.zeros(4))
    for bad in ({"rho": -1.0}, {"relaxation": 2.0}, {"size": 0.0}):
        with pytest.raises(ValueError, match=f"PDHG {next(iter(bad))} = "):
            ih.PDHG(lower, **bad)
    for kind in (ih.PDHG, ih.DualFISTA):
        with pytest.raises(TypeError, match="TV family"):
            kind(ih.Ridge(np.eye(2), np.ones(2)))
    with pytest.raises(ValueError, match="wants K = I"):
        ih.DualFISTA(ih.TotalVariation(np.zeros(4), ih.Mask(np.array([True, True, False, True]))))
    with pytest.raises(ValueError, match="wants K = I"):
        ih.DualFISTA(ih.TGV(np.zeros((4, 4))))


def test_solve_takes_pdhg_where_the_operator_has_no_matrix_and_no_transform():
    side, theta = 34, {"weight": 0.05}
    blur = ih.Blur(np.ones((11, 11)) / 121, shape=(side, side), boundary="zero")
    full = ih.from_functions(blur.mv, blur.rmv, (side, side), (side, side))
    lower = ih.TotalVariation(full.mv(zoo.camera(side)[1]), full)
    blurred, other, *_ = cases()["blur"]
    assert "steps of PDHG" in ih.solve(lower, theta).result
    assert "Split Bregman" in ih.solve(blurred, other).result
    asked = ih.TotalVariation(lower.y, lower.forward, solver=ih.SplitBregman(lower))
    solution = ih.solve(asked, theta)
    assert "Split Bregman (conjugate gradients)" in solution.result
    np.testing.assert_allclose(solution.x, ih.solve(lower, theta).x, atol=1e-7)
    fista = ih.TotalVariation(cases()["anisotropic"][0].y, solver=ih.DualFISTA(cases()["anisotropic"][0]))
    assert "steps of dual FISTA: " in ih.solve(fista, {"weight": 0.08}).result
