"""The libraries behind one face, so that the same lines run on each."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from rows import FUTURES, JOBLIB, MP, MPIRE, NO_SPIN, OURS, PEBBLE

Function = Callable[..., Any]


def package(library: str) -> Any:
    """Multiprocessing, or what has its names."""
    return importlib.import_module(OURS if library == NO_SPIN else library)


class Workers(Protocol):
    """A pool, whoever made it."""

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        """All results, in order; `None` is the library's own choice of chunks."""

    def unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        """The results as they come, one item at a time to a worker."""

    def call(self, function: Function, argument: Any) -> Any:
        """One task, there and back."""

    def end(self) -> None:
        """Let the workers end and wait for them."""


class _Pool:
    def __init__(self, library: str, workers: int, method: str) -> None:
        self.pool = package(library).get_context(method).Pool(workers)

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        return list(self.pool.map(function, items, chunksize))

    def unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        return iter(self.pool.imap_unordered(function, items))

    def call(self, function: Function, argument: Any) -> Any:
        return self.pool.apply_async(function, (argument,)).get()

    def end(self) -> None:
        self.pool.close()
        self.pool.join()


class _Futures:
    def __init__(self, workers: int, method: str) -> None:
        import concurrent.futures as futures

        context = package(MP).get_context(method)
        self.completed = futures.as_completed
        self.pool = futures.ProcessPoolExecutor(workers, mp_context=context)

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        return list(self.pool.map(function, items, chunksize=chunksize or 1))

    def unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        for done in self.completed([self.pool.submit(function, item) for item in items]):
            yield done.result()

    def call(self, function: Function, argument: Any) -> Any:
        return self.pool.submit(function, argument).result()

    def end(self) -> None:
        self.pool.shutdown()


class _Joblib:
    """Maps are joblib's; single tasks go to the executor of loky that joblib uses."""

    def __init__(self, workers: int, _method: str) -> None:
        import joblib
        import loky

        self.workers, self.joblib = workers, joblib
        self.executor = loky.get_reusable_executor(max_workers=workers)

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        delayed = self.joblib.delayed(function)
        parallel = self.joblib.Parallel(self.workers, batch_size=chunksize or "auto")
        return list(parallel(delayed(item) for item in items))

    def unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        delayed = self.joblib.delayed(function)
        parallel = self.joblib.Parallel(self.workers, batch_size=1, return_as="generator_unordered")
        return iter(parallel(delayed(item) for item in items))

    def call(self, function: Function, argument: Any) -> Any:
        return self.executor.submit(function, argument).result()

    def end(self) -> None:
        self.executor.shutdown()


class _Mpire:
    def __init__(self, workers: int, method: str) -> None:
        from mpire.pool import WorkerPool

        self.pool = WorkerPool(workers, start_method=method, keep_alive=True)

    @staticmethod
    def _packed(items: Iterable[Any]) -> Sequence[Any]:
        """It takes a tuple for the arguments of a call, so a tuple that is meant goes in one."""
        items = list(items)
        return [(item,) for item in items] if items and isinstance(items[0], tuple) else items

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        found = self.pool.map(
            function,
            self._packed(items),
            chunk_size=chunksize,
            concatenate_numpy_output=False,
        )
        return list(found)

    def unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        return iter(self.pool.imap_unordered(function, self._packed(items), chunk_size=1))

    def call(self, function: Function, argument: Any) -> Any:
        return self.pool.apply_async(function, (argument,)).get()

    def end(self) -> None:
        self.pool.stop_and_join()


class _Pebble:
    def __init__(self, workers: int, method: str) -> None:
        import pebble

        context = package(MP).get_context(method)
        self.pool: Any = pebble.ProcessPool(max_workers=workers, context=context)

    def map(self, function: Function, items: Sequence[Any], chunksize: int | None) -> list[Any]:
        return list(self.pool.map(function, items, chunksize=chunksize or 1).result())

    def unordered(self, function: Function, items: Sequence[Any]) -> Iterator[Any]:
        raise NotImplementedError("pebble has results in order only")

    def call(self, function: Function, argument: Any) -> Any:
        return self.pool.schedule(function, args=(argument,)).result()

    def end(self) -> None:
        self.pool.close()
        self.pool.join()


_MAKERS: dict[str, Callable[[int, str], Workers]] = {
    FUTURES: _Futures,
    JOBLIB: _Joblib,
    MPIRE: _Mpire,
    PEBBLE: _Pebble,
}


def workers_of(library: str, workers: int = 2, method: str = "fork") -> Workers:
    """A pool of that library. joblib has a start method of its own."""
    if maker := _MAKERS.get(library):
        return maker(workers, method)
    return _Pool(library, workers, method)
