# SPDX-License-Identifier: LGPL-2.1-or-later
"""The code that Disk and AsyncDisk share: options, properties, statistics and events."""
from __future__ import annotations

import enum
import os
from typing import NamedTuple, Optional, Union

from . import _core
from ._core import Error

Path = Union[str, bytes, 'os.PathLike[str]', 'os.PathLike[bytes]', None]
Option = Union[str, int, bool, 'os.PathLike[str]']

DEFAULT_CLOSE_TIMEOUT_S = 10.0


def library_version() -> str:
    """Returns the version of the libvublk in use."""
    return _core.version()


class EventKind(enum.IntEnum):
    """The kinds of events: enum vublk_blk_event of <vublk/blk.h>, which explains each kind."""
    RESIZED = _core.RESIZED
    CONFIG_CHANGED = _core.CONFIG_CHANGED
    GAVE_UP = _core.GAVE_UP
    LOST = _core.LOST
    RECONNECTED = _core.RECONNECTED
    WRITES_LOST = _core.WRITES_LOST


KINDS = {int(kind): kind for kind in EventKind}


class Event(NamedTuple):
    """An event of the disk. `error` says why the event occurred; None: nothing is wrong."""
    kind: EventKind
    error: Optional[Error]


class Info(NamedTuple):
    """
    The properties of a disk: struct vublk_blk_info of <vublk/blk.h>. Sizes and limits are in bytes, except
    queue_size, which is in entries.
    """
    size: int
    block_size: int
    physical_block_size: int
    optimal_io_size: int
    max_discard: int
    discard_alignment: int
    max_write_zeroes: int
    read_only: bool
    can_flush: bool
    write_cache: bool
    can_set_write_cache: bool
    write_zeroes_may_unmap: bool
    num_queues: int
    queue_size: int
    features: int


class Statistics(NamedTuple):
    """
    Counters of requests since the disk was opened: struct vublk_blk_stats of <vublk/blk.h>.
    `latency[i]` is the number of requests that took 2**i to 2**(i + 1) ns.
    """
    in_flight: int
    reads: int
    writes: int
    flushes: int
    others: int
    errors: int
    read_bytes: int
    written_bytes: int
    latency: tuple[int, ...]


def option_text(value: Option) -> str:
    if isinstance(value, bool):
        return 'on' if value else 'off'
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return str(value)


def core_disk(path: Path, options: dict[str, Option]) -> _core.Disk:
    """Begins to open a disk. The keyword reconnect_ms=100 stands for the option reconnect-ms."""
    words: list[str] = []
    for name, value in options.items():
        words += [name.replace('_', '-'), option_text(value)]
    return _core.Disk(None if path is None else os.fsencode(path), tuple(words))


def view_of(memory: _core._ReadOnly) -> memoryview:
    """Returns the bytes of any buffer."""
    return (memory.view() if isinstance(memory, _core.Buffer) else memoryview(memory)).cast('B')


def flags_of(fua: bool, no_unmap: bool = False) -> int:
    return (_core.FUA if fua else 0) | (_core.NO_UNMAP if no_unmap else 0)


class Common:
    """The members of Disk and AsyncDisk that never wait."""

    def __init__(self, core: _core.Disk) -> None:
        self._core = core

    @property
    def closed(self) -> bool:
        return self._core.closed

    def info(self) -> Info:
        """Returns the current properties. The event RESIZED reports a change of the size."""
        return Info(**self._core.info())

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.info().size

    @property
    def block_size(self) -> int:
        """Offsets and lengths must be multiples of this number of bytes, except those of pread() and readinto()."""
        return self.info().block_size

    @property
    def read_only(self) -> bool:
        return self.info().read_only

    def statistics(self) -> Statistics:
        """Returns the sum over all queues that were used. Needs the option statistics=True."""
        queues = self._core.statistics()
        latency = tuple(map(sum, zip(*(queue['latency'] for queue in queues))))
        return Statistics(sum(queue['in_flight'] for queue in queues), sum(queue['reads'] for queue in queues),
                          sum(queue['writes'] for queue in queues), sum(queue['flushes'] for queue in queues),
                          sum(queue['others'] for queue in queues), sum(queue['errors'] for queue in queues),
                          sum(queue['read_bytes'] for queue in queues),
                          sum(queue['written_bytes'] for queue in queues), latency)

    def next_event(self) -> Optional[Event]:
        """Returns the oldest event that has not been returned yet, or None. Never waits."""
        while (event := self._core.next_event()) is not None:
            if event[0] in KINDS:  # a later library may have further kinds
                return Event(KINDS[event[0]], event[1])
        return None
