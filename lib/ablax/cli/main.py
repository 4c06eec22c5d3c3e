"""The command line: `./launch.sh` sets up the environment and runs it; `ablax` once installed."""

import contextlib
import importlib
import itertools
import os
import signal
import sys
from pathlib import Path

from ablax.checkout import CHECKOUT, COMMAND, EXPERIMENTS
from ablax.cli import experiments, launchers
from ablax.errors import UserError, unknown
from ablax.experiment import question_of

START = """\
Ablax trains a whole ablation study as one compiled program, and judges the result.

  ./launch.sh list                      the experiments, one line each
  ./launch.sh EXPERIMENT                train its default study and write the report
  ./launch.sh PATH/own.py               the same for an experiment in a file of your own
  ./launch.sh EXPERIMENT --plan         print what would be trained, and stop
  ./launch.sh EXPERIMENT --preset smoke a small study, to see that everything works
  ./launch.sh EXPERIMENT --help         every flag of the experiment
  ./launch.sh resume DIR                go on with a study that was interrupted
  ./launch.sh report DIR [DIR …]        the report again; of several, also compared with the first
  ./launch.sh claims [EXPERIMENT …]     every claim, its verdict, its evidence; --run trains
  ./launch.sh data list|fetch NAME      data sets: where from, checksum, present or not
  ./launch.sh audit [EXPERIMENT]        whether a trial's bits depend on what is around it, here
  ./launch.sh bench [NAME]              side-by-side benchmarks
  ./launch.sh gallery                   draw the figures of the documentation again
  ./launch.sh test [--all]              the tests that every change needs; all of them

Where it runs: flags of an EXPERIMENT or a resume, anywhere in the line

  --processes N                         N processes on this machine
  --on slurm|tpu-pod                    a job (--nodes N), or all workers of a pod (--tpu NAME)
  --dry-run                             print what would be started or submitted, and stop

Start with:  ./launch.sh regularization
"""
START_WITH = "regularization"


def list_experiments(arguments: list[str]) -> None:
    _expect(not arguments, "list takes no arguments")
    width = max(map(len, experiments.names()), default=0)
    for name in experiments.names():
        print(f"{name:<{width}}  {question_of(EXPERIMENTS / f'{name}.py')}")


def experiment(name: str, arguments: list[str]) -> int:
    from ablax.cli.launch import launch

    return launch(experiments.load(name), name, arguments).status


def resume(arguments: list[str]) -> int:
    """Launch again what a run directory says was launched there."""
    import json
    import shlex

    flagged = [word.startswith("--") for word in arguments[:2]]
    _expect(flagged in ([False], [False, True]), "expected: resume DIR [FLAG …]")
    path = Path(arguments[0]) / "study.json"
    try:
        provenance = json.loads(path.read_text())["provenance"]
        name, *flags = shlex.split(provenance["command"])[1:]
        folder = Path(provenance.get("working_directory", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{arguments[0]} holds no study: cannot read {path}: {error}") from error
    directory, *others = arguments
    # The folder may have moved, and a retry that was asked for has been noted; a flag of this
    # command (--allow-changed, --slots) takes the place of the recorded one.
    replaced = {word.partition("=")[0] for word in others if word.startswith("--")}
    flags = _without(flags, {"--out", "--retry", *replaced})
    # Relative paths of the recorded command (an own experiment, a table) belong to its folder.
    there = contextlib.chdir(folder) if folder.is_dir() else contextlib.nullcontext()
    arguments = [*flags, *others, "--out", str(Path(directory).absolute())]
    with there:
        return experiment(name, arguments)


def _without(arguments: list[str], names: set[str]) -> list[str]:
    """The arguments without some flags and their values.

    >>> _without(["--l2", "0", "-1e-3", "--out", "d", "--plan"], {"--l2", "--out"})
    ['--plan']
    """
    remaining, dropping = [], False
    for word in arguments:
        if word.startswith("--"):
            dropping = word.partition("=")[0] in names
        if not dropping:
            remaining.append(word)
    return remaining


def report(arguments: list[str]) -> int:
    from ablax.cli.launch import rebuild

    _expect(len(arguments) > 0, "expected: report DIR [DIR …]")
    rebuild([Path(directory) for directory in arguments])
    return 0


def data(arguments: list[str]) -> None:
    from ablax.data import catalog
    from ablax.data.directory import data_directory

    match arguments:
        case ["list"] | ["list", "--verify"]:
            print(f"data directory: {data_directory()}")
            for row in catalog.listing(verify="--verify" in arguments):
                print(f"{row.name:<20}{row.present:<9}{row.description}; {row.examples}")
                print(f"{'':<29}{row.home}")
                for file, checksum in row.files:
                    print(f"{'':<29}{file}  sha256 {checksum}")
        case ["fetch", name]:
            for path in catalog.fetch(name):
                print(path)
        case _:
            raise UserError("expected: data list [--verify], or data fetch NAME")


def bench(arguments: list[str]) -> None:
    from ablax.bench import BENCHES

    name, *rest = arguments or ["sweep"]
    if name.startswith("--"):
        name, rest = "sweep", arguments
    if name not in BENCHES:
        raise unknown("bench", name, BENCHES)
    importlib.import_module(f"ablax.bench.{name}").main(rest)


def audit(arguments: list[str]) -> int:
    from ablax.cli import audit

    name, *rest = (
        arguments if arguments[:1] and arguments[0][:2] != "--" else [START_WITH, *arguments]
    )
    return audit.main(_loaded(name), name, rest)


def claims(arguments: list[str]) -> int:
    from ablax.cli import claims

    asked = list(itertools.takewhile(lambda word: not word.startswith("--"), arguments))
    chosen = {name: _loaded(name) for name in asked or experiments.names()}
    return claims.main(chosen, arguments[len(asked) :], everything=not asked)


def gallery(arguments: list[str]) -> int:
    from ablax.cli import gallery

    _expect(not arguments, "gallery takes no arguments")
    return gallery.main()


COMMANDS = {
    "audit": audit,
    "claims": claims,
    "gallery": gallery,
    "list": list_experiments,
    "resume": resume,
    "report": report,
    "data": data,
    "bench": bench,
}


def _installed(start: str) -> str:
    """The start page of an installed package, which has no experiments of its own."""
    only_here = ("gallery", " test ", "list   ", "Start with")
    lines = [line for line in start.splitlines() if not any(word in line for word in only_here)]
    return "\n".join(lines).replace("./launch.sh", COMMAND).rstrip()


def _loaded(name: str):
    """An experiment; of an unknown name the error lists the commands as well."""
    if not experiments.is_file(name) and name not in experiments.names():
        raise unknown("command or experiment", name, [*COMMANDS, "test", *experiments.names()])
    return experiments.load(name)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _train(where: launchers.Where, command: str, arguments: list[str]) -> int:
    """An experiment or a resume: here, as one process of several, or elsewhere."""
    if command != "resume":
        _loaded(command)
    if not launchers.starts_others(where):
        with launchers.member(where):
            return resume(arguments) if command == "resume" else experiment(command, arguments)
    if where.on != "local" and command != "resume":
        from ablax.cli import flags

        flags.parse(
            experiments.load(command), command, arguments
        )  # a typo must not wait in a queue
    return launchers.start(where, [command, *arguments])


def _run(arguments: list[str]) -> int:
    where, rest = launchers.parse(arguments)
    if not rest or rest[0] in ("-h", "--help", "help"):
        print(START if CHECKOUT else _installed(START))
        return 0
    command, *others = rest
    if command not in COMMANDS or command == "resume":
        return _train(where, command, others)
    _expect(
        len(rest) == len(arguments),
        f"expected an experiment or resume with the launcher's flags, got {command}",
    )
    return COMMANDS[command](others) or 0


def main(arguments: list[str]) -> int:
    """Run a command line; the exit status, as a shell would report it."""
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe, as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:  # outside of training, which stops at a checkpoint
        print("stopped; rerun the same command to resume", file=sys.stderr)
        return 130


def script() -> None:
    """The `ablax` command of an installed package."""
    sys.exit(main(sys.argv[1:]))
