"""Trains many runs in as few programs as possible.

Cell: one setting of a sweep, trained with all its seeds. It is a run with its own folder, the same as `purerl.train`
writes. Cells that differ only in seeds and traced config fields become lanes of one vmapped program. The packing is
written to disk before training starts, so that a restart uses the same programs and gives the same results.

    WORK/<n>/program.json   the cells of a program, and how they are trained
    WORK/<n>/checkpoints/   the checkpoints of an unfinished program
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from purerl import arguments, configs, registry
from purerl.errors import Interrupted, PurerlError, nearest, needs
from purerl.loops import compilation, sharding
from purerl.runs import (
    agent_checks,
    estimates,
    evaluation,
    files,
    interrupts,
    lock,
    logs,
    ownership,
    run_folder,
    schemas,
    trust,
    user_modules,
)
from purerl.runs.checkpoint import Checkpoints
from purerl.runs.logs import Logged
from purerl.runs.plan import Plan, difference, header, seed_keys, update_header
from purerl.runs.random_play import random_return
from purerl.runs.recording import Recording
from purerl.runs.trainer import Member, Trainer, close, forget_shared_loop, shared_loop

PROGRAM = "program.json"
Engine = Literal["local", "ray"]
# The default share of the free memory that a program may use.
SHARE_OF_MEMORY = 0.8
# How long an interrupted sweep waits for Ray's workers.
_SECONDS_TO_SAVE = 120


@dataclasses.dataclass(frozen=True)
class Cell:
    """A run to train.

    Attributes:
      plan: what to train, with its seeds.
      folder: its run folder.
      recording: how often it writes, saves and evaluates.
      logged: where its metrics go in addition to metrics.jsonl.
      joined_at, until: the iterations that it goes on from, out of its folder, and to; 0 and None for a whole run.
    """

    plan: Plan
    folder: Path
    recording: Recording = dataclasses.field(default_factory=Recording)
    logged: Logged = dataclasses.field(default_factory=Logged)
    joined_at: int = 0
    until: int | None = None


def run(
    cells: Sequence[Cell],
    work: str | os.PathLike,
    *,
    max_memory: int | None = None,
    cells_per_program: int | None = None,
    engine: Engine = "local",
    quiet: bool = False,
    resumed_by: str = "the same command",
) -> None:
    """Trains all unfinished cells, and continues those that were interrupted.

    A lane that diverges to NaN or infinity does not stop the others: its rows contain {"diverged": true}.

    Args:
      cells: runs, each with a different folder.
      work: folder of the unfinished programs.
      max_memory: bytes that a program may use on all devices of a machine together; None for 80% of the free memory.
        It applies only to in-graph environments: host environments need `cells_per_program`.
      cells_per_program: the most cells in one program; None for as many as fit.
      engine: "ray" runs each program on a Ray cluster (the one at $RAY_ADDRESS, or a new one on this machine). Each
        program gets one GPU, or all cores of a node without GPUs. All nodes must share the file system of the folders.
      quiet: whether to hide the progress bar.
      resumed_by: the command that a user sees after Ctrl-C.

    Raises:
      PurerlError: a folder that holds another run or is in use, a cell too large for the memory, a full disk, no Ray.
      KeyboardInterrupt: Ctrl-C, after everything has been saved.
    """
    work = Path(work)
    check([cell.plan for cell in cells], engine)
    compilation.enable_cache()
    if any(cell.plan.imports for cell in cells):  # the user's own functions may read what has changed since
        forget_shared_loop()
    if len({cell.folder.resolve() for cell in cells}) < len(cells):
        raise PurerlError("two cells have the same folder: give each its own")
    with run_folder.held(work):
        programs = _programs_for(cells, work, max_memory, cells_per_program)
        if engine == "ray":
            _train_on_ray(programs, resumed_by)
            return
        with interrupts.deferred() as stop:
            for i, path in enumerate(programs):
                part = f" (program {i + 1} of {len(programs)})" if len(programs) > 1 else ""
                train_program(path, quiet=quiet, part=part, resumed_by=resumed_by)
                if stop and i + 1 < len(programs):
                    raise Interrupted(f"stopped and saved; continue with: {resumed_by}", stop.signal)


def _programs_for(
    cells: Sequence[Cell], work: Path, max_memory: int | None, cells_per_program: int | None
) -> list[Path]:
    """The folders of the programs that train the unfinished cells: those that exist already, and new ones."""
    waiting = {cell.folder.resolve(): cell for cell in cells if not is_finished(cell)}
    programs = []
    for path, members in _unfinished_programs(work, [cell.folder for cell in cells]).items():
        mine = members.keys() & waiting.keys()
        for folder in mine:
            cell = waiting.pop(folder)
            _check_same_run(cell, members[folder])
        if mine:
            programs.append(path)
        elif all(_has_reached(folder, _read(path).get("until")) for folder in members):
            _remove(path)  # finished, but its process was killed before it removed the folder
    return programs + _pack(list(waiting.values()), work, max_memory, cells_per_program)


def check(plans: Sequence[Plan], engine: str) -> None:
    """Raises PurerlError for an unknown engine, for plans that its processes cannot import, and for agents that return
    invalid values (see `agent_checks`).
    """
    known = typing.get_args(Engine)
    if engine not in known:
        raise PurerlError(f"unknown engine '{engine}'.{nearest(engine, known)} Known: {', '.join(known)}")
    if engine == "ray":
        _import_ray()
        for plan in plans:
            user_modules.check_importable(plan.imports, "Ray's workers")
    for plan in plans:
        agent_checks.check_agent(plan)


def is_finished(cell: Cell) -> bool:
    """Whether the cell's folder holds its run, trained to the end or up to `until`.

    Raises PurerlError if it holds another run.
    """
    if not run_folder.holds_run(cell.folder):
        return False
    _check_same_run(cell, Plan.from_dict(run_folder.load(cell.folder)["config"]))
    return _has_reached(cell.folder, cell.until)


def _has_reached(folder: Path, until: int | None) -> bool:
    """Whether the run in a folder is finished, or has been trained up to an iteration."""
    if (folder / run_folder.SUMMARY).exists():
        return True
    return until is not None and (Checkpoints(folder / run_folder.CHECKPOINTS).latest() or 0) >= until


def _check_same_run(cell: Cell, stored: Plan) -> None:
    differs = difference(stored, cell.plan)
    if differs:
        raise PurerlError(
            f"{cell.folder} holds another run: {differs[0]} {differs[1]}; choose another folder, or remove that one"
        )


# --- packing runs into programs -----------------------------------------------------------------------------------


def _unfinished_programs(work: Path, mine: Sequence[Path] = ()) -> dict[Path, dict[Path, Plan]]:
    """{folder of an unfinished program: {folder of a cell: its plan}}, in the same folder or in `mine`."""
    trust.check_folder(work.parent, [work.name])
    allowed = [work.parent, *mine]
    found = {path.parent: _members(path.parent, allowed) for path in sorted(work.glob(f"*/{PROGRAM}"))}
    return {path: {one.folder.resolve(): one.plan for one in members} for path, members in found.items()}


def _members(path: Path, allowed: Sequence[Path]) -> list[Member]:
    """The cells of a program. Raises PurerlError if it is damaged, or names folders that are not in those allowed."""
    return [
        Member(
            Plan.from_dict(cell["plan"]),
            trust.member_folder(path, cell["folder"], allowed),
            Logged.from_dict(cell, path / PROGRAM),
        )
        for cell in _read(path)["cells"]
    ]


def _read(path: Path) -> dict[str, Any]:
    """The program.json of a program's folder. Raises PurerlError if it is damaged."""
    program = files.read_json(path / PROGRAM)
    schemas.check_program(program, path / PROGRAM)
    return program


def _remove(path: Path) -> None:
    """Removes what purerl wrote into the folder of a finished program, the program.json last: after a kill, the next
    `run` finds it and removes the rest.
    """
    if ownership.is_marked(path, ownership.PROGRAM):
        ownership.remove(path, ownership.PROGRAM)
    else:  # of a version of purerl that made no markers
        with files.writing(path):
            path.rename(path.with_name(f".finished-{path.name}"))


def _pack(cells: Sequence[Cell], work: Path, max_memory: int | None, cells_per_program: int | None) -> list[Path]:
    """Writes a program.json for every program that the cells need; returns their folders."""
    packed: list[tuple[list[Cell], int, list[str]]] = []
    for group in _groups(cells):
        varying = _varying([cell.plan for cell in group])
        most = min(cells_per_program or len(group), _most_that_fit(group, varying, max_memory))
        parts = [list(part) for part in _evenly(group, math.ceil(len(group) / most))]
        lanes = max(sum(len(cell.plan.seeds) for cell in part) for part in parts)
        packed += [(part, _lanes(part[0].plan, lanes), varying) for part in parts]
    first = max((int(path.name) for path in work.glob("*") if path.name.isdigit()), default=-1) + 1
    paths = [work / f"{first + i:04d}" for i in range(len(packed))]
    for path, (part, lanes, varying) in zip(paths, packed, strict=True):
        with files.writing(path):
            path.mkdir(parents=True, exist_ok=True)
        ownership.mark(path, ownership.PROGRAM)
        members = [
            {"folder": os.path.relpath(cell.folder, path), "plan": cell.plan.to_dict(), **cell.logged.to_dict()}
            for cell in part
        ]
        how = {"lanes": lanes, "varying": varying, **part[0].recording.to_dict()}
        how |= {"joined_at": part[0].joined_at, "until": part[0].until}
        files.write_json(path / PROGRAM, {"cells": members, **how})
    return paths


def check_sizes(cells: Sequence[Cell], max_memory: int | None, cells_per_program: int | None) -> None:
    """Raises PurerlError if a cell does not fit into the memory, or if the limits make no sense. Writes nothing."""
    if cells_per_program is not None:
        arguments.in_range("cells_per_program", cells_per_program, 1)
    for group in _groups(cells):
        estimates.check_training(group[0].plan)
        _most_that_fit(group, _varying([cell.plan for cell in group]), max_memory)


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells that can share programs."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_program_of(cell), []).append(cell)
    return list(groups.values())


def _program_of(cell: Cell) -> str:
    """The key of the program that trains a cell: cells with the same key can share a program."""
    plan, traced = cell.plan, set(configs.traced_fields(type(cell.plan.config)))
    static = {name: value for name, value in configs.to_dict(plan.config).items() if name not in traced}
    recording = cell.recording.to_dict()
    return json.dumps(
        [
            plan.agent,
            plan.env,
            plan.steps,
            plan.lanes,
            plan.devices_per_seed,
            static,
            configs.to_dict(plan.options),
            recording,
        ]
    )


def _varying(plans: Sequence[Plan]) -> list[str]:
    """The traced fields whose values differ between plans or lanes."""
    names = configs.traced_fields(type(plans[0].config))
    values = {name: [getattr(plan.config, name) for plan in plans] for name in names}
    return [name for name, of_plans in values.items() if any(np.ndim(v) or v != of_plans[0] for v in of_plans)]


def _evenly(group: Sequence[Cell], parts: int) -> list[Sequence[Cell]]:
    size = math.ceil(len(group) / parts)
    return [group[i : i + size] for i in range(0, len(group), size)]


def _lanes(plan: Plan, needed: int) -> int:
    """The number of lanes of a program, rounded up so that it can be sharded evenly over all devices."""
    if registry.is_host(registry.environment(plan.env)[0]):
        return needed
    return sharding.spread_evenly(needed, plan.devices_per_seed)


def together(plans: Sequence[Plan], lanes: int, varying: Sequence[str]) -> Plan:
    """One plan whose lanes are the seeds of all plans, one plan after the other.

    The fields in `varying` get one value per lane. Extra lanes repeat the last one.
    """
    seeds = [seed for plan in plans for seed in plan.seeds]
    extra = lanes - len(seeds)
    values = {}
    for name in varying:
        of_lanes = [np.broadcast_to(np.float32(getattr(plan.config, name)), (len(plan.seeds),)) for plan in plans]
        values[name] = np.pad(np.concatenate(of_lanes), (0, extra), mode="edge")
    return dataclasses.replace(
        plans[0], seeds=tuple(seeds + seeds[-1:] * extra), config=plans[0].config.replace(**values)
    )


# --- memory ----------------------------------------------------------------------------------------------------------


def _most_that_fit(group: Sequence[Cell], varying: Sequence[str], max_memory: int | None) -> int:
    """How many cells of a group one program can hold. Raises PurerlError if it cannot hold one."""
    plans = [cell.plan for cell in group]
    if registry.is_host(registry.environment(plans[0].env)[0]):
        if max_memory is not None:
            raise PurerlError(
                f"--max-memory does not apply to host environments ({plans[0].env}): use --cells-per-program"
            )
        return len(group)
    limit = max_memory if max_memory is not None else int(SHARE_OF_MEMORY * estimates.free_memory())
    whole = together(plans, _lanes(plans[0], sum(len(plan.seeds) for plan in plans)), varying)
    if max_memory is None and 20 * _state_bytes(whole) < limit:
        return len(group)  # far below the limit: skip the compilation that an exact number needs
    need = _program_bytes(whole)
    if need <= limit:
        return len(group)
    most = int(len(group) * limit / need)
    if most < 1:
        raise PurerlError(
            f"one cell of {len(plans[0].seeds)} seeds takes {estimates.text(need // len(group))} and the limit is "
            f"{estimates.text(limit)}: use fewer --seeds, a smaller --num-envs, or a higher --max-memory"
        )
    return most


# {a plan as JSON: bytes of its program}: a sweep asks before it writes its folder, and again when it packs its cells.
_measured: dict[str, int] = {}


def _program_bytes(plan: Plan) -> int:
    """Bytes of the compiled program of a plan."""
    key = json.dumps(plan.to_dict())
    if key not in _measured:
        _measured[key] = shared_loop(plan).program_bytes(configs.traced(plan.config), seed_keys(plan))
    return _measured[key]


def _state_bytes(plan: Plan) -> int:
    """Bytes of the state and one rollout of all lanes, found without compiling."""
    loop, config = shared_loop(plan), configs.traced(plan.config)
    state = jax.eval_shape(loop._init, config, seed_keys(plan))
    leaves = [leaf for leaf in jax.tree.leaves(state) if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)]
    observation = math.prod(loop.spec.observation_shape) * np.dtype(loop.spec.observation_dtype).itemsize
    rollout = len(plan.seeds) * plan.steps_per_iteration * (2 * observation + 64)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) + rollout


# --- training --------------------------------------------------------------------------------------------------------


def train_program(path: str | os.PathLike, *, quiet: bool = True, part: str = "", resumed_by: str = "") -> None:
    """Trains the cells of one program to the end, from its last checkpoint if there is one, and removes its folder.

    The arguments are as in `run`.
    """
    path = Path(path)
    program = _read(path)
    members = [
        Member(
            Plan.from_dict(cell["plan"]),
            Path(os.path.normpath(path / cell["folder"])),
            Logged.from_dict(cell, path / PROGRAM),
        )
        for cell in program["cells"]
    ]
    the_plan = together([member.plan for member in members], program["lanes"], program["varying"])
    recording = Recording.from_dict(program)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.hold(path, inside_others=True))
        for member in members:
            lock.refuse_if_held(member.folder)
        loop = shared_loop(the_plan)
        stack.callback(close, loop)
        evaluations = evaluation.make_evaluations(the_plan, recording)
        is_new = not all(run_folder.holds_run(member.folder) for member in members)
        mark = random_return(members[0].plan, recording.random_episodes) if is_new else None  # the same for all
        for i, member in enumerate(members):
            if run_folder.holds_run(member.folder):
                update_header(member.folder, member.plan)
                members[i] = dataclasses.replace(member, logged=logs.stored_in(member.folder))  # the W&B runs it has
            else:
                content = {"random_return": mark, "recording": recording.to_dict(), **member.logged.to_dict()}
                run_folder.create(member.folder, header(member.plan) | content)
        Trainer(
            the_plan,
            members,
            loop,
            path / run_folder.CHECKPOINTS,
            resume=True,
            recording=recording,
            evaluations=evaluations,
            quiet=quiet,
            label=f"{the_plan.agent} {the_plan.env}, {sum(len(m.plan.seeds) for m in members)} lanes{part}",
            resumed_by=resumed_by,
            stop_at_nan=False,
            until=program.get("until"),
            joined_at=program.get("joined_at", 0),
        ).run()
        _remove(path)
    with contextlib.suppress(OSError):
        path.rmdir()  # the lock was still in it


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise needs("--engine ray", "ray") from error
    return ray


def _train_on_ray(programs: Sequence[Path], resumed_by: str) -> None:
    """Runs each program on a Ray cluster, and waits for all of them. A signal lets them save and stop."""
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        with warnings.catch_warnings():
            # JAX warns about a fork while it has threads. This is safe: Ray's child processes call exec at once.
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
            ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(node.get("GPU") for node in nodes):
            needs = {"num_gpus": 1}
        else:
            needs = {"num_cpus": min(node.get("CPU", 1) for node in nodes)}
        task = ray.remote(_train_in_ray_worker).options(max_retries=3, **needs)
        with interrupts.deferred() as stop:
            stop.at_once = False
            waiting = started_tasks = [task.remote(str(path.resolve())) for path in programs]
            while waiting and not stop:
                _, waiting = ray.wait(waiting, timeout=0.5)
            if stop:
                for one in waiting:
                    ray.cancel(one)  # as Ctrl-C in the worker
                ray.wait(waiting, num_returns=len(waiting), timeout=_SECONDS_TO_SAVE)
                raise Interrupted(f"stopped; continue with: {resumed_by}", stop.signal)
        problems = [problem for problem in ray.get(started_tasks) if problem]
    finally:
        if started:
            ray.shutdown()
    if problems:
        raise PurerlError(problems[0])


def _train_in_ray_worker(path: str) -> str | None:
    """Trains a program in a Ray worker. Returns the message of an error that the user can fix, or None."""
    sharding.one_cpu_device_per_core()
    compilation.enable_cache()
    try:
        if Path(path, PROGRAM).exists():  # Ray may retry a program that has finished
            train_program(path)
    except PurerlError as error:
        return str(error)
    return None
