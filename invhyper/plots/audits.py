"""A gradient audit as a picture: the V of central differences, direction by direction."""

import textwrap

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from invhyper.plots.style import BLUE, GREEN, GREY, ORANGE, STYLE, VERMILION, canvas, log_ticks

# No error of a quotient of differences is known below this; smaller ones, and zeros, are drawn here.
FLOOR = 1e-16
COLOURS = {True: GREEN, False: VERMILION, None: ORANGE}
SAYS = {True: "agrees", False: "disagrees", None: "undecided"}
DIFFERENCE, ACROSS, JUDGED = "difference D(h)", "across a kink", "judged by: extrapolated D"
TRUNCATION, NOISE, ASKED = "truncation, $h^2$", "noise of F, $1/h$", "asked: {:g}"


def audit(found, *, most: int = 9, columns: int = 3, size: tuple[float, float] | None = None) -> Figure:
    """A panel for each direction: how far central differences are from the hypergradient's slope, over their step h.

    Truncation falls like h^2, the noise of F rises like 1 / h: a right slope lies under the V that these two make (thin
    lines, foretold from the values alone), a wrong one stops it at the height of its error. Points whose ends stand on
    another stratum than theta, across a kink, are hollow; the diamond is what the audit judged by: the extrapolated
    difference at the step it chose. The title is the verdict, the last lines what else is known.

    **Arguments**: `found`: what `certificate.audit(..., curve=True)` returned; `most`: no more than so many panels, the
    worst directions; `columns`: panels side by side; `size` in inches. Raises ValueError for an audit without curves.

    >>> import numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.ones(2)))
    >>> figure = ih.plots.audit(ih.certificate.audit(problem, {"l2": 1.0}, curve=True))
    >>> figure.axes[0].get_title("left")
    'l2: agrees'
    """
    if not getattr(found, "curves", ()):
        raise ValueError("plots.audit was given an audit without curves: ask for them, audit(..., curve=True)")
    for name, value in (("most", most), ("columns", columns)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"plots.audit {name} = {value!r}: a whole number, 1 or more, is wanted")
    pairs = sorted(zip(found.comparisons, found.curves, strict=True), key=lambda pair: _badness(pair[0]), reverse=True)
    shown = {id(pair[0]) for pair in pairs[:most]}
    pairs = [pair for pair in zip(found.comparisons, found.curves, strict=True) if id(pair[0]) in shown]
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    width, height = size or (max(6.8, 4.3 * columns), 3.3 * rows + 1.7)
    figure, grid = canvas(rows, columns, (width, height), sharey=True)
    for axes in grid.ravel()[len(pairs) :]:
        axes.remove()
    with mpl.rc_context(STYLE):
        lowest = min(_panel(axes, *pair, found.rtol) for axes, pair in zip(grid.ravel(), pairs, strict=False))
        for axes in grid.ravel()[: len(pairs)]:
            axes.set_ylim(min(lowest, found.rtol) / 5)
            log_ticks(axes.yaxis)
        for first in grid[:, 0]:
            first.set_ylabel("relative error of D(h)")
        _words(figure, found, len(pairs), width)
    return figure


def _badness(comparison) -> tuple:
    """Directions that disagree come first, then those that can't be told."""
    return {False: 2, None: 1, True: 0}[comparison.agrees], np.nan_to_num(comparison.relative_error)


def _panel(axes: Axes, comparison, curve, rtol) -> float:
    """One direction; returns the lowest error drawn."""
    h, errors = curve.steps, np.where(np.isfinite(curve.errors), np.maximum(curve.errors, FLOOR), np.nan)
    fine = np.geomspace(h.min(), h.max(), 200)
    bottom = np.nanmin(errors[curve.same], initial=np.nanmin(errors, initial=1.0))
    top = np.nanmax(errors, initial=rtol)
    for height, dashes, label in ((curve.truncation * fine**2, "--", TRUNCATION), (curve.noise / fine, ":", NOISE)):
        inside = (height > bottom / 3) & (height < 5 * top)
        if inside.any():
            axes.plot(fine[inside], height[inside], color=GREY, lw=1.0, ls=dashes, label=label)
    axes.axhline(rtol, color=GREEN, lw=1.0, alpha=0.8, label=ASKED.format(rtol))
    axes.plot(h, np.where(curve.same, errors, np.nan), color=BLUE, lw=1.4, alpha=0.5, label="_line")
    axes.plot(h[curve.same], errors[curve.same], "o", ms=5, color=BLUE, label=DIFFERENCE)
    if not curve.same.all():
        axes.plot(h[~curve.same], errors[~curve.same], "o", ms=5.5, mfc="white", mec=VERMILION, mew=1.4, label=ACROSS)
    if np.isfinite(comparison.difference):
        judged = max(comparison.relative_error, FLOOR)
        bottom = min(bottom, judged)
        axes.plot(
            [comparison.step], [judged], "D", ms=8, color=ORANGE, mec="black", mew=0.8, zorder=7,
            label=JUDGED,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel=f"step h in {curve.direction}")
    log_ticks(axes.xaxis)
    axes.set_title(f"{curve.direction}: {SAYS[comparison.agrees]}", color=COLOURS[comparison.agrees])
    axes.set_title(f"slope {comparison.slope:.6g}", loc="right", fontsize=9, fontweight="normal", color=GREY)
    return bottom


def _words(figure, found, shown, width):
    """The verdict above, the legend and the evidence below."""
    head = ("Passed: " if found.passed else "Not passed: ") + found.verdict
    head = textwrap.fill(head, int(9 * width))
    if shown < len(found.comparisons):
        head += f"\n(drawn: the {shown} that agree least)"
    worst = max((_badness(comparison), comparison.agrees) for comparison in found.comparisons)[1]
    figure.suptitle(head, fontsize=12, fontweight="bold", color=COLOURS[worst])
    handles = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    known = DIFFERENCE, ACROSS, JUDGED, TRUNCATION, NOISE, ASKED.format(found.rtol)
    order = [label for label in known if label in handles]
    figure.legend(
        [handles[label] for label in order], order, loc="outside lower center", ncols=3 if width < 11 else 6,
        title=_lines(found.evidence, int(12 * width)), title_fontsize=9,
    )  # fmt: skip


def _lines(evidence: dict[str, str], letters: int) -> str:
    """The evidence in lines of about so many letters, broken between its items."""
    lines = []
    for item in (f"{name}: {said}" for name, said in evidence.items()):
        if lines and len(lines[-1]) + len(item) < letters:
            lines[-1] += f"   |   {item}"
        else:
            lines.append(item)
    return "\n".join(textwrap.fill(line, letters) for line in lines)
