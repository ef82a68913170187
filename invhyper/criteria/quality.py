"""How close an image is to a known one, in the two numbers that imaging papers report."""

import numpy as np
from jaxtyping import Array, Float

WINDOW = 7  # pixels a side, what scikit-image takes by default


def psnr(x: Float[Array, "..."], truth: Float[Array, "..."], data_range: float = 1.0) -> float:
    """Peak signal-to-noise ratio in decibels.

        psnr = 10 log10(data_range^2 / mean((x - truth)^2))

    **Arguments**: `x`, `truth`: signals, images or volumes of one shape; `data_range`: highest possible value minus
    lowest, in their units. Infinite where x is the truth. Raises ValueError for shapes, NaN and a range that is not
    positive.

    >>> import numpy as np, invhyper as ih
    >>> round(ih.psnr(np.full((4, 4), 0.6), np.full((4, 4), 0.5)), 9)
    20.0
    """
    x, truth = _pair("psnr", x, truth, data_range)
    error = float(np.mean((x - truth) ** 2))
    return float(10.0 * np.log10(data_range**2 / error)) if error > 0 else float("inf")


def ssim(x: Float[Array, "..."], truth: Float[Array, "..."], data_range: float = 1.0) -> float:
    """Structural similarity, the mean over windows of 7 pixels a side; 1 where x is the truth.

        ssim = mean of (2 m_x m_t + c1) (2 s_xt + c2) / ((m_x^2 + m_t^2 + c1) (s_x^2 + s_t^2 + c2)),
        c1 = (0.01 data_range)^2, c2 = (0.03 data_range)^2

    with m the means, s^2 the variances and s_xt the covariance in a window (uniform, as scikit-image has it by
    default, and computed by it).

    **Arguments**: as `psnr`, at least 7 pixels along each axis. Raises ModuleNotFoundError without scikit-image (the
    extra `imaging`), ValueError as `psnr`.

    >>> import numpy as np, invhyper as ih
    >>> ramp = np.linspace(0.0, 1.0, 64).reshape(8, 8)
    >>> round(ih.ssim(ramp, ramp), 6), round(ih.ssim(1.0 - ramp, ramp), 6)
    (1.0, -0.954873)

    Wang, Bovik, Sheikh and Simoncelli (2004), doi:10.1109/TIP.2003.819861.
    """
    x, truth = _pair("ssim", x, truth, data_range)
    if x.ndim == 0 or min(x.shape) < WINDOW:
        raise ValueError(f"ssim was given images of shape {x.shape}: at least {WINDOW} pixels along each axis")
    try:
        from skimage.metrics import structural_similarity
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "ssim is computed by scikit-image, which is not installed: pip install 'invhyper[imaging]'"
        ) from None
    return float(structural_similarity(x, truth, win_size=WINDOW, data_range=data_range))


def _pair(name: str, x, truth, data_range) -> tuple[np.ndarray, np.ndarray]:
    x, truth = np.asarray(x, float), np.asarray(truth, float)
    if x.shape != truth.shape:
        raise ValueError(
            f"{name} was given x of shape {x.shape} and a truth of shape {truth.shape}: one shape is wanted"
        )
    for label, array in (("x", x), ("truth", truth)):
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} {label} holds NaN or infinity: crop or fill these pixels in both images")
    if not data_range > 0:
        raise ValueError(f"{name} data_range = {data_range}: a positive number is wanted, 1.0 for images in [0, 1]")
    return x, truth
