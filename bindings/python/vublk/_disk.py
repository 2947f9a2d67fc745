# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The class Disk, whose calls block, and its queues.

Opening, alloc(), Queue.wait() and Disk.wait_event() sleep in poll(2), which Ctrl-C interrupts. The
other calls that wait do so in the library, without the GIL, and Ctrl-C takes effect when they return.
"""
from __future__ import annotations

import errno
import select
import threading
import time
from types import TracebackType
from typing import Any, NamedTuple, Optional, Type

from . import _core
from ._common import DEFAULT_CLOSE_TIMEOUT_S, Common, Event, Option, Path, core_disk, flags_of
from ._core import Buffer, Error

LOOK_AGAIN_S = 0.5


class Completion(NamedTuple):
    """The end of a request. `error` None: the request has succeeded."""
    token: Any
    error: Optional[Error]


def wait_readable(fd: int, end: Optional[float] = None) -> bool:
    """
    Sleeps until `fd` polls readable, but at most LOOK_AGAIN_S, and not beyond the time `end` of
    time.monotonic(). Returns False if `end` has passed. Otherwise the caller has to check again for its result.
    The sleep is limited, because it does not end when another thread closes the disk and with it `fd`. The
    caller's next check then fails.
    """
    timeout_s = LOOK_AGAIN_S if end is None else min(LOOK_AGAIN_S, max(0.0, end - time.monotonic()))
    if fd < 0:  # another thread is closing the disk
        return True
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000)) or end is None or time.monotonic() < end


class Queue:
    """
    A queue of a disk, for requests whose data is not copied. Only one thread at a time may use a queue.

    A request is added, then submitted with others by submit() or wait(). `memory` is a Buffer or a
    memoryview of one. It must not be changed before the completion. The disk holds a reference to it
    until then.
    """

    def __init__(self, core: _core.Disk, index: int) -> None:
        self._core, self._index = core, index
        self._waiting = threading.Lock()
        self.fd = core.queue_fd(index)

    def read(self, offset: int, memory: _core._Writable, token: Any = None) -> None:
        self._core.add(self._index, _core.READ, offset, memory, 0, token)

    def write(self, offset: int, memory: _core._ReadOnly, token: Any = None, *, fua: bool = False) -> None:
        """`fua`: the data is stable when the request completes."""
        self._core.add(self._index, _core.WRITE, offset, memory, flags_of(fua), token)

    def flush(self, token: Any = None) -> None:
        self._core.add(self._index, _core.FLUSH, 0, 0, 0, token)

    def discard(self, offset: int, length: int, token: Any = None, *, fua: bool = False) -> None:
        self._core.add(self._index, _core.DISCARD, offset, length, flags_of(fua), token)

    def write_zeroes(self, offset: int, length: int, token: Any = None, *, fua: bool = False,
                     no_unmap: bool = False) -> None:
        """`no_unmap`: the blocks stay allocated."""
        self._core.add(self._index, _core.WRITE_ZEROES, offset, length, flags_of(fua, no_unmap), token)

    def submit(self) -> None:
        """Gives the added requests to the back-end."""
        self._core.submit(self._index)

    def poll(self) -> list[Completion]:
        """Takes completions without waiting."""
        return [Completion(*pair) for pair in self._core.poll(self._index)]

    def arm(self) -> bool:
        """
        Must be called before each sleep on `fd`, otherwise a completion may fail to make `fd` readable. Returns
        True if completions may be waiting: call poll() instead of sleeping.
        """
        return self._core.arm(self._index)

    @property
    def in_flight(self) -> int:
        """The number of requests whose completions have not been taken."""
        return self._core.in_flight(self._index)

    def wait(self, at_least: int = 1, timeout: Optional[float] = None) -> list[Completion]:
        """
        Submits the added requests, and takes completions until there are at least `at_least`, no request
        is in flight, or `timeout` seconds have passed (None: no limit).
        """
        if not self._waiting.acquire(blocking=False):
            raise Error(errno.EBUSY, 'another thread waits for this queue: use one queue per thread')
        try:
            return self._wait(at_least, None if timeout is None else time.monotonic() + timeout)
        finally:
            self._waiting.release()

    def _wait(self, at_least: int, end: Optional[float]) -> list[Completion]:
        self.submit()
        done = self.poll()
        while len(done) < at_least and self.in_flight:
            if not self.arm() and not wait_readable(self.fd, end):
                break
            done += self.poll()
        return done


class Disk(Common):
    """A disk. Several threads may use it at the same time. Closed by close() or by `with`."""

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        try:
            self.close()
        except Error:
            if error is None:
                raise

    def close(self, timeout: float = DEFAULT_CLOSE_TIMEOUT_S) -> None:
        """
        Waits for the requests in flight, at most `timeout` seconds, and closes the disk. Raises Error if
        requests have not completed by then; the disk is closed in this case, too. If another thread is
        using the disk, raises Error (EBUSY) and does not close the disk.
        """
        self._core.close(int(timeout * 1000))

    def pread(self, offset: int, length: int) -> bytes:
        """Reads any range of bytes."""
        return self._core.pread(offset, length)

    def readinto(self, offset: int, target: _core._Writable) -> None:
        """Fills `target`, which may be any writable buffer, with the bytes at `offset`."""
        self._core.readinto(offset, target)

    def pwrite(self, offset: int, data: _core._ReadOnly, *, fua: bool = False) -> None:
        """Writes whole blocks from any buffer. `fua`: the data is stable when the call returns."""
        self._core.pwrite(offset, data, flags_of(fua))

    def flush(self) -> None:
        """Makes all writes stable that completed before the call."""
        self._core.flush()

    def discard(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Tells the back-end that the data of the range is no longer needed."""
        self._core.discard(offset, length, flags_of(fua))

    def write_zeroes(self, offset: int, length: int, *, fua: bool = False, no_unmap: bool = False) -> None:
        """Fills a range with zeroes. `no_unmap`: the blocks stay allocated."""
        self._core.write_zeroes(offset, length, flags_of(fua, no_unmap))

    def set_write_cache(self, on: bool) -> None:
        self._core.set_write_cache(on)

    def alloc(self, length: int) -> Buffer:
        """
        Returns zeroed memory that the back-end reads and writes directly. A back-end has few
        memory slots, so allocate one large buffer and use slices of its view().
        """
        buffer = self._core.alloc(length)
        while not buffer.finish():
            wait_readable(buffer.fd)
        return buffer

    def queue(self, index: int = 0) -> Queue:
        """Returns a queue. The blocking calls of Disk reserve the last queue that is not in use: leave one unused."""
        return Queue(self._core, index)

    def wait_event(self, timeout: Optional[float] = None) -> Optional[Event]:
        """Waits for an event, at most `timeout` seconds. Returns None if no event has come by then."""
        end = None if timeout is None else time.monotonic() + timeout
        while (event := self.next_event()) is None and wait_readable(self._core.events_fd(), end):
            pass
        return event


def open(path: Path, **options: Option) -> Disk:
    """
    Connects to the back-end at a Unix socket, and returns the disk. The options are those of
    <vublk/blk.h> and of `vublk info --list-properties`, with underscores: num_queues=2, reconnect_ms=100.
    """
    core = core_disk(path, options)
    while not core.open_finish():
        wait_readable(core.opening_fd())
    return Disk(core)
