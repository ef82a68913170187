"""What is reconstructed and what it rests on: coefficients, images, maps of weights."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from invhyper.plots.style import GREY, ORANGE, STYLE, VERMILION, canvas, log_ticks


def coefficients(
    before: ArrayLike,
    after: ArrayLike,
    names: Sequence[str] | None = None,
    *,
    labels: tuple[str, str] = ("before tuning", "after tuning"),
    axes: Axes | None = None,
) -> Figure:
    """Coefficients before and after tuning: one stem each, the change drawn between them.

    **Arguments**: `before`, `after`: (p,); `names`: p names for the axis (None: the index). Raises ValueError for
    other shapes.

    >>> import numpy as np, invhyper as ih
    >>> len(ih.plots.coefficients(np.ones(3), np.zeros(3)).axes)
    1
    """
    before, after = np.asarray(before, float), np.asarray(after, float)
    if before.ndim != 1 or before.shape != after.shape:
        raise ValueError(
            f"plots.coefficients wants two vectors of one length; it was given {before.shape} and {after.shape}"
        )
    if names is not None and len(names) != before.size:
        raise ValueError(f"plots.coefficients was given {len(names)} names for {before.size} coefficients")
    if axes is None:
        width = float(np.clip(0.16 * before.size, 6.4, 12.0))
        axes = canvas(size=(width, 4.2))[1][0, 0]
    places = np.arange(before.size)
    size = float(np.clip(260 / max(before.size, 1), 2.5, 6.0))
    with mpl.rc_context(STYLE):
        axes.vlines(places, before, after, color="#B8BEC6", lw=1.2, zorder=1)
        axes.axhline(0.0, color=GREY, lw=0.9, zorder=0)
        axes.plot(places, before, "o", mfc="white", mec=GREY, mew=1.2, ms=size, label=_counted(labels[0], before))
        axes.plot(places, after, "o", color=VERMILION, ms=size, label=_counted(labels[1], after))
        axes.set(ylabel="coefficient", xlim=(-0.8, before.size - 0.2))
        axes.grid(axis="x", visible=False)
        if names is None:
            axes.set_xlabel("index")
        else:
            axes.set_xticks(places, names, rotation=90, fontsize=float(np.clip(420 / before.size, 6, 9)))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return axes.figure


def images(
    panels: Mapping[str, ArrayLike],
    axes: ArrayLike | None = None,
    limits: tuple[float, float] | None = None,
    detail: tuple[slice, slice] | None = None,
) -> Figure:
    """Grey-level images side by side on one scale.

    **Arguments**: `panels`: {title: image (rows, columns)}, the second line of a title goes below its image; `limits`:
    black and white levels (None: the range of the first image); `detail`: (rows, columns), slices of the images to be
    shown larger in a second row. `axes`: one an image, two rows of them with `detail`. Raises ValueError if there is no
    image.

    >>> import numpy as np, invhyper as ih
    >>> panels = {"flat": np.zeros((8, 8)), "chess": np.eye(8)}
    >>> len(ih.plots.images(panels, limits=(0, 1)).axes)
    2
    >>> len(ih.plots.images(panels, limits=(0, 1), detail=(slice(2, 5), slice(2, 5))).axes)
    4
    """
    pictures = _pictures("images", panels)
    first = next(iter(pictures.values()))
    low, high = (first.min(), first.max()) if limits is None else limits
    views = (...,) if detail is None else (..., detail)
    if axes is None:
        axes = canvas(len(views), len(pictures), (2.6 * len(pictures), (3.0, 5.7)[len(views) - 1]))[1]
    axes = np.asarray(axes, dtype=object).reshape(len(views), len(pictures))
    with mpl.rc_context(STYLE):
        for column, (title, image) in zip(axes.T, pictures.items(), strict=True):
            name, _, note = title.partition("\n")
            for place, view in zip(column, views, strict=True):
                place.imshow(image[view], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
                _bare(place)
            column[0].set_title(name, fontsize=10, loc="center")
            column[-1].set_xlabel(note)
            if detail is not None:
                _frame(column, detail, image.shape)
    return axes[0, 0].figure


def _frame(column, detail, shape):
    """Where the detail lies in the image, and the same colour around the detail."""
    (top, bottom, _), (left, right, _) = (part.indices(size) for part, size in zip(detail, shape, strict=True))
    place = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec=ORANGE, lw=1.5)
    column[0].add_patch(place)
    column[1].spines[:].set(visible=True, color=ORANGE, linewidth=1.5)


def maps(
    panels: Mapping[str, ArrayLike],
    axes: Sequence[Axes] | None = None,
    limits: tuple[float, float] | None = None,
    label: str = "weight",
) -> Figure:
    """Images of positive numbers, such as weights, side by side on one logarithmic colour scale.

    **Arguments**: `panels`: {title: image (rows, columns)}, each of its own size, the second line of a title goes below
    its image; `limits`: the ends of the scale (None: where one and 99 % of the values of the last image lie); `label`:
    what the numbers are. Raises ValueError if there is no image, or a number that is not positive.

    >>> import numpy as np, invhyper as ih
    >>> len(ih.plots.maps({"coarse": np.array([[0.1, 1.0]]), "fine": np.geomspace(0.01, 1, 64).reshape(8, 8)}).axes)
    3
    """
    pictures = _pictures("maps", panels)
    for title, image in pictures.items():
        if not np.all(image > 0):
            name = title.partition("\n")[0]
            raise ValueError(f"plots.maps: {name!r} holds {image.min():g}: a logarithmic scale wants positive numbers")
    low, high = np.quantile(list(pictures.values())[-1], (0.01, 0.99)) if limits is None else limits
    norm = LogNorm(low, high if high > low else 1.01 * low, clip=True)
    if axes is None:
        axes = canvas(1, len(pictures), (2.6 * len(pictures) + 0.8, 3.0))[1][0]
    with mpl.rc_context(STYLE):
        for place, (title, image) in zip(axes, pictures.items(), strict=True):
            shown = place.imshow(image, cmap="viridis", norm=norm, interpolation="nearest")
            _bare(place)
            name, _, note = title.partition("\n")
            place.set_title(name, fontsize=10, loc="center")
            place.set_xlabel(note)
        bar = place.figure.colorbar(shown, ax=list(axes), pad=0.01, extend="both", aspect=16, shrink=0.82)
        bar.set_label(label)
        log_ticks(bar.ax.yaxis)
        bar.outline.set_visible(False)
    return place.figure


def _pictures(name, panels):
    if not panels:
        raise ValueError(f"plots.{name} was given no image: at least one is wanted")
    return {title: np.asarray(image, float) for title, image in panels.items()}


def _bare(axes):
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(False)


def _counted(label, vector):
    nonzero = int(np.count_nonzero(vector))
    return f"{label} ({nonzero} of {vector.size} nonzero)" if nonzero < vector.size else label
