"""The command `purerl`.

It reads the command line, calls the library, and turns errors into one line and an exit code: 2 for errors that the
user can fix, 128 + signal for Ctrl-C (130), SIGTERM (143) and SIGHUP (129). jax and tyro are imported only by the
commands that need them.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence

from purerl import registry
from purerl.cli import flags, folders, training
from purerl.cli.flags import Group
from purerl.errors import Interrupted, PurerlError, nearest

BAD_INPUT, BROKEN_PIPE = 2, 141

OVERVIEW = """\
purerl: reinforcement learning that lives on the accelerator

usage: purerl COMMAND ...      (purerl COMMAND --help: details; purerl --version: the version)

  train AGENT ENV   train an agent; writes a run folder under runs/
  sweep AGENT ENV   train many settings together; writes a table, a ranking and a plot
  resume DIR        continue a stopped run, sweep or challenge as it was begun
  eval DIR          play a fixed number of episodes per environment with a trained agent; writes DIR/eval.json
  video DIR         a GIF or MP4 of a trained agent
  plot DIR...       learning curves of runs and sweeps in one figure
  report DIR...     one self-contained HTML page about runs and sweeps
  figure COMMAND    list, run, render, verify or cost: figures of papers at three scales
  challenge ...     run, resume, score or published: the NeurIPS 2020 Procgen challenge
  list WHAT         agents, envs [FAMILY], presets [AGENT] or runs [DIR]
  levels build ENV  take a game's levels from its library, for the same game in the graph
  doctor            what is installed, what works on this machine, how to fix the rest
  bench             speed measurements, as JSON

  --import FILE     with any command: import a Python file (or a module, by its name) that registers agents,
                    environments, presets or figures of your own; may be given several times

examples:
  purerl train ppo gymnax/CartPole-v1
  purerl train ppg procgen/coinrun --preset quick --seeds 2 --env.num-levels 200
  purerl sweep ppo gymnax/Breakout-MinAtar --seeds 8 --grid "learning_rate=1e-3,5e-3;discount=.97,.99"
  purerl train mine gymnax/CartPole-v1 --import my_agent.py
  purerl train ppo gymnax/Breakout-MinAtar --help         all fields of ppo, with their values in its preset
  purerl eval runs/ppg-procgen-coinrun-quick-env.num_levels_200-seed0to1 --env.num-levels 0
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line (None for this process's own) and returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text of the terminal's encoding
    try:
        code = _run(words)
        sys.stdout.flush()  # so that a closed pipe raises here
        return code
    except PurerlError as error:
        return _fail(str(error))
    except SystemExit as done:  # from --help
        return done.code if isinstance(done.code, int) else 0
    except KeyboardInterrupt as stopped:
        print(f"purerl: {stopped if isinstance(stopped, Interrupted) else 'interrupted'}", file=sys.stderr)
        return 128 + getattr(stopped, "signal", signal.SIGINT)
    except BrokenPipeError:  # purerl list envs | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        return _fail(_os_error(error))
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            _note_own_line(error)
            raise
        return _fail(f"out of memory: try fewer --seeds or a smaller --num-envs ({str(error)[:200]})")
    except Exception as error:
        _note_own_line(error)
        raise


def _note_own_line(error: Exception) -> None:
    from purerl.runs import user_modules

    user_modules.note_own_line(error)


def _run(words: list[str]) -> int:
    words, imports = flags.take(words, "import")
    if not words or words[0] in ("-h", "--help", "help"):
        print(OVERVIEW, end="")
        return 0
    if words[0] in ("--version", "-V", "version"):
        from importlib.metadata import version

        print(f"purerl {version('purerl')}")
        return 0
    if words[0] not in COMMANDS:
        hint = nearest(words[0], COMMANDS)
        if words[0] in registry.agent_names():
            hint = f" To train it: purerl train {words[0]} ENV."
        raise PurerlError(f"unknown command '{words[0]}'.{hint} Commands: {', '.join(COMMANDS)} (purerl --help)")
    _import(imports, words)
    return COMMANDS[words[0]](words[1:])


def _import(imports: list[str], words: list[str]) -> None:
    """Imports the modules of --import, after the settings that must be made before JAX starts."""
    from purerl.runs import user_modules

    if imports and words[0] in ("train", "sweep", "figure", "challenge", "bench"):
        from purerl.loops import sharding

        sharding.one_cpu_device_per_core()  # before a module of the user's starts JAX
    user_modules.import_all(imports)


def _fail(message: str) -> int:
    print(f"purerl: error: {' '.join(message.split())}", file=sys.stderr)
    return BAD_INPUT


def _cut(text: str) -> str:
    """A path for a message; one that is too long for a file is cut."""
    return text if len(text) <= 300 else f"{text[:300]}..."


def _os_error(error: OSError) -> str:
    """The error of the operating system, its path, and the fix."""
    what = f"{error.strerror or error}{f': {_cut(str(error.filename))}' if error.filename else ''}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what}; free some space, or choose a folder on another disk (--out)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{what}; make it accessible, or choose another folder (--out)"
    return what


# --- commands that have a file of their own --------------------------------------------------------------------------


@dataclasses.dataclass
class Nothing:
    """No flags but --help."""


def _list(words: list[str]) -> int:
    from purerl.cli import listing

    return listing.main(words)


def _levels(words: list[str]) -> int:
    from purerl.cli import levels

    return levels.main(words)


def _doctor(words: list[str]) -> int:
    flags.parse([Group(Nothing, Nothing())], words, "purerl doctor", "Shows what is installed and what works here.")
    from purerl.cli import doctor

    return doctor.main()


def _figure(words: list[str]) -> int:
    import importlib

    return importlib.import_module("purerl.experiments.figures.commands").main(words)


def _challenge(words: list[str]) -> int:
    import importlib

    return importlib.import_module("purerl.experiments.challenge.commands").main(words)


def _resume(words: list[str]) -> int:
    return training.resume(words, _challenge)


def _bench(words: list[str]) -> int:
    import importlib

    return importlib.import_module("purerl.experiments.benchmarks.commands").main(words)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": training.train,
    "sweep": training.sweep,
    "resume": _resume,
    "eval": folders.evaluate,
    "video": folders.make_video,
    "plot": folders.plot,
    "report": folders.report,
    "list": _list,
    "figure": _figure,
    "challenge": _challenge,
    "levels": _levels,
    "doctor": _doctor,
    "bench": _bench,
}


if __name__ == "__main__":
    sys.exit(main())
