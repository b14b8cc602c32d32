"""Proxies: objects that have a manager's server do everything they are asked to do.

A proxy counts as a reference to its object, and tells the server when it is made and when it goes.
How it reaches the server is the business of `_manager_line`.
"""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

from . import _native, context, process, util
from ._manager_line import Peer
from ._manager_protocol import (
    Token,
    ambient_key,
    ask_server,
    convert_to_error,
    listener_client,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# What stands for an object of a type that a method returned, for proxies that have no manager
# to ask: those which came by unpickling or by fork.
known_proxytypes: dict[str, Any] = {}

_serial = itertools.count()


class ProcessLocalSet(set[Any]):
    """A set that a forked child finds empty."""

    def __init__(self) -> None:
        util.register_after_fork(self, lambda obj: obj.clear())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()


class BaseProxy:
    """Stands for an object in a manager's server; subclasses give it the object's methods."""

    _exposed_: tuple[str, ...]
    _method_to_typeid_: dict[str, str]

    # Of one whose contents stand in this session's memory: what works on that.
    _local: Any = None
    # Of one of this session: what keeps its object, without the server being told.
    _anchor: Any = None

    # By address: the connections of the threads, and the references that this process has.
    _address_to_local: dict[Any, tuple[Any, ProcessLocalSet]] = {}
    _mutex = util.ForkAwareThreadLock()

    def __init__(
        self,
        token: Token,
        serializer: str,
        manager: Any = None,
        authkey: bytes | None = None,
        exposed: Any = None,
        incref: bool = True,
        manager_owned: bool = False,
    ) -> None:
        self._tls, self._idset = local_of(token.address)
        self._token = token
        self._id = token.id
        self._manager = manager
        self._serializer = serializer
        self._Client = listener_client[serializer][1]
        # True in the server itself, for a proxy that is inside of another managed object: the
        # server knows of it, see hold_for_proxy().
        self._owned_by_manager = manager_owned
        self._authkey = _effective_key(authkey, manager)
        self._peer = Peer(self._Client, token.address, self._authkey, self._tls)
        # Imported late: what is shared has the types of `_manager_types`, which have proxies.
        from ._manager_shared import attach

        self._local, self._anchor = attach(token.id)
        if incref:
            self._incref()
        util.register_after_fork(self, BaseProxy._after_fork)

    def _callmethod(self, methodname: str, args: Any = (), kwds: Mapping[str, Any] = {}) -> Any:
        """Call a method of the object in the server; what it returns comes back as a copy."""
        if self._local is not None:
            method = self._local.find(methodname)
            if method is not None:
                return method(*args, **kwds)
        kind, result = self._peer.ask((self._id, methodname, args, kwds), self._token.typeid)
        if kind == "#RETURN":
            return result
        if kind == "#PROXY":
            return self._proxy_of_result(*result)
        try:
            raise convert_to_error(kind, result)
        finally:
            # The exception's traceback refers to this frame: without this there is a cycle.
            del result

    def _proxy_of_result(self, exposed: Any, token: Token) -> Any:
        if self._manager is not None and token.typeid in self._manager._registry:
            proxytype = self._manager._registry[token.typeid][-1]
        else:
            proxytype = known_proxytypes.get(token.typeid, AutoProxy)
        # The server may see itself at another address, such as 0.0.0.0.
        token.address = self._token.address
        return proxy_of_new(
            proxytype,
            token,
            self._peer,
            serializer=self._serializer,
            manager=self._manager,
            exposed=exposed,
        )

    def _getvalue(self) -> Any:
        """A copy of the object."""
        return self._callmethod("#GETVALUE")

    def _incref(self) -> None:
        if self._owned_by_manager:
            util.debug("owned_by_manager skipped INCREF of %r", self._token.id)
            return
        counted = True
        if _adoption.token is self._token:
            # The one reference that the server counted for whoever would come for the object.
            _adoption.token = None
        elif self._anchor is not None:
            # The server looks whether anybody holds it.
            counted = False
        else:
            self._peer.control("incref", self._id)
        util.debug("INCREF %r", self._token.id)
        reference = (self._id, next(_serial))
        self._idset.add(reference)
        self._close = util.Finalize(
            self,
            BaseProxy._decref,
            args=(
                self._token,
                self._peer,
                self._manager and self._manager._state,
                self._idset,
                reference,
                counted,
            ),
            exitpriority=10,
        )

    @staticmethod
    def _decref(
        token: Token,
        peer: Peer,
        state: Any,
        idset: ProcessLocalSet,
        reference: Any,
        counted: bool = True,
    ) -> None:
        idset.discard(reference)
        if not counted:
            util.debug("DECREF %r -- was not counted", token.id)
        elif state is None or state.value == state.STARTED:
            try:
                util.debug("DECREF %r", token.id)
                peer.control("decref", token.id)
            except Exception as error:
                util.debug("... decref failed %s", error)
        else:
            util.debug("DECREF %r -- manager already shutdown", token.id)
        if not idset:
            # This process has nothing there any more.
            peer.hang_up()

    def _after_fork(self) -> None:
        self._manager = None
        # A child of the server is a client like any other.
        self._owned_by_manager = False
        try:
            self._incref()
        except Exception as error:
            # The manager may have shut down long ago.
            util.info("incref failed: %s", error)

    def __reduce__(self) -> tuple[Any, ...]:
        kwds: dict[str, Any] = {}
        if context.get_spawning_popen() is not None:
            kwds["authkey"] = self._authkey
        elif _native.in_transit():
            # Through the session's own memory, to a process of this program.
            kwds["authkey"] = bytes(self._authkey)
            if self._anchor is not None:
                # The message keeps the object.
                self._anchor.handle()
        rebuild: Any = type(self)
        if getattr(self, "_isauto", False):
            kwds["exposed"] = self._exposed_
            rebuild = AutoProxy
        return RebuildProxy, (rebuild, self._token, self._serializer, kwds)

    def __deepcopy__(self, memo: Any) -> Any:
        return self._getvalue()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object, typeid {self._token.typeid!r} at {id(self):#x}>"

    def __str__(self) -> str:
        try:
            return str(self._callmethod("__repr__"))
        except Exception:
            return repr(self)[:-1] + "; '__str__()' failed>"


def local_of(address: Any) -> tuple[Any, ProcessLocalSet]:
    """The lines of this process's threads to a server, and its references to objects there."""
    with BaseProxy._mutex:
        local = BaseProxy._address_to_local.get(address)
        if local is None:
            local = BaseProxy._address_to_local[address] = util.ForkAwareLocal(), ProcessLocalSet()
        return local


class _Adoption(threading.local):
    """The token whose first reference, counted by the server already, a new proxy takes over."""

    token: Token | None = None


_adoption = _Adoption()


def proxy_of_new(
    proxytype: Callable[..., Any],
    token: Token,
    peer: Peer,
    *,
    serializer: str,
    manager: Any,
    exposed: Any,
) -> Any:
    """A proxy of an object that the server has just made for us, and counts a reference of."""
    before, _adoption.token = _adoption.token, token
    try:
        return proxytype(token, serializer, manager=manager, authkey=peer.authkey, exposed=exposed)
    finally:
        adopted, _adoption.token = _adoption.token is None, before
        if not adopted:
            # A proxy type of somebody who counted for himself, or not at all.
            peer.control("decref", token.id)


def _effective_key(authkey: bytes | None, manager: Any) -> bytes:
    if authkey is None:
        if manager is not None:
            authkey = manager._authkey
        else:
            authkey = ambient_key.authkey or process.current_process().authkey
    key: bytes = process.AuthenticationString(authkey)
    return key


def RebuildProxy(
    func: Callable[..., Any], token: Token, serializer: str, kwds: dict[str, Any]
) -> Any:
    """Unpickle a proxy."""
    this_process = process.current_process()
    # A child that is still unpickling its start data does not count its references yet: that is
    # done for all proxies at once, as after a fork.
    incref = kwds.pop("incref", True) and not getattr(this_process, "_inheriting", False)
    server = getattr(this_process, "_manager_server", None)
    if server is None or server.address != token.address:
        return func(token, serializer, incref=incref, **kwds)
    util.debug("Rebuild a proxy owned by manager, token=%r", token)
    kwds["manager_owned"] = True
    server.hold_for_proxy(token.id)
    proxy = func(token, serializer, incref=incref, **kwds)
    server.release_with(proxy, token.id)
    return proxy


def _forwarder(name: str) -> Callable[..., Any]:
    def method(self: BaseProxy, /, *args: Any, **kwds: Any) -> Any:
        return self._callmethod(name, args, kwds)

    method.__name__ = name
    return method


def MakeProxyType(
    name: str,
    exposed: Iterable[str],
    _cache: dict[Any, type[BaseProxy]] = {},  # noqa: B006  (shared by all calls)
) -> type[Any]:
    """A proxy class whose methods are the `exposed` ones."""
    exposed = tuple(exposed)
    try:
        return _cache[name, exposed]
    except KeyError:
        pass
    members: dict[str, Any] = {method: _forwarder(method) for method in exposed}
    members["_exposed_"] = exposed
    proxytype = _cache[name, exposed] = type(name, (BaseProxy,), members)
    return proxytype


def AutoProxy(
    token: Token,
    serializer: str,
    manager: Any = None,
    authkey: bytes | None = None,
    exposed: Any = None,
    incref: bool = True,
    manager_owned: bool = False,
) -> BaseProxy:
    """A proxy with all the public methods of its object."""
    authkey = _effective_key(authkey, manager)
    if exposed is None:
        client = listener_client[serializer][1]
        exposed = ask_server(client, token.address, authkey, "get_methods", token)
    proxytype = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
    proxy: BaseProxy = proxytype(
        token,
        serializer,
        manager=manager,
        authkey=authkey,
        incref=incref,
        manager_owned=manager_owned,
    )
    proxy._isauto = True  # type: ignore[attr-defined]
    return proxy
