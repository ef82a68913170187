"""Total variation at the size of photographs: steps, memory and cost of the adjoint, regions found by their flows."""

import tracemalloc

import jax
import numpy as np
import pytest
from skimage.data import camera
from skimage.transform import resize

import invhyper as ih
from invhyper.iterations.split_bregman import Balance
from invhyper.lower import bregman_slope, bregman_solve
from invhyper.strata import multipliers, norms
from invhyper.strata.reduced import Reduced

WEIGHT = 0.08


def noisy_camera(n):
    truth = resize(camera() / 255, (n, n), anti_aliasing=True)
    return truth, truth + 0.1 * np.random.default_rng(0).standard_normal((n, n))


def adjoint(lower, truth, solution, theta):
    linearisation = lower.linearise(solution, theta)
    z = linearisation.solve(linearisation.P_transpose(solution.x - truth), True)
    return -linearisation.B_transpose(z)["weight"]


@pytest.mark.parametrize(
    "n, slope", [(256, 245.09384336), pytest.param(512, 867.64295954, marks=pytest.mark.slow)], ids=["256", "512"]
)
def test_the_adjoint_is_one_small_solve_and_little_memory(n, slope, monkeypatch):
    """No step of the solver, one system on the regions for one weight and for all pixels; 50 MiB at 512 x 512."""
    truth, y = noisy_camera(n)
    lower, theta, pixels = ih.TotalVariation(y), {"weight": np.asarray(WEIGHT)}, {"weight": np.full((n, n), WEIGHT)}
    solution = ih.solve(lower, theta)
    there = ih.solve(lower, pixels, start=solution)
    assert solution.steps <= 400
    solves, solve = [], Reduced.solve
    monkeypatch.setattr(bregman_slope, "solve", None)
    monkeypatch.setattr(Reduced, "solve", lambda *args: solves.append(args) or solve(*args))
    tracemalloc.start()
    held = tracemalloc.get_traced_memory()[0]
    one = adjoint(lower, truth, solution, theta)
    assert tracemalloc.get_traced_memory()[1] - held <= 50 * 2**20 * (n / 512) ** 2
    tracemalloc.stop()
    many = adjoint(lower, truth, there, pixels)
    assert len(solves) == 2
    assert float(one) == pytest.approx(slope, rel=1e-9)
    assert many.shape == (n, n)
    assert many.sum() == pytest.approx(slope, rel=1e-9)


@pytest.mark.parametrize(
    "isotropic, optimum, goals",
    [
        (False, 1667.65851, {1e-4: 60, 1e-8: 400}),
        pytest.param(True, 1604.04482, {1e-4: 60, 1e-8: 800}, marks=pytest.mark.slow),
    ],
    ids=["anisotropic", "isotropic"],
)
def test_split_bregman_reaches_the_optimum_at_512(isotropic, optimum, goals):
    _, y = noisy_camera(512)
    lower, theta = ih.TotalVariation(y, isotropic=isotropic), {"weight": np.asarray(WEIGHT)}
    iteration = lower.iteration()
    rho = [float(rho) for rho in iteration.penalties(theta)]
    process = iteration.on_host(theta, iteration.init(theta), rho, lower.forward_at(theta))
    for goal, most in goals.items():
        while process.steps < most:
            process.run(process.every)
        u = process.state[0]
        reached = 0.5 * np.sum((u - y) ** 2) + float(lower.penalties["weight"].value(u, WEIGHT))
        assert abs(reached / optimum - 1) <= goal


@pytest.mark.parametrize("weight", [0.0808, 0.09])
def test_a_warm_start_finds_the_regions_of_a_cold_one(weight):
    truth, y = noisy_camera(128)
    problem = ih.Bilevel(ih.TotalVariation(y), ih.Truth(truth))
    first = ih.Implicit()(problem, {"weight": WEIGHT})
    assert ih.Implicit()(problem, {"weight": WEIGHT}, warm=first).solution.steps <= 20
    cold, warm = (ih.Implicit()(problem, {"weight": weight}, warm=start) for start in (None, first))
    assert float(warm.gradient["weight"]) == pytest.approx(float(cold.gradient["weight"]), rel=1e-12)
    np.testing.assert_allclose(warm.solution.x, cold.solution.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight, wanted", [(0.2, [0.1, 0.1, 0.9, 0.9]), (2.0, [0.5, 0.5, 0.5, 0.5])])
def test_a_region_without_a_balance_is_cut(weight, wanted):
    """All four pixels are taken for one region: the flow it lacks shows where it must part, if it must."""
    lower, theta = ih.TotalVariation(np.array([0.0, 0.0, 1.0, 1.0])), {"weight": np.asarray(weight)}
    structure = bregman_solve.make_structure(lower)
    model = bregman_solve.make_model(lower, theta, structure, lower.forward_at(theta))
    one = norms.Stratum(np.ones(4, bool), np.zeros(4, bool), np.zeros(4))
    polished = norms.polish(model, one, model.y)
    assert polished.regions.count == 1
    found, p = multipliers.balance(polished, np.zeros(4), np.zeros(4), 1e-8)
    assert found.certified <= 1e-8
    np.testing.assert_allclose(found.z, wanted, rtol=0, atol=1e-15)
    assert np.all(np.abs(p) <= weight)


RNG = np.random.default_rng(0)
Y = RNG.standard_normal((12, 10))
PROCESSES = {
    "isotropic": (ih.TotalVariation(Y, isotropic=True), {"weight": 0.3}),
    "Huber": (ih.HuberTV(Y, delta=0.1), {"weight": 0.3}),
    "a weight a pixel, some zero; nonnegative": (
        ih.TotalVariation(Y, nonnegative=True),
        {"weight": np.maximum(RNG.uniform(-0.2, 0.5, Y.shape), 0.0)},
    ),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_host_steps_in_place_are_the_traced_steps(name):
    lower, theta = PROCESSES[name]
    theta = lower.check(theta)
    iteration = ih.SplitBregman(lower, rho=2.0)
    traced = start = iteration.init(theta)
    process = Balance(iteration, theta, start, (2.0,) * len(lower.splits()), lower.forward_at(theta))
    process.run(30)
    step = jax.jit(lambda state: iteration.step(state, jax.tree.map(jax.numpy.asarray, theta), 0))
    for _ in range(30):
        traced = step(traced)
    for ours, theirs in zip(jax.tree.leaves(process.state), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    for ours, theirs in zip(process.state[1], traced[1], strict=True):
        assert np.array_equal(ours == 0, np.asarray(theirs) == 0)
