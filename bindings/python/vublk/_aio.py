# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The class AsyncDisk: a disk in an asyncio event loop.

Key idea: each request is a _Request, which the extension module keeps together with its memory until
the completion. Canceling a task cancels only the future of the task's _Request. So memory is never
freed or reused while the back-end may access it.
"""
from __future__ import annotations

import asyncio
import collections
import errno
import functools
import time
from types import TracebackType
from typing import AsyncIterator, Callable, Generator, Optional, Type, Union

from . import _core
from ._common import DEFAULT_CLOSE_TIMEOUT_S, Common, Event, Option, Path, core_disk, flags_of, view_of
from ._core import Buffer, Error

QUEUE = 0  # one queue, because requests on different queues are not ordered
COPY_BYTES = 64 * 1024
COPY_BUFFERS = 16


class _Request:
    """
    `on_completion` runs when the back-end does not use the memory any more. The future is done then, or
    earlier if the task was canceled. The argument of `on_completion` says whether the request has
    succeeded and its task has not been canceled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, kind: int, offset: int, memory: Union[_core._ReadOnly, int],
                 flags: int, on_completion: Optional[Callable[[bool], None]]) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        self.kind, self.offset, self.memory, self.flags = kind, offset, memory, flags
        self.on_completion = on_completion

    def add_to(self, core: _core.Disk) -> None:
        core.add(QUEUE, self.kind, self.offset, self.memory, self.flags, self)

    def complete(self, error: Optional[BaseException]) -> None:
        if self.on_completion:
            try:
                self.on_completion(error is None and not self.future.done())
            except Exception as failure:
                error = failure
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


def _return_copy(copies: asyncio.Queue[memoryview], copy: memoryview, succeeded: bool) -> None:
    copies.put_nowait(copy)


def _take_copy(copies: asyncio.Queue[memoryview], copy: memoryview, source: memoryview, target: memoryview,
               succeeded: bool) -> None:
    """Copies the data that was read to `target`, then frees the buffer for another request."""
    try:
        if succeeded:
            target[:] = source
    finally:
        copies.put_nowait(copy)


class AsyncDisk(Common):
    """A disk that belongs to the event loop in which it was opened. Closed by close() or by `async with`."""

    def __init__(self, core: _core.Disk, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(core)
        self._loop = loop
        self._watched: dict[int, asyncio.Future[None]] = {}
        self._queue_fd = -1
        self._closing = False
        self._closed: Optional[asyncio.Future[None]] = None  # the result of the running close()
        self._in_flight: set[_Request] = set()
        self._waiting: collections.deque[_Request] = collections.deque()  # not added, because the queue was full
        self._pump_scheduled = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._copies: Optional[asyncio.Queue[memoryview]] = None
        self._copies_lock = asyncio.Lock()

    async def __aenter__(self) -> AsyncDisk:
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        traceback: Optional[TracebackType]) -> None:
        try:
            await self.close()
        except Error:
            if error is None:
                raise

    # --- descriptors ---

    async def _readable(self, fd: int) -> None:
        """Waits until `fd` polls readable, or until the disk is being closed."""
        if self._closing:
            raise Error(errno.EBADF, 'the disk is closed')
        future = self._watched.get(fd)
        if future is None:
            future = self._watched[fd] = self._loop.create_future()
            self._loop.add_reader(fd, self._unwatch, fd)
        await asyncio.shield(future)

    def _unwatch(self, fd: int) -> None:
        future = self._watched.pop(fd, None)
        if future is not None:
            self._loop.remove_reader(fd)
            future.set_result(None)

    async def _open(self) -> None:
        fd = self._core.opening_fd()
        try:
            while not self._core.open_finish():
                await self._readable(fd)
            self._queue_fd = self._core.queue_fd(QUEUE)
        except BaseException:
            self._unwatch(fd)
            self._closing = True
            self._core.close(0)
            raise
        self._loop.add_reader(self._queue_fd, self._pump)

    # --- requests ---

    def _check(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError('the disk belongs to another event loop: open it in the loop that uses it')
        if self._closing:
            raise Error(errno.EBADF, 'the disk is closed')

    def _schedule(self) -> None:
        """Calls _pump() later, so that all requests added in this round of the loop are submitted together."""
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Takes completions, adds and submits requests, and arms the queue."""
        self._pump_scheduled = False
        if self._closing:
            return
        for request, error in self._core.poll(QUEUE):
            self._complete(request, error)
        while self._waiting and self._add(self._waiting[0]):
            self._waiting.popleft()
        self._core.submit(QUEUE)
        if self._core.arm(QUEUE):
            self._schedule()

    def _complete(self, request: _Request, error: Optional[BaseException]) -> None:
        self._in_flight.discard(request)
        if not self._in_flight:
            self._idle.set()
        request.complete(error)

    def _add(self, request: _Request) -> bool:
        """Returns False if the queue is full. A canceled request is not added."""
        if request.future.done():
            self._complete(request, None)
            return True
        try:
            request.add_to(self._core)
        except Error as error:
            if error.errno == errno.EAGAIN:
                return False
            self._complete(request, error)
        except Exception as error:
            self._complete(request, error)
        return True

    async def _do(self, kind: int, offset: int, memory: Union[_core._ReadOnly, int], flags: int = 0,
                  on_completion: Optional[Callable[[bool], None]] = None) -> None:
        request = _Request(self._loop, kind, offset, memory, flags, on_completion)
        self._in_flight.add(request)
        self._idle.clear()
        if self._waiting or not self._add(request):
            self._waiting.append(request)
        self._schedule()
        await request.future

    async def read(self, offset: int, memory: _core._Writable) -> None:
        """
        Reads into a Buffer, or a memoryview of one, without a copy. Canceling the
        task does not end the request: the memory may change until drain() has returned.
        """
        self._check()
        await self._do(_core.READ, offset, memory)

    async def write(self, offset: int, memory: _core._ReadOnly, *, fua: bool = False) -> None:
        """Writes a Buffer, or a memoryview of one, without a copy. `fua`: the data is stable when the call returns."""
        self._check()
        await self._do(_core.WRITE, offset, memory, flags_of(fua))

    async def flush(self) -> None:
        """Makes all writes stable that completed before the call."""
        self._check()
        await self._do(_core.FLUSH, 0, 0)

    async def discard(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Tells the back-end that the data of the range is no longer needed."""
        self._check()
        await self._do(_core.DISCARD, offset, length, flags_of(fua))

    async def write_zeroes(self, offset: int, length: int, *, fua: bool = False, no_unmap: bool = False) -> None:
        """Fills a range with zeroes. `no_unmap`: the blocks stay allocated."""
        self._check()
        await self._do(_core.WRITE_ZEROES, offset, length, flags_of(fua, no_unmap))

    async def drain(self) -> None:
        """Waits until no request is in flight, not even one of a canceled task."""
        await self._idle.wait()

    # --- memory ---

    async def alloc(self, length: int) -> Buffer:
        """Returns zeroed memory, as Disk.alloc() does."""
        self._check()
        buffer = self._core.alloc(length)
        fd = buffer.fd
        try:
            while not buffer.finish():
                await self._readable(fd)
        except asyncio.CancelledError:
            self._unwatch(fd)  # `fd` is closed with the buffer
            raise
        return buffer

    async def _copy_buffers(self) -> asyncio.Queue[memoryview]:
        """Returns the free buffers for copies. The first call allocates them."""
        async with self._copies_lock:
            if self._copies is None:
                chunk = max(COPY_BYTES, self.block_size)
                view = (await self.alloc(chunk * COPY_BUFFERS)).view()
                self._copies = asyncio.Queue()
                for i in range(COPY_BUFFERS):
                    self._copies.put_nowait(view[i * chunk:(i + 1) * chunk])
        return self._copies

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length <= 0 or offset + length > self.size:
            raise Error(errno.EINVAL, f'the range of {length} bytes at byte {offset} is empty or not within the disk, '
                        f'which has {self.size} bytes')

    async def readinto(self, offset: int, target: _core._Writable) -> None:
        """Reads any range of bytes into any writable buffer. The data is copied."""
        self._check()
        copies, view = await self._copy_buffers(), view_of(target)
        self._check_range(offset, len(view))
        info, done = self.info(), 0
        while done < len(view):
            skip = (offset + done) % info.block_size
            copy = await copies.get()
            length = min(len(view) - done, len(copy) - skip)
            end = min(skip + length + -(skip + length) % info.block_size, info.size - (offset + done - skip))
            take = functools.partial(_take_copy, copies, copy, copy[skip:skip + length], view[done:done + length])
            await self._do(_core.READ, offset + done - skip, copy[:end], 0, take)
            done += length

    async def pread(self, offset: int, length: int) -> bytes:
        """Reads any range of bytes. The data is copied."""
        self._check()
        self._check_range(offset, length)
        data = bytearray(length)
        await self.readinto(offset, data)
        return bytes(data)

    async def pwrite(self, offset: int, data: _core._ReadOnly, *, fua: bool = False) -> None:
        """Writes whole blocks from any buffer. The data is copied."""
        self._check()
        copies, view = await self._copy_buffers(), view_of(data)
        self._check_range(offset, len(view))
        for begin in range(0, len(view), max(COPY_BYTES, self.block_size)):
            copy = await copies.get()
            piece = view[begin:begin + len(copy)]
            copy[:len(piece)] = piece
            await self._do(_core.WRITE, offset + begin, copy[:len(piece)], flags_of(fua),
                           functools.partial(_return_copy, copies, copy))

    # --- events and the end ---

    async def events(self) -> AsyncIterator[Event]:
        """Yields the events of the disk until it is closed. Each event is delivered to one iterator."""
        self._check()
        fd = self._core.events_fd()
        while not self._closing:
            event = self.next_event()
            if event is not None:
                yield event
            else:
                await self._readable(fd)

    async def close(self, timeout: float = DEFAULT_CLOSE_TIMEOUT_S) -> None:
        """
        Waits for the requests in flight, at most `timeout` seconds, and closes the disk. Requests that have
        not completed by then fail with ECANCELED, and close() raises Error. If another call of close() is
        running, waits for that call and has the same result.
        """
        if self.closed:
            return
        if self._closed is None:
            self._closed = self._loop.create_future()
            await self._drain_and_close(timeout)
        await asyncio.shield(self._closed)

    async def _drain_and_close(self, timeout: float) -> None:
        end, wait_ms = time.monotonic() + timeout, 0
        try:
            await asyncio.wait_for(self.drain(), timeout)
            wait_ms = max(0, int((end - time.monotonic()) * 1000))
        except asyncio.TimeoutError:
            pass
        finally:  # a canceled close() closes the disk, too
            self._detach()
            closing = self._loop.run_in_executor(None, self._core.close, wait_ms)
            closing.add_done_callback(self._end_close)

    def _detach(self) -> None:
        """Removes all descriptors from the loop, before the disk closes them."""
        self._closing = True
        self._loop.remove_reader(self._queue_fd)
        for fd in list(self._watched):
            self._unwatch(fd)

    def _end_close(self, closing: asyncio.Future[None]) -> None:
        assert self._closed is not None
        error = closing.exception()
        if error is None:
            self._closed.set_result(None)
        else:
            self._closed.set_exception(error)
            self._closed.exception()  # keeps asyncio from logging it if close() was canceled and does not raise it
        self._waiting.clear()
        for request in list(self._in_flight):
            self._complete(request, Error(errno.ECANCELED, 'the disk was closed before the request completed'))


class _Opening:
    """The result of open_async(): `await` it for the disk, or use it in `async with`."""

    def __init__(self, path: Path, options: dict[str, Option]) -> None:
        self._path, self._options = path, options
        self._disk: Optional[AsyncDisk] = None

    def __await__(self) -> Generator[None, None, AsyncDisk]:
        return self._open().__await__()

    async def _open(self) -> AsyncDisk:
        disk = AsyncDisk(core_disk(self._path, self._options), asyncio.get_running_loop())
        await disk._open()
        return disk

    async def __aenter__(self) -> AsyncDisk:
        self._disk = await self._open()
        return self._disk

    async def __aexit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                        traceback: Optional[TracebackType]) -> None:
        assert self._disk is not None
        await self._disk.__aexit__(kind, error, traceback)


def open_async(path: Path, **options: Option) -> _Opening:
    """Connects to a back-end as open() does, without blocking the event loop: `async with open_async(path) as disk`."""
    return _Opening(path, options)
