"""Managers: processes that keep objects for others, on this machine or another.

A manager class registers types; its instance starts a server (or connects to one), and has a method
for each type that makes an object there and returns a proxy of it.

`_manager_protocol` says how the parts talk, `_manager_server` keeps the objects, `_manager_proxy`
stands for them, `_manager_base` is what all managers do, `_manager_types` has what SyncManager
shares and `_manager_shared` what of it stands in the session's memory, and `_manager_memory` is the
manager of shared memory; this module ties them together.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

from ._manager_base import BaseManager as BaseManager, State as State
from ._manager_memory import (
    SharedMemoryManager as SharedMemoryManager,
    SharedMemoryServer as SharedMemoryServer,
)
from ._manager_protocol import (
    RemoteError as RemoteError,
    ServerGoneError as ServerGoneError,
    Token as Token,
    convert_to_error as convert_to_error,
    dispatch as dispatch,
    listener_client as listener_client,
    rebuild_as_list as rebuild_as_list,
    reduce_array as reduce_array,
)
from ._manager_proxy import (
    AutoProxy as AutoProxy,
    BaseProxy as BaseProxy,
    MakeProxyType as MakeProxyType,
    ProcessLocalSet as ProcessLocalSet,
    RebuildProxy as RebuildProxy,
)
from ._manager_server import (
    Server as Server,
    all_methods as all_methods,
    public_methods as public_methods,
)
from ._manager_shared import (
    SharedArray,
    SharedDict,
    SharedList,
    SharedNamespace,
    SharedValue,
)
from ._manager_types import (
    AcquirerProxy as AcquirerProxy,
    Array as Array,
    ArrayProxy as ArrayProxy,
    BarrierProxy as BarrierProxy,
    BaseListProxy as BaseListProxy,
    BasePoolProxy as BasePoolProxy,
    ConditionProxy as ConditionProxy,
    DictProxy as DictProxy,
    EventProxy as EventProxy,
    IteratorProxy as IteratorProxy,
    ListProxy as ListProxy,
    Namespace as Namespace,
    NamespaceProxy as NamespaceProxy,
    PoolProxy as PoolProxy,
    SetProxy as SetProxy,
    Value as Value,
    ValueProxy as ValueProxy,
)
from .context import ProcessError as ProcessError

if TYPE_CHECKING:
    from .pool import Pool

__all__ = ["BaseManager", "BaseProxy", "SharedMemoryManager", "SyncManager", "Token"]

HAS_SHMEM = True


def _make_pool(*args: Any, **kwds: Any) -> Pool:
    # Imported where it is used: most managers never have a pool.
    from .pool import Pool

    return Pool(*args, **kwds)


class SyncManager(BaseManager):
    """A manager of lists, dicts, queues, locks and more; `Manager()` starts one of these."""


SyncManager.register("Queue", queue.Queue)
SyncManager.register("JoinableQueue", queue.Queue)
SyncManager.register("Event", threading.Event, EventProxy)
SyncManager.register("Lock", threading.Lock, AcquirerProxy)
SyncManager.register("RLock", threading.RLock, AcquirerProxy)
SyncManager.register("Semaphore", threading.Semaphore, AcquirerProxy)
SyncManager.register("BoundedSemaphore", threading.BoundedSemaphore, AcquirerProxy)
SyncManager.register("Condition", threading.Condition, ConditionProxy)
SyncManager.register("Barrier", threading.Barrier, BarrierProxy)
SyncManager.register("Pool", _make_pool, PoolProxy)
SyncManager.register("list", SharedList, ListProxy)
SyncManager.register("dict", SharedDict, DictProxy)
SyncManager.register("set", set, SetProxy)
SyncManager.register("Value", SharedValue, ValueProxy)
SyncManager.register("Array", SharedArray, ArrayProxy)
SyncManager.register("Namespace", SharedNamespace, NamespaceProxy)
# What methods of the others return.
SyncManager.register("Iterator", proxytype=IteratorProxy, create_method=False)
SyncManager.register("AsyncResult", create_method=False)

# Where a class is looked for, in a pickle or by a reader, is here.
for _member in (
    *(AcquirerProxy, ArrayProxy, BarrierProxy, BaseListProxy, BasePoolProxy, ConditionProxy),
    *(DictProxy, EventProxy, IteratorProxy, ListProxy, NamespaceProxy, PoolProxy, SetProxy),
    *(ValueProxy, BaseProxy, ProcessLocalSet, AutoProxy, MakeProxyType, RebuildProxy),
    *(Array, Namespace, Value, Token, RemoteError, ServerGoneError, Server),
    *(BaseManager, State, SharedMemoryManager, SharedMemoryServer, all_methods, public_methods),
    *(convert_to_error, dispatch, rebuild_as_list, reduce_array),
):
    _member.__module__ = __name__
del _member
