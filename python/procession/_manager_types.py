"""The types that SyncManager shares, and their proxies."""

from __future__ import annotations

import array
import time
import types
from typing import TYPE_CHECKING, Any

from ._manager_proxy import BaseProxy, MakeProxyType

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


class Namespace:
    """Something to set attributes on."""

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    def __repr__(self) -> str:
        items = sorted(f"{name}={value!r}" for name, value in vars(self).items() if name[:1] != "_")
        return f"{type(self).__name__}({', '.join(items)})"


class Value:
    """A value; in a manager there is no need for a lock around it."""

    def __init__(self, typecode: str, value: Any, lock: object = True) -> None:
        self._typecode = typecode
        self._value = value

    def get(self) -> Any:
        """The value."""
        return self._value

    def set(self, value: Any) -> None:
        """Replace the value."""
        self._value = value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._typecode!r}, {self._value!r})"

    value = property(get, set)  # noqa: A003


def Array(typecode: str, sequence: Any, lock: object = True) -> array.array[Any]:
    """An array of numbers."""
    return array.array(typecode, sequence)


class IteratorProxy(BaseProxy):
    """An iterator, or a generator, in the server."""

    _exposed_ = ("__next__", "send", "throw", "close")

    def __iter__(self) -> IteratorProxy:
        return self

    def __next__(self, *args: Any) -> Any:
        return self._callmethod("__next__", args)

    def send(self, *args: Any) -> Any:
        """Resume the generator with a value."""
        return self._callmethod("send", args)

    def throw(self, *args: Any) -> Any:
        """Raise an exception in the generator."""
        return self._callmethod("throw", args)

    def close(self, *args: Any) -> Any:
        """End the generator."""
        return self._callmethod("close", args)


class AcquirerProxy(BaseProxy):
    """A lock or a semaphore."""

    _exposed_: tuple[str, ...] = ("acquire", "release")

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> Any:
        """Acquire it; False if it could not be had, or not in time."""
        args = (blocking,) if timeout is None else (blocking, timeout)
        return self._callmethod("acquire", args)

    def release(self) -> Any:
        """Release it."""
        return self._callmethod("release")

    def __enter__(self) -> Any:
        return self._callmethod("acquire")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> Any:
        return self._callmethod("release")


class ConditionProxy(AcquirerProxy):
    """A condition variable."""

    _exposed_ = ("acquire", "release", "wait", "notify", "notify_all")

    def wait(self, timeout: float | None = None) -> Any:
        """Wait to be notified; False if the time ran out."""
        return self._callmethod("wait", (timeout,))

    def notify(self, n: int = 1) -> Any:
        """Wake up to `n` of those who wait."""
        return self._callmethod("notify", (n,))

    def notify_all(self) -> Any:
        """Wake all who wait."""
        return self._callmethod("notify_all")

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until `predicate()` is true, and return what it returned last."""
        deadline = None if timeout is None else time.monotonic() + timeout
        result = predicate()
        while not result:
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                break
            self.wait(remaining)
            result = predicate()
        return result


class EventProxy(BaseProxy):
    """An event."""

    _exposed_ = ("is_set", "set", "clear", "wait")

    def is_set(self) -> Any:
        """Whether the event has happened."""
        return self._callmethod("is_set")

    def set(self) -> Any:
        """Let the event happen."""
        return self._callmethod("set")

    def clear(self) -> Any:
        """Let it not have happened."""
        return self._callmethod("clear")

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until it has happened; False if the time ran out."""
        return self._callmethod("wait", (timeout,))


class BarrierProxy(BaseProxy):
    """A barrier."""

    _exposed_ = ("__getattribute__", "wait", "abort", "reset")

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the other parties; the number of this one's place among them."""
        return self._callmethod("wait", (timeout,))

    def abort(self) -> Any:
        """Break the barrier."""
        return self._callmethod("abort")

    def reset(self) -> Any:
        """Make the barrier as new; those who wait get BrokenBarrierError."""
        return self._callmethod("reset")

    @property
    def parties(self) -> Any:
        """How many have to come."""
        return self._callmethod("__getattribute__", ("parties",))

    @property
    def n_waiting(self) -> Any:
        """How many wait."""
        return self._callmethod("__getattribute__", ("n_waiting",))

    @property
    def broken(self) -> Any:
        """Whether it is broken."""
        return self._callmethod("__getattribute__", ("broken",))


class NamespaceProxy(BaseProxy):
    """A namespace: attributes are the server's, but for those that begin with an underscore."""

    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__")

    def __getattr__(self, key: str) -> Any:
        if key[:1] == "_":
            return object.__getattribute__(self, key)
        local = object.__getattribute__(self, "_local")
        if local is not None:
            return local.read_attribute(key)
        return object.__getattribute__(self, "_callmethod")("__getattribute__", (key,))

    def __setattr__(self, key: str, value: Any) -> None:
        if key[:1] == "_":
            object.__setattr__(self, key, value)
        elif self._local is not None:
            self._local[key] = value
        else:
            object.__getattribute__(self, "_callmethod")("__setattr__", (key, value))

    def __delattr__(self, key: str) -> None:
        if key[:1] == "_":
            object.__delattr__(self, key)
        else:
            object.__getattribute__(self, "_callmethod")("__delattr__", (key,))


class ValueProxy(BaseProxy):
    """A value."""

    _exposed_ = ("get", "set")

    def get(self) -> Any:
        """The value."""
        local = self._local
        return self._callmethod("get") if local is None else local._get(0)

    def set(self, value: Any) -> Any:
        """Replace the value."""
        local = self._local
        return self._callmethod("set", (value,)) if local is None else local._set(0, value)

    value = property(get, set)  # noqa: A003

    __class_getitem__: Any = classmethod(types.GenericAlias)


BaseListProxy: Any = MakeProxyType(
    "BaseListProxy",
    [
        "__add__",
        "__contains__",
        "__delitem__",
        "__getitem__",
        "__imul__",
        "__len__",
        "__mul__",
        "__reversed__",
        "__rmul__",
        "__setitem__",
        "append",
        "clear",
        "copy",
        "count",
        "extend",
        "index",
        "insert",
        "pop",
        "remove",
        "reverse",
        "sort",
    ],
)


class ListProxy(BaseListProxy):  # type: ignore[misc]
    """A list."""

    def __getitem__(self, index: Any) -> Any:
        local = self._local
        return self._callmethod("__getitem__", (index,)) if local is None else local[index]

    def __setitem__(self, index: Any, value: Any) -> Any:
        local = self._local
        if local is None:
            self._callmethod("__setitem__", (index, value))
        else:
            local[index] = value

    def __len__(self) -> Any:
        local = self._local
        return self._callmethod("__len__") if local is None else len(local)

    def append(self, value: Any) -> Any:
        """Add a value at the end."""
        local = self._local
        return self._callmethod("append", (value,)) if local is None else local.append(value)

    def __iadd__(self, value: Any) -> ListProxy:
        self._callmethod("extend", (value,))
        return self

    def __imul__(self, value: int) -> ListProxy:
        self._callmethod("__imul__", (value,))
        return self

    __class_getitem__: Any = classmethod(types.GenericAlias)


_BaseDictProxy: Any = MakeProxyType(
    "_BaseDictProxy",
    [
        "__contains__",
        "__delitem__",
        "__getitem__",
        "__ior__",
        "__iter__",
        "__len__",
        "__or__",
        "__reversed__",
        "__ror__",
        "__setitem__",
        "clear",
        "copy",
        "fromkeys",
        "get",
        "items",
        "keys",
        "pop",
        "popitem",
        "setdefault",
        "update",
        "values",
    ],
)
_BaseDictProxy._method_to_typeid_ = {"__iter__": "Iterator", "__reversed__": "Iterator"}


class DictProxy(_BaseDictProxy):  # type: ignore[misc]
    """A dict."""

    def __getitem__(self, key: Any) -> Any:
        local = self._local
        return self._callmethod("__getitem__", (key,)) if local is None else local[key]

    def __setitem__(self, key: Any, value: Any) -> Any:
        local = self._local
        if local is None:
            self._callmethod("__setitem__", (key, value))
        else:
            local[key] = value

    def __contains__(self, key: Any) -> Any:
        local = self._local
        return self._callmethod("__contains__", (key,)) if local is None else key in local

    def __len__(self) -> Any:
        local = self._local
        return self._callmethod("__len__") if local is None else len(local)

    def get(self, *args: Any) -> Any:
        """The value of a key, or a default."""
        local = self._local
        return self._callmethod("get", args) if local is None else local.get(*args)

    def __ior__(self, value: Any) -> DictProxy:
        self._callmethod("update", (value,))
        return self

    __class_getitem__: Any = classmethod(types.GenericAlias)


_BaseSetProxy: Any = MakeProxyType(
    "_BaseSetProxy",
    [
        "__and__",
        "__contains__",
        "__eq__",
        "__ge__",
        "__gt__",
        "__iand__",
        "__ior__",
        "__isub__",
        "__iter__",
        "__ixor__",
        "__le__",
        "__len__",
        "__lt__",
        "__or__",
        "__rand__",
        "__ror__",
        "__rsub__",
        "__rxor__",
        "__sub__",
        "__xor__",
        "add",
        "clear",
        "copy",
        "difference",
        "difference_update",
        "discard",
        "intersection",
        "intersection_update",
        "isdisjoint",
        "issubset",
        "issuperset",
        "pop",
        "remove",
        "symmetric_difference",
        "symmetric_difference_update",
        "union",
        "update",
    ],
)
_BaseSetProxy._method_to_typeid_ = {"__iter__": "Iterator"}


class SetProxy(_BaseSetProxy):  # type: ignore[misc]
    """A set."""

    __hash__ = BaseProxy.__hash__

    def __ior__(self, value: Any) -> SetProxy:
        self._callmethod("update", (value,))
        return self

    def __iand__(self, value: Any) -> SetProxy:
        self._callmethod("intersection_update", (value,))
        return self

    def __ixor__(self, value: Any) -> SetProxy:
        self._callmethod("symmetric_difference_update", (value,))
        return self

    def __isub__(self, value: Any) -> SetProxy:
        self._callmethod("difference_update", (value,))
        return self

    __class_getitem__: Any = classmethod(types.GenericAlias)


BaseArrayProxy: Any = MakeProxyType("ArrayProxy", ("__len__", "__getitem__", "__setitem__"))


class ArrayProxy(BaseArrayProxy):  # type: ignore[misc]
    """An array of numbers."""

    def __getitem__(self, index: Any) -> Any:
        local = self._local
        return self._callmethod("__getitem__", (index,)) if local is None else local[index]


BasePoolProxy: Any = MakeProxyType(
    "PoolProxy",
    [
        "apply",
        "apply_async",
        "close",
        "imap",
        "imap_unordered",
        "join",
        "map",
        "map_async",
        "starmap",
        "starmap_async",
        "terminate",
    ],
)
BasePoolProxy._method_to_typeid_ = {
    "apply_async": "AsyncResult",
    "map_async": "AsyncResult",
    "starmap_async": "AsyncResult",
    "imap": "Iterator",
    "imap_unordered": "Iterator",
}


class PoolProxy(BasePoolProxy):  # type: ignore[misc]
    """A pool, whose workers are children of the server."""

    def __enter__(self) -> PoolProxy:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.terminate()
