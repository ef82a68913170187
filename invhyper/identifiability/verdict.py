"""What the data say of each parameter, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree
from rich.table import Table

from invhyper.identifiability.fisher import SAFETY, Fisher, fit, information, names
from invhyper.identifiability.profile import SETTLED, Profile, edges, follow, position, threshold
from invhyper.lower.ode import Calibration
from invhyper.problem import Solution

IDENTIFIABLE = "identifiable"
PRACTICALLY = "practically non-identifiable"
STRUCTURALLY = "structurally non-identifiable"
# A profile that rises by less than this share of the limit is flat.
FLAT = 1e-3
# A profile that finds a better fit starts everything again there, so often at most.
ROUNDS = 3
# An end of an interval that is so many times nearer or farther than the standard error foretells is worth a note.
BENT = 2.0


@dataclass(frozen=True)
class Verdict:
    """Of one parameter: its `value` at the fit, `standard_error`, profile `interval`, the `kind` of verdict, the
    `reason` for it, and the `direction` {name: component} (natural scale, length one) that no observation sees."""

    name: str
    value: float
    standard_error: float
    interval: tuple[float, float]
    kind: str
    reason: str = ""
    direction: dict[str, float] = field(default_factory=dict)

    def __str__(self):
        return f"{self.kind} ({self.reason})" if self.reason else self.kind


@dataclass(frozen=True)
class Identifiability:
    """What `identify` found: `verdicts` and `profiles` by parameter, the `fisher` information, the `solution` that
    they are about (None if loaded), the `level` of confidence, and `notes`."""

    verdicts: dict[str, Verdict]
    profiles: dict[str, Profile]
    fisher: Fisher
    solution: Solution | None
    level: float
    notes: tuple[str, ...] = ()

    def findings(self) -> dict:
        """All but the solution, as a `Report` keeps it in its `findings`."""
        parts = {name: getattr(self, name) for name in ("verdicts", "profiles")}
        found = {name: {key: asdict(part) for key, part in parts[name].items()} for name in parts}
        return {**found, "fisher": asdict(self.fisher), "level": self.level, "notes": self.notes}

    @staticmethod
    def of(findings: dict) -> "Identifiability":
        """What `findings` was made from, for the figures of a report that was loaded."""
        verdicts = {name: Verdict(**part) for name, part in findings["verdicts"].items()}
        profiles = {name: Profile(**part) for name, part in findings["profiles"].items()}
        fisher = Fisher(**findings["fisher"])
        return Identifiability(verdicts, profiles, fisher, None, findings["level"], tuple(findings["notes"]))

    def summary(self) -> str:
        """A line a parameter, and the notes."""
        width = max(map(len, self.verdicts))
        lines = [
            f"{name:<{width}} = {v.value:<10.5g} se {v.standard_error:<9.3g} {_interval(v):<22} {v}"
            for name, v in self.verdicts.items()
        ]
        return "\n".join([*lines, *self.notes])

    def table(self) -> Table:
        """The verdicts as a table of rich, which prints it in colour on a terminal."""
        found = Table("parameter", "fit", "standard error", f"{100 * self.level:g} % interval", "verdict", box=None)
        colours = {IDENTIFIABLE: "green", PRACTICALLY: "yellow", STRUCTURALLY: "red"}
        for name, v in self.verdicts.items():
            cells = name, f"{v.value:.5g}", f"{v.standard_error:.3g}", _interval(v)
            found.add_row(*cells, f"[{colours[v.kind]}]{v}[/]")
        return found

    def __rich__(self):
        return self.table()

    def __repr__(self):
        return f"Identifiability at level {self.level:g}\n{self.summary()}"


def identify(
    calibration: Calibration,
    theta: PyTree,
    solution: Solution | None = None,
    *,
    level: float = 0.95,
    parameters: Sequence[str | int] | None = None,
    within: Mapping[str, tuple[float, float]] | None = None,
) -> Identifiability:
    """A verdict on each parameter of a calibration: identifiable, or practically or structurally not.

    A parameter is structurally non-identifiable where it takes part in a direction that the Fisher information does
    not see (`fisher`) and its profile likelihood is flat: then others make up for it, along that direction, whatever
    the data. Any other is practically non-identifiable where its profile does not reach the limit on both sides (a
    bound or the end of the search comes first): the data are too few or too noisy. Else it is identifiable.

    **Arguments**: `calibration`, `theta`: the problem; `solution`: its fit (None: solved for); `level`: of confidence;
    `parameters`: those to judge (None: all); `within`: {name: (below, above)}, as far as profiles are followed, see
    `profile`. If a profile finds a better fit, everything is judged there, and a note says so. Raises ValueError at the
    door, NotConverged where there is no fit.

    >>> import numpy as np, invhyper as ih
    >>> t = np.array([0.5, 1.0, 2.0, 4.0])
    >>> enzyme = ih.Calibration(
    ...     rhs=lambda t, x, p, theta: -p["turnover"] * p["enzyme"] * x, initial=lambda p, theta: 1.0,
    ...     observe=lambda t, x, p, theta: p["gain"] * x, times=t, data=3 * np.exp(-0.5 * t), noise=0.1,
    ...     start={"enzyme": 1.0, "gain": 1.0, "turnover": 0.5}, bounds=(0.0, None),
    ... )
    >>> found = ih.identify(enzyme, {})
    >>> print(found.verdicts["gain"])
    identifiable
    >>> print(found.verdicts["enzyme"].kind)
    structurally non-identifiable

    Raue et al. (2009), doi:10.1093/bioinformatics/btp358; Wieland et al. (2021), doi:10.1016/j.coisb.2021.03.005.
    """
    known, rise = names(calibration), threshold(level)
    chosen = range(len(known)) if parameters is None else [position(known, name) for name in parameters]
    ranges = {position(known, name): reach for name, reach in (within or {}).items()}
    theta = calibration.check(theta)
    solution = fit(calibration, theta, None if solution is None else ravel_pytree(solution.x)[0])
    notes = []
    for _ in range(ROUNDS):
        information_ = information(calibration, theta, solution)
        flat = max(FLAT * rise, SAFETY * information_.objective_error)
        found = {}
        for index in chosen:
            reach = edges(calibration, solution, index, ranges.get(index))
            found[known[index]] = follow(calibration, theta, index, solution, rise, level, reach)
        best = min(found.values(), key=lambda profile: profile.rise.min())
        gain = -float(best.rise.min())
        if gain <= flat:
            break
        notes.append(
            f"The profile of {best.name} found a fit that is better by {gain:.3g} in the objective: judged there."
        )
        solution = fit(calibration, theta, best.parameters[int(np.argmin(best.objective))])
    notes += [
        f"The profile of {name} rests on fits that ended at an error of {profile.error:.0e}: its interval is a guess."
        for name, profile in found.items()
        if not profile.error <= SETTLED
    ]
    box = np.asarray(calibration.floor), np.asarray(calibration.ceiling)
    verdicts = {name: _judge(profile, information_, flat, box) for name, profile in found.items()}
    notes += [note for verdict in verdicts.values() for note in _bent(verdict, rise)]
    return Identifiability(verdicts, found, information_, solution, level, tuple(notes))


def _judge(profile: Profile, fisher: Fisher, flat: float, box) -> Verdict:
    index = fisher.names.index(profile.name)
    basics = profile.name, profile.best, float(fisher.standard_errors[index]), profile.interval
    if fisher.unseen[index] and _is_flat(profile, flat, box):
        column = fisher.null[:, int(np.argmax(fisher.null[index] != 0))]
        direction = {name: float(v) for name, v in zip(fisher.names, column, strict=True) if v != 0}
        words = ", ".join(f"{name}: {v:.2g}" for name, v in direction.items())
        return Verdict(*basics, STRUCTURALLY, f"direction {words}", direction)
    open_ends = [why for why, end in zip(profile.ends, profile.interval, strict=True) if not np.isfinite(end)]
    return Verdict(*basics, PRACTICALLY if open_ends else IDENTIFIABLE, ", ".join(open_ends))


def _bent(verdict: Verdict, rise: float) -> list[str]:
    """A note where an end of the interval is far from where the standard error puts it."""
    foretold = np.sqrt(2 * rise) * verdict.standard_error
    ends = [abs(end - verdict.value) / foretold for end in verdict.interval if np.isfinite(end) and foretold < np.inf]
    worst = max(ends, key=lambda ratio: abs(np.log(ratio)), default=1.0)
    if 1 / BENT <= worst <= BENT:
        return []
    return [
        f"The interval of {verdict.name} reaches {worst:.2g} times as far as its standard error foretells: the model "
        "bends there, so go by the interval."
    ]


def _is_flat(profile: Profile, flat: float, box) -> bool:
    """Whether the profile stays level for as long as the other parameters are as free as at the fit."""
    others = np.array(profile.names) != profile.name
    held = ((profile.parameters <= box[0]) | (profile.parameters >= box[1])) & others
    changed = np.any(held != held[profile.fit], axis=1)
    risen = np.abs(profile.rise) > flat
    sides = [slice(profile.fit - 1, None, -1) if profile.fit else slice(0), slice(profile.fit + 1, None)]
    level = [bool(np.all(np.cumsum(changed[side])[risen[side]] > 0)) for side in sides]
    return all(level) and not all(np.all(risen[side]) for side in sides)


def _interval(verdict: Verdict) -> str:
    """The interval with its open ends left out."""
    low, high = verdict.interval
    if np.isinf(low) and np.isinf(high):
        return "open"
    if np.isinf(low):
        return f"up to {high:.5g}"
    return f"from {low:.5g}" if np.isinf(high) else f"{low:.5g} to {high:.5g}"
