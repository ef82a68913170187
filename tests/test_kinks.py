"""Kinks: the slopes to both sides, the distance to the next ones, and who says so."""

import jax
import kinks
import numpy as np
import pytest
import zoo

import invhyper as ih

ALPHA = 0.04882226864888  # a kink of the diabetes lasso


def difference(problem, theta, direction, side, h):
    """The one-sided derivative by three values of F, exact for quadratics: h where the stratum stays."""

    def value(t):
        moved = {key: theta[key] + side * t * direction[key] for key in theta}
        return float(ih.Implicit()(problem, moved, tol=1e-9).value)

    return side * (-3 * value(0.0) + 4 * value(h) - value(2 * h)) / (2 * h)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", kinks.CLOSED)
def test_slopes_to_both_sides_in_closed_form(kind, seed):
    problem, theta, direction, left, right = kinks.CLOSED[kind](seed)
    assert ih.Implicit()(problem, theta).certificate.kink
    found = ih.certificate.one_sided(problem, theta, direction)
    assert len(found.degenerate) == 1
    np.testing.assert_allclose([found.left, found.right], [left, right], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["lasso", "elastic net", "total variation", "constrained"])
def test_slopes_to_both_sides_are_those_of_differences(kind, seed):
    problem, theta, direction = kinks.random_problem(kind, seed)
    theta = kinks.kink_ahead(problem, theta, direction)
    found = ih.certificate.one_sided(problem, theta, direction)
    around = ih.certificate.interval(problem, theta, direction)
    size = float(np.hypot(*(list(theta.values()) * 2)[:2]))
    scale = max(abs(found.left), abs(found.right))
    assert found.degenerate and abs(found.left - found.right) > 1e-4 * scale
    for side, slope, room in ((-1, found.left, -around.below), (1, found.right, around.above)):
        h = min(1e-4 * size, 0.4 * room)
        assert abs(slope - difference(problem, theta, direction, side, h)) <= 1e-5 * scale


def test_kink_of_the_diabetes_lasso_is_a_local_maximum():
    problem, n, _ = zoo.diabetes_lasso()
    theta, along_alpha = {"weight": n * ALPHA}, {"weight": float(n)}
    certificate = ih.Implicit()(problem, theta).certificate
    assert certificate.kink and certificate.margin < 1e-8 and "coefficient 1" in certificate.margin_of
    found = ih.certificate.one_sided(problem, theta, along_alpha)
    assert abs(found.left - 0.365280) <= 1e-5 and abs(found.right + 0.193560) <= 1e-5
    assert "local maximum" in found.verdict and not found.minimum
    assert not ih.Implicit()(problem, {"weight": n * ALPHA * (1 + 1e-6)}).certificate.kink


@pytest.mark.parametrize("search", [ih.Bracket(), ih.LBFGSB(), ih.Adam(), ih.Descent()])
def test_a_search_steps_off_a_local_maximum(search):
    problem, n, _ = zoo.diabetes_lasso()
    report = ih.tune(problem, ih.Parameters(weight=ih.log(n * ALPHA, 1e-2, 100.0)), search=search)
    assert report.history[0].kink and report.value < report.history[0].value - 1e-3


@pytest.mark.parametrize("start", [0.05, 2.2])
@pytest.mark.parametrize("search", [ih.Bracket(), ih.LBFGSB(), ih.Adam(), ih.Descent()])
def test_a_search_stops_at_a_kink_in_words(search, start):
    """x = (3 - w, (1 - w)+), truth (2.3, -0.8): slopes -0.5 and 0.3 at w = 1."""
    problem = ih.Bilevel(ih.BPDN(np.eye(2), np.array([3.0, 1.0])), ih.Truth(np.array([2.3, -0.8])))
    report = ih.tune(problem, ih.Parameters(weight=ih.log(start, 1e-2, 2.9)), search=search)
    assert report.message == "stopped at a kink: left slope -0.5, right slope 0.3: this is a local minimum"
    assert abs(report.theta["weight"] - 1.0) <= 1e-8 and report.certificate.kink
    assert report.history[-1].solves <= 30


@pytest.mark.parametrize("search", [ih.LBFGSB(), ih.Descent()])
def test_a_kink_of_several_hyperparameters(search):
    """The same with a weight for each coefficient that share theta: F falls to the kink w = 1 of both and along it."""
    problem = ih.Bilevel(ih.ElasticNet(np.eye(2), np.array([3.0, 1.0])), ih.Truth(np.array([2.3, -0.8])))
    scales = ih.Parameters(l1=ih.log(0.3, 1e-2, 2.9), l2=ih.log(0.5, 1e-3, 1e2))
    report = ih.tune(problem, scales, search=search)
    assert report.message.startswith("stopped at a kink: left slope -") and "minimum along it" in report.message
    assert abs(report.theta["l1"] - 1.0) <= 1e-8 and report.theta["l2"] <= 1.001e-3


@pytest.mark.parametrize("seed", [None, *range(20)])
def test_next_kinks_are_the_knots_of_the_lasso_path(seed):
    """Followed from kink to kink, from weight_max down, each from the one before alone."""
    from sklearn.linear_model import lars_path

    if seed is None:
        lower = zoo.diabetes_lasso()[0].lower
        A, y = np.asarray(lower.A), np.asarray(lower.y)
    else:
        rng = np.random.default_rng(seed)
        n, p = [(50, 20), (30, 60), (80, 40), (40, 40)][seed % 4]
        A, x = rng.standard_normal((n, p)), np.zeros(p)
        x[:6] = 3 * rng.standard_normal(6)
        y = A @ x + 0.5 * rng.standard_normal(n)
    knots = lars_path(A, y, method="lasso")[0] * len(y)
    knots = knots[knots > 1e-6 * knots[0]]
    lower, weight = ih.BPDN(A, y), ih.weight_max(A, y)
    for knot in knots:
        assert abs(weight - knot) <= 1e-8 * knot
        ahead = ih.certificate.interval(lower, {"weight": weight}, {"weight": 1.0})
        assert ahead.exact
        weight = float(ahead.lower["weight"])
    assert weight <= 1e-6 * knots[0]


def test_no_false_alarms():
    """No kink is reported where strict complementarity holds and no coefficient is tiny, by sklearn's own solution."""
    alarms = checked = 0
    for seed in range(200):
        rng = np.random.default_rng(1000 + seed)
        n, p = int(rng.integers(20, 60)), int(rng.integers(10, 80))
        A, x = rng.standard_normal((n, p)), np.zeros(p)
        x[:5] = rng.standard_normal(5)
        y = A @ x + 0.3 * rng.standard_normal(n)
        weight = ih.weight_max(A, y) * 10 ** rng.uniform(-2.5, -0.01)
        lower, theta = ih.BPDN(A, y), {"weight": np.asarray(weight)}
        solution = ih.solve(lower, theta)
        z = solution.x
        gap = 1 - np.abs(A.T @ (y - A @ z))[z == 0].max(initial=0.0) / weight
        magnitude = np.abs(z[z != 0]).min(initial=np.inf) / np.abs(z).max()
        if min(gap, magnitude) >= 1e-6:
            checked += 1
            alarms += lower.linearise(solution, theta).margin < 1e-8
    assert checked >= 195 and alarms == 0


def test_margin_is_the_lesser_of_gap_and_magnitude():
    """A = diag(2, 1, 1): x = ((3 - w/2) / 2, 1.5 - w, 0) for y = (3, 1.5, 0.5), gap of the third 1 - 0.5 / w."""
    lower = ih.BPDN(np.diag([2.0, 1.0, 1.0]), np.array([3.0, 1.5, 0.5]))
    for weight in (0.6, 1.4):
        x = np.array([(3 - weight / 2) / 2, 1.5 - weight])
        found = ih.Implicit()(ih.Bilevel(lower, ih.Truth(np.zeros(3))), {"weight": weight}).certificate
        assert found.margin == pytest.approx(min(1 - 0.5 / weight, x[1] / x[0]), rel=1e-12)


def test_a_coefficient_may_come_back_with_the_other_sign():
    """Seed 3 of the paths above: coefficient 20 leaves and enters again before any other moves."""
    rng = np.random.default_rng(3)
    A, x = rng.standard_normal((40, 40)), np.zeros(40)
    x[:6] = 3 * rng.standard_normal(6)
    y = A @ x + 0.5 * rng.standard_normal(40)
    lower, weight = ih.BPDN(A, y), 0.0207
    gone = ih.certificate.interval(lower, {"weight": weight})
    back = ih.certificate.interval(lower, gone.lower, {"weight": 1.0})
    number = gone.at_lower.split()[1]
    assert gone.at_lower == f"coefficient {number} leaves the support"
    assert back.at_lower == f"coefficient {number} enters the support"
    before, after = (ih.solve(lower, {"weight": w}).x[int(number)] for w in (weight, 0.999 * back.lower["weight"]))
    assert before * after < 0


def test_two_kinks_at_once():
    """Equal |y_i| enter together, each to its own side: enumeration. With six of them: nonnegative least squares."""
    for count in (2, 6):
        y = np.append(np.where(np.arange(count) % 2, -1.0, 1.0), [2.5, 0.3])
        truth = np.random.default_rng(count).standard_normal(y.size)
        problem = ih.Bilevel(ih.BPDN(np.eye(y.size), y), ih.Truth(truth))
        found = ih.certificate.one_sided(problem, {"weight": 1.0})
        slopes = np.sign(y) * (truth - np.sign(y) * np.maximum(np.abs(y) - 1, 0))
        assert len(found.degenerate) == count
        np.testing.assert_allclose(found.right, slopes[count])
        np.testing.assert_allclose(found.left, slopes[: count + 1].sum())


def test_correlated_kinks_solve_their_complementarity_problem():
    """Of two degenerate coefficients only one enters, whichever wins: by differences, over many random pairs."""
    entered = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        A = rng.standard_normal((12, 5))
        A[:, 2] = 0.7 * A[:, 1] + 0.3 * rng.standard_normal(12)
        x = np.array([2.0, 0, 0, 0, -1.5])
        signs = np.array([1.0, rng.choice([-1, 1]), rng.choice([-1, 1]), 0.2, -1.0])
        weights = np.ones(5)
        residual = np.linalg.lstsq(A.T, signs, rcond=None)[0]  # y - A x with pull = signs: 1 and 2 are degenerate
        problem = ih.Bilevel(ih.BPDN(A, A @ x + residual), ih.Truth(rng.standard_normal(5)))
        direction = {"weight": rng.standard_normal(5)}
        found = ih.certificate.one_sided(problem, {"weight": weights}, direction)
        assert len(found.degenerate) == 2
        for side, slope in ((-1, found.left), (1, found.right)):
            near = difference(problem, {"weight": weights}, direction, side, 1e-6)
            assert abs(slope - near) <= 1e-5 * max(1.0, abs(slope))
            support = np.flatnonzero(ih.solve(problem.lower, {"weight": weights + side * 1e-6 * direction["weight"]}).x)
            entered.add(len({1, 2} & set(support.tolist())))
    assert entered == {0, 1, 2}


@pytest.mark.parametrize("options", [{"intercept": True}, {"standardise": True}, {"sample_weight": True}])
def test_slopes_with_intercept_standardised_or_weighted(options):
    rng = np.random.default_rng(4)
    A, y = rng.standard_normal((30, 8)) * np.geomspace(1, 5, 8) + 1.0, rng.standard_normal(30)
    if "sample_weight" in options:
        options = {"sample_weight": 0.5 + rng.random(30)}
    lower = ih.ElasticNet(A, y, **options)
    size = 8 + ("intercept" in options)
    problem = ih.Bilevel(lower, ih.Truth(rng.standard_normal(size)))
    direction = {"l1": 1.0, "l2": 0.0}
    theta = kinks.kink_ahead(problem, {"l1": 2.0, "l2": 0.5}, direction)
    found = ih.certificate.one_sided(problem, theta, direction)
    around = ih.certificate.interval(problem, theta, direction)
    for side, slope, room in ((-1, found.left, -around.below), (1, found.right, around.above)):
        h = min(1e-3, 0.4 * room)
        assert abs(slope - difference(problem, theta, direction, side, h)) <= 1e-6 * abs(found.left)


def test_folds_share_their_kinks():
    """Of a k-fold problem F has the kinks of every fold; x is a tuple."""
    rng = np.random.default_rng(5)
    A, y = rng.standard_normal((40, 6)), rng.standard_normal(40)
    problem = ih.KFold(ih.BPDN, A, y, folds=3)
    theta = kinks.kink_ahead(problem, {"weight": 2.0}, {"weight": 1.0})
    found = ih.certificate.one_sided(problem, theta)
    assert len(found.degenerate) == 1 and found.degenerate[0].startswith("lower level ")
    for side, slope in ((-1, found.left), (1, found.right)):
        assert slope == pytest.approx(difference(problem, theta, {"weight": 1.0}, side, 1e-5), rel=1e-6)


def test_path_is_f_piece_by_piece():
    """Between its kinks F of a squared criterion is quadratic: values and slopes at both ends of a piece agree."""
    problem, n, top = zoo.diabetes_lasso()
    found = ih.certificate.path(problem, {"weight": top}, {"weight": 1e-3 * top})
    assert found.t[0] == 0 and found.t[-1] == 1 and len(found.t) > 10
    widths = np.diff(found.t)
    gained = 0.5 * widths * (found.right[:-1] + found.left[1:])
    np.testing.assert_allclose(np.diff(found.values), gained, rtol=1e-9, atol=1e-13)
    assert np.isclose(found.theta(1.0)["weight"], 1e-3 * top)


def test_interval_of_an_elastic_net_says_what_is_exact():
    problem, theta, _ = kinks.random_problem("elastic net", 0)
    assert ih.certificate.interval(problem, theta, {"l1": 1.0, "l2": 0.0}).exact
    along = ih.certificate.interval(problem, theta, {"l1": 0.0, "l2": 1.0})
    assert not along.exact
    with pytest.raises(ValueError, match="linear between kinks"):
        ih.certificate.path(problem, theta, {"l1": theta["l1"], "l2": 4.0})


def test_interval_ends_at_a_bound():
    found = ih.certificate.interval(ih.BPDN(np.eye(1), np.array([3.0])), {"weight": 1.0})
    assert found.at_lower == "weight reaches its bound" and found.lower["weight"] == 0 and found.upper["weight"] == 3


def test_at_a_bound_one_side_is_not_defined():
    problem = ih.Bilevel(ih.BPDN(np.eye(2), np.array([3.0, -1.0])), ih.Truth(np.zeros(2)))
    found = ih.certificate.one_sided(problem, {"weight": 0.0})
    assert np.isnan(found.left) and found.right == pytest.approx(-4.0) and "bound" in found.verdict


def test_smooth_problems_have_one_slope():
    problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    found = ih.certificate.one_sided(problem, {"l2": 1.0})
    assert found.left == found.right == pytest.approx(0.25) and "no kink" in found.verdict
    with pytest.raises(TypeError, match="no conditions"):
        ih.certificate.interval(problem, {"l2": 1.0})


def test_images_say_what_is_not_computed():
    y = np.random.default_rng(0).random((6, 6))
    found = ih.certificate.interval(ih.TotalVariation(y), {"weight": 0.05})
    assert "merging only" in found.limited_to


class TestImages:
    """Multipliers are not unique: what is degenerate is found by a flow problem over all of them."""

    halves = np.repeat([[0.0, 1.0]], 4, axis=0).repeat(3, axis=1)
    truth = np.random.default_rng(1).standard_normal((4, 6))
    problem = ih.Bilevel(ih.TotalVariation(halves), ih.Truth(truth))

    @pytest.mark.parametrize(("weight", "margin"), [(0.5, 1 / 3), (1.0, 1 / 3), (1.5, 0.0), (2.0, 0.25), (3.0, 0.5)])
    def test_gap_of_two_halves(self, weight, margin):
        """Two halves, three columns each, meet at weight 1.5: below, the flow through a half is w (1 - 1/3) at most;
        above, the mean is left by a flow of 1.5 across the middle."""
        found, what = ih.certificate.margin(self.problem, {"weight": weight})
        assert found == pytest.approx(margin, abs=1e-9) and "split" in what

    def test_slopes_where_two_halves_merge(self):
        """The levels move by weight / 3 until they meet at 1/2."""
        found = ih.certificate.one_sided(self.problem, {"weight": 1.5})
        left = np.sum(np.where(self.halves == 0, 1 / 3, -1 / 3) * (0.5 - self.truth))
        assert found.left == pytest.approx(left, rel=1e-9) and abs(found.right) <= 1e-12
        assert len(found.degenerate) == 1 and "merging only" not in found.verdict

    def test_slopes_of_a_noisy_image(self):
        rng = np.random.default_rng(0)
        y = rng.standard_normal((8, 8))
        y[2:5, 2:6] += 2
        problem = ih.Bilevel(ih.TotalVariation(y), ih.Truth(rng.standard_normal((8, 8))))
        theta = {"weight": 0.3}
        for _ in range(3):
            theta = {"weight": float(ih.certificate.interval(problem, theta).upper["weight"])}
            found = ih.certificate.one_sided(problem, theta)
            assert found.degenerate
            for side, slope in ((-1, found.left), (1, found.right)):
                near = difference(problem, theta, {"weight": 1.0}, side, 1e-7)
                assert slope == pytest.approx(near, rel=1e-5)
            theta = {"weight": theta["weight"] * (1 + 1e-5)}


class TestBadInput:
    problem = ih.Bilevel(ih.BPDN(np.eye(2), np.array([3.0, 1.0])), ih.Truth(np.zeros(2)))

    @pytest.mark.parametrize(
        ("direction", "said"),
        [
            ({"weight": 0.0}, "direction is zero"),
            ({"weight": np.ones(2)}, "theta's shape"),
            ({"weight": np.nan}, "finite numbers"),
            ({"wight": 1.0}, "a tree like theta"),
            (1.0, "a tree like theta"),
        ],
    )
    def test_direction(self, direction, said):
        for ask in (ih.certificate.one_sided, ih.certificate.interval):
            with pytest.raises(ValueError, match=said):
                ask(self.problem, {"weight": 1.0}, direction)

    def test_several_entries_want_a_direction(self):
        with pytest.raises(ValueError, match="along which direction"):
            ih.certificate.one_sided(self.problem, {"weight": np.ones(2)})

    def test_a_vertex_of_too_many(self):
        many = ih.Bilevel(ih.BPDN(np.eye(25), np.ones(25)), ih.Truth(np.zeros(25)))
        with pytest.raises(ValueError, match="25 conditions are degenerate at once.*move theta"):
            ih.certificate.one_sided(many, {"weight": 1.0})

    def test_repeated_columns(self):
        twice = ih.Bilevel(ih.BPDN(np.ones((1, 2)), np.ones(1)), ih.Truth(np.zeros(2)))
        with pytest.raises(ValueError, match="not unique"):
            ih.certificate.one_sided(twice, {"weight": 1.0})

    def test_a_weight_of_zero_on_a_tie(self):
        tied = ih.Bilevel(ih.TotalVariation(np.array([0.0, 0.0, 1.0])), ih.Truth(np.zeros(3)))
        with pytest.raises(TypeError, match="take a small positive weight"):
            ih.certificate.one_sided(tied, {"weight": 0.0})

    def test_norms_of_several_entries(self):
        y = np.random.default_rng(0).random((4, 4))
        with pytest.raises(TypeError, match="norms of several"):
            ih.certificate.one_sided(
                ih.Bilevel(ih.TotalVariation(y, isotropic=True), ih.Truth(0 * y)), {"weight": 0.05}
            )


def test_a_cone_programme_at_a_kink_says_that_it_has_no_slopes():
    cvxpy = pytest.importorskip("cvxpy")
    x, w = cvxpy.Variable(1), cvxpy.Parameter(nonneg=True)
    lower = ih.Cone(cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x - 1) / 2 + w * cvxpy.norm1(x))), [w], [x])
    problem = ih.Bilevel(lower, lambda x, theta: jax.numpy.sum(jax.tree.leaves(x)[0]))
    theta = {w.name(): 1.0}
    if ih.Implicit()(problem, theta).certificate.kink:
        with pytest.raises(TypeError, match="one-sided derivatives are not known"):
            ih.certificate.one_sided(problem, theta)
