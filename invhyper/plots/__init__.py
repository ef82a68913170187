"""Figures of a tuning run, drawn without pyplot: no global state, no window, safe on any machine.

Every function returns a matplotlib `Figure` and draws into `axes` where they are given. Colours are Okabe and Ito's,
which colour-blind readers tell apart; maps are in viridis.
"""

from invhyper.plots.curves import criterion
from invhyper.plots.searches import descent, improving
from invhyper.plots.solutions import coefficients, images
from invhyper.plots.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, VERMILION, canvas, save

__all__ = [
    "BLUE", "GREEN", "GREY", "ORANGE", "PURPLE", "SKY", "STYLE", "VERMILION",
    "canvas", "coefficients", "criterion", "descent", "images", "improving", "save",
]  # fmt: skip
