#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The class Disk of the Python package, and its queues.

    blocking.py VUBLK [-l] [-k] [WORD...]    with the package in PYTHONPATH
"""
import array
import contextlib
import errno
import os
import signal
import sys
import threading

import rig
import vublk
from peer import check
from rig import BLOCK, DISK_BYTES, Backend, raises


def ranges(case, kind):
    """Blocking reads of any range into new and given memory; writes from any buffer; the image has the data."""
    backend = Backend(case, kind)
    with vublk.open(backend.path) as disk:
        check(disk.size == DISK_BYTES and disk.block_size == BLOCK and not disk.read_only, f'{disk.info()}')
        for offset, length in (0, 1), (511, 2), (1000, 300001), (DISK_BYTES - 3, 3), (0, DISK_BYTES):
            check(disk.pread(offset, length) == backend.content[offset:offset + length], f'bytes at {offset} differ')
        target = array.array('I', bytes(4000))
        disk.readinto(7, target)
        check(target.tobytes() == backend.content[7:4007], 'readinto() read other bytes')
        for offset, data in (0, b'a' * BLOCK), (4096, bytearray(b'b' * 300 * BLOCK)), (8192, memoryview(b'c' * 1024)):
            disk.pwrite(offset, data, fua=offset == 0)
            backend.content[offset:offset + len(data)] = data
        disk.write_zeroes(65536, 8192, no_unmap=True)
        backend.content[65536:65536 + 8192] = bytes(8192)
        disk.flush()
        check(disk.pread(0, DISK_BYTES) == backend.content, 'the disk differs')
        disk.discard(1 << 20, 65536)
    check(disk.closed, 'the disk is not closed')
    backend.stop()
    check(backend.image.read_bytes()[:1 << 20] == backend.content[:1 << 20], 'the image differs')


def queue(case, kind):
    """Requests in flight on registered memory: the back-end itself writes into the memoryview."""
    backend = Backend(case, kind)
    with vublk.open(backend.path, statistics=True) as disk:
        buffer, queue = disk.alloc(64 * 4096), disk.queue(0)
        view = buffer.view()
        check(len(buffer) == 64 * 4096 and not any(view), 'the memory is not zeroed')
        for i in range(64):
            queue.read(i * 8192, view[i * 4096:(i + 1) * 4096], token=i)
        check(queue.in_flight == 64, f'{queue.in_flight} requests are in flight')
        done = queue.wait(at_least=64)
        check(sorted(one.token for one in done) == list(range(64)) and not any(one.error for one in done), f'{done}')
        for i in range(64):
            check(view[i * 4096:(i + 1) * 4096] == backend.content[i * 8192:i * 8192 + 4096], f'read {i} differs')
        view[:4096] = b'z' * 4096
        queue.write(512, view[:4096], token='write', fua=True)
        queue.write_zeroes(16384, 4096, token='zeroes')
        queue.discard(32768, 4096)
        queue.flush()
        check({one.token for one in queue.wait(4)} == {'write', 'zeroes', None}, 'other tokens')
        check(disk.pread(512, 4096) == b'z' * 4096 and not any(disk.pread(16384, 4096)), 'the disk differs')
        counted = disk.statistics()
        check((counted.reads, counted.writes) >= (66, 1) and counted.in_flight == 0, f'{counted}')
        check(sum(counted.latency) >= 70 and counted.errors == 0, f'{counted}')
        check(queue.wait() == [] and queue.wait(1, timeout=0) == [], 'completions without requests')
    backend.stop()


def refusals(case, kind):
    """Errors have a code and the library's sentence."""
    text = raises(vublk.open, case.path('nothing'), code=errno.ENOENT).strerror
    check('nothing' in text and len(text) > 20, text)
    backend = Backend(case, kind)
    raises(lambda: vublk.open(backend.path, no_such_option=1), code=errno.EINVAL)
    raises(lambda: vublk.open(backend.path, num_queues='many'), code=errno.EINVAL)
    with vublk.open(backend.path, num_queues=1, reconnect_ms=100) as disk:
        raises(disk.pread, DISK_BYTES - 1, 2, code=errno.EINVAL)
        raises(disk.pread, 1 << 63, 512, code=errno.EINVAL)
        raises(disk.pwrite, 1, b'x' * BLOCK, code=errno.EINVAL)
        raises(disk.statistics, code=errno.ENOTSUP)
        raises(disk.alloc, 0, code=errno.EINVAL)
        raises(disk.alloc, 1 << 62)
        disk.pread(0, 1)
        raises(disk.queue, 0, code=errno.EBUSY)  # the blocking calls use the only queue
        check(isinstance(raises(disk.queue, 77), OSError), 'vublk.Error is no OSError')
    with vublk.open(backend.path, num_queues=1) as disk:
        queue, view = disk.queue(0), disk.alloc(4096).view()
        raises(disk.pread, 0, 1, code=errno.EBUSY)
        raises(queue.read, 1, view, code=errno.EINVAL)
        raises(queue.read, DISK_BYTES, view, code=errno.EINVAL)
        raises(queue.write, 0, b'x' * BLOCK, code=errno.EINVAL)
    backend.stop()


def read_only(case, kind):
    backend = Backend(case, kind, read_only=True)
    with vublk.open(backend.path) as disk:
        check(disk.read_only, 'the disk is writable')
        raises(disk.pwrite, 0, b'x' * BLOCK, code=errno.EROFS)
    backend.stop()


def events(case, kind):
    """A back-end that is killed and started again: LOST, RECONNECTED, and reads that complete."""
    backend = Backend(case, kind)
    with vublk.open(backend.path, reconnect_ms=50) as disk:
        check(disk.next_event() is None and disk.wait_event(timeout=0) is None, 'an event without a cause')
        backend.kill()
        event = disk.wait_event()
        check(event.kind == vublk.EventKind.LOST and isinstance(event.error, vublk.Error), f'{event}')
        backend.restart()
        check(disk.wait_event().kind == vublk.EventKind.RECONNECTED, 'not reconnected')
        check(disk.pread(0, 100) == backend.content[:100], 'other bytes')
    backend.stop()


def other_threads_run(case, kind):
    """A thread that waits in the library does not hold the GIL: another thread runs, and ends the wait."""
    backend = Backend(case, kind)
    with vublk.open(backend.path) as disk:
        disk.pread(0, 1)  # the buffer for copies exists
        read = []
        threads = [threading.Thread(target=lambda i=i: read.append(disk.pread(i, 1000) == backend.content[i:i + 1000]))
                   for i in range(8)]
        with backend.suspended():
            for thread in threads:
                thread.start()
            # Otherwise the disk would be closed under a call.
            while raises(disk.close, 0.0, code=errno.EBUSY) and sum(thread.is_alive() for thread in threads) < 8:
                pass
            check(not read, 'a read completed without a back-end')
        for thread in threads:
            thread.join()
        check(read == [True] * 8, f'{read}')
    backend.stop()


def interrupted_wait(case, kind):
    """Ctrl-C ends Queue.wait(). The request stays in flight, and a later wait() takes its completion."""
    backend = Backend(case, kind)
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    with vublk.open(backend.path) as disk:
        queue, view = disk.queue(0), disk.alloc(4096).view()
        ended = threading.Event()

        def interrupt():
            while not ended.is_set():  # a signal that comes before poll() is pending then
                os.kill(os.getpid(), signal.SIGINT)
                ended.wait(0.05)

        thread = threading.Thread(target=interrupt)
        with backend.suspended():
            queue.read(0, view)
            with contextlib.suppress(KeyboardInterrupt):
                try:
                    thread.start()
                    queue.wait()
                finally:
                    ended.set()
            check(queue.in_flight == 1, 'wait() ended otherwise')
            thread.join()
        check(len(queue.wait()) == 1 and view == backend.content[:4096], 'the request was not completed')
    signal.signal(signal.SIGINT, old)
    backend.stop()


def connected_descriptor(case, kind):
    """The option fd: a socket that the caller has connected."""
    import socket
    backend = Backend(case, kind)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(backend.path))
        disk = vublk.open(None, fd=client.fileno())
    with disk:
        check(disk.pread(0, 16) == backend.content[:16], 'other bytes')
    backend.stop()


if __name__ == '__main__':
    sys.exit(rig.main([ranges, queue, refusals, read_only, events, other_threads_run, interrupted_wait,
                       connected_descriptor]))
