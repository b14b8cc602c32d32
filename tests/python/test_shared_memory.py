"""Named shared memory: names, lives, views that outlive it, and the list in it."""

from __future__ import annotations

import gc
import os
import pickle
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from multiprocessing import resource_tracker as standard_tracker, shared_memory as standard
from typing import Any

import numpy as np
import psutil
import pytest

from procession import resource_tracker, shared_memory
from procession.context import BaseContext
from procession.shared_memory import ShareableList, SharedMemory

ITEMS = ["howdy", b"HoWdY", -273.154, 100, None, True, 42]
FORMAT = "8s8sdqxxxxxx?xxxxxxxx?q"


@pytest.fixture(autouse=True, scope="module")
def standard_tracker_is_running() -> None:
    """Start the standard library's tracker before anybody counts this process's children."""
    standard_tracker.ensure_running()
    tracker = psutil.Process(standard_tracker._resource_tracker._pid)
    deadline = time.monotonic() + 20
    while tracker.status() != psutil.STATUS_SLEEPING and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.fixture
def block() -> Iterator[SharedMemory]:
    """A block of 512 bytes."""
    made = SharedMemory(create=True, size=512)
    yield made
    made.unlink()


def attached_untracked(name: str) -> Any:
    """The standard library's object for a block, without its tracker learning of it."""
    if sys.version_info >= (3, 13):
        return standard.SharedMemory(name, track=False)
    attached = standard.SharedMemory(name)
    # Before 3.13 it always tells its tracker, which would remove our block in the end.
    standard_tracker.unregister(attached._name, "shared_memory")
    return attached


def test_a_name_leads_to_the_same_memory(block: SharedMemory) -> None:
    block.buf[:5] = b"hello"
    other = SharedMemory(block.name, size=10_000)
    assert other.size == block.size == len(block.buf)
    assert bytes(other.buf[:5]) == b"hello"
    other.buf[0] = ord("J")
    other.close()
    assert bytes(block.buf[:5]) == b"Jello"
    assert block._name == "/" + block.name
    assert repr(block) == f"SharedMemory({block.name!r}, size=512)"


def test_the_standard_library_attaches_to_ours(block: SharedMemory) -> None:
    theirs = attached_untracked(block.name)
    theirs.buf[:3] = b"abc"
    theirs.close()
    assert bytes(block.buf[:3]) == b"abc"


def test_ours_attaches_to_the_standard_library() -> None:
    theirs = standard.SharedMemory(create=True, size=64)
    try:
        ours = SharedMemory(theirs.name, track=False)
        ours.buf[:3] = b"abc"
        ours.close()
        assert bytes(theirs.buf[:3]) == b"abc"
    finally:
        theirs.close()
        theirs.unlink()


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"create": True, "size": -1}, ValueError, "positive integer"),
        ({"create": True}, ValueError, "different from zero"),
        ({"create": False}, ValueError, "only be None if create=True"),
        ({"name": "procession-is-not-there"}, FileNotFoundError, "No such file"),
        ({"name": "with\0null"}, ValueError, "null"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SharedMemory(**arguments)


def test_a_name_is_taken_once(block: SharedMemory) -> None:
    with pytest.raises(FileExistsError):
        SharedMemory(block.name, create=True, size=1)
    assert bytes(block.buf[:1]) == b"\0"


def test_names_that_are_taken_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"/psm_test_{os.getpid()}_{letter}" for letter in "aab"]
    monkeypatch.setattr(shared_memory, "_make_filename", iter(names).__next__)
    first, second = (SharedMemory(create=True, size=1) for _ in range(2))
    assert ["/" + first.name, "/" + second.name] == names[1:]
    for made in (first, second):
        made.close()
        made.unlink()


def test_a_subclass_may_attach_or_create(block: SharedMemory) -> None:
    class AttachOrCreate(SharedMemory):
        _flags = os.O_CREAT | os.O_RDWR

    attached = AttachOrCreate(block.name)
    assert attached.size == block.size
    attached.close()


def test_unlink_is_once() -> None:
    made = SharedMemory(create=True, size=1)
    made.close()
    made.close()
    made.unlink()
    with pytest.raises(FileNotFoundError):
        made.unlink()
    with pytest.raises(FileNotFoundError):
        SharedMemory(made.name)


def test_close_refuses_while_a_part_is_in_use(block: SharedMemory) -> None:
    part = block.buf[10:20]
    with pytest.raises(BufferError):
        block.close()
    part[0] = 7
    part.release()
    block.close()
    whole = SharedMemory(block.name)
    array = np.asarray(whole.buf)
    with pytest.raises(BufferError):
        whole.close()
    assert array[10] == 7
    del array
    whole.close()


def test_after_close_the_buffer_is_released(block: SharedMemory) -> None:
    held = block.buf
    block.close()
    assert block.buf is None
    with pytest.raises(ValueError, match="released"):
        held[0]


def test_arrays_stay_valid_after_close(block: SharedMemory) -> None:
    # NumPy lets go of the buffer at once and keeps a bare pointer: nobody's count shows it.
    array: Any = np.ndarray(512, dtype=np.uint8, buffer=block.buf)
    array[:] = 9
    block.close()
    gc.collect()
    assert array.sum() == 9 * 512
    again = SharedMemory(block.name)
    again.buf[0] = 0
    assert array[0] == 0
    again.close()


def test_arrays_outlive_the_object(block: SharedMemory) -> None:
    def view() -> Any:
        return np.ndarray(512, dtype=np.uint8, buffer=SharedMemory(block.name).buf)

    array = view()
    gc.collect()
    array[3] = 5
    assert block.buf[3] == 5


def test_the_mapping_goes_with_its_last_view(block: SharedMemory) -> None:
    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum(block.name in line for line in maps)

    before = mapped()
    array: Any = np.ndarray(512, dtype=np.uint8, buffer=block.buf)
    block.close()
    assert mapped() == before
    del array
    gc.collect()
    assert mapped() == before - 1


def test_a_dropped_object_leaves_no_descriptor(block: SharedMemory) -> None:
    other = SharedMemory(block.name)
    fd, gone = other._fd, weakref.ref(other)
    del other
    gc.collect()
    assert gone() is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling(block: SharedMemory, protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(block, protocol))
    copy.buf[0] = 3
    assert block.buf[0] == 3
    copy.close()
    untracked = SharedMemory(block.name, track=False)
    again = pickle.loads(pickle.dumps(untracked, protocol))
    assert again._track is False
    again.close()
    untracked.close()


def test_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, str, str]] = []
    for name in ("register", "unregister"):
        monkeypatch.setattr(
            resource_tracker, name, lambda what, kind, name=name: calls.append((name, what, kind))
        )
    tracked = SharedMemory(create=True, size=1)
    for track in (False, None):
        SharedMemory(tracked.name, track=track).close()
    tracked.close()
    tracked.unlink()
    assert calls == [
        ("register", tracked._name, "shared_memory"),
        ("unregister", tracked._name, "shared_memory"),
    ]


def test_programs_that_attach_do_not_remove(block: SharedMemory, run_program: Any) -> None:
    source = """
        import sys
        from procession.shared_memory import SharedMemory

        block = SharedMemory(sys.argv[1])
        block.buf[0] += 1
        if sys.argv[2:]:
            block.unlink()
        block.close()
        """
    block.buf[0] = 1
    result = run_program(source, block.name)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    again = SharedMemory(block.name)
    assert again.buf[0] == 2
    again.close()
    made = SharedMemory(create=True, size=1, track=False)
    made.close()
    result = run_program(source, made.name, "unlink")
    assert (result.returncode, result.stderr) == (0, "")
    with pytest.raises(FileNotFoundError):
        SharedMemory(made.name)


def test_a_child_may_unlink(run_program: Any, start_method: str) -> None:
    source = """
        import sys
        import procession
        from procession.shared_memory import SharedMemory

        def unlink(name):
            block = SharedMemory(name)
            block.unlink()
            block.close()

        if __name__ == "__main__":
            block = SharedMemory(create=True, size=1)
            context = procession.get_context(sys.argv[1])
            child = context.Process(target=unlink, args=(block.name,))
            child.start()
            child.join()
            block.close()
            sys.exit(child.exitcode)
        """
    result = run_program(source, start_method)
    assert (result.returncode, result.stderr) == (0, "")


def write_there(block: SharedMemory) -> None:
    """Write into a block (runs in a child)."""
    block.buf[:5] = b"child"
    block.close()


def test_a_child_writes(ctx: BaseContext, block: SharedMemory) -> None:
    process = ctx.Process(target=write_there, args=(block,))
    process.start()
    process.join()
    assert process.exitcode == 0
    process.close()
    assert bytes(block.buf[:5]) == b"child"


def test_a_killed_program_leaves_nothing(eventually: Any) -> None:
    program = (
        "from procession.shared_memory import SharedMemory\n"
        "made = SharedMemory(create=True, size=10)\n"
        "print(made.name, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        name = child.stdout.readline().strip()
        assert os.path.exists(f"/dev/shm/{name}")
        child.kill()
        eventually(lambda: not os.path.exists(f"/dev/shm/{name}"), "the block is removed")
        errors = child.stderr.read()
    assert "There appear to be 1 leaked shared_memory objects to clean up at shutdown" in errors


@pytest.fixture
def shareable() -> Iterator[ShareableList]:
    """A list with one item of each kind."""
    made = ShareableList(ITEMS)
    yield made
    made.shm.close()
    made.shm.unlink()


def test_list_holds_what_it_was_given(shareable: ShareableList) -> None:
    assert list(shareable) == ITEMS
    assert [type(item) for item in shareable] == [type(item) for item in ITEMS]
    assert shareable.format == FORMAT
    assert len(shareable) == 7
    assert shareable[-2] is True
    assert (shareable.count(42), shareable.index(100)) == (1, 3)
    assert repr(shareable) == f"ShareableList({ITEMS}, name={shareable.shm.name!r})"
    with pytest.raises(ValueError, match="not in this container"):
        shareable.index("100")


def test_list_items_change_kind(shareable: ShareableList) -> None:
    shareable[3] = 42
    shareable[4] = "some"
    assert shareable[4] == "some"
    assert shareable.format == "8s8sdq8sxxxxxxx?q"
    shareable[0] = None
    shareable[1] = 2.5
    shareable[5] = b"bytes"
    assert list(shareable) == [None, 2.5, -273.154, 42, "some", b"bytes", 42]


def test_list_refuses_what_does_not_fit(shareable: ShareableList) -> None:
    shareable[0] = "encodés"
    for index, value in [(0, "encodées"), (1, b"123456789"), (4, "far too many")]:
        with pytest.raises(ValueError, match="exceeds available storage"):
            shareable[index] = value
    with pytest.raises(struct.error):
        shareable[3] = 1 << 63
    with pytest.raises(KeyError):
        shareable[3] = object()
    for index in (7, -8):
        with pytest.raises(IndexError, match="index out of range"):
            shareable[index]
        with pytest.raises(IndexError, match="assignment index out of range"):
            shareable[index] = 1
    assert list(shareable) == ["encodés", *ITEMS[1:]]
    assert shareable.format == FORMAT


def test_list_gives_strings_the_room_of_their_bytes() -> None:
    made = ShareableList(["ü" * 16, "encodés"])
    try:
        assert list(made) == ["ü" * 16, "encodés"]
        assert made.format == "32s8s"
    finally:
        made.shm.close()
        made.shm.unlink()


def test_empty_list() -> None:
    made = ShareableList()
    try:
        assert (len(made), made.format, list(made), made.count(1)) == (0, "", [], 0)
        assert list(ShareableList(name=made.shm.name)) == []
    finally:
        made.shm.close()
        made.shm.unlink()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_list_is_pickled_by_name(shareable: ShareableList, protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(shareable, protocol))
    copy[4] = "changed"
    assert shareable[4] == "changed"
    copy.shm.close()


def test_list_is_the_standard_library_s(shareable: ShareableList) -> None:
    theirs = standard.ShareableList(ITEMS)
    try:
        assert bytes(theirs.shm.buf) == bytes(shareable.shm.buf)
        attached = ShareableList(name=theirs.shm.name)
        resource_tracker.unregister(attached.shm._name, "shared_memory")
        theirs[0] = "theirs"
        attached[6] = 7
        assert (attached[0], theirs[6]) == ("theirs", 7)
        assert list(attached) == list(theirs)
        assert attached.format == theirs.format
        attached.shm.close()
    finally:
        theirs.shm.close()
        theirs.shm.unlink()
