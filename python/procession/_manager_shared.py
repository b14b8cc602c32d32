"""What the managers of this session share without asking their server: dicts, lists and their kin.

Their contents stand in the session's memory (`_native.DictCore` and `ListCore`).  The server makes
them and keeps them, as it does with other objects; a proxy in a process of the same session works
on the memory itself, any other asks the server, which works on the same memory.

The identity of an object in its server says where the object stands, for those who are of its
session: ``<number>@<kind>.<index>.<generation>``.  Objects that live in the server alone have an
anchor: a piece of shared memory that proxies hold, and proxies inside of shared containers too, so
that the server sees that the object is referred to without being told.
"""

from __future__ import annotations

import array
import itertools
from typing import TYPE_CHECKING, Any, ClassVar

from . import _native
from ._manager_types import Namespace, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Shared:
    """An object whose contents stand in the session's memory."""

    __slots__ = ()
    kind: ClassVar[str]
    # What proxies call: by the name that is called, the name of the method here.
    methods: ClassVar[dict[str, str]]

    if TYPE_CHECKING:

        def handle(self) -> tuple[int, int]: ...
        def value(self) -> Any:
            """A copy of the object, as it would be without a manager."""

    def find(self, name: str) -> Callable[..., Any] | None:
        """The method that proxies call by this name."""
        method = self.methods.get(name)
        return None if method is None else getattr(self, method)

    def place(self) -> str:
        """Where the object stands, for others of the session."""
        return "{}.{:x}.{:x}".format(self.kind, *self.handle())

    def plain_repr(self) -> str:
        """The repr of the copy."""
        return repr(self.value())


# How often a list may change under a computation before others are asked to wait.
_ATTEMPTS = 8

_COMMON = {"#GETVALUE": "value", "__repr__": "plain_repr", "__str__": "plain_repr"}


def _methods(*names: str, **renamed: str) -> dict[str, str]:
    return {**_COMMON, **{name: name for name in names}, **renamed}


class SharedDict(_native.DictCore, Shared):
    """A dict."""

    kind = "dict"
    methods = _methods(
        *("__contains__", "__delitem__", "__getitem__", "__ior__", "__iter__", "__len__"),
        *("__or__", "__reversed__", "__ror__", "__setitem__", "clear", "copy", "fromkeys"),
        *("get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"),
    )

    def __init__(self, *args: Any, **kwds: Any) -> None:
        content = dict(*args, **kwds)
        self._create("dict")
        if content:
            self._update(content)

    def value(self) -> dict[Any, Any]:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.copy(),)

    def __repr__(self) -> str:
        return repr(self.copy())

    def update(self, *args: Any, **kwds: Any) -> None:
        """Set keys; others see all of it or nothing."""
        new: dict[Any, Any] = {}
        new.update(*args, **kwds)
        if new:
            self._update(new)

    def __iter__(self) -> Iterator[Any]:
        return self._walk(self.keys())

    def __reversed__(self) -> Iterator[Any]:
        return self._walk(self.keys()[::-1])

    def _walk(self, keys: list[Any]) -> Iterator[Any]:
        for key in keys:
            self._expect(len(keys))
            yield key
        self._expect(len(keys))

    def _expect(self, length: int) -> None:
        if len(self) != length:
            raise RuntimeError("dictionary changed size during iteration")

    def __or__(self, other: Any) -> Any:
        return dict.__or__(self.copy(), other)

    def __ror__(self, other: Any) -> Any:
        return dict.__ror__(self.copy(), other)

    def __ior__(self, other: Any) -> Any:
        # What a proxy gets is a copy.
        self.update(other)
        return self.copy()

    @staticmethod
    def fromkeys(iterable: Any, value: Any = None) -> dict[Any, Any]:
        """A dict, which is not shared."""
        return dict.fromkeys(iterable, value)


class SharedList(_native.ListCore, Shared):
    """A list."""

    kind = "list"
    methods = _methods(
        *("__add__", "__contains__", "__delitem__", "__getitem__", "__imul__", "__len__"),
        *("__mul__", "__reversed__", "__rmul__", "__setitem__", "append", "clear", "copy"),
        *("count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"),
    )

    def __init__(self, iterable: Any = (), /) -> None:
        self._create("list")
        self.extend(iterable)

    def value(self) -> list[Any]:
        return self._snapshot()[0]

    copy = value

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self.value(),)

    def __repr__(self) -> str:
        return repr(self.value())

    __getitem__ = _native.ListCore._get

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(index, slice):
            self._set(index, value)
            return
        assigned = list(value)

        def assign(values: list[Any], order: list[int], new: list[Any]) -> None:
            new += assigned
            order[index] = range(-1, -1 - len(new), -1)

        self._change(assign)

    def __delitem__(self, index: Any) -> None:
        if isinstance(index, slice):
            self._change(lambda values, order, new: order.__delitem__(index))
            return
        try:
            self.pop(index)
        except IndexError:
            raise IndexError("list assignment index out of range") from None

    def _change(self, edit: Callable[[list[Any], list[int], list[Any]], None]) -> None:
        """Replace the list by what `edit(values, order, new)` makes of the order of its values.

        `order` is 0, 1, 2, ...; -1, -2, ... in it are values that `edit` adds to `new`.  This runs
        any code, so nobody is kept out meanwhile: if the list has changed, it runs again.  If that
        goes on and on, others are asked to wait with their changes.
        """
        has_asked = False
        try:
            for attempt in itertools.count():
                values, version = self._snapshot()
                order = list(range(len(values)))
                new: list[Any] = []
                edit(values, order, new)
                if self._replace(version, order, new):
                    return
                if attempt == _ATTEMPTS:
                    self._ask_for_turn()
                    has_asked = True
        finally:
            if has_asked:
                self._end_turn()

    def clear(self) -> None:
        """Remove all values."""
        self._change(lambda values, order, new: order.clear())

    def remove(self, value: Any) -> None:
        """Remove the first value that is equal to this one."""

        def cut(values: list[Any], order: list[int], new: list[Any]) -> None:
            try:
                del order[values.index(value)]
            except ValueError:
                raise ValueError("list.remove(x): x not in list") from None

        self._change(cut)

    def reverse(self) -> None:
        """Reverse the order."""
        self._change(lambda values, order, new: order.reverse())

    def sort(self, *, key: Any = None, reverse: Any = False) -> None:
        """Sort the values; `key` is called in this process."""

        def arrange(values: list[Any], order: list[int], new: list[Any]) -> None:
            keys = values if key is None else [key(value) for value in values]
            order.sort(key=keys.__getitem__, reverse=reverse)

        self._change(arrange)

    def __imul__(self, count: Any) -> Any:
        def repeat(values: list[Any], order: list[int], new: list[Any]) -> None:
            product = values * count
            # What it becomes, less what it is: values of their own.
            new += product[len(values) :]
            if not product:
                order.clear()
            order.extend(range(-1, -1 - len(new), -1))

        self._change(repeat)
        return self.value()

    def __contains__(self, value: Any) -> bool:
        return value in self.value()

    def count(self, value: Any) -> int:
        """How many values are equal to this one."""
        return self.value().count(value)

    def index(self, value: Any, *span: Any) -> int:
        """The index of the first value that is equal to this one."""
        return self.value().index(value, *span)

    def __add__(self, other: Any) -> Any:
        return self.value().__add__(other)

    def __mul__(self, count: Any) -> Any:
        return self.value().__mul__(count)

    __rmul__ = __mul__

    def __reversed__(self) -> Any:
        return reversed(self.value())


class SharedNamespace(_native.DictCore, Shared):
    """A namespace: its attributes are the keys of a dict."""

    kind = "namespace"
    methods = _methods(
        __getattribute__="read_attribute",
        __setattr__="write_attribute",
        __delattr__="delete_attribute",
    )

    def __init__(self, /, **kwds: Any) -> None:
        self._create("Namespace")
        if kwds:
            self._update(kwds)

    def value(self) -> Namespace:
        return Namespace(**self.copy())

    def __reduce__(self) -> tuple[Any, ...]:
        return _namespace, (self.copy(),)

    def __repr__(self) -> str:
        return repr(self.value())

    def read_attribute(self, name: str) -> Any:
        """The value of an attribute."""
        try:
            return self[name]
        except KeyError:
            # `__dict__`, a method of `object`, or nothing.
            return getattr(self.value(), name)

    write_attribute = _native.DictCore.__setitem__

    def delete_attribute(self, name: str) -> None:
        """Delete an attribute."""
        try:
            del self[name]
        except KeyError:
            delattr(Namespace(), name)


def _namespace(attributes: dict[str, Any]) -> Namespace:
    return Namespace(**attributes)


class _Typed(_native.ListCore, Shared):
    """A list of values of a type, whose code is not in the memory but in the object's name."""

    typecode: str

    def place(self) -> str:
        return f"{super().place()}.{self.typecode}"


class SharedValue(_Typed):
    """A value."""

    kind = "value"
    methods = _methods("get", "set")

    def __init__(self, typecode: Any, value: Any, lock: object = True) -> None:
        self.typecode = typecode
        self._create("Value")
        self.append(value)

    def get(self) -> Any:
        """The value."""
        return self._get(0)

    def set(self, value: Any) -> None:
        """Replace the value."""
        self._set(0, value)

    def value(self) -> Value:
        return Value(self.typecode, self._get(0))

    def __reduce__(self) -> tuple[Any, ...]:
        return Value, (self.typecode, self._get(0))

    def __repr__(self) -> str:
        return repr(self.value())


class SharedArray(_Typed):
    """An array of numbers."""

    kind = "array"
    methods = _methods("__len__", "__getitem__", "__setitem__")

    def __init__(self, typecode: str, sequence: Any, lock: object = True) -> None:
        numbers = array.array(typecode, sequence)
        self.typecode = typecode
        self._create("Array")
        self.extend(numbers)

    def value(self) -> array.array[Any]:
        return array.array(self.typecode, self._snapshot()[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return array.array, (self.typecode, self._snapshot()[0])

    def __repr__(self) -> str:
        return repr(self.value())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.value()[index]
        try:
            return self._get(index)
        except IndexError:
            raise IndexError("array index out of range") from None

    def __setitem__(self, index: Any, value: Any) -> None:
        if not isinstance(index, slice):
            number = array.array(self.typecode, (value,))[0]
            try:
                self._set(index, number)
            except IndexError:
                raise IndexError("array assignment index out of range") from None
            return
        while True:
            values, version = self._snapshot()
            numbers = array.array(self.typecode, values)
            numbers[index] = value
            if self._replace(version, range(-1, -1 - len(numbers), -1), numbers):
                return


_KINDS: dict[str, Any] = {
    kind.kind: kind for kind in (SharedDict, SharedList, SharedNamespace, SharedValue, SharedArray)
}
_ANCHOR = "anchor"


def name_for(obj: Any, exposed: Any) -> tuple[str, Any]:
    """The identity of an object in its server, and what keeps its place."""
    number = f"{id(obj):x}"
    if isinstance(obj, Shared) and obj.methods.keys() - _COMMON.keys() <= set(exposed):
        return f"{number}@{obj.place()}", obj
    anchor = _native.BlockBuffer(8)
    return "{}@{}.{:x}.{:x}".format(number, _ANCHOR, *anchor.handle()), anchor


def attach(ident: str) -> tuple[Shared | None, Any]:
    """For one of the session: the object itself, if it is shared, and what keeps it alive."""
    kind, _, place = ident.partition("@")[2].partition(".")
    if not kind:
        return None, None
    index, generation, *typecode = place.split(".", 2)
    try:
        if kind == _ANCHOR:
            return None, _native.BlockBuffer.from_handle(int(index, 16), int(generation, 16))
        shared = _KINDS[kind].from_handle(int(index, 16), int(generation, 16))
    except (OSError, KeyError, RuntimeError):
        # Of another session, or gone.
        return None, None
    if typecode:
        shared.typecode = typecode[0]
    return shared, shared


def _references(ident: str) -> tuple[int, int]:
    place = ident.partition("@")[2].split(".", 3)
    if len(place) < 3:
        return 0, 0
    return _native.references(int(place[1], 16), int(place[2], 16))


def is_referred_to(ident: str) -> bool:
    """Does a process other than this one, or a shared container, refer to the object?"""
    return _references(ident)[0] > 1


def is_held_elsewhere(ident: str) -> bool:
    """Does a process other than this one have a proxy of the object?"""
    return _references(ident)[1] > 0
