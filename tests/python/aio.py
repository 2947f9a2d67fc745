#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The class AsyncDisk of the Python package: a disk in an asyncio event loop.

    aio.py VUBLK [-l] [-k] [WORD...]    with the package in PYTHONPATH
"""
import asyncio
import errno
import gc
import sys
import threading

import rig
import vublk
from peer import check
from rig import BLOCK, DISK_BYTES, Backend, raises, raises_async


async def many_in_flight(case, kind):
    """More requests than the queue has room for, on slices of one buffer; each gets its own data."""
    backend = Backend(case, kind)
    async with vublk.open_async(backend.path, statistics=True) as disk:
        view = (await disk.alloc(1000 * 4096)).view()
        await asyncio.gather(*(disk.read(i * 4096, view[i * 4096:(i + 1) * 4096]) for i in range(1000)))
        check(view == backend.content[:1000 * 4096], 'the reads differ')
        view[:] = bytes(range(250)) * 16384
        await asyncio.gather(*(disk.write(i * 8192, view[i * 4096:(i + 1) * 4096], fua=i == 7) for i in range(1000)))
        await disk.flush()
        for i in range(1000):
            backend.content[i * 8192:i * 8192 + 4096] = view[i * 4096:(i + 1) * 4096]
        await disk.write_zeroes(4096, 4096)
        backend.content[4096:8192] = bytes(4096)
        await disk.discard(DISK_BYTES - 65536, 4096)
        counted = disk.statistics()
        check(counted.reads == 1000 and counted.writes == 1000 and counted.errors == 0, f'{counted}')
    backend.stop()
    check(backend.image.read_bytes()[:-65536] == backend.content[:-65536], 'the image differs')


async def copies(case, kind):
    """Reads and writes of ordinary memory, in any range, with more in flight than there are copy buffers."""
    backend = Backend(case, kind)
    async with vublk.open_async(backend.path) as disk:
        parts = [(i * 5003, 1 + i * 997) for i in range(60)] + [(0, DISK_BYTES), (DISK_BYTES - 1, 1), (511, 131073)]
        found = await asyncio.gather(*(disk.pread(offset, length) for offset, length in parts))
        for (offset, length), data in zip(parts, found):
            check(data == backend.content[offset:offset + length], f'{length} bytes at {offset} differ')
        target = bytearray(70000)
        await disk.readinto(12345, target)
        check(target == backend.content[12345:12345 + 70000], 'readinto() read other bytes')
        await asyncio.gather(*(disk.pwrite(i * 200 * 1024, bytes([i]) * 200 * 1024, fua=i % 2 == 0) for i in range(30)))
        for i in range(30):
            check(await disk.pread(i * 200 * 1024, 200 * 1024) == bytes([i]) * 200 * 1024, f'write {i} differs')
        for call in (disk.pread(DISK_BYTES, 1), disk.pread(-1, 1), disk.pread(0, 0), disk.pwrite(1, b'x' * BLOCK),
                     disk.pwrite(0, b'x')):
            await raises_async(call, code=errno.EINVAL)
    backend.stop()


async def copies_in_use(case, kind):
    """More readers and writers of ordinary memory than there are buffers: none gets the data of another."""
    backend = Backend(case, kind)
    tasks, rounds = 24, 20

    async def reader(disk, number):
        begin = number * 4096
        for _ in range(rounds):
            check(await disk.pread(begin, 4096) == backend.content[begin:begin + 4096], f'reader {number}: other data')

    async def writer(disk, number):
        begin = (tasks + number) * 4096
        for i in range(rounds):
            await disk.pwrite(begin, bytes([i]) * 4096)
        backend.content[begin:begin + 4096] = bytes([rounds - 1]) * 4096

    async with vublk.open_async(backend.path) as disk:
        await asyncio.gather(*(work(disk, i) for i in range(tasks) for work in (reader, writer)))
        await raises_async(disk.readinto(0, bytes(BLOCK)), kind=(TypeError, BufferError))
        check(await disk.pread(0, DISK_BYTES) == backend.content, 'the disk has other data')
    backend.stop()


async def canceled_request(case, kind):
    """A canceled task does not free memory that the back-end still writes to."""
    backend = Backend(case, kind)
    async with vublk.open_async(backend.path) as disk:
        buffer, lost = await disk.alloc(4096), await disk.alloc(4096)
        with backend.suspended():
            tasks = [asyncio.create_task(disk.read(i * 4096, memory)) for i, memory in enumerate((buffer, lost))]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            check(all(task.cancelled() for task in tasks), f'{tasks}')
            raises(buffer.release, kind=BufferError)
            del lost, tasks, task
            gc.collect()
        await disk.drain()
        check(buffer.view() == backend.content[:4096], 'the back-end did not execute the request')
        gc.collect()
        buffer.release()
        raises(buffer.view, kind=BufferError)
    backend.stop()


async def canceled_copies(case, kind):
    """The buffers for copies are used again only when their requests have completed."""
    backend = Backend(case, kind)
    piece = 64 * 1024
    async with vublk.open_async(backend.path) as disk:
        await disk.pread(0, 1)
        with backend.suspended():
            canceled = [asyncio.create_task(disk.pwrite(piece * i, bytes([1]) * piece)) for i in range(32)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            for task in canceled:
                task.cancel()
            await asyncio.wait(canceled)
            later = [asyncio.create_task(disk.pwrite(piece * (32 + i), bytes([2]) * piece)) for i in range(32)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*later)
        await disk.drain()
        for i in range(32):
            data = await disk.pread(piece * i, piece)
            check(data in (bytes([1]) * piece, backend.content[piece * i:piece * (i + 1)]), f'write {i} was overwritten')
            check(await disk.pread(piece * (32 + i), piece) == bytes([2]) * piece, f'the later write {i} was not made')
    backend.stop()


async def loop_runs(case, kind):
    """Opening a disk and allocating do not block the loop, and can be canceled."""
    backend = Backend(case, kind)
    with backend.suspended():
        opening = asyncio.create_task(vublk.open_async(backend.path)._open())
        for _ in range(10):
            await asyncio.sleep(0)
        check(not opening.done(), 'opened without a back-end')
        opening.cancel()
        await asyncio.wait([opening])
        check(opening.cancelled(), f'{opening}')
    async with vublk.open_async(backend.path) as disk:
        with backend.suspended():
            tasks = [asyncio.create_task(disk.alloc(4096)) for _ in range(3)]
            for _ in range(10):
                await asyncio.sleep(0)
            check(not any(task.done() for task in tasks), 'allocated without a back-end')
            tasks[1].cancel()
            await asyncio.wait(tasks[1:2])
        check(len(await tasks[0]) == len(await tasks[2]) == 4096, 'other buffers')
        for task in tasks[::2]:
            await disk.read(0, task.result())
            check(task.result().view() == backend.content[:4096], 'other bytes')
    await raises_async(vublk.open_async(case.path('nothing'))._open(), code=errno.ENOENT)
    backend.stop()


async def events(case, kind):
    """Events arrive in the loop; the iterator ends when the disk is closed."""
    backend = Backend(case, kind)
    seen = asyncio.Queue()
    disk = await vublk.open_async(backend.path, reconnect_ms=50)

    async def follow():
        async for event in disk.events():
            seen.put_nowait(event)

    following = asyncio.create_task(follow())
    backend.kill()
    event = await seen.get()
    check(event.kind == vublk.EventKind.LOST and event.error.strerror, f'{event}')
    backend.restart()
    check((await seen.get()).kind == vublk.EventKind.RECONNECTED, 'not reconnected')
    check(await disk.pread(0, 9) == backend.content[:9], 'other bytes')
    await disk.close()
    await following
    await disk.close()
    backend.stop()


async def closed_in_use(case, kind):
    """Requests that a disk cannot complete before it is closed fail, and so does close()."""
    backend = Backend(case, kind)
    disk = await vublk.open_async(backend.path, request_timeout_ms=100)
    view = (await disk.alloc(4096)).view()
    with backend.suspended():
        reads = [asyncio.create_task(disk.read(i * 4096, view)) for i in range(300)]
        alloc = asyncio.create_task(disk.alloc(4096))
        await asyncio.sleep(0)
        await raises_async(disk.close(timeout=0), code=errno.ETIMEDOUT)
        for read in reads:
            await raises_async(read, code=errno.ECANCELED)
        await raises_async(alloc)
    check(disk.closed, 'the disk is open')
    for call in (disk.read(0, view), disk.flush(), disk.pread(0, 1), disk.alloc(1), anext(disk.events())):
        await raises_async(call, code=errno.EBADF)
    view[:] = b'x' * 4096  # the memory outlives the disk


async def canceled_close(case, kind):
    """A close() that is canceled closes the disk."""
    backend = Backend(case, kind)
    disk = await vublk.open_async(backend.path, request_timeout_ms=100)
    view = (await disk.alloc(4096)).view()
    with backend.suspended():
        read = asyncio.create_task(disk.read(0, view))
        closing = asyncio.create_task(disk.close(timeout=1000))
        for _ in range(3):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing, read])
        check(closing.cancelled() and disk.closed, f'{closing}')
        await raises_async(read, code=errno.ECANCELED)


async def closed_twice(case, kind):
    """A close() while another runs waits for it, and has the same result."""
    backend = Backend(case, kind)
    disk = await vublk.open_async(backend.path)
    await asyncio.gather(*(disk.close() for _ in range(3)))
    check(disk.closed, 'the disk is open')
    disk = await vublk.open_async(backend.path, request_timeout_ms=100)
    view = (await disk.alloc(4096)).view()
    with backend.suspended():
        read = asyncio.create_task(disk.read(0, view))
        await asyncio.sleep(0)
        closing = [asyncio.create_task(disk.close(timeout=0)) for _ in range(3)]
        for call in closing:
            await raises_async(call, code=errno.ETIMEDOUT)
        await raises_async(read, code=errno.ECANCELED)
    await disk.close()


async def another_loop(case, kind):
    """A disk refuses the event loop of another thread."""
    backend = Backend(case, kind)
    found = []
    async with vublk.open_async(backend.path) as disk:
        def other():
            found.append(asyncio.run(raises_async(disk.flush(), kind=RuntimeError)))
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        check(len(found) == 1, 'not refused')
        await disk.flush()
    backend.stop()


if __name__ == '__main__':
    sys.exit(rig.main([many_in_flight, copies, copies_in_use, canceled_request, canceled_copies, loop_runs, events, closed_in_use,
                       canceled_close, closed_twice, another_loop]))
