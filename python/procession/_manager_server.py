"""The server of a manager: it keeps the objects, and calls their methods for the proxies.

Each connection has a thread of its own.  An object lives as long as somebody refers to it:

- `id_to_refcount` counts the proxies of other processes;
- a proxy that arrived here inside of something (a managed list that is an item of another one) is
  counted apart, by `id_to_local_proxy_obj`, and does not talk to the server by connections;
- an object of which nobody is counted any more may still have proxies in this session, or inside of
  shared containers: these hold its place in the session (see `_manager_shared`), and `id_to_held`
  keeps it until a look at that shows that nobody does;
- an answer that is on its way keeps what it refers to until the next request to an object comes
  over the same connection: by then the client has unpickled it, and has registered the
  references that it got.

`mutex` guards these tables.  No object is made, used or dropped while it is held: all that can run
code which comes back here.
"""

from __future__ import annotations

import collections
import sys
import threading
import weakref
from traceback import format_exc
from typing import TYPE_CHECKING, Any

from . import process, util
from ._connection_auth import answer_challenge, deliver_challenge
from ._manager_protocol import (
    SERVES_CONTROL,
    Registry,
    Token,
    listener_client,
    recv_with_key,
)
from ._manager_shared import Shared, is_held_elsewhere, is_referred_to, name_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._manager_protocol import Channel

    Entry = tuple[Any, Any, Any]


def all_methods(obj: object) -> list[str]:
    """The names of all methods of an object."""
    return [name for name in dir(obj) if callable(getattr(obj, name))]


def public_methods(obj: object) -> list[str]:
    """The names of the methods of an object that don't begin with an underscore."""
    return [name for name in all_methods(obj) if name[0] != "_"]


class Server:
    """Keeps objects and serves them at an address."""

    public = [
        "shutdown",
        "create",
        "accept_connection",
        "get_methods",
        "debug_info",
        "number_of_objects",
        "dummy",
        "incref",
        "decref",
    ]

    def __init__(self, registry: Registry, address: Any, authkey: bytes, serializer: str) -> None:
        if not isinstance(authkey, bytes):
            raise TypeError(f"Authkey {authkey!r} is type {type(authkey)!s}, not bytes")
        self.registry = registry
        self.authkey = process.AuthenticationString(authkey)
        listener_type = listener_client[serializer][0]
        # Without the key: clients are authenticated by their own threads, where a slow one or one
        # that does not know the key keeps nobody waiting.
        self.listener = listener_type(address=address, backlog=128)
        self.address = self.listener.address
        self.id_to_obj: dict[str, Entry] = {"0": (None, (), None)}
        self.id_to_refcount: dict[str, int] = {}
        self.id_to_local_proxy_obj: dict[str, Entry] = {}
        self.id_to_held: dict[str, Entry] = {}
        # What keeps the place of each object.
        self._anchors: dict[str, Any] = {}
        self._local_proxies: collections.Counter[str] = collections.Counter()
        # Filled by finalizers, which run at any point of any thread and can't take the mutex.
        self._dropped_proxies: collections.deque[str] = collections.deque()
        self.mutex = threading.Lock()
        self.stop_event = threading.Event()

    def serve_forever(self) -> None:
        """Serve until a client asks for the shutdown, then end the process."""
        this_process: Any = process.current_process()
        this_process._manager_server = self
        try:
            threading.Thread(target=self.accepter, daemon=True).start()
            self._wait_for_stop()
        except (KeyboardInterrupt, SystemExit):
            pass
        finally:
            self.stop_event.set()
            if sys.stdout is not sys.__stdout__:
                util.debug("resetting stdout, stderr")
                sys.stdout = sys.__stdout__
                sys.stderr = sys.__stderr__
            sys.exit(0)

    def _wait_for_stop(self) -> None:
        parent = process.parent_process()
        while not self.stop_event.wait(1.0):
            self._forget_dropped()
            if parent is not None and not parent.is_alive():
                util.info("the parent of the manager is gone, so the manager ends")
                return

    def accepter(self) -> None:
        """Give each connection that comes a thread.

        Also when the server has stopped, if its process goes on: clients would wait for ever.
        """
        while True:
            try:
                conn = self.listener.accept()
            except OSError as error:
                if self.stop_event.wait(0.05):
                    return
                util.debug("accepting a connection failed: %s", error)
                continue
            threading.Thread(target=self.handle_request, args=(conn,), daemon=True).start()

    def handle_request(self, conn: Channel) -> None:
        """Serve a new connection to its end."""
        try:
            self._handle_request(conn)
        except SystemExit:
            pass
        finally:
            conn.close()

    def _handle_request(self, c: Any) -> None:
        request = None
        try:
            deliver_challenge(c, self.authkey)
            answer_challenge(c, self.authkey)
            request = recv_with_key(c, self.authkey)
            _ident, funcname, args, kwds = request
            if funcname not in self.public:
                raise AssertionError(f"{funcname!r} unrecognized")
            message: tuple[str, Any] = ("#RETURN", getattr(self, funcname)(c, *args, **kwds))
        except Exception:
            message = ("#TRACEBACK", format_exc())
        try:
            c.send(message)
        except Exception as error:
            try:
                c.send(("#TRACEBACK", format_exc()))
            except Exception:
                pass
            util.info("Failure to send message: %r", message)
            util.info(" ... request was %r", request)
            util.info(" ... exception was %r", error)

    def accept_connection(self, c: Channel, name: str) -> None:
        """Keep the connection for requests to objects; the thread takes the client's name."""
        threading.current_thread().name = name
        c.send(("#RETURN", SERVES_CONTROL))
        self.serve_client(c)

    def serve_client(self, conn: Channel) -> None:
        """Answer the requests of one thread of a client until it hangs up."""
        name = threading.current_thread().name
        util.debug("starting server thread to service %r", name)
        # Nobody reads it: it keeps alive what the last answer refers to (see above).
        _leased: tuple[str, Any] | None = None
        while not self.stop_event.is_set():
            try:
                request = recv_with_key(conn, self.authkey)
            except (EOFError, ConnectionError):
                util.debug("got EOF -- exiting thread serving %r", name)
                sys.exit(0)
            except Exception:
                message = ("#TRACEBACK", format_exc())
            else:
                message = self._answer(conn, request)
                if request[0] is not None:
                    _leased = message
                del request
            self._send_answer(conn, message)
            del message
        # Not a return, which would be taken for the answer to a request that came at this moment.
        sys.exit(0)

    def _answer(self, conn: Channel, request: Any) -> tuple[str, Any]:
        methodname = None
        obj: Any = None
        try:
            ident, methodname, args, kwds = request
            if ident is None:
                return self._answer_for_itself(conn, methodname, args, kwds)
            obj, exposed, method_to_typeid = self._find(ident)
            if methodname not in exposed:
                raise AttributeError(
                    f"method {methodname!r} of {type(obj)!r} object is not in exposed={exposed!r}"
                )
            function = self._method(obj, methodname)
        except AttributeError:
            fallback = self.fallback_mapping.get(methodname) if methodname else None
            if fallback is None:
                return "#TRACEBACK", format_exc()
            try:
                return "#RETURN", fallback(self, conn, ident, obj, *args, **kwds)
            except Exception:
                return "#TRACEBACK", format_exc()
        except Exception:
            return "#TRACEBACK", format_exc()
        try:
            result = function(*args, **kwds)
        except Exception as error:
            # Without the frames, which hold the arguments, and can't be sent anyway.
            return "#ERROR", error.with_traceback(None)
        typeid = method_to_typeid and method_to_typeid.get(methodname)
        if not typeid:
            return "#RETURN", result
        try:
            new_ident, new_exposed = self.create(conn, typeid, result)
        except Exception:
            return "#TRACEBACK", format_exc()
        return "#PROXY", (new_exposed, Token(typeid, self.address, new_ident))

    @staticmethod
    def _method(obj: Any, methodname: str) -> Any:
        method = obj.find(methodname) if isinstance(obj, Shared) else None
        return getattr(obj, methodname) if method is None else method

    def _answer_for_itself(
        self, conn: Channel, funcname: str, args: Any, kwds: Any
    ) -> tuple[str, Any]:
        if funcname not in self.public or funcname in ("accept_connection", "shutdown"):
            raise AssertionError(f"{funcname!r} unrecognized")
        return "#RETURN", getattr(self, funcname)(conn, *args, **kwds)

    def _send_answer(self, conn: Channel, message: tuple[str, Any]) -> None:
        try:
            try:
                conn.send(message)
            except OSError:
                raise
            except Exception:
                conn.send(("#UNSERIALIZABLE", format_exc()))
        except Exception as error:
            util.info("exception in thread serving %r", threading.current_thread().name)
            util.info(" ... message was %r", message)
            util.info(" ... exception was %r", error)
            conn.close()
            sys.exit(1)

    def _find(self, ident: str) -> Entry:
        for table in (self.id_to_obj, self.id_to_local_proxy_obj, self.id_to_held):
            entry = table.get(ident)
            if entry is not None:
                return entry
        raise KeyError(ident)

    def fallback_getvalue(self, conn: Channel, ident: str, obj: Any) -> Any:
        """The object itself, pickled."""
        return obj

    def fallback_str(self, conn: Channel, ident: str, obj: Any) -> str:
        """The str of an object."""
        return str(obj)

    def fallback_repr(self, conn: Channel, ident: str, obj: Any) -> str:
        """The repr of an object."""
        return repr(obj)

    # What may be asked of any object, exposed or not.
    fallback_mapping: dict[str, Callable[..., Any]] = {
        "__str__": fallback_str,
        "__repr__": fallback_repr,
        "#GETVALUE": fallback_getvalue,
    }

    def dummy(self, c: Channel) -> None:
        """Do nothing: the client wanted to know whether it may connect."""

    def debug_info(self, c: Channel) -> str:
        """A line or two for each object, to find out why it is still there."""
        self._forget_dropped()
        with self.mutex:
            entries = [
                (ident, count, self.id_to_obj[ident][0])
                for ident, count in sorted(self.id_to_refcount.items())
                if ident != "0"
            ]
        return "\n".join(
            f"  {ident}:       refcount={count}\n    {str(obj)[:75]}"
            for ident, count, obj in entries
        )

    def number_of_objects(self, c: Channel) -> int:
        """How many objects other processes refer to."""
        self._forget_dropped()
        with self.mutex:
            held = sum(map(is_held_elsewhere, self.id_to_held))
            return len(self.id_to_refcount) + held

    def shutdown(self, c: Channel) -> None:
        """End the server."""
        try:
            util.debug("manager received shutdown message")
            c.send(("#RETURN", None))
        except Exception as error:
            util.info("the client that asked for the shutdown is gone: %s", error)
        finally:
            self.stop_event.set()

    def create(self, c: Channel, typeid: str, /, *args: Any, **kwds: Any) -> tuple[str, Any]:
        """Make an object, and count one reference to it; its identity and its methods' names."""
        registered = self.registry[typeid]
        make, exposed, method_to_typeid, _proxytype = registered
        if make is not None:
            obj = make(*args, **kwds)
        elif kwds or len(args) != 1:
            raise ValueError("Without callable, must have one non-keyword argument")
        else:
            obj = args[0]
        if exposed is None:
            exposed = public_methods(obj)
        if method_to_typeid is not None:
            if not isinstance(method_to_typeid, dict):
                raise TypeError(
                    f"Method_to_typeid {method_to_typeid!r}: type {type(method_to_typeid)!s}, "
                    "not dict"
                )
            exposed = list(exposed) + list(method_to_typeid)
        # A string, since an integer of XML-RPC has 32 bits only.
        ident, anchor = name_for(obj, exposed)
        util.debug("%r callable returned object with id %r", typeid, ident)
        self._forget_dropped()
        with self.mutex:
            self._anchors[ident] = anchor
            self.id_to_obj[ident] = (obj, set(exposed), method_to_typeid)
            self.id_to_refcount[ident] = self.id_to_refcount.get(ident, 0) + 1
        return ident, tuple(exposed)

    def get_methods(self, c: Channel, token: Token) -> tuple[str, ...]:
        """The names of an object's methods."""
        return tuple(self._find(token.id)[1])

    def incref(self, c: Channel, ident: str) -> None:
        """Count one more reference of another process."""
        with self.mutex:
            if ident not in self.id_to_refcount:
                # Nobody but another managed object referred to it for a while.
                self.id_to_obj[ident] = self._find(ident)
                self.id_to_held.pop(ident, None)
                util.debug("Server re-enabled tracking & INCREF %r", ident)
            self.id_to_refcount[ident] = self.id_to_refcount.get(ident, 0) + 1

    def decref(self, c: Channel, ident: str) -> None:
        """Count one reference of another process less, and drop the object if it was the last."""
        self._forget_dropped()
        dropped: Entry | None = None
        with self.mutex:
            if ident not in self.id_to_refcount and (
                ident in self.id_to_local_proxy_obj or ident in self.id_to_held
            ):
                util.debug("Server DECREF skipping %r", ident)
                return
            count = self.id_to_refcount[ident]
            if count <= 0:
                raise AssertionError(
                    f"Id {ident!s} ({self.id_to_obj[ident]!r}) has refcount {count:n}, not 1+"
                )
            if count > 1:
                self.id_to_refcount[ident] = count - 1
            else:
                del self.id_to_refcount[ident]
                dropped = self.id_to_obj.pop(ident)
                # Whoever has told us may hold it for a moment yet.
                if is_referred_to(ident):
                    self.id_to_held[ident] = dropped
                    dropped = None
                self._forget_anchor(ident)
        if dropped is not None:
            util.debug("disposing of obj with id %r", ident)
        # It goes here, after the mutex: it may hold proxies, whose ends come back to this table.
        del dropped

    def hold_for_proxy(self, ident: str) -> None:
        """Keep an object for a proxy that is about to live in this process."""
        with self.mutex:
            self.id_to_local_proxy_obj[ident] = self._find(ident)
            self._local_proxies[ident] += 1

    def release_with(self, proxy: object, ident: str) -> None:
        """Undo one `hold_for_proxy` when `proxy` is collected."""
        weakref.finalize(proxy, self._dropped_proxies.append, ident).atexit = False

    def _forget_anchor(self, ident: str) -> None:
        if not any(
            ident in table
            for table in (self.id_to_obj, self.id_to_local_proxy_obj, self.id_to_held)
        ):
            self._anchors.pop(ident, None)

    def _forget_dropped(self) -> None:
        """Drop the objects that only proxies referred to that are not counted, and are gone."""
        # Dropping one object may drop the last proxy of the next.
        while True:
            dropped: list[Entry | None] = []
            with self.mutex:
                while self._dropped_proxies:
                    ident = self._dropped_proxies.popleft()
                    self._local_proxies[ident] -= 1
                    if self._local_proxies[ident] <= 0:
                        del self._local_proxies[ident]
                        entry = self.id_to_local_proxy_obj.pop(ident, None)
                        if entry and ident not in self.id_to_obj and is_referred_to(ident):
                            self.id_to_held[ident] = entry
                        else:
                            dropped.append(entry)
                        self._forget_anchor(ident)
                for ident in [held for held in self.id_to_held if not is_referred_to(held)]:
                    dropped.append(self.id_to_held.pop(ident))
                    self._forget_anchor(ident)
            if not dropped:
                return
