"""Checkpoints: every bit comes back, a damaged one is noticed, a full disk is one message."""

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ablax.engine.mesh import mesh_of, replicated, sharded
from ablax.errors import UserError
from ablax.rundir import checkpoint
from ablax.rundir.checkpoint import Checkpoints, clear, host_of, newest, numbered, read

LIB = Path(checkpoint.__file__).parents[2]

NAN = np.array([0x7FC0BEEF, 0xFFC00001, 0x80000000, 0x7F800000], np.uint32).view(np.float32)
ARRAYS = {
    "0000": np.tile(NAN, (16, 1)),  # NaNs with a payload, -0.0, inf
    "0001": np.arange(16, dtype=np.int32) - 8,
    "0002": np.full(16, 2**32 - 1, np.uint32),
    "0003": np.arange(16) % 3 == 0,
    "0004": np.zeros((16, 2, 3), np.float32),  # slots that hold nothing
    "0005": np.array([-128, 127] * 8, np.int8),
}
HOLDS = ["trial"] + [None] * 15


def save(place, n=1, *, first=1, arrays=ARRAYS):
    """Checkpoints whose position is ten times their number."""
    writer = Checkpoints(place, 0, first)
    for number in range(first, first + n):
        save_and_wait(writer, arrays, {"position": 10 * number, "program": "toy", "holds": HOLDS})
    writer.close()


def save_and_wait(writer, arrays=ARRAYS, host=None):
    writer.save(arrays, host or {})
    writer.wait()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A place with the checkpoints 1 and 2."""
    place = tmp_path_factory.mktemp("two") / "checkpoints"
    save(place, 2)
    return place


@pytest.fixture
def copy(two, tmp_path):
    """The same, to be damaged."""
    return Path(shutil.copytree(two, tmp_path / "checkpoints"))


def assert_same(arrays, expected=ARRAYS):
    assert list(arrays) == sorted(expected)
    for name, array in arrays.items():
        assert isinstance(array, np.ndarray)
        assert (array.dtype, array.shape) == (expected[name].dtype, expected[name].shape)
        assert array.tobytes() == expected[name].tobytes(), name


def files(place, number):
    folder = place / f"{number:06d}"
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# Written and read


def test_every_bit_comes_back(two):
    result = read(two, 2)
    assert_same(result.arrays)
    assert (result.number, result.host["position"]) == (2, 20)
    assert result.host["holds"] == HOLDS
    assert host_of(two, 1)["position"] == 10


@pytest.mark.parametrize("devices", [2, 8])
def test_arrays_over_several_devices_are_read_back_whole(tmp_path, devices):
    mesh = mesh_of(jax.devices()[:devices])
    split = {name: jax.device_put(array, sharded(mesh)) for name, array in ARRAYS.items()}
    split["0002"] = jax.device_put(ARRAYS["0002"], replicated(mesh))
    save(tmp_path, arrays=split)
    assert_same(read(tmp_path, 1).arrays)


def test_arrays_may_be_donated_as_soon_as_save_returns(tmp_path):
    """A checkpoint is a copy: the study trains on in the same memory."""
    spoil = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 + 7, tree), donate_argnums=0)
    values = {"a": np.arange(2**16, dtype=np.float32)}
    arrays = jax.device_put(values, jax.devices()[0])
    writer = Checkpoints(tmp_path, 0, 1)
    writer.save(arrays, {})
    jax.block_until_ready(spoil(arrays))
    writer.wait()
    writer.close()
    assert_same(read(tmp_path, 1).arrays, values)


def test_the_last_two_are_kept_and_numbered_on(tmp_path):
    save(tmp_path, 4)
    assert numbered(tmp_path) == [3, 4]
    save(tmp_path, 1, first=5)
    assert numbered(tmp_path) == [4, 5]
    assert newest(tmp_path) == (5, [])


def test_it_is_written_in_the_background_and_committed_whole(tmp_path, monkeypatch):
    """Nothing has a number before all is written, sealed and renamed."""
    seal, may_end, seen = Checkpoints._seal, threading.Event(), []

    def held(self):
        assert may_end.wait(20), "save() waits for what it should leave to the background"
        seen.append((numbered(tmp_path), [p.name for p in tmp_path.iterdir()]))
        seal(self)

    monkeypatch.setattr(Checkpoints, "_seal", held)
    writer = Checkpoints(tmp_path, 0, 1)
    writer.save(ARRAYS, {})
    assert writer.number == 2
    assert (numbered(tmp_path), newest(tmp_path)) == ([], (None, []))
    may_end.set()
    writer.wait()
    writer.close()
    ((before, names),) = seen
    assert before == []
    assert all(name.startswith("000001.orbax-checkpoint-tmp") for name in names)
    assert [p.name for p in tmp_path.iterdir()] == ["000001"]
    assert newest(tmp_path) == (1, [])


def test_what_was_cut_off_is_cleared_and_nothing_else(copy):
    (copy / "000003.orbax-checkpoint-tmp" / "slots").mkdir(parents=True)
    (copy / "000003.orbax-checkpoint-tmp" / "slots" / "half").write_bytes(b"half")
    assert newest(copy) == (2, [])
    clear(copy, after=9)
    assert sorted(p.name for p in copy.iterdir()) == ["000001", "000002"]
    assert newest(copy) == (2, [])
    clear(copy, after=None)
    assert not copy.exists()
    assert newest(copy) == (None, [])
    clear(copy, after=9)


def test_nothing_is_left_after_remove(tmp_path):
    writer = Checkpoints(tmp_path / "checkpoints", 0, 1)
    writer.remove()
    writer.save(ARRAYS, {})
    writer.remove()  # also what is being written
    assert list(tmp_path.iterdir()) == []
    writer.close()


def test_due_counts_minutes_from_the_last_save(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    writer = Checkpoints(tmp_path, 2, 1)
    due = []
    for now[0] in (100.0, 219.9, 220.0, 500.0):
        due.append(writer.due())
    assert due == [False, False, True, True]
    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", lambda *a, **k: None)
    writer.save(ARRAYS, {})
    assert not writer.due()
    now[0] = 620.0
    assert writer.due()
    writer.close()
    assert Checkpoints(tmp_path, 0, 1).due(), "0 minutes: at each boundary"


# Damaged

DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "deleted": lambda path: path.unlink(),
}


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("kind", DAMAGE)
def test_whatever_file_is_damaged_the_one_before_serves(copy, two, kind):
    """Notes that Orbax writes after the seal are not sealed; nothing is read from them."""
    names = files(copy, 2)
    assert len(names) > 8
    for name in names:
        DAMAGE[kind](copy / "000002" / name)
        number, complaints = newest(copy)
        if name in ("_CHECKPOINT_METADATA", "commit_success.txt"):
            assert (number, complaints) == (2, [])
            assert_same(read(copy, 2).arrays)
        else:
            assert number == 1, name
            (complaint,) = complaints
            assert complaint.startswith("checkpoint 2 is damaged: ")
            named = "its seal cannot be read" if name == "seal.json" else name
            if (kind, name) != ("flipped", "seal.json"):  # a letter of a name, or of a checksum
                assert named in complaint
        shutil.copy2(two / "000002" / name, copy / "000002" / name)
    assert newest(copy) == (2, [])
    assert_same(read(copy, 1).arrays)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "\0\0\0",
        '{"host/metadata": "0"}',
        "{}",
        "[]",
        "null",
        "3",
    ],
)
def test_a_seal_that_says_nothing_is_a_damage(copy, text):
    (copy / "000002" / "seal.json").write_text(text)
    number, (complaint,) = newest(copy)
    assert number == 1
    assert complaint.startswith("checkpoint 2 is damaged: ")


def test_a_seal_that_is_no_text_is_a_damage(copy):
    (copy / "000002" / "seal.json").write_bytes(b"\xff\xfe\x00")
    assert newest(copy)[0] == 1


def test_two_damaged_ones_are_two_complaints(copy):
    (copy / "000001" / "seal.json").unlink()
    (copy / "000002" / "host" / "metadata").write_text("{}")
    number, complaints = newest(copy)
    assert number is None
    assert [c.partition(":")[0] for c in complaints] == [
        "checkpoint 2 is damaged", "checkpoint 1 is damaged",
    ]  # fmt: skip


def test_an_empty_folder_is_a_damage(copy):
    (copy / "000003").mkdir()
    number, (complaint,) = newest(copy)
    assert number == 2
    assert complaint.startswith("checkpoint 3 is damaged")


# Not written


def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("during", ["save", "seal"])
def test_a_full_disk_is_one_message(tmp_path, monkeypatch, during):
    """At once, or in the background: then the next save, or the wait, says so."""
    save(tmp_path)
    writer = Checkpoints(tmp_path, 0, 2)
    with monkeypatch.context() as patch:
        if during == "save":
            patch.setattr(ocp.AsyncCheckpointer, "save", full)
        else:
            patch.setattr(Checkpoints, "_seal", full)
        with pytest.raises(UserError, match=r"cannot write the checkpoint .*000002: .*No space"):
            save_and_wait(writer)
    writer.close()
    assert newest(tmp_path) == (1, [])
    assert_same(read(tmp_path, 1).arrays)
    clear(tmp_path, after=9)
    save(tmp_path, first=2)
    assert newest(tmp_path) == (2, [])


LIMITED = """
    import json, resource, sys
    from pathlib import Path
    import numpy as np
    from ablax.errors import UserError
    from ablax.rundir.checkpoint import Checkpoints

    place = Path(sys.argv[1])
    writer = Checkpoints(place, 0, 1)
    writer.save({"a": np.arange(9, dtype=np.float32)}, {"position": 1})
    writer.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))
    noise = np.random.default_rng(0).normal(size=2**16).astype(np.float32)  # cannot be compressed
    try:
        writer.save({"a": noise}, {"position": 2})
        writer.wait()
    except UserError as error:
        print(json.dumps(str(error)))
    try:
        writer.close()
    except Exception as error:
        print(json.dumps("close: " + repr(error)))
"""


def test_a_disk_that_is_really_full_is_one_message(tmp_path):
    """A file may have 16 KiB in this process: the first checkpoint has, the second has not."""
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(LIB), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    (message,) = map(json.loads, process.stdout.splitlines())
    assert message.startswith(f"cannot write the checkpoint {tmp_path / '000002'}")
    assert "make room" in message
    assert newest(tmp_path) == (1, [])
    result = read(tmp_path, 1)
    assert result.host["position"] == 1
    np.testing.assert_array_equal(result.arrays["a"], np.arange(9, dtype=np.float32))
