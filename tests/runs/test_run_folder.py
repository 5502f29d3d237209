"""runs: a folder is refused, made, resumed or overwritten without losing a file, and files appear whole or not at all.

Full disks and missing permissions are real here (a 64 KB file system, /dev/full, another user), not pretended, except
where a test's name says so.
"""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from purerl.errors import PurerlError
from purerl.runs import files, provenance, run_folder

CONFIG = {"agent": "ppo", "env": "gymnax/CartPole-v1", "preset": None, "seeds": [0, 1]}


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*"))


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


# --- creating --------------------------------------------------------------------------------------------------------


def test_create_writes_the_config_and_nothing_else(tmp_path):
    folder = run_folder.create(str(tmp_path / "a" / "b"), CONFIG)
    assert folder == tmp_path / "a" / "b" and tree(folder) == ["config.json", "purerl.json"]
    assert run_folder.load(folder) == {"config": CONFIG, "summary": None}


def test_a_folder_that_holds_a_run_is_refused_naming_both_flags(tmp_path):
    run_folder.create(tmp_path / "run", CONFIG)
    with pytest.raises(PurerlError) as error:
        run_folder.create(tmp_path / "run", CONFIG | {"agent": "ppg"})
    assert "--resume" in one_line(error) and "--overwrite" in one_line(error)
    assert run_folder.load(tmp_path / "run")["config"]["agent"] == "ppo"


def test_resume_touches_nothing(tmp_path):
    folder = run_folder.create(tmp_path / "run", CONFIG)
    (folder / "metrics.jsonl").write_text("{}\n")
    before = (folder / "config.json").read_bytes(), tree(folder)
    assert run_folder.create(folder, CONFIG | {"agent": "ppg"}, resume=True) == folder
    assert ((folder / "config.json").read_bytes(), tree(folder)) == before


def test_resume_of_nothing_is_refused_and_makes_nothing(tmp_path):
    with pytest.raises(PurerlError, match="no run to resume"):
        run_folder.create(tmp_path / "run", CONFIG, resume=True)
    with pytest.raises(PurerlError, match="choose one"):
        run_folder.create(tmp_path / "run", CONFIG, resume=True, overwrite=True)
    assert tree(tmp_path) == []


def test_overwrite_of_nothing_just_creates(tmp_path):
    assert tree(run_folder.create(tmp_path / "run", CONFIG, overwrite=True)) == ["config.json", "purerl.json"]


def test_a_strangers_files_beside_the_run_do_not_matter(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run_folder.create(tmp_path, CONFIG)
    assert tree(tmp_path) == ["config.json", "notes.txt", "purerl.json"]


@pytest.mark.parametrize("flags", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize(
    ("name", "text"),
    [("config.json", '{"model_type": "bert"}'), ("config.json", "[1]"), ("config.json", "{"), ("summary.json", "{}")],
)
def test_a_strangers_files_under_purerls_names_are_never_touched(tmp_path, name, text, flags):
    (tmp_path / name).write_text(text)
    with pytest.raises(PurerlError, match=r"not written by purerl|its own 'summary.json'"):
        run_folder.create(tmp_path, CONFIG, **flags)
    assert tree(tmp_path) == [name] and (tmp_path / name).read_text() == text


def test_a_kill_while_overwriting_leaves_a_folder_known_to_hold_a_run(tmp_path, monkeypatch):
    """The kill is pretended, by an error in the middle of removing."""
    folder = run_folder.create(tmp_path / "run", CONFIG)
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "checkpoints" / "00000200").mkdir(parents=True)
    (folder / "checkpoints" / "00000200" / "index.json").write_text("{}")

    def dies(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        run_folder.create(folder, CONFIG, overwrite=True)
    assert run_folder.holds_run(folder)


def test_a_config_that_is_not_json_is_refused_before_anything_is_touched(tmp_path):
    with pytest.raises(TypeError, match=r"value\.policy\[1\] is a function"):
        run_folder.create(tmp_path / "run", CONFIG | {"policy": [1, tree]})
    assert tree(tmp_path) == []
    folder = run_folder.create(tmp_path / "run", CONFIG)
    (folder / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(TypeError):
        run_folder.create(folder, CONFIG | {"policy": tree}, overwrite=True)
    assert (folder / "metrics.jsonl").exists()


# --- disks and permissions -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_privileges():
    """As an ordinary user, since root may write anywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def read_only_folder():
    folder = Path(tempfile.mkdtemp())  # not tmp_path, whose parents other users may not even look into
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_no_permission_to_create(read_only_folder):
    with without_privileges(), pytest.raises(PurerlError, match="no permission") as error:
        run_folder.create(read_only_folder / "a" / "run", CONFIG)
    assert "--out" in one_line(error) and tree(read_only_folder) == []


def test_no_permission_to_write_a_file(read_only_folder):
    with without_privileges(), pytest.raises(PurerlError, match="no permission"):
        files.write_json(read_only_folder / "summary.json", {})
    assert tree(read_only_folder) == []


def test_no_permission_to_look(read_only_folder):
    read_only_folder.chmod(0o000)
    with without_privileges():
        with pytest.raises(PurerlError, match="no permission"):
            run_folder.create(read_only_folder / "run", CONFIG)
        with pytest.raises(PurerlError, match="permissions"):
            run_folder.load(read_only_folder / "run")


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "file" / "a" / "run"):
        with pytest.raises(PurerlError, match="in the way") as error:
            run_folder.create(folder, CONFIG)
        assert str(folder) in one_line(error)
    assert (tmp_path / "file").read_text() == "mine"


def test_folders_made_for_nothing_are_removed(tmp_path):
    """A file name that is too long fails after the folders were made."""
    with pytest.raises(PurerlError, match="--out"):
        run_folder.create(tmp_path / "a" / "b" / ("x" * 300), CONFIG)
    assert tree(tmp_path) == []


def test_full_device(tmp_path, monkeypatch):
    """The old file stays, and the temporary file goes."""
    files.write_json(tmp_path / "summary.json", {"old": 1})

    def fail(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PurerlError, match="disk is full") as error:
        files.write_json(tmp_path / "summary.json", {"new": 2})
    assert "free some space" in one_line(error)
    assert tree(tmp_path) == ["summary.json"] and files.read_json(tmp_path / "summary.json") == {"old": 1}


ON_A_FULL_DISK = """
import sys
from pathlib import Path
from purerl.runs import files, run_folder, sinks
from purerl.errors import PurerlError

root = Path(sys.argv[1])

def refused(act):
    try:
        act()
    except PurerlError as error:
        assert "disk is full" in str(error), error
        return True
    return False

config = {"agent": "ppo", "env": "x", "seeds": [0]}
folder = run_folder.create(root / "run", config)
files.write_json(folder / "summary.json", {"old": 1})
sink = sinks.JsonlSink(folder / "metrics.jsonl")
written = 0
while not refused(lambda: sink.write([{"iteration": written, "text": "x" * 3000}, {"text": "y" * 3000}])):
    written += 1
assert written >= 2, written
sink.close()
rows = sinks.read_rows(folder / "metrics.jsonl")
assert len(rows) == 2 * written, (len(rows), written)  # the refused write was taken back whole
assert (folder / "metrics.jsonl").read_bytes().endswith(b"\\n")

with open(root / "filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(b"x" * 512)
    except OSError:
        pass
assert refused(lambda: files.write_json(folder / "summary.json", {"new": "z" * 9000}))
assert files.read_json(folder / "summary.json") == {"old": 1}
assert refused(lambda: run_folder.create(root / "a" / "second", config | {"long": "z" * 9000}))
assert sorted(p.name for p in root.iterdir()) == ["filler", "run"], list(root.iterdir())
assert sorted(p.name for p in folder.iterdir()) == ["config.json", "metrics.jsonl", "purerl.json", "summary.json"]
print("all refused")
"""


def test_full_disk(tmp_path):
    """A file system of 64 KB, mounted in a namespace of its own."""
    script = tmp_path / "script.py"
    script.write_text(ON_A_FULL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=64k none {disk}"
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a small disk; test_full_device still ran")
    done = subprocess.run(
        [*unshare, f"{mount} && exec {sys.executable} {script} {disk}"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "all refused", done.stderr


def test_any_other_failure_is_one_line_too_pretended(tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(PurerlError, match="Input/output error; choose another folder") as error:
        files.write_json(tmp_path / "a.json", {})
    assert one_line(error) and tree(tmp_path) == []


WRITES_FOR_EVER = """
import sys
from purerl.runs import files
n = 0
while True:
    files.write_json(sys.argv[1], {"n": n, "again": [n] * 5000})
    if n == 0:
        print("going", flush=True)
    n += 1
"""


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path):
    path = tmp_path / "summary.json"
    seen = set()
    for delay in (0.0, 0.05, 0.11, 0.17):
        with subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, str(path)], stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        value = files.read_json(path)
        assert value["again"] == [value["n"]] * 5000
        seen.add(value["n"])
    assert len(seen) > 1  # so it was killed at different moments


def test_files_get_the_users_own_permissions(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


# --- reading ---------------------------------------------------------------------------------------------------------


def test_load_returns_config_and_summary(tmp_path):
    folder = run_folder.create(tmp_path / "run", CONFIG)
    files.write_json(folder / "summary.json", {"steps": 5})
    assert run_folder.load(str(folder)) == {"config": CONFIG, "summary": {"steps": 5}}


def test_load_of_what_is_no_run(tmp_path):
    run_folder.create(tmp_path / "ppo-cartpole", CONFIG)
    with pytest.raises(PurerlError, match=r"no run folder .*Did you mean 'ppo-cartpole'"):
        run_folder.load(tmp_path / "ppo-cartpol")
    with pytest.raises(PurerlError, match=r"no config.json \(name one run in it, such as .*ppo-cartpole\)"):
        run_folder.load(tmp_path)
    with pytest.raises(PurerlError, match="no run folder"):
        run_folder.load(tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "file").write_text("x")
    with pytest.raises(PurerlError, match="no run folder"):
        run_folder.load(tmp_path / "file")


@pytest.mark.parametrize("text", [b'{"a": 1}', b"null", b"{", b"", b"\x80\x04\x95", b"[" * 100_000])
def test_load_of_a_foreign_config(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(PurerlError, match="not written by purerl") as error:
        run_folder.load(tmp_path)
    one_line(error)


@pytest.mark.parametrize("text", ["[1]", "{"])
def test_load_of_a_damaged_summary(tmp_path, text):
    run_folder.create(tmp_path, CONFIG)
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(PurerlError, match="damaged"):
        run_folder.load(tmp_path)


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_json_of_everything_a_config_holds():
    @struct.dataclass
    class Config:
        rate: jax.Array
        clip: float = struct.field(pytree_node=False, default=0.2)

    value = {
        "config": Config(jnp.float32(0.5)),
        "array": np.arange(4, dtype=np.int64).reshape(2, 2),
        "scalar": np.float32(1.5),
        "half": jnp.bfloat16(2.5),
        "flag": np.bool_(True),
        "nan": [float("nan"), float("inf"), np.float32("-inf"), jnp.array([1, jnp.nan])],
        "path": Path("/a/b"),
        "tuple": (1, None, "x", True),
        3: "number as key",
        "big": 2**40,
    }
    assert json.loads(files.to_json(value)) == {
        "config": {"rate": 0.5, "clip": 0.2},
        "array": [[0, 1], [2, 3]],
        "scalar": 1.5,
        "half": 2.5,
        "flag": True,
        "nan": [None, None, None, [1.0, None]],
        "path": "/a/b",
        "tuple": [1, None, "x", True],
        "3": "number as key",
        "big": 2**40,
    }


def test_nan_of_others_is_read_as_nothing():
    assert files.parse_json("[NaN, -Infinity, 1]", "here") == [None, None, 1]


# --- the report ------------------------------------------------------------------------------------------------------


def test_environment_report():
    report = provenance.environment_report()
    assert report["versions"]["jax"] == jax.__version__ and report["versions"]["purerl"]
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(provenance.PACKAGES) < set(report["versions"])
    assert report["device"] == {
        "kind": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "count": jax.device_count(),
    }
    json.loads(files.to_json(report))


def test_a_package_that_is_not_installed_is_none():
    assert provenance._version("no-such-package-at-all") is None


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def git(*arguments):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()

    git("init", "-q")
    (tmp_path / "source.py").write_text("1")
    return tmp_path, git


def test_git_commit_and_dirt(repository, monkeypatch):
    folder, git = repository
    source = folder / "source.py"
    assert provenance.git_state(source) == (None, None)  # not tracked yet
    git("add", "source.py")
    assert provenance.git_state(source) == (None, None)  # no commit yet
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert provenance.git_state(source) == (commit, False)
    (folder / "untracked.py").write_text("1")
    assert provenance.git_state(source) == (commit, False)
    monkeypatch.setenv("GIT_DIR", "/nonexistent")  # as inside a hook
    assert provenance.git_state(source) == (commit, False)
    source.write_text("2")
    assert provenance.git_state(source) == (commit, True)


def test_a_strangers_repository_around_an_installed_purerl_is_not_ours(repository):
    folder, git = repository
    git("add", "source.py")
    git("commit", "-q", "-m", "one")
    installed = folder / ".venv" / "purerl"
    installed.mkdir(parents=True)
    (installed / "runs.py").write_text("1")
    assert provenance.git_state(installed / "runs.py") == (None, None)


def test_no_git_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git_state(Path(run_folder.__file__)) == (None, None)


def test_peak_memory_of_the_process():
    if jax.default_backend() != "cpu":
        pytest.skip("this device counts its own memory")
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("only Linux tells it a second way")
    found = provenance.peak_memory_bytes()
    kilobytes = int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    assert found["peak_memory_of"] == "process"
    assert found["peak_memory_bytes"] == pytest.approx(kilobytes * 1024, rel=0.02)


def test_peak_memory_of_the_device_pretended(monkeypatch):
    class Device:
        def __init__(self, peak):
            self.peak = peak

        def memory_stats(self):
            return {"peak_bytes_in_use": self.peak}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(5), Device(7)])
    assert provenance.peak_memory_bytes() == {"peak_memory_bytes": 7, "peak_memory_of": "device"}
