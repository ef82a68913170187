"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, F with its kinks, the path above it, and what stands at the best weight of all halves."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion(report), folder / "criterion.png"),
        plots.save(path(report), folder / "path.png"),
        plots.save(halves(report), folder / "halves.png"),
    ]


def criterion(report: Report):
    """F over the weight: a kink that is a local maximum, and one that is the best weight, with the slopes there."""
    found = report.findings
    figure, grid = plots.canvas(1, 2, (10.4, 4.4))
    left, right = grid[0]
    first, second = found["drawn"], found["kinked"]
    peak = int(np.argmax(np.where((first["above"] < 0) & (first["below"] > 0), first["values"], -np.inf)))
    low = first["values"].min()
    _panel(left, first, peak, (0.8, 30), (low - 0.001, low + 0.0125))
    left.set_title("A kink is a local maximum (diabetes)")
    best = int(np.argmin(second["values"]))
    weight, value = second["weights"][best], second["values"][best]
    near = (second["weights"] > weight / 3) & (second["weights"] < 3 * weight)
    rise = second["values"][near].max() - value
    _panel(right, second, best, (weight / 3, 3 * weight), (value - 0.12 * rise, value + 1.05 * rise))
    right.set_title("The best weight is at a kink (breast cancer)")
    right.set_ylabel("")
    return figure


def path(report: Report):
    """The coefficients over the weight, linear between kinks; F below, a parabola between kinks."""
    found = report.findings["drawn"]
    figure, grid = plots.canvas(2, 1, (7.6, 6.4), sharex=True, height_ratios=(1.1, 1))
    above, below = grid[:, 0]
    colours = [plots.BLUE, plots.VERMILION, plots.GREEN, plots.ORANGE, plots.PURPLE, plots.SKY, plots.GREY]
    weights = np.geomspace(0.15, found["weights"].max(), 800)
    shown = found["coefficients"]
    lines = [np.interp(weights, found["weights"][::-1], each[::-1]) for each in shown.T]
    for j, line in enumerate(lines):
        above.plot(weights, line, color=colours[j % 7], ls="-" if j < 7 else "--", lw=1.5)
    above.axhline(0, color="black", lw=0.8)
    above.set(ylabel="coefficient", title="Coefficients are linear in the weight between kinks")
    _curve(below, found)
    below.set(xlabel="weight (log scale)", ylabel="held-out error F", title="F is a parabola between kinks")
    low = found["values"].min()
    below.set_ylim(low - 0.004, low + 0.055)
    below.legend(loc="upper left")
    for axes in (above, below):
        for weight in found["weights"][1:-1]:
            axes.axvline(weight, color=plots.GREY, lw=0.7, alpha=0.35, zorder=0)
        axes.grid(False)
        axes.set_xscale("log")
        axes.set_xlim(weights.min(), weights.max() * 1.05)
    above.set_ylim(np.min(lines) - 0.05, np.max(lines) + 0.05)
    plots.log_ticks(below.xaxis)
    return figure


def halves(report: Report):
    """What stands at the best weight of each half: a kink, a smooth minimum, x = 0 or the end of the path."""
    found = report.findings
    names = list(found["counted"])
    figure, grid = plots.canvas(size=(7.2, 1.4 + 0.62 * len(names)))
    axes = grid[0, 0]
    colours = {
        "kink": plots.VERMILION,
        "smooth": plots.BLUE,
        "x = 0": plots.GREY,
        "end of the path": plots.SKY,
    }
    start = np.zeros(len(names))
    for place, colour in colours.items():
        share = np.array([found["counted"][name]["places"][place] / found["halves"] for name in names])
        if not share.any():
            continue
        label = f"at {'an interior ' if place == 'kink' else ''}{place}" if place in ("kink", "x = 0") else place
        axes.barh(names, share, left=start, color=colour, height=0.62, label=label)
        for row, (width, left) in enumerate(zip(share, start, strict=True)):
            if width > 0.05:
                axes.text(left + width / 2, row, f"{width:.0%}", ha="center", va="center", color="white", fontsize=10)
        start += share
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel=f"share of {found['halves']} random halves")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=4, fontsize=9)
    return figure


def _panel(axes, found, k, weights, values):
    """F near one kink, with its two slopes there."""
    _curve(axes, found)
    weight, value = found["weights"][k], found["values"][k]
    label = f"slopes {found['below'][k]:.3g} and {found['above'][k]:.3g}"
    for slope, end in ((found["below"][k], weight / 1.5), (found["above"][k], weight * 1.5)):
        line = np.geomspace(weight, end, 50)
        axes.plot(line, value + slope * (line - weight), color=plots.VERMILION, lw=2.2, zorder=5, label=label)
        label = None
    axes.set(xlim=weights, ylim=values, xlabel="weight", ylabel="held-out error F")
    axes.set_xscale("log")
    plots.log_ticks(axes.xaxis)
    axes.legend(loc="upper left")


def _curve(axes, found):
    """F, its kinks, and its local minima by their kind."""
    axes.plot(*_parabolas(found), color=plots.BLUE, zorder=2)
    inner = slice(1, -1)
    axes.plot(found["weights"][inner], found["values"][inner], "o", ms=4.5, mfc="white", mec=plots.BLUE, mew=1.2,
              label="kinks", zorder=3)  # fmt: skip
    kinked = np.array([place == "kink" for place in found["minima_places"]])
    kinds = (kinked, plots.ORANGE, "minimum at a kink"), (~kinked, plots.GREEN, "smooth minimum")
    for mask, colour, label in kinds:
        if mask.any():
            axes.plot(found["minima_weights"][mask], found["minima_values"][mask], "v", ms=8, color=colour,
                      mec="black", mew=0.6, label=label, zorder=6)  # fmt: skip


def _parabolas(found: dict, points: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """F on a fine grid: on each piece the parabola of its values and slopes."""
    weights, values = [found["weights"][:1]], [found["values"][:1]]
    for k in range(len(found["weights"]) - 1):
        a, b = found["weights"][k : k + 2]
        s = np.linspace(0, 1, points + 1)[1:]
        down, up = found["below"][k], found["above"][k + 1]
        weights.append(a + s * (b - a))
        values.append(found["values"][k] + (b - a) * (s * down + 0.5 * s**2 * (up - down)))
    return np.concatenate(weights), np.concatenate(values)
