"""Figures of the study, from its report alone."""

from pathlib import Path

import numpy as np

from invhyper import Report, plots


def draw(report: Report, folder: Path) -> list[Path]:
    """Descent, map with the path, schedules, loss over runs spent, fresh rows and orders; returns the files written."""
    return [
        plots.save(plots.descent(report), folder / "descent.png"),
        plots.save(criterion_map(report), folder / "criterion.png"),
        plots.save(schedules(report), folder / "schedules.png"),
        plots.save(spent(report), folder / "spent.png"),
        plots.save(fresh(report), folder / "fresh.png"),
    ]


def criterion_map(report: Report):
    """The validation loss over (a, b), the path of the search, the grid's points and its best."""
    found = report.findings
    figure = plots.criterion({"a": found["a"], "b": found["b"]}, found["map"], report, label="validation loss")
    axes = figure.axes[0]
    a, b = np.meshgrid(found["a"], found["b"])
    axes.plot(a, b, ".", color="black", ms=1.6, alpha=0.45, zorder=2)
    label = f"best of the grid: {found['grid_loss']:.5g}"
    place = found["grid_a"], found["grid_b"]
    axes.plot(*place, "P", color=plots.SKY, mec="black", mew=0.8, ms=9, zorder=6, label=label)
    axes.set(xlabel="a, the logarithm of the first step size", ylabel="b, the logarithm of its decay")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    return figure


def schedules(report: Report):
    """eta_t of the start, the grid's best, the learned schedule; and, behind, one with a number for each step."""
    eta = report.findings["eta"]
    t = np.arange(eta["learned"].size)
    figure, grid = plots.canvas(size=(7.2, 4.4))
    axes = grid[0, 0]
    axes.plot(t, eta["free"], ".", color="#B9C0CA", ms=3.0, label="one number a step, learned")
    axes.plot(t, eta["grid"], color=plots.BLUE, lw=2.0, ls="--", label="best of the grid")
    axes.plot(t, eta["learned"], color=plots.VERMILION, lw=2.4, label="learned a, b")
    axes.plot(t, eta["start"], color=plots.GREY, lw=1.4, ls=":", label="start")
    axes.set(yscale="log", xlabel="step t", ylabel=r"step size $\eta_t$", xlim=(0, t[-1]))
    plots.log_ticks(axes.yaxis)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=9)
    return figure


def spent(report: Report):
    """The best validation loss so far over the training runs spent; a grid's order is drawn at random."""
    found = report.findings
    figure, grid = plots.canvas(size=(7.2, 4.4))
    axes = grid[0, 0]
    values = np.where(np.isfinite(found["map"]), found["map"], np.inf).ravel()
    rng = np.random.default_rng(0)
    orders = np.minimum.accumulate([rng.permutation(values) for _ in range(500)], axis=1)
    runs = np.arange(1, values.size + 1)
    low, middle, high = np.quantile(orders, [0.1, 0.5, 0.9], axis=0)
    axes.fill_between(runs, low, high, color=plots.BLUE, alpha=0.15, lw=0, label="its middle 80 %")
    axes.plot(runs, middle, color=plots.BLUE, label="grid, points in random order: median")
    best = np.minimum.accumulate([step.value for step in report.history])
    at = np.arange(1, best.size + 1)
    axes.step(at, best, where="post", color=plots.VERMILION, lw=1.4, ls=":", label="learned, over hypergradients")
    axes.step(
        at * found["runs_per_hypergradient"], best, where="post", color=plots.VERMILION,
        label=f"learned, over their time: {found['runs_per_hypergradient']:.1f} runs each",
    )  # fmt: skip
    axes.axhline(found["grid_loss"], color=plots.GREY, lw=1.0, ls="--")
    axes.axvline(found["grid_runs"] / 3, color=plots.GREY, lw=1.0, ls=":")
    axes.text(
        found["grid_runs"] / 3 + 2,
        1.2 * found["grid_loss"],
        "a third of the grid",
        color=plots.GREY,
        fontsize=9,
        va="top",
    )
    axes.set(xlabel="training runs spent", ylabel="best validation loss so far")
    axes.set(xlim=(0, values.size), ylim=(0.98 * found["learned_loss"], 1.4 * found["grid_loss"]))
    axes.legend(loc="upper right", frameon=False, fontsize=9)
    return figure


def fresh(report: Report):
    """Learned less grid, split by split; and what all three schedules are worth with minibatches in other orders."""
    found = report.findings
    gain = 1e3 * (found["splits"][:, 1] - found["splits"][:, 0])
    figure, grid = plots.canvas(1, 2, (10.0, 4.0), width_ratios=(1.7, 1))
    left, right = grid[0]
    at = np.arange(len(gain))
    left.axhline(0.0, color=plots.GREY, lw=1.2)
    left.bar(at - 0.2, gain[:, 0], width=0.38, color=plots.BLUE, label="validation rows, which chose")
    left.bar(at + 0.2, gain[:, 1], width=0.38, color=plots.ORANGE, label="test rows, which nothing saw")
    left.set(xlabel="random split", ylabel="loss: learned a, b less the grid's best, in 0.001")
    left.set_xticks(at)
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)

    names = ("grid", "learned", "free")
    own = [found[f"{name}_test_loss"] for name in names]
    other = [found["fresh_loss"][name] for name in names]
    places = np.arange(3)
    right.bar(places - 0.2, own, width=0.38, color=plots.GREEN, label="the orders that chose")
    right.bar(places + 0.2, other, width=0.38, color=plots.PURPLE, label="other orders")
    right.set_xticks(places, ["best of\nthe grid", "learned\na, b", "one number\na step"])
    right.set(ylabel="loss of the test rows", ylim=(0.0, 1.1 * max(*own, *other)))
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
    for axes in (left, right):
        axes.grid(axis="x", visible=False)
    return figure
