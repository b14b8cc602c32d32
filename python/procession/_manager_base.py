"""What all managers do: start a server or connect to one, make objects there, and end it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, TypeVar

from . import connection, context, process, util
from ._manager_line import Peer
from ._manager_protocol import Registration, Token, ask_server, listener_client
from ._manager_proxy import AutoProxy, BaseProxy, known_proxytypes, local_of, proxy_of_new
from ._manager_server import Server
from .context import ProcessError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from ._manager_protocol import Registry

_Self = TypeVar("_Self", bound="BaseManager")


class State:
    """Where a manager is in its life."""

    __slots__ = ["value"]
    INITIAL = 0
    STARTED = 1
    SHUTDOWN = 2

    def __init__(self) -> None:
        self.value = State.INITIAL


class BaseManager:
    """Starts a server, or connects to one, and makes objects there."""

    _registry: Registry = {}
    _Server: type[Server] = Server
    _process: Any = None
    # What its errors call it.
    _noun = "Manager"
    _server_noun = "server"

    shutdown: Callable[[], object]

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: Any = None,
        *,
        shutdown_timeout: float = 1.0,
    ) -> None:
        if authkey is None:
            authkey = process.current_process().authkey
        self._address = address
        self._authkey = process.AuthenticationString(authkey)
        self._state = State()
        self._serializer = serializer
        self._Listener, self._Client = listener_client[serializer]
        self._ctx = ctx or context._default_context.get_context()
        self._shutdown_timeout = shutdown_timeout

    def _require_initial(self) -> None:
        if self._state.value == State.STARTED:
            raise ProcessError(f"Already started {self._server_noun}")
        self._require_not_shut_down()

    def _require_not_shut_down(self) -> None:
        if self._state.value == State.SHUTDOWN:
            raise ProcessError(f"{self._noun} has shut down")
        if self._state.value not in (State.INITIAL, State.STARTED):
            raise ProcessError(f"Unknown state {self._state.value!r}")

    def get_server(self) -> Server:
        """A server for this process to run, with `serve_forever()`."""
        self._require_initial()
        return self._Server(self._registry, self._address, self._authkey, self._serializer)

    def connect(self) -> None:
        """Use the server that runs at the manager's address already."""
        ask_server(self._Client, self._address, self._authkey, "dummy")
        self._state.value = State.STARTED

    def start(
        self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()
    ) -> None:
        """Start a process with a server; `initializer(*initargs)` is called there first."""
        self._require_initial()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        reader, writer = connection.Pipe(duplex=False)
        server_process = self._ctx.Process(
            target=type(self)._run_server,
            args=(
                self._registry,
                self._address,
                self._authkey,
                self._serializer,
                writer,
                initializer,
                initargs,
            ),
        )
        number = ":".join(map(str, server_process._identity))
        server_process.name = f"{type(self).__name__}-{number}"
        server_process._role = "manager"
        self._process = server_process
        server_process.start()
        writer.close()
        try:
            self._address = reader.recv()
        except EOFError as error:
            server_process.join()
            error.add_note(
                f"the process of the manager ended (exit code {server_process.exitcode}) "
                "before it served; its own error is above"
            )
            raise
        finally:
            reader.close()
        self._state.value = State.STARTED
        self.shutdown = util.Finalize(
            self,
            type(self)._finalize_manager,
            args=(
                server_process,
                self._address,
                self._authkey,
                self._state,
                self._Client,
                self._shutdown_timeout,
            ),
            exitpriority=0,
        )

    @classmethod
    def _run_server(
        cls,
        registry: Registry,
        address: Any,
        authkey: bytes,
        serializer: str,
        writer: Any,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        """Serve, in a process of its own; the address is sent through `writer`."""
        # Ctrl-C is for the program: its clean-up may still need the server, and ends it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if initializer is not None:
            initializer(*initargs)
        server = cls._Server(registry, address, authkey, serializer)
        writer.send(server.address)
        writer.close()
        util.info("manager serving at %r", server.address)
        server.serve_forever()

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> tuple[Token, Any]:
        """Make an object in the server: its token, and the names of its methods."""
        assert self._state.value == State.STARTED, "server not yet started"
        ident, exposed = self._peer().control("create", typeid, *args, **kwds)
        return Token(typeid, self._address, ident), exposed

    def _peer(self) -> Peer:
        return Peer(self._Client, self._address, self._authkey, local_of(self._address)[0])

    def join(self, timeout: float | None = None) -> None:
        """Wait for the process of the server to end."""
        if self._process is not None:
            self._process.join(timeout)
            if not self._process.is_alive():
                self._process = None

    def _debug_info(self) -> str:
        """A line or two for each object of the server."""
        return str(ask_server(self._Client, self._address, self._authkey, "debug_info"))

    def _number_of_objects(self) -> int:
        """How many objects of the server are referred to."""
        return int(ask_server(self._Client, self._address, self._authkey, "number_of_objects"))

    def __enter__(self: _Self) -> _Self:
        if self._state.value == State.INITIAL:
            self.start()
        self._require_not_shut_down()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.shutdown()

    @staticmethod
    def _finalize_manager(
        process: Any,
        address: Any,
        authkey: bytes,
        state: State,
        _Client: Any,
        shutdown_timeout: float,
    ) -> None:
        """End the server: ask it, then terminate its process, then kill it."""
        if process.is_alive():
            util.info("sending shutdown message to manager")
            try:
                ask_server(_Client, address, authkey, "shutdown")
            except Exception as error:
                util.info("the manager does not take it: %s", error)
            process.join(timeout=shutdown_timeout)
            if process.is_alive():
                util.info("manager still alive, trying to `terminate()` it")
                process.terminate()
                process.join(timeout=shutdown_timeout)
                if process.is_alive():
                    util.info("manager still alive after terminate")
                    process.kill()
                    process.join()
        state.value = State.SHUTDOWN
        BaseProxy._address_to_local.pop(address, None)

    @property
    def address(self) -> Any:
        """Where the server is."""
        return self._address

    @classmethod
    def register(
        cls,
        typeid: str,
        callable: Callable[..., Any] | None = None,
        proxytype: Any = None,
        exposed: Any = None,
        method_to_typeid: dict[str, str] | None = None,
        create_method: bool = True,
    ) -> None:
        """Let managers of this class make objects of a type, by a method called `typeid`."""
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        if proxytype is None:
            proxytype = AutoProxy
        exposed = exposed or getattr(proxytype, "_exposed_", None)
        method_to_typeid = method_to_typeid or getattr(proxytype, "_method_to_typeid_", None)
        for pair in (method_to_typeid or {}).items():
            for name in pair:
                assert type(name) is str, f"{name!r} is not a string"
        cls._registry[typeid] = Registration(callable, exposed, method_to_typeid, proxytype)
        known_proxytypes.setdefault(typeid, proxytype)
        if create_method:
            setattr(cls, typeid, _creator(typeid, proxytype))


def _creator(typeid: str, proxytype: Any) -> Callable[..., Any]:
    """The method of a manager that makes an object and returns its proxy."""

    def create(self: BaseManager, /, *args: Any, **kwds: Any) -> Any:
        util.debug("requesting creation of a shared %r object", typeid)
        token, exposed = self._create(typeid, *args, **kwds)
        return proxy_of_new(
            proxytype,
            token,
            self._peer(),
            serializer=self._serializer,
            manager=self,
            exposed=exposed,
        )

    create.__name__ = typeid
    return create
