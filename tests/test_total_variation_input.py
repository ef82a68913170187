"""Slips of a user of the TV family: each is met by one sentence that says what was given and what is wanted."""

import numpy as np
import pytest
import scipy.sparse.linalg

import invhyper as ih

Y = np.add.outer(np.arange(4.0), np.arange(3.0))
LOWER = ih.TotalVariation(Y)
WEIGHT = {"weight": 0.1}
NEGATIVE = np.where(Y == 5.0, -0.1, 0.1)  # at (3, 2)


def reads_width(theta):
    return ih.Blur(width=theta["width"])


@pytest.mark.parametrize(
    "make, kind, sentence",
    [
        (lambda: ih.TotalVariation([[1, 2], [3]]), ValueError, "y is no array: its rows differ in length"),
        (lambda: ih.TotalVariation(Y, ih.Blur), TypeError, r"forward is the class Blur: .* wanted, Blur\(\.\.\.\)"),
        (
            lambda: ih.TotalVariation(Y, scipy.sparse.linalg.aslinearoperator(np.eye(12))),
            TypeError,
            r"forward is a .*LinearOperator: an Operator \(see from_scipy\)",
        ),
        (lambda: ih.TotalVariation(Y, isotropic="no"), ValueError, "isotropic = 'no': True or False is wanted"),
        (
            lambda: ih.TotalVariation(Y, nonnegative="no"),
            ValueError,
            "TotalVariation nonnegative = 'no': True or False",
        ),
        (lambda: ih.HuberTV(Y, isotropic="no"), ValueError, "HuberTV isotropic = 'no': True or False is wanted"),
        (lambda: ih.HuberTV(Y, nonnegative=1), ValueError, "HuberTV nonnegative = 1: True or False is wanted"),
        (lambda: ih.TV("no"), ValueError, "TV isotropic = 'no': True or False is wanted"),
        (lambda: ih.Composite(Y, {"a": ih.TV()}, nonnegative="no"), ValueError, "Composite nonnegative = 'no'"),
        (lambda: ih.AnalysisL1(Y, ih.Identity((4, 3)), nonnegative="no"), ValueError, "AnalysisL1 nonnegative = 'no'"),
        (lambda: ih.HuberTV(Y, delta="a"), ValueError, "Huber delta = a: a positive number"),
        (lambda: ih.HuberTV(Y, delta=None), ValueError, "Huber delta = None: a positive number"),
        (lambda: ih.HuberTV(Y, None, True), ValueError, r"delta = True: a positive .* \(write isotropic=True\)"),
        (lambda: ih.SplitBregman(LOWER, rho="a"), ValueError, "SplitBregman rho = a: a positive number"),
        (lambda: ih.PDHG(LOWER, rho="a"), ValueError, "PDHG rho = a: a positive number"),
        (
            lambda: ih.Composite(Y, {"a": ih.L1(np.eye(3))}),
            TypeError,
            r"is a ndarray: an Operator is wanted; from_scipy\(matrix, \(4, 3\)\)",
        ),
        (
            lambda: ih.Composite(Y, {"a": ih.L1(scipy.sparse.linalg.aslinearoperator(np.eye(12)))}),
            TypeError,
            "LinearOperator: an Operator is wanted; from_scipy",
        ),
        (lambda: ih.Composite(Y, {"a": ih.L1(np.zeros)}), TypeError, "is a ndarray: an Operator is wanted"),
        (
            lambda: ih.AnalysisL1(Y, ih.Identity((4, 3)), groups=False),
            ValueError,
            r"groups has shape \(\) and dtype bool: None, 0 or whole numbers",
        ),
        (
            lambda: ih.Truth(np.array([0.0, np.nan])),
            ValueError,
            r"truth holds NaN or infinity: judge by the others, with HeldOut\(Mask\(keep\), truth\)",
        ),
    ],
)
def test_at_the_door(make, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make()


@pytest.mark.parametrize(
    "lower, theta, sentence",
    [
        (LOWER, {"weight": None}, "theta 'weight' is None: a number or an array of numbers is wanted"),
        (LOWER, {"weight": "0.1"}, "theta 'weight' is '0.1': a number or an array of numbers is wanted"),
        (LOWER, {"weight": ["0.1"]}, r"theta 'weight' is \['0.1'\]: a number or an array"),
        (LOWER, {"weight": [[0.1, 0.2], [0.3]]}, r"theta 'weight' is \[\[0.1, 0.2\], \[0.3\]\]: a number or an array"),
        (LOWER, {"weight": np.array([0.1 + 1j])}, r"theta 'weight' is array\(.*1.j.*\): a number or an array"),
        (LOWER, {"weight": NEGATIVE}, r"'weight' = -0.1 \(entry \(3, 2\) of shape \(4, 3\)\) is below its bound 0"),
        (LOWER, {"weight": 0.1, "w2": 0.1}, "theta has an unknown key 'w2': TotalVariation wants 'weight'"),
        (LOWER, {"weight": 0.1, "Weigth": 0.1}, "unknown key 'Weigth': did you mean 'weight'?"),
        (ih.TotalVariation(Y, reads_width), {"weight": None, "width": 1.0}, "theta 'weight' is None"),
        (ih.TotalVariation(Y, reads_width), None, r"theta lacks 'weight': TotalVariation wants \('weight',\) and"),
        (
            ih.TotalVariation(Y, reads_width),
            {"weight": 0.1, "widht": 1.0},
            r"looks up 'width', which theta lacks \(is 'widht' a slip\?\): theta has 'weight', 'widht'; add the key",
        ),
        (
            ih.TotalVariation(Y, reads_width),
            {"weight": 0.1},
            "looks up 'width', which theta lacks: theta has 'weight';",
        ),
    ],
)
def test_theta(lower, theta, sentence):
    with pytest.raises(ValueError, match=sentence):
        ih.solve(lower, theta)


@pytest.mark.parametrize(
    "start, kind, sentence",
    [
        (
            ih.Solution(np.zeros((3, 4))),
            ValueError,
            r"start holds x of shape \(3, 4\); this x has shape \(4, 3\): leave",
        ),
        (ih.Solution(None), ValueError, r"start holds x of shape \(\); this x has shape \(4, 3\)"),
        (np.zeros((4, 3)), TypeError, r"start is a ndarray: a Solution is wanted, .* or Solution\(x\)"),
    ],
)
def test_start(start, kind, sentence):
    with pytest.raises(kind, match=sentence):
        ih.solve(LOWER, WEIGHT, start=start)
    with pytest.raises(kind, match=sentence):
        ih.Bilevel(LOWER, ih.Truth(Y)).value(WEIGHT, start=start)


def test_what_is_right_passes():
    """NumPy's own True, a list as weight, a start of the right shape, a function of two keys."""
    cold = ih.solve(LOWER, WEIGHT)
    again = ih.solve(ih.TotalVariation(Y, isotropic=np.False_), {"weight": np.float32(0.1)}, start=ih.Solution(cold.x))
    np.testing.assert_allclose(again.x, cold.x, atol=1e-6)
    listed = ih.solve(LOWER, {"weight": np.full((4, 3), 0.1).tolist()})
    np.testing.assert_allclose(listed.x, cold.x, atol=1e-9)
    assert ih.solve(ih.TotalVariation(Y, reads_width), {"weight": 0.1, "width": 0.5}).x.shape == (4, 3)
