"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots

CASES = (("ridge", "ridge, ten weights"), ("logistic", "logistic, one weight"))
FLOOR = 1e-16
DOT = {"ms": 4.0, "mfc": "white", "mew": 1.2, "zorder": 4}
RUNS = (
    ("momentum", "far start, with momentum", plots.PURPLE),
    ("plain", "far start, every step differentiated", plots.VERMILION),
    ("later", "far start, early steps left out", plots.ORANGE),
    ("latest", "far start, more of them left out", plots.GREEN),
    ("warm", "warm start from a neighbour's solution", plots.BLUE),
)


def draw(report: Report, folder: Path) -> list[Path]:
    """Search, criterion, errors over T, the curse and its cures, Neumann series; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(short_runs(report), folder / "criterion.png"),
        plots.save(errors(report), folder / "errors.png"),
        plots.save(curse(report), folder / "curse.png"),
        plots.save(terms(report), folder / "terms.png"),
    ]


def short_runs(report: Report):
    """The criterion over the weight: of the solution, and of runs that stop early."""
    found = report.findings
    path = np.array([[float(step.theta["l2"]), step.value] for step in report.history])
    figure = plots.criterion({"l2": found["weights"]}, found["curve"], path=path, label="solution")
    axes = figure.axes[0]
    for steps, values in found["short"].items():
        colour = {"30": plots.VERMILION, "300": plots.SKY}[steps]
        axes.plot(found["weights"], values, color=colour, ls="--", label=f"{steps} steps of gradient descent from zero")
    axes.set(xlabel="weight decay l2", ylabel="held-out log-loss")
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return figure


def errors(report: Report):
    """What each method's hypergradient is off by after T steps, and what it says itself."""
    figure, panels = panels_of(report)
    for axes, own in panels:
        T = own["steps"]
        axes.plot(T, np.maximum(own["unrolled"], FLOOR), color=plots.VERMILION, label="Unrolled(T)")
        shades = dict(zip(("300", "30"), (plots.SKY, plots.ORANGE), strict=True))
        for k, values in own["windows"].items():
            axes.plot(T, values, color=shades[k], label=f"Unrolled(T, window={k})")
        for name, method, colour in (("one_step", "OneStep()", plots.PURPLE), ("implicit", "Implicit()", plots.BLUE)):
            axes.plot(T, np.maximum(own[name], FLOOR), color=colour, label=f"{method} at x_T")
            estimate = np.maximum(own[f"{name}_estimate"], FLOOR)
            axes.plot(T, estimate, "o", label=f"what {method} estimates", color=colour, **DOT)
        axes.axvline(T[own["linear"]][0], color=plots.GREY, lw=0.9, ls=":")
        axes.annotate(
            "x_T within 10 %", (T[own["linear"]][0], 1e-12), (-4, 0), textcoords="offset points", rotation=90,
            ha="right", va="center", color=plots.GREY, fontsize=9,
        )  # fmt: skip
        axes.set(xscale="log", yscale="log", xlim=(1, T[-1]), ylim=(FLOOR, 4))
        axes.set_xlabel("steps T of gradient descent from zero")
    panels[0][0].set_ylabel("error of dF/dl2, relative")
    shared_legend(figure, panels[0][0], 4)
    return figure


def curse(report: Report):
    """Far from the solution a derivative grows before it converges; late tangents and a warm start do not let it."""
    figure, grid = plots.canvas(2, 2, (10.4, 7.0), sharex=True)
    for column, (name, title) in enumerate(CASES):
        own = of(report, name)
        for axes, key in zip(grid[:, column], ("cursed", "cursed_slopes"), strict=True):
            for which, label, colour in RUNS:
                axes.plot(own["cursed_steps"], np.maximum(own[key][which], FLOOR), color=colour, label=label)
            for first, colour in zip(own["late"], (plots.ORANGE, plots.GREEN), strict=True):
                axes.axvline(first, color=colour, lw=0.9, ls=":", zorder=1)
            top = 4 * max(np.max(values) for values in own[key].values())
            axes.axhspan(1.0, top, color="#FBEDE5", zorder=0, lw=0)
            axes.text(2450, 1.3, "worse than no derivative at all", color=plots.GREY, fontsize=9, ha="right")
            axes.set(yscale="log", ylim=(1e-6, top), xlim=(0, 2500))
        peak, above = (own["peak_at"], own["peak_plain"]), grid[0, column]
        above.annotate(
            f"{peak[1]:.0f} times the start, at T = {peak[0]}", peak, (peak[0] + 330, peak[1]), va="center", fontsize=9,
            color=plots.VERMILION, arrowprops={"arrowstyle": "-", "color": plots.VERMILION, "lw": 0.9},
        )  # fmt: skip
        for first, colour in zip(own["late"], (plots.ORANGE, plots.GREEN), strict=True):
            above.annotate(f"{first}", (first, 2e-6), (3, 0), textcoords="offset points", color=colour, fontsize=9)
        above.set_title(title)
        grid[1, column].set_xlabel("steps T of the run")
    grid[0, 0].set_ylabel("error of dx_T/dl2, relative")
    grid[1, 0].set_ylabel("error of dF/dl2, relative")
    shared_legend(figure, grid[0, 0], 3)
    return figure


def terms(report: Report):
    """Neumann series and windows at the solution: errors over k under the rate that the spectrum predicts."""
    figure, panels = panels_of(report)
    for axes, own in panels:
        k = own["kept"]
        axes.plot(k, own["radius"] ** k, color=plots.GREY, ls="--", label="radius^k, from ih.spectrum")
        axes.plot(k, own["kept_errors"], color=plots.BLUE, label="k terms")
        square = {"ls": "", "marker": "s", "ms": 11, "mfc": "none", "mec": plots.VERMILION, "mew": 1.5}
        axes.plot(own["series"], own["window_errors"], **square, label="Unrolled(T, window=k)")
        axes.plot(own["series"], own["series_errors"], "o", ms=5, color=plots.BLUE, label="Implicit(Neumann(k))")
        for needed, predicted, accuracy in zip(own["needed"], own["predicted"], own["accuracies"], strict=True):
            axes.plot([needed, predicted], [accuracy] * 2, "|-", color="black", lw=1.0, ms=7, zorder=5)
            axes.annotate(
                f"{needed} needed, {predicted} predicted", (predicted, accuracy), (8, 0), textcoords="offset points",
                fontsize=9, va="center", bbox={"fc": "white", "ec": "none", "pad": 1.0},
            )  # fmt: skip
        axes.set(yscale="log", xlim=(0, 3950), ylim=(1e-7, 2), xlabel="terms k")
    panels[0][0].set_ylabel("error of dF/dl2, relative")
    shared_legend(figure, panels[0][0], 4)
    return figure


def panels_of(report: Report):
    """A figure with a panel for each problem, and the findings of each."""
    figure, grid = plots.canvas(1, 2, (10.4, 4.8), sharey=True)
    for axes, (_, title) in zip(grid[0], CASES, strict=True):
        axes.set_title(title)
    return figure, [(axes, of(report, name)) for axes, (name, _) in zip(grid[0], CASES, strict=True)]


def of(report: Report, name: str) -> dict:
    """The findings of one problem."""
    return {key.removeprefix(f"{name}_"): value for key, value in report.findings.items() if key.startswith(f"{name}_")}


def shared_legend(figure, axes, columns: int):
    """One legend for all panels, below them."""
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
