"""Solutions before and after: coefficients, images."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from jaxtyping import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from invhyper.plots.style import GREY, STYLE, VERMILION, canvas


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
    panels: Mapping[str, ArrayLike], axes: Sequence[Axes] | None = None, limits: tuple[float, float] | None = None
) -> Figure:
    """Grey-level images side by side on one scale.

    **Arguments**: `panels`: {title: image (rows, columns)}, the second line of a title goes below its image; `limits`:
    black and white levels (None: the range of the first image). Raises ValueError if there is no image.

    >>> import numpy as np, invhyper as ih
    >>> len(ih.plots.images({"flat": np.zeros((2, 2)), "chess": np.eye(2)}, limits=(0, 1)).axes)
    2
    """
    pictures = {title: np.asarray(image, float) for title, image in panels.items()}
    if not pictures:
        raise ValueError("plots.images was given no image: at least one is wanted")
    first = next(iter(pictures.values()))
    low, high = (first.min(), first.max()) if limits is None else limits
    if axes is None:
        axes = canvas(1, len(pictures), (2.6 * len(pictures), 3.0))[1][0]
    with mpl.rc_context(STYLE):
        for place, (title, image) in zip(axes, pictures.items(), strict=True):
            place.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            place.set(xticks=[], yticks=[])
            place.spines[:].set_visible(False)
            name, _, note = title.partition("\n")
            place.set_title(name, fontsize=10, loc="center")
            place.set_xlabel(note)
    return axes[0].figure


def _counted(label, vector):
    nonzero = int(np.count_nonzero(vector))
    return f"{label} ({nonzero} of {vector.size} nonzero)" if nonzero < vector.size else label
