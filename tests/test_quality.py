"""PSNR and SSIM against their definitions."""

import sys

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

import invhyper as ih


@pytest.fixture
def pair():
    rng = np.random.default_rng(4)
    truth = rng.random((20, 24))
    return np.clip(truth + 0.1 * rng.standard_normal(truth.shape), 0, 1), truth


def test_psnr_is_its_formula(pair):
    x, truth = pair
    assert ih.psnr(x, truth) == pytest.approx(-10 * np.log10(((x - truth) ** 2).mean()), rel=1e-14)
    assert ih.psnr(255 * x, 255 * truth, data_range=255) == pytest.approx(ih.psnr(x, truth), rel=1e-13)
    assert ih.psnr(truth + 0.01, truth) == pytest.approx(40.0, rel=1e-12)
    assert ih.psnr(truth, truth) == np.inf


def test_psnr_follows_from_the_distance_to_the_truth(pair):
    """10 log10(n / (2 C)), C the criterion Truth: what a search by Truth reports stands for PSNR."""
    x, truth = pair
    distance = float(ih.Truth(truth)(x, {}))
    assert ih.psnr(x, truth) == pytest.approx(10 * np.log10(truth.size / (2 * distance)), rel=1e-13)


def ssim_by_definition(x, t, data_range):
    """Uniform windows of 7 x 7, unbiased variances, the mean over windows that lie inside."""
    n = 49
    m_x, m_t = uniform_filter(x, 7), uniform_filter(t, 7)
    s_x, s_t, s_xt = (
        (uniform_filter(a * b, 7) - c * d) * n / (n - 1)
        for a, b, c, d in ((x, x, m_x, m_x), (t, t, m_t, m_t), (x, t, m_x, m_t))
    )
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = (2 * m_x * m_t + c1) * (2 * s_xt + c2) / ((m_x**2 + m_t**2 + c1) * (s_x + s_t + c2))
    return values[3:-3, 3:-3].mean()


def test_ssim_is_its_formula(pair):
    x, truth = pair
    assert ih.ssim(x, truth) == pytest.approx(ssim_by_definition(x, truth, 1.0), rel=1e-10)
    assert ih.ssim(x, truth, data_range=2.0) == pytest.approx(ssim_by_definition(x, truth, 2.0), rel=1e-10)
    assert ih.ssim(truth, truth) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("measure", [ih.psnr, ih.ssim])
def test_bad_images_get_their_sentence(measure):
    square = np.ones((8, 8))
    with pytest.raises(ValueError, match=r"x of shape \(8, 8\) and a truth of shape \(8, 9\): one shape is wanted"):
        measure(square, np.ones((8, 9)))
    with pytest.raises(ValueError, match="truth holds NaN or infinity"):
        measure(square, np.full((8, 8), np.nan))
    with pytest.raises(ValueError, match="data_range = 0: a positive number is wanted"):
        measure(square, square, data_range=0)


def test_ssim_wants_a_window():
    with pytest.raises(ValueError, match=r"images of shape \(6, 30\): at least 7 pixels along each axis"):
        ih.ssim(np.ones((6, 30)), np.ones((6, 30)))


def test_ssim_without_scikit_image_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.metrics", None)
    with pytest.raises(ModuleNotFoundError, match=r"scikit-image, which is not installed: pip install 'invhyper\["):
        ih.ssim(np.ones((8, 8)), np.ones((8, 8)))
