"""Every test: strict JAX, one compilation cache, blank figures, groups for two workers.

Implicit rank promotion and dtype promotion raise. Eight virtual CPU devices, so that one process
can build meshes of 1, 2 and 8. Compiled programs are kept in the user's cache directory, for both
workers and for the next run.
"""

import gc
import io
import os
import resource
import signal
from pathlib import Path
from typing import Any

HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HOME / "ablax" / "compiled-for-tests"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # lowers sooner

import jax  # noqa: E402  (it reads the variables above)
import pytest  # noqa: E402

from ablax import interrupts  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).parent
collect_ignore = ["lib/ablax/bench/gpu_peers.py"]  # needs torch, which tests do without
ALONE = "starts processes or measures time"
"""Name of the tests that one worker runs one after another."""
STARTS_PROCESSES = (
    "tests/bench", "tests/cli/test_processes.py", "tests/cli/test_launchers.py",
    "tests/cli/test_main.py", "tests/cli/test_audit.py", "tests/cli/test_members.py",
    "tests/study/test_killed.py",
)  # fmt: skip

QUICK = "tests/experiments/test_regularization.py"
"""The experiment that stands for all others in the tests that every change needs."""
SLOW = (
    "tests/bench", "tests/experiments", "tests/cli/test_claims.py", "tests/cli/test_members.py",
    "tests/cli/test_processes.py", "tests/study/test_halved_studies.py",
    "tests/study/test_inheritance.py", "tests/study/test_resume.py", "tests/study/test_memory.py",
    "tests/study/test_killed.py", "tests/engine/test_own_stopping.py",
)  # fmt: skip
"""Files whose tests take minutes together."""
_most_bytes = [2 * 2**30]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="also the tests marked slow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one worker, and all that start processes in one of them."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return ALONE if path.startswith(STARTS_PROCESSES) else path

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the slow tests to --all, unless they are named one by one."""
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        if path.startswith(SLOW) and path != QUICK:
            item.add_marker(pytest.mark.slow)
    named = any("::" in argument for argument in config.args)
    if not (config.getoption("--all") or named):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]


def pytest_collection_finish() -> None:
    """Keep the garbage collector from going through all that is imported again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="module")
def _memory():
    """Compiled programs leave a process at 2 GiB, and each time that it has grown further."""
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > _most_bytes[-1]:
        jax.clear_caches()
        gc.collect()
        _most_bytes.append(peak + 2**27)


@pytest.fixture(autouse=True, scope="session")
def _unrendered_figures():
    """Reports lay out their figures, texts and all, and write blank pictures."""
    from PIL import Image

    from ablax.report import plot

    blank = io.BytesIO()
    Image.new("RGB", (640, 480)).save(blank, format="png")

    def lay_out(figure, path, kind):
        if kind == "png":
            figure.draw_without_rendering()
            path.write_bytes(blank.getvalue())
        else:
            path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><!--{"blank " * 20}--></svg>')

    draw = plot.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "draw", lay_out)
        patch.setitem(plot.STYLE, "figure.constrained_layout.use", False)
        yield draw


@pytest.fixture
def rendered_figures(_unrendered_figures, monkeypatch):
    """For a test about the picture: figures as users get them."""
    from ablax.report import plot

    monkeypatch.setattr(plot, "draw", _unrendered_figures)
    monkeypatch.setitem(plot.STYLE, "figure.constrained_layout.use", True)


# A SIGTERM in the middle of a test ends pytest, though training handles it to stop at a
# checkpoint. One that a test sends itself is the test's own affair.

_own: list[int] = []
_raise_signal, _kill, _handled = signal.raise_signal, os.kill, interrupts.handled


def _raise(number: int) -> None:
    _own.append(number)
    _raise_signal(number)


def _send(pid: int, number: int) -> None:
    if pid == os.getpid():
        _own.append(number)
    _kill(pid, number)


def _handled_or_ended(handler: Any) -> Any:
    def sent(number: int, frame: Any) -> None:
        if number in _own:
            _own.remove(number)
        elif number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            _raise_signal(number)
        handler(number, frame)

    return _handled(sent)


signal.raise_signal, os.kill = _raise, _send
interrupts.handled = _handled_or_ended
