"""Holders and waiters of locks and their kin that die, stop or fork."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from children import finish, start
from procession import synchronize
from procession.context import BaseContext

Eventually = Callable[..., None]


# ----------------------------------------------------------------------- run in child processes


def hold(lock: Any, taken: Any) -> None:
    lock.acquire()
    taken.release()
    threading.Event().wait()


def pass_through(lock: Any, results: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lock.acquire()
    results.put(len(caught))
    lock.release()


def wait_for(event: Any, started: Any, results: Any) -> None:
    started.release()
    results.put(event.wait(60))


def meet(barrier: Any, results: Any) -> None:
    try:
        barrier.wait(60)
        results.put("met")
    except threading.BrokenBarrierError:
        results.put("broken")


def never_come(barrier: Any, started: Any) -> None:
    started.release()
    threading.Event().wait()


def fork_with_busy_threads(lock: Any, queue: Any, times: int) -> None:
    """Fork while other threads are inside of locks and queues; the children use them all."""
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            with lock:
                pass
            queue.put(b"x" * 20_000)
            queue.get()

    threads = [threading.Thread(target=busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    statuses = []
    with warnings.catch_warnings():
        # Forking in a program with threads is what this is about.
        warnings.simplefilter("ignore", DeprecationWarning)
        for _ in range(times):
            pid = os.fork()
            if pid == 0:
                try:
                    with lock:
                        pass
                    queue.put(b"from the child")
                    queue.get()
                    os._exit(17)
                finally:
                    os._exit(1)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    stop.set()
    for thread in threads:
        thread.join(20)
    assert statuses == [17] * times


def kill(*processes: Any) -> None:
    for process in processes:
        process.kill()
    finish(*processes, status=-signal.SIGKILL)


# ----------------------------------------------------------------------------------------- holders


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore", "Condition"])
def test_waiters_get_what_a_dead_holder_had(kind: str, ctx: Any) -> None:
    lock, results, taken = getattr(ctx, kind)(), ctx.Queue(), ctx.Semaphore(0)
    holder = start(ctx, hold, lock, taken)
    assert taken.acquire(timeout=60)
    waiters = [start(ctx, pass_through, lock, results) for _ in range(2)]
    kill(holder)
    # One of them, the first, is told.
    assert sorted(results.get(timeout=60) for _ in waiters) == [0, 1]
    finish(*waiters)


def test_the_lock_of_a_condition_tells_who_takes_it_over(ctx: Any) -> None:
    condition, taken = ctx.Condition(), ctx.Semaphore(0)
    holder = start(ctx, hold, condition, taken)
    assert taken.acquire(timeout=60)
    kill(holder)
    with pytest.warns(synchronize.LockRecoveredWarning, match="process that died"):
        assert condition.acquire(timeout=60)
    assert condition._lock.recovered
    condition.release()
    with condition:
        assert condition.wait(0.01) is False


def test_a_stopped_holder_keeps_its_lock(ctx: Any) -> None:
    lock, taken = ctx.Lock(), ctx.Semaphore(0)
    holder = start(ctx, hold, lock, taken)
    assert taken.acquire(timeout=60)
    os.kill(holder.pid, signal.SIGSTOP)
    assert not lock.acquire(timeout=1)
    assert lock.owner_info()[0] == holder.pid
    os.kill(holder.pid, signal.SIGCONT)
    assert holder.is_alive()
    kill(holder)
    with pytest.warns(synchronize.LockRecoveredWarning):
        assert lock.acquire(timeout=60)
    lock.release()


# ----------------------------------------------------------------------------------------- waiters


def test_the_death_of_one_waiter_keeps_no_other_from_the_event(ctx: Any) -> None:
    event, results, started = ctx.Event(), ctx.Queue(), ctx.Semaphore(0)
    victim = start(ctx, wait_for, event, started, results)
    others = [start(ctx, wait_for, event, started, results) for _ in range(2)]
    for _ in range(3):
        assert started.acquire(timeout=60)
    kill(victim)
    event.set()
    assert [results.get(timeout=60) for _ in others] == [True, True]
    finish(*others)


def test_a_party_that_dies_before_it_comes_breaks_the_barrier(
    ctx: Any, eventually: Eventually
) -> None:
    barrier, results, started = ctx.Barrier(3), ctx.Queue(), ctx.Semaphore(0)
    others = [start(ctx, meet, barrier, results) for _ in range(2)]
    victim = start(ctx, never_come, barrier, started)
    assert started.acquire(timeout=60)
    eventually(lambda: barrier.n_waiting == 2)
    kill(victim)
    assert [results.get(timeout=60) for _ in others] == ["broken", "broken"]
    finish(*others)
    barrier.reset()
    assert not barrier.broken


# ------------------------------------------------------------------------------------------- forks


def test_a_fork_by_any_process_with_threads(ctx: Any) -> None:
    """Also in a process that was not forked itself."""
    finish(start(ctx, fork_with_busy_threads, ctx.Lock(), ctx.SimpleQueue(), 20))


def test_a_dead_owner_is_noticed_among_many_signals(run_program: Callable[..., Any]) -> None:
    """No slice of the wait ever comes to its end."""
    ran = run_program(
        """\
        import os
        import signal
        import warnings

        import procession as mp


        def hold(lock, taken):
            lock.acquire()
            taken.set()
            context.Event().wait()


        context = mp.get_context("fork")
        lock, taken = context.Lock(), context.Event()
        child = context.Process(target=hold, args=(lock, taken))
        child.start()
        taken.wait()
        warnings.simplefilter("ignore")
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        os.kill(child.pid, signal.SIGKILL)
        print(lock.acquire(timeout=40))
        signal.setitimer(signal.ITIMER_REAL, 0)
        """
    )
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr


def come_late(barrier: Any) -> None:
    # Long enough for the other one to look for the dead.
    threading.Event().wait(0.5)
    barrier.wait(60)


def test_the_end_of_a_plain_fork_does_not_break_a_barrier(ctx: BaseContext) -> None:
    barrier = ctx.Barrier(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    other = start(ctx, come_late, barrier)
    barrier.wait(60)
    finish(other)
