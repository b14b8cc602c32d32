"""A pool's processes: what stands between the engine's pool and the classes that users see.

The engine decides (who is to be started or killed, which item failed and why) and moves the bytes;
this file starts and ends real processes and hands results to those who asked for them.  There is no
thread for that: whoever waits for something does it for all.  Only where something must be done
without anybody waiting (callbacks, timeouts, workers that end) there is a supervisor thread, and
users' code (callbacks, the input of imaps) has threads of its own.
"""

from __future__ import annotations

import signal
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from . import _native, util
from ._pool_calls import Calls
from ._pool_errors import TaskCancelled, TaskTimeout, WorkerDied, report, unsent
from ._pool_imaps import TooManyImaps
from ._pool_inputs import Reader
from ._pool_maps import ANY, ATTENTION, NEXT, READY
from ._pool_results import MapResult
from ._pool_worker import APPLY, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._pool_results import ApplyResult
    from .process import BaseProcess

# In a row; then something is wrong that a next try does not mend.
MOST_FAILURES = 10

# The engine takes larger chunks for as large.
MOST_CHUNK = 1 << 31

# Seconds between two looks for workers that have died while nobody waits.
LOOK_EVERY = 0.25

# Seconds between two looks at workers that are about to end.
FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 0.05

# Seconds that a worker has, once it was told to end, before it is killed.
TERMINATE_GRACE = 1.0


class Options:
    """How the items of one job are run."""

    __slots__ = ("retries", "timeout")

    def __init__(self, timeout: float | None = None, retries: int = 0) -> None:
        if timeout is not None and timeout <= 0:
            raise ValueError("timeout must be positive")
        if retries < 0:
            raise ValueError("retries must not be negative")
        self.timeout, self.retries = timeout, retries

    def key(self) -> tuple[float | None, int]:
        """For a dictionary."""
        return self.timeout, self.retries


class Processes(Calls):
    """The processes of a pool and their work."""

    def __init__(
        self,
        start: Callable[..., BaseProcess],
        processes: int,
        initializer: Callable[..., object] | None,
        initargs: Iterable[Any],
        max_tasks: int | None,
    ) -> None:
        super().__init__(processes)
        self._start_process = start
        # Workers are replaced after so many tasks; then one task is one call.
        self._replaces = max_tasks is not None
        self._initializer, self._initargs = initializer, tuple(initargs)
        # The core must not hold this object, which holds the core.
        self._core = _native.PoolCore(
            "", processes, max_tasks, _failures(weakref.ref(self)), unsent
        )
        self.workers: list[BaseProcess] = []
        self._by_id: dict[int, BaseProcess] = {}
        self._acting = threading.RLock()
        self._tasks: dict[int, str] = {}
        self._shared: set[ApplyResult] = set()
        self._closing = self._sealed = False
        self._supervisor: threading.Thread | None = None
        # It looks for the dead now and then, or also waits for what happens.
        self._eager, self._kick = False, threading.Event()
        # What it could not do.
        self._trouble: BaseException | None = None
        self._ended = False
        self._oom_kills = _native.oom_kills()
        self._stopped = False
        try:
            self._act()
        except BaseException:
            self._give_up()
            raise

    # ------------------------------------------------------------------------ the processes

    def _act(self) -> bool:
        """Do what the engine asks for; true when the pool has ended."""
        with self._acting:
            self._bury()
            while actions := self._core.poll():
                failed: BaseException | None = None
                for action in actions:
                    try:
                        self._execute(*action)
                    except BaseException as error:
                        # The engine asks only once: the others are carried out all the same.
                        failed = failed or error
                if failed is None:
                    continue
                thread = threading.current_thread()
                if thread is not self._supervisor and not isinstance(thread, Reader):
                    raise failed
                # Whoever waits for a result next is told; the pool's thread goes on, and the
                # supervisor tries again.
                self._trouble = failed
                break
            return self._ended

    def _execute(self, what: str, worker: int = 0, pid: int = 0, why: str = "") -> None:
        if what == "spawn":
            self._spawn(worker)
        elif what == "kill":
            process = self._by_id.get(worker)
            if process is not None:
                if why == "terminated":
                    process.terminate()
                else:
                    process.kill()
        elif what == "ended":
            self._ended = True
            self._kick.set()

    def _spawn(self, worker: int) -> None:
        try:
            process = self._start_process(
                target=work,
                args=(self._core.handle(), worker, self._initializer, self._initargs),
            )
            process.name = process.name.replace("Process", "PoolWorker")
            process.daemon = True
            process._role = "worker"
            process.start()
        except BaseException:
            self._core.worker_not_started(worker)
            raise
        util.debug("added worker")
        self._trouble = None
        self.workers.append(process)
        self._by_id[worker] = process
        token = getattr(getattr(process, "_popen", None), "_token", None)
        if token is not None and process.pid is not None:
            self._core.worker_started(worker, token, process.pid)

    def _give_up(self) -> None:
        """Not all workers could be started: leave none behind."""
        for process in self.workers:
            if process.exitcode is None:
                process.terminate()
        for process in self.workers:
            process.join()

    def _bury(self) -> None:
        for worker, process in list(self._by_id.items()):
            code = process.exitcode
            if code is not None:
                util.debug(f"cleaning up worker {worker}")
                self._core.worker_exited(worker, code)
                del self._by_id[worker]
                self.workers.remove(process)

    def _failure(self, job: int, item: int, kind: str, pid: int, exitcode: int | None) -> Any:
        """The exception for an item that got no result from its worker."""
        task = self._tasks.get(job) or _name_of(
            getattr(self._calls.get((job, item)), "_func", None)
        )
        if job in self._maps:
            item = self._maps[job]._place_of(item)
        if kind == "died":
            if exitcode is None:
                exitcode = self._exitcode_of(pid)
            return WorkerDied(exitcode, pid, item, task, self._ran_out_of_memory(exitcode))
        if kind == "timed out":
            return TaskTimeout(f"item {item} of {task or 'the job'} ran longer than its timeout")
        if kind == "cancelled":
            return TaskCancelled(f"item {item} of {task or 'the job'} was cancelled")
        return TaskCancelled("the pool was terminated")

    def _ran_out_of_memory(self, exitcode: int | None) -> bool:
        # By the group's counter, which does not say whom it means: one death for each.
        if exitcode != -signal.SIGKILL or _native.oom_kills() <= self._oom_kills:
            return False
        self._oom_kills += 1
        return True

    def _exitcode_of(self, pid: int) -> int | None:
        for process in self.workers:
            if process.pid == pid:
                process.join(1)
                return process.exitcode
        return None

    # ---------------------------------------------------------------------------- new work

    def _open(
        self, mode: int, func: Any, total: int | None, ordered: bool, options: Options, chunk: int
    ) -> int | None:
        function = None if mode == APPLY else (mode, func)
        terms = (function, total, ordered, options.timeout, options.retries, min(chunk, MOST_CHUNK))
        job = self._core.open_job(*terms)
        if job is None:
            self._make_room()
            job = self._core.open_job(*terms)
            if job is None:
                return None
        if func is not None:
            self._tasks[job] = _name_of(func)
        if options.timeout is not None:
            self._supervise()
        return int(job)

    def _make_room(self) -> None:
        """The engine has as many jobs as it can have: end those that are done."""
        for job, result in list(self._maps.items()):
            if result._source is None and self._collect_map(result, job):
                self._finish_map(result, job)
        for iterator in list(self._imaps.values()):
            self._drain(iterator)

    def _open_now(self, *terms: Any) -> int:
        """Open a job, waiting for others to end as long as they do so by themselves."""
        while (job := self._open(*terms)) is None:
            ending = any(
                i._input.source is None and not i._detached for i in list(self._imaps.values())
            )
            if not ending and not self._maps:
                raise TooManyImaps(
                    "too many iterators of imap are open in one pool: read some to their end, or "
                    "drop them, before making more"
                )
            if self._core.wait_attention(0.02) == ATTENTION:
                self._act()
        return job

    def _close_job(self, job: int) -> None:
        self._core.close_job(job)
        self._tasks.pop(job, None)

    # ----------------------------------------------------------------------------- results

    def _wait(self, job: int, until: int, number: int, deadline: float | None) -> int:
        remaining = None if deadline is None else max(deadline - time.monotonic(), 0.0)
        woken = int(self._core.wait(job, until, number, remaining))
        if woken == ATTENTION:
            self._act()
        trouble = self._trouble
        if trouble is not None and woken != READY:
            self._trouble = None
            raise trouble
        return woken

    def share(self, result: ApplyResult) -> None:
        """See to it that a result's future is settled, and cancelled if another process asks."""
        self._shared.add(result)
        if not isinstance(result, MapResult):
            self._watch_call(result)
            return
        with self._acting:
            if not result._has_come():
                self._watched_maps.add(result)
        self._supervise()

    def _serve_shared(self) -> None:
        for result in list(self._shared):
            future = result._future
            if result._done or future is None:
                self._shared.discard(result)
            elif future.cancel_asked():
                self._shared.discard(result)
                self.cancel(result)

    def _settle_shared(self) -> None:
        """The pool has ended: no other process shall wait for what is known here."""
        for result in list(self._shared):
            self.drive(result, 0.0)
        self._shared.clear()

    def drive(self, result: ApplyResult, timeout: float | None) -> None:
        """Work on results until this one is there, or the time is up."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if isinstance(result, MapResult):
            self._drive_map(result, deadline)
        else:
            self._drive_call(result, deadline)

    def cancel(self, result: ApplyResult) -> bool:
        """Stop the calls of a result."""
        if result._handed:
            return False
        if isinstance(result, MapResult):
            with self._acting:
                job = result._job
                if job is None:
                    return self._cancel_backlog(result)
                # What is not fed yet is fed first, so that it is cancelled, too.
                if self._feed_map(result):
                    return True
                fed = self._core.progress(job)[0]
            stopped = [self._core.cancel(job, item) for item in range(fed)]
            cancelled = any(stopped)
        else:
            stream, item = result._key
            cancelled = bool(self._core.cancel(stream.job, item))
        self._act()
        return cancelled

    def progress(self, result: MapResult) -> tuple[int, int]:
        """Items done and items in all."""
        return self._progress_of(result)

    # ---------------------------------------------------------------------------- the thread

    def look_after(self) -> None:
        """See to it that workers are replaced which end while nobody waits here."""
        if self._supervisor is not None:
            return
        if self._replaces:
            # That is part of the work, so at once.
            self._supervise()
        else:
            self._start_supervisor()

    def _supervise(self) -> None:
        self._eager = True
        self._kick.set()
        self._start_supervisor()

    def _start_supervisor(self) -> None:
        if self._supervisor is None:
            supervisor = threading.Thread(
                target=_supervise, args=(weakref.ref(self),), name="pool supervisor", daemon=True
            )
            # It asks at once whether it is the one.
            self._supervisor = supervisor
            try:
                supervisor.start()
            except BaseException:
                if supervisor.ident is None:
                    self._supervisor = None
                raise

    def _supervise_once(self) -> bool:
        """One round of the supervisor; false when there is nothing more to do, ever."""
        if self._ended:
            return False
        if not self._eager:
            if self._core.wait_attention(0.0) == ATTENTION:
                self._act()
            # What nobody asks for is not kept, nor the pool with it.
            if self._calls:
                for stream in list(self._streams.values()):
                    self._collect_if_free(stream)
            if self._maps:
                self._collect_maps()
            return True
        self._serve_shared()
        if self._unread:
            self._finish_unread()
        if self._backlog:
            self._collect_maps()
        if self._watched_calls or self._watched_maps:
            self._wait_for_watched()
        elif self._core.wait_attention(0.2) == ATTENTION:
            self._act()
        if self._core.next_deadline_passed():
            self._act()
        return True

    def _wait_for_watched(self) -> None:
        streams = list(self._streams.values())
        ours = [stream.job for stream in streams if self._collect_if_free(stream)]
        for result in list(self._watched_maps):
            self._drive_map(result, time.monotonic())
        for result in list(self._watched_maps):
            if result._has_come():
                self._watched_maps.discard(result)
        jobs = [(job, ANY) for job in ours]
        jobs += [(r._job, NEXT) for r in self._watched_maps if r._job is not None]
        # Others collect what is not ours, as long as they wait for something.
        short = not jobs or len(ours) < len(streams)
        if self._core.wait_many(jobs, 0.02 if short else 0.2) == ATTENTION:
            self._act()

    # ------------------------------------------------------------------------------- the end

    def close(self) -> None:
        """Let the workers leave when all work is done."""
        self._closing = True
        self._close_when_fed()

    def _close_when_fed(self) -> None:
        if not self._closing or self._sealed:
            return
        unfed = self._unfed_maps()
        unfed = unfed or any(i._input.source is not None for i in list(self._imaps.values()))
        if not unfed:
            for stream in list(self._streams.values()):
                self._core.seal(stream.job)
            self._core.close()
            # Last: it is done again if a signal's handler raises before this.
            self._sealed = True
            self._act()

    def terminate(self) -> None:
        """End the workers, by SIGTERM and soon after by SIGKILL; unfinished calls fail."""
        self._closing = self._stopped = True
        self._core.terminate()
        self._close_inputs()
        self._cancel_backlog()
        self._act()
        deadline = time.monotonic() + TERMINATE_GRACE
        for process in list(self._by_id.values()):
            process.join(max(deadline - time.monotonic(), 0.0))
            if process.exitcode is None:
                process.kill()
                process.join()
        self._act()
        self._settle_shared()
        self._callbacks.end()

    def join(self) -> None:
        """Wait until all work is done and the workers have left."""
        # Should a signal's handler have raised in close().
        self._closing = True
        # A worker that has just left the pool will have ended in a moment.
        pause = FIRST_PAUSE
        while not self._ended:
            self._close_when_fed()
            self._finish_imaps()
            self._collect_maps()
            for stream in list(self._streams.values()):
                self._collect_if_free(stream)
            if self._act():
                break
            woken = self._core.wait_attention(pause)
            pause = FIRST_PAUSE if woken == ATTENTION else min(2 * pause, LONGEST_PAUSE)
        for result in list(self._watched_maps):
            self._drive_map(result, time.monotonic())
        for stream in list(self._streams.values()):
            self._collect_if_free(stream)
        self._settle_shared()
        self._callbacks.end()
        if not self._stopped:
            self._callbacks.join()
        supervisor = self._supervisor
        if supervisor is not None and supervisor is not threading.current_thread():
            supervisor.join()


def _name_of(func: Any) -> str:
    if func is None:
        return ""
    name = getattr(func, "__qualname__", None)
    return name if isinstance(name, str) else f"{func!r:.80}"


def _failures(ref: weakref.ref[Processes]) -> Callable[..., Any]:
    def failure(job: int, item: int, kind: str, pid: int, exitcode: int | None) -> Any:
        pool = ref()
        if pool is None:
            return TaskCancelled("the pool is gone")
        return pool._failure(job, item, kind, pid, exitcode)

    return failure


def _supervise(ref: weakref.ref[Processes]) -> None:
    # Holds the pool only for the length of a round, so that a pool that nobody has any more can go.
    failures = 0
    while True:
        pool = ref()
        if pool is None:
            return
        try:
            if not pool._supervise_once():
                return
            failures = 0
        except Exception as error:
            # Another thread may have ended the pool under our hands, or a job that was waited for.
            if pool._stopped:
                return
            failures += 1
            if failures == MOST_FAILURES:
                raise
            if "no such job" not in str(error):
                report(error)
        kick = None if pool._eager else pool._kick
        del pool
        if kick is not None:
            kick.wait(LOOK_EVERY)
