"""Figures show what the report holds; the files are written whole; nothing global changes."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest

import invhyper as ih
from invhyper import plots
from invhyper.population.drawn import Seen


def report(values, kink=()):
    """A stand-in with what the plots read: F along a path in l1 and l2."""
    steps = [
        SimpleNamespace(
            k=k, theta={"l1": 10.0 ** (1 - k / 4), "l2": 0.1 * (k + 1)}, value=value, gradient_norm=0.5**k,
            lower_residual=1e-13, adjoint_residual=0.0, tol=1e-8, kink=k in kink,
        )
        for k, value in enumerate(values)
    ]  # fmt: skip
    best = min(steps, key=lambda step: step.value)
    return SimpleNamespace(history=steps, theta=best.theta, value=best.value)


def line(axes, label):
    return next(each for each in axes.lines if str(each.get_label()).startswith(label))


def test_descent_shows_every_step_and_marks_the_best():
    figure = plots.descent(report([3.0, 1.0, 2.0], kink=[1]))
    above, below = figure.axes
    np.testing.assert_array_equal(line(above, "evaluated").get_ydata(), [2.0, np.nan, 1.0])  # above the best, 1
    np.testing.assert_array_equal(line(above, "best so far").get_ydata(), [2.0, np.nan, np.nan])
    assert line(above, "best: F = 1").get_xdata().tolist() == [1]
    assert line(below, "slope").get_ydata().tolist() == [1.0, 0.5, 0.25]
    assert line(below, "kink").get_xdata().tolist() == [1]
    assert above.get_yscale() == below.get_yscale() == "log"
    assert not any(each.get_label() == "adjoint residual" for each in below.lines), "zeros have no place on a log axis"


def test_descent_without_steps_is_refused():
    with pytest.raises(ValueError, match="no steps"):
        plots.descent(report([1.0]).__class__(history=[]))


def test_a_curve_marks_the_best_of_the_path():
    grid = np.geomspace(0.01, 100, 9)
    figure = plots.criterion({"l1": grid}, np.log(grid) ** 2, report([3.0, 1.0, 2.0]))
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "l1"
    assert line(axes, "best:").get_xydata().tolist() == [[10**0.75, 1.0]]
    assert line(axes, "evaluated").get_ydata().tolist() == [3.0, 1.0, 2.0]


def test_a_curve_without_a_path_marks_the_best_of_the_grid():
    grid = np.array([1.0, 2.0, 3.0])
    figure = plots.criterion({"l1": grid}, np.array([2.0, np.nan, 1.0]))
    assert figure.axes[0].get_xscale() == "linear"
    assert line(figure.axes[0], "best:").get_xydata().tolist() == [[3.0, 1.0]]


def test_a_map_has_its_path_start_and_optimum():
    l1, l2 = np.geomspace(0.1, 100, 11), np.geomspace(0.01, 10, 8)
    values = np.log(l1)[:, None] ** 2 + np.log(l2)[None, :] ** 2
    figure = plots.criterion({"l1": l1, "l2": l2}, values, report([3.0, 1.0, 2.0]))
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("l1", "l2")
    assert line(axes, "start").get_xydata().tolist() == [[10.0, 0.1]]
    assert [10.0, 10**0.75, 10**0.5] in [each.get_xdata().tolist() for each in axes.lines], "all that was evaluated"
    assert line(axes, "search path").get_xdata().tolist() == [10.0, 10**0.75]
    assert len(figure.axes) == 2, "a colour bar"


@pytest.mark.parametrize(
    "values", [np.zeros((3, 4)), np.full((3, 4), 7.0), np.where(np.eye(3, 4) > 0, np.nan, 1.0 + np.arange(4.0))]
)
def test_maps_of_odd_values_can_be_drawn(values, tmp_path):
    figure = plots.criterion({"a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0, 4.0]}, values)
    assert plots.save(figure, tmp_path / "map.png").stat().st_size > 1000


def test_coefficients_count_what_is_nonzero():
    figure = plots.coefficients([1.0, 2.0, 3.0], [0.0, 0.0, 4.0], ["a", "b", "c"])
    (axes,) = figure.axes
    assert line(axes, "after tuning (1 of 3 nonzero)").get_ydata().tolist() == [0.0, 0.0, 4.0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b", "c"]


def test_images_share_one_scale():
    figure = plots.images({"one": np.zeros((2, 3)), "two": np.ones((2, 3))}, limits=(0.0, 2.0))
    assert [axes.images[0].get_clim() for axes in figure.axes] == [(0.0, 2.0)] * 2


def test_details_show_the_framed_part():
    image = np.arange(48.0).reshape(6, 8)
    figure = plots.images({"one": image, "two": -image}, detail=(slice(1, 3), slice(2, 6)))
    whole, _, part, _ = figure.axes
    np.testing.assert_array_equal(part.images[0].get_array(), image[1:3, 2:6])
    (frame,) = whole.patches
    assert (frame.get_xy(), frame.get_width(), frame.get_height()) == ((1.5, 0.5), 4, 2)


def test_maps_share_one_logarithmic_scale():
    figure = plots.maps({"coarse": np.ones((2, 2)), "fine": np.geomspace(0.01, 1, 101)[:, None]}, label="height")
    coarse, fine, bar = figure.axes
    assert coarse.images[0].get_clim() == fine.images[0].get_clim() == pytest.approx((10**-1.98, 10**-0.02))
    assert bar.get_ylabel() == "height" and bar.get_yscale() == "log"


def test_progress_keeps_the_best_so_far():
    figure = plots.progress({"one": [3.0, 4.0, 2.0], "two": [3.0, 1.0]}, label="loss")
    (axes,) = figure.axes
    assert [each.tolist() for each in (axes.lines[0].get_xdata(), axes.lines[0].get_ydata())] == [[1, 2, 3], [3, 3, 2]]
    assert line(axes, "two").get_xydata().tolist() == [[2, 1]]
    assert axes.get_ylabel() == "loss" and axes.get_xscale() == "log"


def test_decibels_of_a_loss():
    figure, grid = plots.canvas()
    axes = grid[0, 0]
    axes.plot([0, 1], [0.5, 50.0])
    axes.set(yscale="log", ylim=(0.5, 50.0))
    right = plots.decibels(axes, pixels=100, data_range=2.0)
    figure.draw_without_rendering()
    height = [axes.transData.transform((0.0, loss))[1] for loss in (2.0, 20.0)]
    assert [right.transData.transform((0.0, dB))[1] for dB in (20.0, 10.0)] == pytest.approx(height)


def test_given_axes_are_drawn_into():
    figure, grid = plots.canvas(3, 1)
    assert plots.descent(report([2.0, 1.0]), axes=grid[:2, 0]) is figure
    assert plots.coefficients([1.0], [2.0], axes=grid[2, 0]) is figure


@pytest.mark.parametrize(
    "call, wanted",
    [
        (lambda: plots.criterion({}, []), "0 weights"),
        (lambda: plots.criterion({"a": [1, 2]}, [1, 2, 3]), "shape"),
        (lambda: plots.criterion({"a": [1, 2]}, [1, 2], path=[[1.0, 2.0, 3.0]]), "path of shape"),
        (lambda: plots.criterion({"a": [1, 2]}, [1, 2], report([1.0])), "no scalar weight 'a'"),
        (lambda: plots.coefficients([1, 2], [1]), "one length"),
        (lambda: plots.coefficients([1], [1], ["a", "b"]), "2 names for 1"),
        (lambda: plots.images({}), "no image"),
        (lambda: plots.maps({}), "no image"),
        (lambda: plots.maps({"flat\nnote": np.zeros((2, 2))}), "'flat' holds 0"),
        (lambda: plots.progress({"none": []}), "'none' of shape"),
    ],
)
def test_refusals(call, wanted):
    with pytest.raises(ValueError, match=wanted):
        call()


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    figure = plots.descent(report([2.0, 1.0]))
    path = plots.save(figure, tmp_path / "descent.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    before = path.read_bytes()

    def dies(part, **options):
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", dies)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == before and [each.name for each in tmp_path.iterdir()] == ["descent.png"]


def test_nothing_global_changes():
    before = dict(mpl.rcParams)
    plots.descent(report([2.0, 1.0]))
    plots.coefficients([1.0], [2.0])
    assert dict(mpl.rcParams) == before
    code = "import sys; from invhyper import plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_population_is_drawn_from_what_a_report_keeps():
    """Rows of different lengths, through the findings and back: the same figures."""
    mask = np.array([[True, True, False], [True, True, True]])
    seen = Seen(np.array([[0.0, 1.0, 1.0], [0.0, 1.0, 2.0]]), np.where(mask, 2.0, 0.0), mask, ("a", "b"))
    rows = [np.array([1.0, 2.0]), np.array([1.5, 2.5, 3.0])]
    grid, curves = np.array([0.0, 2.0]), np.array([[0.0, 2.0], [4.0, 0.0]])
    fit = ih.Drawn(seen, rows, rows[::1], grid, curves, curves, np.ones((3, 5)), np.array([[0.1], [-0.3]]), np.eye(1))
    again = ih.Drawn.of(fit.findings())
    assert [row.tolist() for row in again.individual] == [[1.0, 2.0], [1.5, 2.5, 3.0]]
    np.testing.assert_allclose(again.curves([0.5])[0], [[0.5], [3.0]])
    assert again.simulate(2).shape == (2, 5)
    assert [axes.get_title("left") for axes in plots.individual_fits(again).axes] == ["a", "b"]
    assert plots.observed_predicted(again).axes[1].lines[1].get_xdata().tolist() == [1.0, 2.0, 1.5, 2.5, 3.0]
    shrunk = 1 - np.std([0.1, -0.3], ddof=1)
    assert plots.shrinkage(again).axes[0].get_title("left") == f"shrinkage {100 * shrunk:.0f} %"


# ---------------------------------------------------------------- audits


@pytest.fixture(scope="module")
def audited():
    """Two directions, one slope wrong, and a kink within the largest steps."""
    rng = np.random.default_rng(0)
    A, y = rng.standard_normal((60, 20)), rng.standard_normal(60)

    def off(problem, theta, **options):
        found = ih.Implicit()(problem, theta, **options)
        return replace(found, gradient={"l1": 1.001 * found.gradient["l1"], "l2": found.gradient["l2"]})

    problem = ih.Bilevel(ih.ElasticNet(A, y), ih.Truth(np.ones(20)))
    return ih.certificate.audit(problem, {"l1": 5.0, "l2": 0.5}, off, curve=True, spectrum=True)


def test_an_audit_shows_every_difference_and_its_guides(audited):
    figure = plots.audit(audited)
    for axes, curve, comparison in zip(figure.axes, audited.curves, audited.comparisons, strict=True):
        assert axes.get_xscale() == axes.get_yscale() == "log"
        drawn = line(axes, "difference")
        np.testing.assert_array_equal(drawn.get_xdata(), curve.steps[curve.same])
        np.testing.assert_array_equal(drawn.get_ydata(), np.maximum(curve.errors[curve.same], 1e-16))
        across = [each for each in axes.lines if each.get_label() == "across a kink"]
        assert len(across) == (curve is audited.curves[0]), "the largest step in l1 crosses a kink, none in l2 does"
        for each in across:
            assert each.get_markerfacecolor() == "white"
            np.testing.assert_array_equal(each.get_xdata(), curve.steps[~curve.same])
        assert line(axes, "judged").get_xydata().tolist() == [[comparison.step, comparison.relative_error]]
        for label, slope in (("truncation", 2.0), ("noise", -1.0)):
            for guide in (each for each in axes.lines if each.get_label().startswith(label)):
                x, y = np.log(guide.get_xydata().T)
                np.testing.assert_allclose(np.diff(y) / np.diff(x), slope, rtol=1e-9)
    assert [axes.get_title("left") for axes in figure.axes] == ["l1: disagrees", "l2: agrees"]
    assert line(figure.axes[1], "truncation") and line(figure.axes[1], "noise")
    title = figure.get_suptitle().replace("\n", " ")
    assert title == f"Not passed: {audited.verdict}"
    (legend,) = figure.legends
    assert "eigenvalues of A" in legend.get_title().get_text() and "margin to a kink" in legend.get_title().get_text()


def test_an_audit_at_a_kink_has_hollow_points_only():
    problem = ih.Bilevel(ih.Lasso(np.eye(1), np.array([1.0])), ih.Truth(np.array([-1.0])))
    figure = plots.audit(ih.certificate.audit(problem, {"weight": 1.0}, curve=True))
    (axes,) = figure.axes
    assert axes.get_title("left") == "weight: undecided"
    assert line(axes, "across a kink").get_xdata().size == 13 and line(axes, "difference").get_xdata().size == 0
    assert not any(each.get_label().startswith("judged") for each in axes.lines)


def test_an_audit_of_many_directions_shows_the_worst(audited, tmp_path):
    figure = plots.audit(audited, most=1)
    (axes,) = figure.axes
    assert axes.get_title("left") == "l1: disagrees" and "(drawn: the 1 that agree least)" in figure.get_suptitle()
    assert plots.save(figure, tmp_path / "audit.png").stat().st_size > 10_000


def test_audits_that_cannot_be_drawn(audited):
    with pytest.raises(ValueError, match="without curves: ask for them"):
        plots.audit(replace(audited, curves=()))
    with pytest.raises(ValueError, match="most = 0: a whole number"):
        plots.audit(audited, most=0)
    with pytest.raises(ValueError, match="columns = 1.5"):
        plots.audit(audited, columns=1.5)
