"""Checkpoints: bitwise round trips, kills at random moments, damaged and foreign files, full disks."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from purerl.errors import PurerlError
from purerl.runs import checkpoint
from purerl.runs.checkpoint import AnyShape, Checkpoints


@struct.dataclass
class State:
    params: dict
    moments: tuple
    nothing: None
    count: jax.Array


class Pair(NamedTuple):
    first: jax.Array
    second: object


class Swapped(NamedTuple):
    second: object
    first: object


def bits(leaf):
    """The exact bytes of a leaf."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(left, right):
    """Same structure, types, dtypes, shapes and bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert type(a) is type(b)
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None)
        assert np.shape(a) == np.shape(b)
        assert bits(a) == bits(b)
        if isinstance(a, jax.Array):
            assert (a.sharding, a.committed, a.aval.weak_type) == (b.sharding, b.committed, b.aval.weak_type)


def everything():
    """A tree with every kind of leaf; floats hold every special value."""
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38], np.float32)
    odd_nan = np.array([0x7FC00001, 0xFFC12345], np.uint32).view(np.float32)
    return State(
        params={
            "kernel.weird/name: [0]": jnp.asarray(np.concatenate([odd, odd_nan])),
            "only negative zeros": jnp.full((3, 2), -0.0, jnp.float32),
            "half": jnp.asarray(odd, jnp.bfloat16),
            "float16": jnp.asarray(odd[:5], jnp.float16),
            "float8": jnp.asarray([1.0, -2.0], jnp.float8_e4m3fn),
            "complex": jnp.asarray([1 + 2j], jnp.complex64),
            "empty": jnp.zeros((0, 4), jnp.uint8),
            "frames": jnp.arange(24, dtype=jnp.uint8).reshape(2, 3, 4),
            "bool": jnp.asarray([[True], [False]]),
            "committed": jax.device_put(jnp.arange(3), jax.devices()[0]),
        },
        moments=(
            jax.random.key(7),
            jax.random.split(jax.random.key(8, impl="rbg"), 3).reshape(3, 1),
            jax.random.split(jax.random.key(0), 2)[:0],
            [np.arange(5, dtype=np.int64)[::2], np.float64(0.1), np.uint8(255), np.zeros(0, np.float64)],
            Pair(np.array(-0.0), None),
        ),
        nothing=None,
        count=Pair(jnp.int32(-5), [3, 2.5, True, 2**40]),
    )


SMALL = {"a": {"w": jnp.arange(12.0).reshape(3, 4)}, "b": np.arange(5, dtype=np.uint8), "key": jax.random.key(1)}


def test_round_trip_is_bitwise_and_silent(tmp_path, capfd, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("something was unpickled")

    tree = everything()
    metadata = {"steps": 2**40, "rate": 0.1, "text": "é\n", "list": [1, None]}
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(3, tree, metadata)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        assert checkpoints.latest() == 3
        assert checkpoints.read_metadata() == (3, metadata)
        iteration, restored, read = checkpoints.restore(tree)
    assert (iteration, read) == (3, metadata)
    assert_same(restored, tree)
    assert capfd.readouterr() == ("", "")


def test_abstract_template(tmp_path):
    tree = {"x": jnp.arange(3.0), "keys": jax.random.split(jax.random.key(0), 2), "none": None}
    tree["empty keys"] = tree["keys"][:0]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, tree, {})
    _, restored, _ = checkpoints.restore(jax.eval_shape(lambda: tree))
    assert_same(restored, tree)
    checkpoints.save(1, {"none": None}, {})  # nothing that orbax would have to store
    assert checkpoints.restore({"none": None}) == (1, {"none": None}, {})


def test_a_part_is_restored_without_reading_the_rest(tmp_path, monkeypatch):
    agent = {"x": jnp.arange(3.0), "keys": jax.random.split(jax.random.key(0), 2), "none": None}
    agent["empty"] = jnp.zeros((0, 3))
    tree = {"run": {"agent": agent, "agent_2": jnp.ones(3)}, "pool": {"x": np.arange(3)}}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, tree, {})
    orbax, read = checkpoints._checkpointer(), []
    restore = orbax.restore

    def watched(*args, **kwargs):
        values = restore(*args, **kwargs)
        read.extend(values)
        return values

    monkeypatch.setattr(orbax, "restore", watched)
    assert_same(checkpoints.restore_part("run/agent", jax.eval_shape(lambda: agent)), agent)
    assert sorted(name.partition(":")[2] for name in read) == ["run.agent.keys", "run.agent.x"]
    checkpoints.save(1, tree | {"run": {"agent": {"x": jnp.ones(2)}}}, {})
    assert_same(checkpoints.restore_part("run/agent", agent, iteration=0), agent)
    assert_same(checkpoints.restore_part("run/agent", {"x": jnp.zeros(2)}), {"x": jnp.ones(2)})
    with pytest.raises(PurerlError, match=r"leaf 'run\.agent\.x' is float32\[2\] in it and float32\[3\] here"):
        checkpoints.restore_part("run/agent", {"x": jnp.zeros(3)})
    with pytest.raises(PurerlError, match=r"it has no leaf 'run\.agnt\.x'"):
        checkpoints.restore_part("run/agnt", {"x": jnp.zeros(2)})
    next((tmp_path / "00000001").glob("index.json")).write_text("{}")
    with pytest.raises(PurerlError, match="is damaged"):
        checkpoints.restore_part("run/agent", {"x": jnp.zeros(2)})


def test_shapes_that_only_the_checkpoint_knows(tmp_path):
    state = {f"game {n}": np.arange(10 + n, dtype=np.uint8) for n in range(3)} | {"none yet": np.zeros(0, np.uint8)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, {"pool": state, "x": jnp.ones(2)}, {})
    other = {name: np.zeros(1, np.uint8) for name in state}
    _, restored, _ = checkpoints.restore(
        {"pool": {name: AnyShape(x.dtype) for name, x in other.items()}, "x": jnp.zeros(2)}
    )
    assert_same(restored["pool"], state)
    with pytest.raises(PurerlError, match=r"leaf 'pool.game 0' is uint8\[10\] in it and int32\[any shape\] here"):
        checkpoints.restore({"pool": dict.fromkeys(state, AnyShape(np.int32)), "x": jnp.zeros(2)})


@pytest.mark.parametrize("shape", [(40, 30), (7, 13, 3), (1009,), (1,)])
def test_large_arrays_are_stored_in_pieces(tmp_path, monkeypatch, shape):
    monkeypatch.setattr(checkpoint, "_PIECE", 400)
    tree = {"jax": jax.random.bits(jax.random.key(0), shape, jnp.uint16)}
    tree["numpy"] = np.asarray(tree["jax"]).T
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, tree, {})
    assert_same(checkpoints.restore(tree)[1], tree)


def test_saved_and_restored_buffers_can_be_donated(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    tree = {"x": jnp.arange(100000.0), "y": jnp.arange(3)}
    first = jax.tree.map(np.array, tree)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, tree, {})
    tree = step(tree)
    checkpoints.save(1, tree, {})
    tree = step(tree)
    for iteration in (0, 1):
        _, restored, _ = checkpoints.restore(tree, iteration)
        np.testing.assert_array_equal(restored["x"], first["x"] + iteration)
        for more in range(1, 4):
            restored = step(restored)
            np.testing.assert_array_equal(restored["x"], first["x"] + iteration + more)
    np.testing.assert_array_equal(checkpoints.restore(tree)[1]["y"], first["y"] + 1)  # the files did not follow


def test_keeps_the_newest_and_replaces_the_same_iteration(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for iteration in (1, 5, 9, 100):
        checkpoints.save(iteration, {"x": np.full(3, iteration)}, {})
    assert sorted(os.listdir(tmp_path)) == ["00000009", "00000100"]
    checkpoints.save(100, {"x": np.full(3, 7)}, {"again": True})
    assert sorted(os.listdir(tmp_path)) == ["00000009", "00000100.1"]
    iteration, tree, metadata = checkpoints.restore({"x": np.zeros(3, int)})
    assert (iteration, metadata, list(tree["x"])) == (100, {"again": True}, [7, 7, 7])
    assert checkpoints.restore({"x": np.zeros(3, int)}, 9)[1]["x"][0] == 9
    checkpoints.save(101, {"x": np.full(3, 7)}, {})
    assert [found[0] for found in checkpoints._found()] == [100, 101]
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path, keep=0)


def test_leftovers_are_ignored_by_readers_and_removed_by_the_next_save(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, SMALL, {})
    for name in (".saving-00000002", ".deleting-00000000"):
        shutil.copytree(tmp_path / "00000001", tmp_path / name)
        (tmp_path / name / "index.json").unlink()
    assert Checkpoints(tmp_path).latest() == 1
    assert Checkpoints(tmp_path).restore(SMALL)[0] == 1
    assert len(os.listdir(tmp_path)) == 3
    checkpoints.save(2, SMALL, {})
    assert sorted(os.listdir(tmp_path)) == ["00000001", "00000002"]


def test_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, SMALL, {})
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_index", interrupt)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save(2, SMALL, {})
    assert os.listdir(tmp_path) == ["00000001"]
    checkpoints.save(2, SMALL, {})
    assert_same(checkpoints.restore(SMALL)[1], SMALL)


SAVE_FOREVER = """
    import sys
    import jax, numpy as np
    from purerl.runs.checkpoint import Checkpoints
    checkpoints = Checkpoints(sys.argv[1])
    n = (checkpoints.latest() or 0) + 1
    def tree(n):
        put = lambda shape, dtype: jax.device_put(np.full(shape, n, dtype))  # jnp.full would compile for every shape
        return {"x": put((500_000,), np.int32), "y": [np.full((1000, 300), n, np.float32)] * 2, "n": put((), np.int32),
                "many": [put((length, 3), np.uint16) for length in range(1, 20)]}
    checkpoints.save(n, tree(n), {"n": n})
    print("saved", flush=True)
    while True:
        n += 1
        checkpoints.save(n, tree(n), {"n": n})
"""


def run_python(code, *args, **kwargs):
    """Starts a fresh interpreter on `code`, warnings being errors."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd="/", **kwargs)


def test_a_kill_at_any_moment_leaves_a_good_checkpoint(tmp_path):
    """Eight processes that save without pause are killed at random; what they leave is of one iteration, and whole."""
    template = {
        "x": jax.ShapeDtypeStruct((500_000,), jnp.int32),
        "y": [np.zeros((1000, 300), np.float32)] * 2,
        "n": jax.ShapeDtypeStruct((), jnp.int32),
        "many": [jax.ShapeDtypeStruct((length, 3), jnp.uint16) for length in range(1, 20)],
    }
    random.seed(0)
    in_the_middle, last = 0, 0
    child = run_python(SAVE_FOREVER, tmp_path)
    try:
        for _ in range(8):
            assert child.stdout.readline() == "saved\n"
            time.sleep(random.uniform(0, 0.3))
            child.send_signal(signal.SIGKILL)
            child.communicate()
            assert child.returncode == -signal.SIGKILL
            in_the_middle += any(name.startswith(".") for name in os.listdir(tmp_path))
            n, tree, metadata = Checkpoints(tmp_path).restore(template)
            child = run_python(SAVE_FOREVER, tmp_path)  # starts up while the leaves are checked
            assert n > last and metadata == {"n": n}
            assert all((np.asarray(leaf) == n).all() for leaf in jax.tree.leaves(tree))
            last = n
    finally:
        child.kill()
        child.communicate()
    assert in_the_middle >= 2  # most of the kills did hit a save


def files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_every_damage_is_found(tmp_path):
    """For any flipped bit and any truncated or lost file, one line names a valid checkpoint."""
    rng = random.Random(0)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, SMALL, {"which": "good"})
    checkpoints.save(2, SMALL, {})
    newest = tmp_path / "00000002"
    names = files_of(newest)
    assert "index.json" in names and len(names) >= 5
    for name in names:
        whole = (newest / name).read_bytes()
        size = len(whole)
        damages = [whole[:-1], whole[: size // 2], b"", None, whole + b"x"]
        for position in [0, size - 1] + [rng.randrange(size) for _ in range(6)]:
            flipped = bytearray(whole)
            flipped[position] ^= 1 << rng.randrange(8)
            damages.append(bytes(flipped))
        for damaged in damages:
            (newest / name).unlink() if damaged is None else (newest / name).write_bytes(damaged)
            with pytest.raises(PurerlError) as caught:
                checkpoints.restore(SMALL)
            line = str(caught.value)
            assert f"checkpoint {newest} is damaged" in line and "\n" not in line
            assert f"that of iteration 1 is good: remove {newest}" in line
        (newest / name).write_bytes(whole)
    assert checkpoints.restore(SMALL)[0] == 2  # all repaired
    (newest / "index.json").unlink()
    with pytest.raises(PurerlError, match="is damaged"):
        checkpoints.read_metadata()
    shutil.rmtree(newest)  # what the line says
    iteration, tree, metadata = checkpoints.restore(SMALL)
    assert (iteration, metadata) == (1, {"which": "good"})
    assert_same(tree, SMALL)


def test_all_damaged(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for iteration in (1, 2):
        checkpoints.save(iteration, SMALL, {})
        (tmp_path / f"0000000{iteration}" / "index.json").write_text("{}")
    with pytest.raises(PurerlError, match="no other one here is good: start a new run"):
        checkpoints.restore(SMALL)


def test_no_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    for folder in (tmp_path, tmp_path / "missing", tmp_path / "notes.txt"):
        assert Checkpoints(folder).latest() is None
        with pytest.raises(PurerlError, match=f"no checkpoint in {folder}"):
            Checkpoints(folder).restore(SMALL)
    Checkpoints(tmp_path).save(5, SMALL, {})
    with pytest.raises(PurerlError, match=r"no checkpoint of iteration 4 in .*: there are \[5\]"):
        Checkpoints(tmp_path).restore(SMALL, 4)


def test_a_checkpoint_of_another_version(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 99)
        Checkpoints(tmp_path).save(1, SMALL, {})
    with pytest.raises(PurerlError, match="another version of purerl"):
        Checkpoints(tmp_path).restore(SMALL)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"a": {"w": jnp.zeros((4, 3))}}, "leaf 'a.w' is float32[3, 4] in it and float32[4, 3] here"),
        ({"a": {"w": jnp.zeros((3, 4), jnp.bfloat16)}}, "leaf 'a.w' is float32[3, 4] in it and bfloat16[3, 4] here"),
        ({"a": {"v": jnp.zeros((3, 4))}}, "it has no leaf 'a.v' (float32[3, 4] here)"),
        ({"a": {}}, "its leaf 'a.w' (float32[3, 4]) does not exist here"),
        ({"c": jnp.zeros(1)}, "it has no leaf 'c' (float32[1] here)"),
        ({"b": None}, "leaf 'b' is uint8[5] in it and none here"),
        ({"b": 5}, "leaf 'b' is uint8[5] in it and python int here"),
        ({"key": jax.random.key(0, impl="rbg")}, "leaf 'key' is key<fry>[] in it and key<rbg>[] here"),
        ({"key": jnp.zeros(2, jnp.uint32)}, "leaf 'key' is key<fry>[] in it and uint32[2] here"),
    ],
)
def test_a_foreign_checkpoint_names_the_first_leaf_that_differs(tmp_path, change, line):
    Checkpoints(tmp_path).save(1, SMALL, {})
    with pytest.raises(PurerlError) as caught:
        Checkpoints(tmp_path).restore(SMALL | change)
    expected = f"checkpoint {tmp_path / '00000001'} is of another run: {line}. Use the config that it was written with"
    assert str(caught.value) == expected


def test_a_field_that_is_newer_than_the_checkpoint_and_holds_nothing(tmp_path):
    """Code that gained an optional part resumes runs that were written before it, whose values all stay."""
    Checkpoints(tmp_path).save(1, {"a": jnp.arange(3), "z": jnp.ones(2)}, {})
    _, found, _ = Checkpoints(tmp_path).restore({"a": jnp.zeros(3, int), "new": None, "z": jnp.zeros(2)})
    assert found["new"] is None
    np.testing.assert_array_equal(found["a"], [0, 1, 2])
    np.testing.assert_array_equal(found["z"], [1, 1])
    with pytest.raises(PurerlError, match="it has no leaf 'new'"):
        Checkpoints(tmp_path).restore({"a": jnp.zeros(3, int), "new": jnp.zeros(1), "z": jnp.zeros(2)})


def test_leaves_in_another_order_and_missing_last_leaf(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, SMALL, {})
    with pytest.raises(PurerlError, match=r"its leaf 'key' \(key<fry>\[\]\) does not exist here"):
        checkpoints.restore({name: SMALL[name] for name in ("a", "b")})
    checkpoints.save(2, Pair(jnp.zeros(1), np.zeros(1)), {})
    with pytest.raises(PurerlError, match="its leaf 'first' comes where 'second' is expected"):
        checkpoints.restore(Swapped(np.zeros(1), jnp.zeros(1)))


@pytest.mark.parametrize("leaf", ["text", np.array(["text"]), np.array([None]), object(), len, 2**70])
def test_what_cannot_be_stored_is_refused_before_writing(tmp_path, leaf):
    with pytest.raises(TypeError, match="leaf 'x' of a checkpoint"):
        Checkpoints(tmp_path / "new").save(1, {"x": leaf}, {})
    with pytest.raises(TypeError):
        Checkpoints(tmp_path / "new").save(1, {}, {"x": np.zeros(1)})
    assert not (tmp_path / "new").exists()


def test_too_little_disk_space_is_seen_before_writing(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, SMALL, {})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(PurerlError, match=r"No space left on device .*the checkpoint of iteration 1 is still good"):
        checkpoints.save(2, SMALL | {"more": np.zeros(1000)}, {})
    assert os.listdir(tmp_path) == ["00000001"]


FAILING_SAVE = """
    import os, resource, sys
    import numpy as np
    from purerl.runs.checkpoint import Checkpoints
    from purerl.errors import PurerlError
    folder, how = sys.argv[1:]
    checkpoints = Checkpoints(folder)
    small, large = {"x": np.arange(1000.0)}, {"x": np.random.default_rng(0).random(1_000_000)}
    checkpoints.save(1, small, {})
    if how == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    else:
        os.chmod(folder, 0o555)
        if os.getuid() == 0:
            os.setuid(65534)
    try:
        checkpoints.save(2, large, {})
    except PurerlError as error:
        print(error)
    assert os.listdir(folder) == ["00000001"]
    iteration, tree, _ = checkpoints.restore(small)
    assert iteration == 1 and (tree["x"] == small["x"]).all()
"""


@pytest.mark.parametrize(("how", "reason"), [("full", "File too large"), ("permission", "Permission denied")])
def test_a_save_that_the_system_refuses(tmp_path, how, reason):
    """The disk is full in the middle (here: a limit on the size of a file), or the folder is read-only."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "run"
    folder.mkdir()
    if os.getuid() == 0:  # the child gives up being root, and must still be able to walk here
        for parent in folder.parents:
            mode = parent.stat().st_mode
            if not mode & 0o001:
                parent.chmod(mode | 0o011)
    child = run_python(FAILING_SAVE, folder, how)
    output, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    expected = f"cannot save checkpoint 2 in {folder}: {reason}; the checkpoint of iteration 1 is still good. "
    assert output.startswith(expected) and output.count("\n") == 1
    folder.chmod(0o755)


SHARDED = """
    import sys
    import jax, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from purerl.runs.checkpoint import Checkpoints
    assert not any(name.startswith(("orbax", "tensorstore")) for name in sys.modules), "orbax was imported too early"
    mesh = Mesh(jax.devices(), ("seed",))
    split, whole = NamedSharding(mesh, PartitionSpec("seed")), NamedSharding(mesh, PartitionSpec())
    place = lambda x, sharding: jax.device_put(x, sharding)
    tree = {"x": place(jax.numpy.arange(12.0).reshape(4, 3), split), "n": place(jax.numpy.arange(3), whole),
            "keys": place(jax.random.split(jax.random.key(0), 4), split), "one": place(3.0, jax.devices()[1])}
    checkpoints = Checkpoints(sys.argv[1])
    checkpoints.save(0, tree, {})
    assert len(jax.devices()) == 2 and all(leaf._npy_value is None for leaf in (tree["x"], tree["n"])), "a copy stays"
    _, restored, _ = checkpoints.restore(tree)
    other = tree | {"x": place(tree["x"], whole)}
    _, moved, _ = checkpoints.restore(other)
    for name in tree:
        assert restored[name].sharding == tree[name].sharding, name
        assert moved[name].sharding == other[name].sharding, name
        a, b, c = (jax.random.key_data(t[name]) if name == "keys" else t[name] for t in (tree, restored, moved))
        assert (np.asarray(a) == np.asarray(b)).all() and (np.asarray(a) == np.asarray(c)).all()
    print("ok")
"""


def test_shardings_come_from_the_template_and_orbax_is_imported_lazily(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    child = run_python(SHARDED, tmp_path, env=environment, stderr=subprocess.STDOUT)
    assert child.communicate(timeout=60)[0] == "ok\n"


def test_index_is_plain_json(tmp_path):
    Checkpoints(tmp_path).save(1, SMALL, {"steps": 3})
    index = json.loads((tmp_path / "00000001" / "index.json").read_text())
    assert index["leaves"] == [["a.w", "float32", [3, 4]], ["b", "uint8", [5]], ["key", "key<fry>", []]]
    assert index["metadata"] == {"steps": 3} and set(index["files"]) < set(files_of(tmp_path / "00000001"))
