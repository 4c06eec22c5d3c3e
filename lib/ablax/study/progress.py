"""How far a study is: one bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import TextIO

from ablax.metrics import Metric


class Progress:
    """Shows trials finished, share of slots busy, trials per second, the best validation
    objective so far, time left.

    Args:
        objective: whose best value is shown.
        stream: where to; a bar if it is a terminal, else a line every `every` seconds.
    """

    def __init__(
        self,
        objective: Metric | None,
        stream: TextIO | None = None,
        every: float = 10.0,
    ):
        self.total, self.steps, self.objective = 0, 0, objective
        self.stream = sys.stderr if stream is None else stream
        self.every = every
        self.finished = 0
        self.spent = 0  # steps trained, or saved by trials that ended early
        self.begun: tuple[float, int] | None = None  # after the first segment: when, steps spent
        self.busy = 0.0
        self.best: float | None = None
        self.program = ""
        self._bar = self._task = None

    def __enter__(self) -> "Progress":
        self._started = self._printed = time.monotonic()
        if self.stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                BarColumn(bar_width=8),  # the line beside it must fit into 80 columns
                TaskProgressColumn(),
                TextColumn("{task.fields[line]}"),
                console=Console(file=self.stream),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("training", total=max(self.steps, 1), line="compiling")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def extend(self, trials: int, steps: int) -> None:
        """Add trials, and the steps that they make at most, to the total.

        Progress is counted in steps, because trials finish in waves.
        """
        self.total += trials
        self.steps += steps
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, total=self.steps)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=self.stream, flush=True)

    def advance(self, *, steps: int, finished: int, busy: float, best: float | None) -> None:
        """Add what one segment did."""
        self.spent += steps
        self.finished += finished
        self.busy = busy
        if best is not None and self.objective is not None:
            better = max if self.objective.direction == "max" else min
            self.best = best if self.best is None else better(self.best, best)
        now = time.monotonic()
        self.begun = self.begun or (now, self.spent)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=min(self.spent, self.steps), line=self.line(now))
        elif now - self._printed >= self.every:
            self._printed = now
            self.say(f"{100 * min(self.spent / max(self.steps, 1), 1):3.0f}%  {self.line(now)}")

    def line(self, now: float) -> str:
        """The state in words; the time left by the speed since the first segment was compiled.

        >>> progress = Progress(None)
        >>> progress.extend(8, 800)
        >>> progress._started, progress.begun = 0.0, (10.0, 100)
        >>> progress.spent, progress.finished, progress.busy = 400, 4, 0.95
        >>> progress.line(16.0)
        '4/8 trials · 95% busy · 0.2/s · 8 s left'
        >>> progress.begun = 16.0, 400
        >>> progress.line(16.0)
        '4/8 trials · 95% busy · 0.2/s'
        """
        passed = max(now - self._started, 1e-9)
        parts = [
            f"{self.finished:,}/{self.total:,} trials",
            f"{100 * self.busy:.0f}% busy",
            f"{self.finished / passed:.1f}/s",
        ]
        if self.best is not None and self.objective is not None:
            parts.append(f"best {self.objective.name} {self.best:.4g}")
        if self.begun is not None and self.spent > self.begun[1]:
            since, spent = self.begun
            left = (now - since) * (self.steps - self.spent) / (self.spent - spent)
            parts.append(f"{max(left, 0):.0f} s left")
        return " · ".join(parts)
