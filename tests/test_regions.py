"""Flat regions: rows by kind, components, pinned entries, and the maps between regions and entries."""

import numpy as np
from scipy.sparse import csr_array

from invhyper.strata.regions import Regions, classify

# Of five entries: 1 - 0, 2 (2 - 1), 4 - 3, entry 3 alone, a second difference, an empty row.
D = csr_array(
    np.array(
        [
            [-1.0, 1.0, 0.0, 0.0, 0.0],
            [0.0, -2.0, 2.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, -1.0, 1.0],
            [0.0, 0.0, 0.0, 3.0, 0.0],
            [1.0, -2.0, 1.0, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
)
NOTHING = np.zeros(5)


def regions(vanishing, pinned=(), values=NOTHING):
    return Regions(classify(D), np.isin(np.arange(6), vanishing), np.isin(np.arange(5), pinned), values)


def test_rows_by_kind():
    rows = classify(D)
    assert [set(pair) for pair in zip(rows.head[:3], rows.tail[:3], strict=True)] == [{0, 1}, {1, 2}, {3, 4}]
    assert (rows.head[3:] == -1).all()
    assert rows.single.tolist() == [-1, -1, -1, 3, -1, -1]
    assert rows.other.tolist() == [False, False, False, False, True, False]


def test_a_sum_is_no_difference():
    assert classify(csr_array(np.array([[1.0, 1.0], [1.0, -2.0]]))).other.all()


def test_components_of_vanishing_differences():
    found = regions([0, 2])
    assert found.labels.tolist() == [0, 0, 1, 2, 2]
    assert found.count == found.free == 3 and found.size.tolist() == [2, 1, 2]
    assert found.mean(np.array([1.0, 3.0, 5.0, 2.0, 4.0])).tolist() == [2.0, 5.0, 3.0]
    assert found.expand(np.array([7.0, 8.0, 9.0])).tolist() == [7.0, 7.0, 8.0, 9.0, 9.0]


def test_a_pinned_entry_pins_its_region():
    """Entry 1 stands at 0.5 and holds 0; entry 3 vanishes by itself and holds 4."""
    found = regions([0, 2, 3], pinned=[1], values=np.array([0.0, 0.5, 0.0, 0.0, 0.0]))
    assert found.free == 1 and found.index.tolist() == [-1, -1, 0, -1, -1]
    assert found.offset.tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]
    assert found.expand(np.array([3.0])).tolist() == [0.0, 0.0, 3.0, 0.0, 0.0]


def test_matrix_and_its_adjoint():
    rng = np.random.default_rng(0)
    for found in (regions([0, 2]), regions([1], pinned=[4])):
        P, c, v = found.matrix().toarray(), rng.standard_normal(found.free), rng.standard_normal(5)
        np.testing.assert_allclose(P @ c, found.expand(c))
        np.testing.assert_allclose(P.T @ v, found.gather(v))
        np.testing.assert_allclose(D @ P, found.reduce(D).toarray())
