"""What a process may not have (descriptors, memory, /dev/shm) is a clear error and no crash."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import procession

COMMON = """
    import os, resource, sys
    import procession

    def inc(x):
        return x + 1

    def child(queue):
        queue.put(os.getpid())

    def limit(what, number):
        resource.setrlimit(what, (number, resource.getrlimit(what)[1]))

    ctx = procession.get_context(sys.argv[1])
"""


def program(source: str) -> str:
    return (
        textwrap.dedent(COMMON)
        + 'if __name__ == "__main__":\n'
        + textwrap.indent(textwrap.dedent(source), "    ")
    )


def lines_of(result: Any) -> list[str]:
    """What a program has printed, which has ended well and without a word on stderr."""
    assert (result.returncode, result.stderr) == (0, "")
    return str(result.stdout).splitlines()


# ------------------------------------------------------------------------------------- descriptors


def test_descriptors_of_processes(start_method: str, run_program: Any) -> None:
    source = program(
        """
        queue = ctx.Queue()
        first = ctx.Process(target=child, args=(queue,))
        first.start()
        limit(resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd"))) + 12)
        started = [first]
        try:
            for _ in range(40):
                process = ctx.Process(target=child, args=(queue,))
                process.start()
                started.append(process)
        except OSError as error:
            print(error)
        for process in started:
            process.join()
            assert process.exitcode == 0, process
            process.close()
        assert {queue.get(timeout=20) for _ in started}.isdisjoint({os.getpid()})
        assert queue.empty()
        # With descriptors to spare it goes on.
        process = ctx.Process(target=child, args=(queue,))
        process.start()
        process.join()
        print(1 < len(started) < 20, process.exitcode)
        """
    )
    told, after = lines_of(run_program(source, start_method))
    assert "Too many open files" in told
    assert after == "True 0"


def test_descriptors_of_a_pool(start_method: str, run_program: Any) -> None:
    source = program(
        """
        first = ctx.Process(target=str)
        first.start()
        first.join()
        limit(resource.RLIMIT_NOFILE, max(map(int, os.listdir("/proc/self/fd"))) + 8)
        try:
            ctx.Pool(20)
        except OSError as error:
            print(error)
        # What it had started is not left behind.
        print(ctx.active_children())
        limit(resource.RLIMIT_NOFILE, 1000)
        with ctx.Pool(2) as pool:
            print(pool.map(inc, range(3)))
        """
    )
    told, left, mapped = lines_of(run_program(source, start_method))
    assert "Too many open files" in told
    assert (left, mapped) == ("[]", "[1, 2, 3]")


@pytest.mark.parametrize("number", [12, 18, 24])
def test_few_descriptors_from_the_start(number: int, start_method: str, run_program: Any) -> None:
    """The fork server has no more than its owner."""
    source = program(
        f"""
        resource.setrlimit(resource.RLIMIT_NOFILE, ({number}, {number}))
        try:
            processes = []
            for _ in range(30):
                processes.append(ctx.Process(target=str))
                processes[-1].start()
        except OSError as error:
            print(error)
        """
    )
    (told,) = lines_of(run_program(source, start_method))
    assert "Too many open files" in told


# ------------------------------------------------------------------------------------------ memory


def test_the_memory_budget(start_method: str, run_program: Any) -> None:
    source = program(
        """
        queue = ctx.Queue()
        put = 0
        try:
            while put < 100:
                queue.put(bytes(20_000_000))
                put += 1
        except MemoryError as error:
            print(error)
        assert [len(queue.get()) for _ in range(put)] == [20_000_000] * put
        queue.put(bytes(20_000_000))
        print(len(queue.get()))
        with ctx.Pool(2) as pool:
            for work in (
                lambda: pool.map(bytes, [200_000_000]),
                lambda: pool.map(len, [bytes(200_000_000)]),
                lambda: pool.apply_async(len, (bytes(200_000_000),)).get(60),
            ):
                try:
                    work()
                except MemoryError as error:
                    print(error)
            print(pool.map(inc, range(3)))
        """
    )
    os.environ["PROCESSION_MEMORY"] = "100M"
    try:
        first, size, *others, mapped = lines_of(run_program(source, start_method))
    finally:
        del os.environ["PROCESSION_MEMORY"]
    assert "20000001 bytes wanted" in first
    assert "of 104857600 in use" in first
    assert "PROCESSION_MEMORY" in first
    assert size == "20000000"
    assert len(others) == 3
    assert all(other.startswith("out of shared memory: 200000") for other in others), others
    assert mapped == "[1, 2, 3]"


@pytest.mark.parametrize("megabytes", [300, 1000])
def test_a_small_address_space(megabytes: int, start_method: str, run_program: Any) -> None:
    source = program(
        f"""
        limit(resource.RLIMIT_AS, {megabytes} << 20)
        queue = ctx.Queue()
        queue.put(b"x" * 1_000_000)
        print(len(queue.get()))
        with ctx.Pool(2) as pool:
            print(pool.map(inc, range(3)))
        try:
            for _ in range(1000):
                queue.put(bytes(5_000_000))
        except MemoryError as error:
            print(error)
        """
    )
    size, mapped, told = lines_of(run_program(source, start_method))
    assert (size, mapped) == ("1000000", "[1, 2, 3]")
    assert "out of shared memory" in told
    assert "RLIMIT_AS" in told


def test_no_address_space_for_a_session(start_method: str, run_program: Any) -> None:
    source = program(
        """
        pages = int(open("/proc/self/statm").read().split()[0])
        limit(resource.RLIMIT_AS, pages * resource.getpagesize() + (8 << 20))
        try:
            ctx.Queue()
        except OSError as error:
            print(error)
        """
    )
    (told,) = lines_of(run_program(source, start_method))
    assert "Cannot allocate memory" in told
    assert "RLIMIT_AS" in told


# ---------------------------------------------------------------------------------------- /dev/shm

USE = program(
    """
    from procession.shared_memory import SharedMemory

    print(os.path.isdir("/dev/shm"))
    queue, lock = ctx.Queue(), ctx.Lock()
    queue.put(b"x" * 10_000_000)
    with lock:
        print(len(queue.get()))
    process = ctx.Process(target=child, args=(queue,))
    process.start()
    process.join()
    print(process.exitcode, queue.get(timeout=20) > 0)
    with ctx.Pool(2) as pool:
        print(pool.map(inc, range(3)), sum(map(len, pool.map(bytes, [5_000_000] * 4))))
    try:
        SharedMemory(create=True, size=10_000_000)
    except OSError as error:
        print(error)
    """
)

# A /dev with the devices that programs need, and nothing else.
ABSENT = """
mkdir "$0/dev" && mount -t tmpfs none "$0/dev" || exit 77
for device in null zero random urandom; do
    touch "$0/dev/$device" && mount --bind "/dev/$device" "$0/dev/$device" || exit 77
done
mount --rbind "$0/dev" /dev || exit 77
exec "$@"
"""
FULL = """
mount -t tmpfs -o size=64k none /dev/shm || exit 77
exec "$@"
"""


@pytest.mark.parametrize("state", ["absent", "full"])
def test_without_dev_shm(state: str, start_method: str, tmp_path: Path) -> None:
    """The session does not need it; named blocks, which do, say what is missing."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    path = tmp_path / "program.py"
    path.write_text(USE)
    script = ABSENT if state == "absent" else FULL
    inside = ["sh", "-c", script, str(tmp_path), sys.executable, str(path), start_method]
    result = subprocess.run(
        ["unshare", "--map-root-user", "--mount", *inside],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if result.returncode in (1, 77) and "unshare" in result.stderr + "mount":
        pytest.skip(f"no mount namespace of one's own here: {result.stderr}")
    there, size, started, mapped, named = lines_of(result)
    assert there == str(state == "full")
    assert (size, started, mapped) == ("10000000", "0 True", "[1, 2, 3] 20000000")
    assert ("No such file" if state == "absent" else "65536 are free in /dev/shm") in named


def test_a_block_that_does_not_fit_into_dev_shm_is_refused() -> None:
    """Writing to it would be the end of the process."""
    from procession.shared_memory import SharedMemory

    room = os.statvfs("/dev/shm")
    before = set(os.listdir("/dev/shm"))
    if not room.f_blocks:
        pytest.skip("/dev/shm has no limit here")
    with pytest.raises(OSError, match=r"no room for \d+ bytes of shared memory"):
        SharedMemory(create=True, size=room.f_blocks * room.f_frsize + 1)
    assert not {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("psm_")}
    assert procession.Lock().acquire()
