"""Figures of tuning runs and audits, drawn without pyplot: no global state, no window, safe on any machine.

Every function returns a matplotlib `Figure` and draws into `axes` where they are given. Colours are Okabe and Ito's,
which colour-blind readers tell apart; maps are in viridis.
"""

from invhyper.plots.audits import audit
from invhyper.plots.curves import criterion
from invhyper.plots.identifiability import profiles, spectrum
from invhyper.plots.populations import individual_fits, observed_predicted, predictive_check, shrinkage
from invhyper.plots.searches import descent, improving, progress, waterfall
from invhyper.plots.solutions import coefficients, images, maps
from invhyper.plots.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
    VERMILION,
    canvas,
    decibels,
    log_ticks,
    save,
)

__all__ = [
    "BLUE", "GREEN", "GREY", "ORANGE", "PURPLE", "SKY", "STYLE", "VERMILION",
    "audit", "canvas", "coefficients", "criterion", "decibels", "descent", "images", "improving", "individual_fits",
    "log_ticks", "maps", "observed_predicted", "predictive_check", "profiles", "progress", "save", "shrinkage",
    "spectrum", "waterfall",
]  # fmt: skip
