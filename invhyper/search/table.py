"""One line per outer step, on stderr; on a terminal with a live line below that counts on."""

import sys
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

from invhyper.report import Report, Step

COLUMNS = (
    ("k", "{:d}", 4),
    ("F", "{:.10g}", 18),
    ("|grad|", "{:.2e}", 10),
    ("lower", "{:.1e}", 9),
    ("adjoint", "{:.1e}", 9),
    ("tol", "{:.1e}", 9),
    ("seconds", "{:.2f}", 9),
)


class Table:
    """A watch that prints aligned lines; see `table`."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream
        self._live: Live | None = None
        self._best: float | None = None

    def __call__(self, step: Step):
        if self._best is None:
            self._start()
        cells = (
            step.k,
            step.value,
            step.gradient_norm,
            step.lower_residual,
            step.adjoint_residual,
            step.tol,
            step.seconds,
        )
        self._write("".join(form.format(c).rjust(width) for c, (_, form, width) in zip(cells, COLUMNS, strict=True)))
        self._best = step.value if self._best is None else min(self._best, step.value)
        if self._live is not None:
            text = f"best F {self._best:.10g}, {step.solves} lower-level solves, {step.seconds:.1f} s"
            self._live.update(Spinner("dots", text=text), refresh=True)

    def finish(self, report: Report | None):
        """The closing line: how the run ended (None: by an error, which speaks for itself)."""
        if self._live is not None:
            self._live.stop()
        if report is not None:
            self._write(report.message)
        self._live, self._best = None, None

    def _start(self):
        console = Console(file=self._stream or sys.stderr)
        if console.is_terminal:
            self._live = Live(console=console, transient=True)
            self._live.start()
        self._write("".join(name.rjust(width) for name, _, width in COLUMNS))

    def _write(self, line: str):
        if self._live is not None:
            self._live.console.print(line, highlight=False, markup=False, soft_wrap=True)
            return
        stream = self._stream or sys.stderr
        stream.write(line + "\n")
        stream.flush()


def table(stream: TextIO | None = None) -> Table:
    """A watch for `tune`: one aligned line per outer step.

    The columns are k, F, |grad| (projected, on the search scale), lower residual, adjoint residual, tol, seconds. On a
    terminal a live line below shows the best F, the solves and the time so far. **Arguments**: `stream`: written to;
    None: stderr.

    >>> import io, numpy as np, invhyper as ih
    >>> problem = ih.Bilevel(ih.Ridge(np.eye(2), np.ones(2)), ih.Truth(np.full(2, 0.8)))
    >>> lines = io.StringIO()
    >>> report = ih.tune(problem, {"l2": 1.0}, search=ih.LBFGSB(), watch=[ih.table(lines)])
    >>> lines.getvalue().split()[:2]
    ['k', 'F']
    """
    return Table(stream)
