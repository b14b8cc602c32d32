"""Locks and their kin: who has them, who waits, and what happens when one of these dies."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

import procession
from children import finish, start
from procession import _native, synchronize
from procession.context import BaseContext

Eventually = Callable[..., None]

FORK = procession.get_context("fork")

BOTH = ["Lock", "RLock"]
ALL = ["Lock", "RLock", "Semaphore", "BoundedSemaphore"]


# ----------------------------------------------------------------------- run in child processes


def take_and_hold(lock: Any, taken: Any) -> None:
    lock.acquire()
    taken.set()
    threading.Event().wait()


def count_up(lock: Any, value: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            value.value += 1


def try_to_take(lock: Any, results: Any) -> None:
    results.put((lock.acquire(False), lock.locked()))


def take_once(lock: Any, results: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lock.acquire()
        results.put(("taken", [w.category.__name__ for w in caught]))
        lock.release()


def wait_on(condition: Any, waiting: Any, results: Any) -> None:
    with condition:
        waiting.release()
        results.put(condition.wait(60))


def notify_and_die(condition: Any) -> None:
    with condition:
        condition.notify_all()
        os.kill(os.getpid(), signal.SIGKILL)


def wait_for_event(event: Any, results: Any) -> None:
    results.put(event.wait(60))


def meet(barrier: Any, results: Any, times: int) -> None:
    try:
        for _ in range(times):
            results.put(barrier.wait())
    except threading.BrokenBarrierError:
        results.put("broken")


def kill(process: Any) -> None:
    process.kill()
    finish(process, status=-signal.SIGKILL)


def holder_that_dies(ctx: BaseContext, lock: Any) -> None:
    """Have the lock taken by a process, and that killed."""
    taken = ctx.Event()
    process = start(ctx, take_and_hold, lock, taken)
    assert taken.wait(30)
    kill(process)


# ------------------------------------------------------------------------------- locks as they are


@pytest.mark.parametrize("kind", ALL)
def test_acquire_and_release(kind: str) -> None:
    lock = getattr(procession, kind)()
    assert not lock.locked()
    assert lock.acquire()
    assert lock.locked()
    lock.release()
    assert lock.acquire(block=False)
    lock.release()
    assert lock.acquire(timeout=1)
    lock.release()
    with lock:
        assert lock.locked()
    assert not lock.locked()


@pytest.mark.parametrize("kind", ["Lock", "Semaphore"])
def test_attempts_that_fail(kind: str) -> None:
    lock = getattr(procession, kind)()
    with lock:
        assert not lock.acquire(False)
        assert not lock.acquire(timeout=0)
        assert not lock.acquire(timeout=-5)
        assert not lock.acquire(timeout=0.01)
        assert not lock.acquire(block=False, timeout=5)


def test_releasing_what_is_free() -> None:
    with pytest.raises(ValueError, match="released too many times"):
        procession.Lock().release()
    with pytest.raises(AssertionError, match="not owned by thread"):
        procession.RLock().release()
    with pytest.raises(ValueError, match="released too many times"):
        procession.BoundedSemaphore(2).release()
    semaphore = procession.Semaphore(0)
    semaphore.release()
    assert semaphore.get_value() == 1


def test_a_lock_may_be_released_by_another_process(ctx: Any) -> None:
    lock = ctx.Lock()
    lock.acquire()
    finish(start(ctx, lock.release))
    assert not lock.locked()


def test_a_recursive_lock_belongs_to_a_thread() -> None:
    lock = procession.RLock()
    for _ in range(3):
        lock.acquire()
    seen: list[Any] = []

    def other() -> None:
        seen.append(lock.acquire(False))
        try:
            lock.release()
        except AssertionError:
            seen.append("refused")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(20)
    assert seen == [False, "refused"]
    for _ in range(3):
        lock.release()
    assert not lock.locked()


def test_a_forked_child_does_not_own_its_parents_recursive_lock() -> None:
    lock, results = FORK.RLock(), FORK.Queue()
    with lock:
        finish(start(FORK, try_to_take, lock, results))
        assert results.get(timeout=10) == (False, True)
    finish(start(FORK, try_to_take, lock, results))
    assert results.get(timeout=10)[0]


def test_who_has_a_lock(ctx: Any) -> None:
    lock = ctx.Lock()
    assert lock.owner_info() is None
    with lock:
        assert lock.owner_info()[0] == os.getpid()
    taken = ctx.Event()
    process = start(ctx, take_and_hold, lock, taken)
    assert taken.wait(30)
    assert lock.owner_info() == (process.pid, process.name)
    assert "SomeOtherProcess" in repr(lock)
    kill(process)


def test_only_one_at_a_time(ctx: Any) -> None:
    for kind in BOTH:
        lock = getattr(ctx, kind)()
        value = ctx.Value("i", 0, lock=False)
        finish(*[start(ctx, count_up, lock, value, 500) for _ in range(3)])
        assert value.value == 1500


def test_semaphore_counts(ctx: Any) -> None:
    semaphore, results = ctx.Semaphore(2), ctx.Queue()
    semaphore.acquire()
    finish(start(ctx, try_to_take, semaphore, results))
    assert results.get(timeout=10) == (True, True)
    # It ended in peace with the unit that it took: that is no death, nothing comes back.
    assert semaphore.get_value() == 0
    assert not semaphore.acquire(timeout=0.01)


def test_semaphore_of_impossible_value() -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        procession.Semaphore(-1)


# ------------------------------------------------------------------------------ deaths of holders


@pytest.mark.parametrize("kind", ALL)
def test_a_dead_holders_lock_is_recovered(kind: str, ctx: Any) -> None:
    lock = getattr(ctx, kind)()
    assert not lock.recovered
    holder_that_dies(ctx, lock)
    with pytest.warns(synchronize.LockRecoveredWarning, match="process that died"):
        assert lock.acquire(timeout=30)
    assert lock.recovered
    lock.release()
    # It is told once.
    with lock:
        pass


def test_a_dead_holders_lock_raises_if_so_wished() -> None:
    lock = synchronize.Lock(ctx=FORK, on_owner_death="raise")
    holder_that_dies(FORK, lock)
    with pytest.raises(synchronize.OwnerDiedError, match="process that died"):
        lock.acquire()
    # The lock is held then.
    assert lock.owner_info()[0] == os.getpid()  # type: ignore[index]
    lock.release()
    with lock:
        pass


def test_a_dead_holders_lock_in_silence() -> None:
    lock = synchronize.RLock(ctx=FORK, on_owner_death="ignore")
    holder_that_dies(FORK, lock)
    with lock:
        assert lock.recovered


def test_an_unknown_wish() -> None:
    with pytest.raises(ValueError, match="on_owner_death"):
        synchronize.Lock(ctx=FORK, on_owner_death="cry")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", BOTH)
def test_waiters_are_not_stranded(kind: str, ctx: Any) -> None:
    lock, results = getattr(ctx, kind)(), ctx.Queue()
    taken = ctx.Event()
    holder = start(ctx, take_and_hold, lock, taken)
    assert taken.wait(30)
    waiters = [start(ctx, take_once, lock, results) for _ in range(3)]
    kill(holder)
    told = [results.get(timeout=30)[1] for _ in waiters]
    # One of them, the first, is told.
    assert sorted(told) == [[], [], ["LockRecoveredWarning"]]
    finish(*waiters)


def test_a_killed_waiter_is_no_loss(ctx: Any) -> None:
    lock, results = ctx.Lock(), ctx.Queue()
    lock.acquire()
    waiters = [start(ctx, take_once, lock, results) for _ in range(2)]
    other = start(ctx, take_once, lock, results)
    for waiter in waiters:
        kill(waiter)
    lock.release()
    assert results.get(timeout=30) == ("taken", [])
    finish(other)


def test_a_holder_in_a_process_that_nobody_joins(eventually: Eventually) -> None:
    """The waiter notices the death by itself."""
    lock, taken = FORK.Lock(), FORK.Event()
    holder = start(FORK, take_and_hold, lock, taken)
    assert taken.wait(30)
    os.kill(holder.pid, signal.SIGKILL)
    with pytest.warns(synchronize.LockRecoveredWarning):
        assert lock.acquire(timeout=30)
    lock.release()
    finish(holder, status=-signal.SIGKILL)


# --------------------------------------------------------------------------------------- condition


def test_condition_between_processes(ctx: Any) -> None:
    condition, waiting, results = ctx.Condition(), ctx.Semaphore(0), ctx.Queue()
    waiters = [start(ctx, wait_on, condition, waiting, results) for _ in range(3)]
    for _ in waiters:
        assert waiting.acquire(timeout=30)
    with condition:
        condition.notify()
    assert results.get(timeout=30) is True
    with condition:
        condition.notify_all()
    assert [results.get(timeout=30) for _ in range(2)] == [True, True]
    finish(*waiters)


def test_condition_without_its_lock() -> None:
    condition = procession.Condition()
    with pytest.raises(AssertionError):
        condition.notify()
    with pytest.raises(AssertionError):
        condition.wait()


def test_condition_times() -> None:
    condition = procession.Condition(procession.Lock())
    with condition:
        assert condition.wait(0.01) is False
        assert condition.wait_for(lambda: 7, 0) == 7
        assert condition.wait_for(lambda: 0, 0.01) == 0


def test_condition_gives_back_all_levels_of_its_lock() -> None:
    condition = procession.Condition()
    seen: list[bool] = []

    def other() -> None:
        with condition:
            seen.append(True)
            condition.notify()

    with condition, condition:
        thread = threading.Thread(target=other)
        thread.start()
        assert condition.wait(20)
    thread.join(20)
    assert seen == [True]
    assert not condition._lock.locked()


def test_a_notifier_that_dies_with_the_lock(ctx: Any) -> None:
    lock = ctx.RLock()
    lock._on_owner_death = "ignore"
    condition, waiting, results = ctx.Condition(lock), ctx.Semaphore(0), ctx.Queue()
    waiters = [start(ctx, wait_on, condition, waiting, results) for _ in range(2)]
    for _ in waiters:
        assert waiting.acquire(timeout=30)
    finish(start(ctx, notify_and_die, condition), status=-signal.SIGKILL)
    assert [results.get(timeout=30) for _ in waiters] == [True, True]
    finish(*waiters)


def test_a_killed_waiter_takes_no_notification(ctx: Any) -> None:
    condition, waiting, results = ctx.Condition(), ctx.Semaphore(0), ctx.Queue()
    victim = start(ctx, wait_on, condition, waiting, results)
    assert waiting.acquire(timeout=30)
    # It waits once the lock can be had.
    with condition:
        pass
    other = start(ctx, wait_on, condition, waiting, results)
    assert waiting.acquire(timeout=30)
    with condition:
        pass
    kill(victim)
    with condition:
        condition.notify()
    assert results.get(timeout=30) is True
    finish(other)


# --------------------------------------------------------------------------------- event, barrier


def test_event(ctx: Any) -> None:
    event, results = ctx.Event(), ctx.Queue()
    assert not event.is_set()
    assert event.wait(0.01) is False
    waiters = [start(ctx, wait_for_event, event, results) for _ in range(3)]
    event.set()
    assert [results.get(timeout=30) for _ in waiters] == [True] * 3
    assert event.wait()
    event.clear()
    assert not event.wait(0)
    finish(*waiters)


def test_barrier(ctx: Any) -> None:
    barrier, results = ctx.Barrier(3), ctx.Queue()
    parties = [start(ctx, meet, barrier, results, 20) for _ in range(3)]
    got = [results.get(timeout=30) for _ in range(60)]
    assert sorted(got) == sorted([0, 1, 2] * 20)
    finish(*parties)
    # The processes left in peace: that breaks nothing.
    assert not barrier.broken


def test_a_party_that_dies_breaks_the_barrier(ctx: Any, eventually: Eventually) -> None:
    barrier, results = ctx.Barrier(3), ctx.Queue()
    first, second = (start(ctx, meet, barrier, results, 1) for _ in range(2))
    eventually(lambda: barrier.n_waiting == 2)
    kill(first)
    assert results.get(timeout=30) == "broken"
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    assert barrier.broken
    barrier.reset()
    assert not barrier.broken
    finish(second)


def test_a_reset_tells_who_waits_and_breaks_nothing() -> None:
    barrier, results = FORK.Barrier(3), FORK.Queue()
    parties = [start(FORK, meet, barrier, results, 1) for _ in range(2)]
    while barrier.n_waiting < 2:
        time.sleep(0.001)
    barrier.reset()
    assert [results.get(timeout=30) for _ in parties] == ["broken"] * 2
    finish(*parties)
    assert not barrier.broken
    assert barrier.n_waiting == 0


def test_a_barriers_time() -> None:
    barrier = procession.Barrier(2, timeout=0.01)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    assert barrier.broken
    barrier.reset()
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0)


def test_a_barriers_action() -> None:
    calls: list[int] = []
    barrier = procession.Barrier(1, action=lambda: calls.append(1))
    assert barrier.wait() == 0
    assert calls == [1]

    def fail() -> None:
        raise ZeroDivisionError

    barrier = procession.Barrier(1, action=fail)
    with pytest.raises(ZeroDivisionError):
        barrier.wait()
    assert barrier.broken


# ------------------------------------------------------------------------------------------- forks


def test_forks_of_a_program_with_busy_threads() -> None:
    """No child finds a lock of the package held by a thread that it does not have."""
    # Imported here: the interpreter's import locks are not the package's to repair.
    FORK.Pipe()
    queue, lock, other = FORK.Queue(), FORK.Lock(), FORK.Queue()
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            queue.put(b"x" * 20_000)
            queue.get()
            queue.fileno()
            end, far = FORK.Pipe()
            end.fileno()
            far.send([1])
            assert end.recv() == [1]
            procession.Lock()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()

    def child() -> None:
        with lock:
            mine = FORK.Queue()
            mine.fileno()
            mine.put(os.getpid())
            one, two = FORK.Pipe()
            one.fileno()
            two.send(mine.get(timeout=10))
            other.put(one.recv())

    try:
        with warnings.catch_warnings():
            # Forking in a program with threads is what this is about.
            warnings.simplefilter("ignore", DeprecationWarning)
            for _ in range(20):
                process = start(FORK, child)
                assert other.get(timeout=30) == process.pid
                finish(process)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)


def test_signals_interrupt_an_acquire() -> None:
    class Interrupted(Exception):
        pass

    def handler(signum: int, frame: object) -> None:
        raise Interrupted

    old = signal.signal(signal.SIGUSR1, handler)
    try:
        lock = procession.Lock()
        lock.acquire()
        me = threading.get_ident()
        for wait in (lock.acquire, procession.Event().wait, procession.Barrier(2).wait):
            timer = threading.Timer(0.1, signal.pthread_kill, (me, signal.SIGUSR1))
            timer.start()
            with pytest.raises(Interrupted):
                wait()
            timer.join()
        lock.release()
        assert lock.acquire(False)
    finally:
        signal.signal(signal.SIGUSR1, old)


def test_objects_are_given_back() -> None:
    before = _native.session_info()["objects"]
    things: list[Any] = [
        getattr(procession, kind)() for kind in (*ALL, "Condition", "Event") for _ in range(100)
    ]
    things.append(procession.Barrier(3))
    # A condition has a lock of its own.
    assert _native.session_info()["objects"] == before + 701
    things.clear()
    assert _native.session_info()["objects"] == before


def try_and_hold(lock: Any, tries: Any, hold: Any, free: Any) -> None:
    tries.put(lock.acquire(False))
    hold.wait()
    lock.release()
    free.set()


@pytest.mark.parametrize(
    ("kind", "value", "maxvalue"),
    [
        (synchronize.RECURSIVE_MUTEX, 1, 1),
        (synchronize.SEMAPHORE, 1, 1),
        (synchronize.SEMAPHORE, 2, 3),
    ],
)
def test_the_base_of_locks_is_a_lock(
    ctx: BaseContext, kind: int, value: int, maxvalue: int
) -> None:
    lock = synchronize.SemLock(kind, value, maxvalue, ctx=ctx)
    tries, hold, free = ctx.Queue(), ctx.Event(), ctx.Event()
    child = ctx.Process(target=try_and_hold, args=(lock, tries, hold, free))
    child.start()
    assert tries.get() is True
    for _ in range(value - 1):
        assert lock.acquire()
    assert lock.locked()
    assert not lock.acquire(False)
    hold.set()
    assert free.wait(20)
    with lock:
        assert lock.locked()
    child.join()
    if kind == synchronize.SEMAPHORE:
        for _ in range(maxvalue - 1):
            lock.release()
        with pytest.raises(ValueError, match="released too many times"):
            lock.release()


def test_what_locks_derive_from(ctx: BaseContext) -> None:
    for lock in (ctx.Lock(), ctx.RLock(), ctx.Semaphore(), ctx.BoundedSemaphore()):
        assert isinstance(lock, synchronize.SemLock)
    for wrong in ((2, 1, 1), (synchronize.SEMAPHORE, 2, 1), (synchronize.RECURSIVE_MUTEX, 0, 1)):
        with pytest.raises(ValueError, match=r"kind|value"):
            synchronize.SemLock(*wrong, ctx=ctx)
