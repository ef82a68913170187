"""The faces of a conic programme: F, its two derivatives, the yardsticks and the exchange of faces."""

import numpy as np
import pytest
from scipy.sparse import csc_array

from invhyper.strata import faces as face
from invhyper.strata.faces import APEX, BOUNDARY, INSIDE, Cones, Faces, Groups, Programme

RNG = np.random.default_rng(0)
N, CONES = 9, Cones(zero=2, nonneg=3, soc=(3, 4, 3))
M = 15
FACES = Faces(CONES, np.array([1, 0, 1], np.int8), np.array([BOUNDARY, APEX, INSIDE], np.int8))


def programme(seed=0):
    """Numbers without any solution in mind: F and its derivatives do not need one."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((N, N))
    A, q, b = rng.standard_normal((M, N)), rng.standard_normal(N), rng.standard_normal(M)
    return Programme(csc_array(root @ root.T), q, csc_array(A), b, CONES)


def residual(numbers, c):
    return face.residual(numbers, FACES, face.point(numbers, FACES, c))


@pytest.fixture
def c():
    rng = np.random.default_rng(3)
    rows, heads = FACES.rows, FACES.curved[0]
    return np.concatenate([rng.standard_normal(N), rng.standard_normal(rows.size), rng.uniform(1, 2, heads.size)])


def test_rows_of_a_stratum():
    assert FACES.rows.tolist() == [0, 1, 2, 4, 8, 9, 10, 11]
    heads, tails, block = FACES.curved
    assert (heads.tolist(), tails.tolist(), block.tolist()) == ([5], [6, 7], [0, 0])
    assert FACES == Faces(CONES, FACES.active.copy(), FACES.blocks.copy()) and len({FACES, FACES}) == 1


def test_matrix_is_the_slope_of_F(c):
    numbers, h = programme(), 1e-6
    matrix = face.matrix(numbers, FACES, face.point(numbers, FACES, c)).toarray()
    k = c.size
    border = matrix[:k, k:]
    slope = matrix[:k, :k] - border @ border.T
    wanted = [(residual(numbers, c + h * e) - residual(numbers, c - h * e)) / (2 * h) for e in np.eye(k)]
    np.testing.assert_allclose(slope, np.transpose(wanted), atol=1e-7)
    np.testing.assert_allclose(matrix, matrix.T, atol=0)


def test_push_is_the_slope_of_F_in_the_numbers(c):
    numbers, change, h = programme(), programme(1), 1e-6

    def moved(step):
        parts = (u + step * v for u, v in zip(numbers[:4], change[:4], strict=True))
        return residual(Programme(*parts, CONES), c)

    pushed = face.push(numbers, FACES, face.point(numbers, FACES, c), *change[:4])
    np.testing.assert_allclose(pushed, (moved(h) - moved(-h)) / (2 * h), atol=1e-7)


def test_pull_is_the_transpose_of_push(c):
    numbers, (dP, dq, dA, db, _) = programme(), programme(1)
    at, zeta = face.point(numbers, FACES, c), RNG.standard_normal(c.size)
    v, w = face.pull(numbers, FACES, at, zeta)
    left = zeta @ face.push(numbers, FACES, at, dP, dq, dA, db)
    right = v @ (dP @ at.x + dq) + at.z @ (dA @ v) + w @ (db - dA @ at.x)
    np.testing.assert_allclose(left, right, rtol=1e-12)


def test_identify_weighs_slack_against_multiplier():
    """s and z of each block are given; A = -I makes b - A x their slacks."""
    s = np.array([0, 0, 1e-9, 1, 1e-9, 1, 1, 1e-9, 1e-9, 0, 0, 1e-9, 2, 1, 0])
    z = np.array([1, 1, 1, 1e-9, 1, 1, -1, 1e-9, 2, 1, 0, 0, 1e-9, 0, 0])
    numbers = Programme(csc_array((M, M)), np.zeros(M), csc_array(-np.eye(M)), np.zeros(M), CONES)
    groups = Groups(np.repeat(np.arange(5), [2, 3, 3, 4, 3]), np.zeros(M, int))
    found = face.identify(numbers, s, z, face.scales(numbers, s, z, groups))
    assert found == FACES


def test_left_behind_faces_are_exchanged():
    distances = np.array([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0])
    moved = face.repaired(FACES, distances, 1e-9, np.zeros(M))
    assert moved.active.tolist() == [0, 0, 1] and moved.blocks.tolist() == [INSIDE, APEX, BOUNDARY]
    stuck = face.repaired(FACES, np.ones(6), 1e-9, np.zeros(M))
    assert stuck.blocks.tolist() == [APEX, APEX, INSIDE]
