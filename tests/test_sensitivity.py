"""dx*/dtheta and dx*/d(data): closed forms, both directions of the solve, trees, host lower levels, the door."""

import jax.numpy as jnp
import numpy as np
import pytest
import zoo

import invhyper as ih


@pytest.mark.parametrize(("n", "p"), [(12, 5), (5, 12)], ids=["tall", "wide"])
@pytest.mark.parametrize("solver", [None, ih.CG()], ids=["factor", "cg"])
def test_ridge_closed_form(n, p, solver):
    A, y, *_ = zoo.ridge_problem(n, p)
    l2 = np.linspace(0.5, 2, p)
    lower = ih.Ridge(A, y, solver=solver)
    _, jacobian = zoo.ridge_closed_form(A, y, l2)
    np.testing.assert_allclose(ih.sensitivity(lower, {"l2": l2}, tol=1e-12)["l2"], jacobian, atol=1e-11)
    in_y = np.linalg.solve(A.T @ A + np.diag(l2), A.T)
    np.testing.assert_allclose(ih.sensitivity(lower, {"l2": l2}, data="y", tol=1e-12), in_y, atol=1e-11)


def test_scalar_weight_has_the_shape_of_x():
    A, y, *_ = zoo.ridge_problem(12, 5)
    _, jacobian = zoo.ridge_closed_form(A, y, 0.7)
    np.testing.assert_allclose(ih.sensitivity(ih.Ridge(A, y), {"l2": 0.7})["l2"], jacobian.sum(1), atol=1e-13)


def test_trees_of_x_and_theta():
    def loss(x, theta):
        return jnp.sum((x["u"] - theta["a"]) ** 2) + (x["v"] - 2 * theta["b"]) ** 2

    found = ih.sensitivity(ih.Smooth(loss, {"u": np.zeros(2), "v": 0.0}), {"a": np.ones(2), "b": 1.0})
    np.testing.assert_allclose(found["a"]["u"], np.eye(2), atol=1e-13)
    np.testing.assert_allclose(found["a"]["v"], np.zeros(2), atol=1e-13)
    np.testing.assert_allclose(found["b"]["u"], np.zeros(2), atol=1e-13)
    np.testing.assert_allclose(found["b"]["v"], 2.0, atol=1e-13)


def test_host_lower_level_on_its_active_set():
    A, y, *_ = zoo.ridge_problem(30, 6)
    lower, theta = ih.ElasticNet(A, y), {"l1": 4.0, "l2": 0.5}
    x = ih.solve(lower, theta).x
    on = np.flatnonzero(x)
    hessian = A[:, on].T @ A[:, on] + 0.5 * np.eye(on.size)
    wanted = {name: np.zeros(6) for name in theta}
    wanted["l1"][on] = -np.linalg.solve(hessian, np.sign(x[on]))
    wanted["l2"][on] = -np.linalg.solve(hessian, x[on])
    found = ih.sensitivity(lower, theta)
    for name in theta:
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-11)
    in_y = np.zeros((6, 30))
    in_y[on] = np.linalg.solve(hessian, A[:, on].T)
    np.testing.assert_allclose(ih.sensitivity(lower, theta, data="y"), in_y, atol=1e-11)


def test_unknown_field_is_named():
    A, y, *_ = zoo.ridge_problem(12, 5)
    with pytest.raises(ValueError, match="no array 'Y'"):
        ih.sensitivity(ih.Ridge(A, y), {"l2": 1.0}, data="Y")
    with pytest.raises(ValueError, match="below its bound"):
        ih.sensitivity(ih.Ridge(A, y), {"l2": -1.0})
