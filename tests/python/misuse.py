#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
No mistake of a Python program crashes the interpreter. Each case runs in a process of its own,
which must end with exit status 0 and print nothing but the warnings that the case expects.

    misuse.py VUBLK [-l] [-k] [WORD...]    with the package in PYTHONPATH
    misuse.py --child NAME SOCKET PID      runs one case; PID: the back-end
"""
import errno
import functools
import gc
import os
import pathlib
import resource
import signal
import sys
import threading
import traceback
import warnings

import rig
import vublk
from peer import check
from rig import BLOCK, DISK_BYTES, raises

import peer  # noqa: E402


def closed(path, pid):
    disk = vublk.open(path)
    queue, view = disk.queue(0), disk.alloc(4096).view()
    queue.read(0, view)
    queue.wait()
    disk.close()
    disk.close()
    for call in (disk.info, disk.flush, disk.statistics, disk.next_event, disk.wait_event, queue.submit, queue.poll,
                 queue.arm, queue.wait, queue.flush, lambda: disk.pread(0, 1), lambda: disk.readinto(0, view),
                 lambda: disk.pwrite(0, view), lambda: disk.discard(0, 512), lambda: disk.write_zeroes(0, 512),
                 lambda: disk.set_write_cache(True), lambda: disk.alloc(1), lambda: disk.queue(0),
                 lambda: queue.read(0, view), lambda: queue.in_flight, lambda: disk.size):
        raises(call, code=errno.EBADF)


def views_outlive_the_disk(path, pid):
    with vublk.open(path) as disk:
        views = [disk.alloc(4096).view() for _ in range(20)]
        disk.readinto(0, views[0])
        expected = disk.pread(0, 4096)
    del disk
    gc.collect()
    check(bytes(views[0]) == expected, 'the memory has changed')
    for view in views:
        view[:] = b'x' * 4096
    with vublk.open(path) as disk:  # memory of another disk is refused
        raises(disk.queue(0).read, 0, views[0], code=errno.EINVAL)
        disk.readinto(0, views[0])
        check(bytes(views[0]) == expected, 'other bytes')


def released(path, pid):
    with vublk.open(path) as disk:
        queue = disk.queue(0)
        for _ in range(600):  # more than a back-end has memory slots
            buffer = disk.alloc(4096)
            queue.read(0, buffer)
            raises(buffer.release, kind=BufferError)
            queue.wait()
            buffer.release()
        buffer.release()
        raises(buffer.view, kind=BufferError)
        raises(queue.read, 0, buffer, kind=BufferError)
        check(len(disk.pread(0, 512)) == 512, 'the disk is unusable')
    buffer.release()


def memory_runs_out(path, pid):
    with vublk.open(path) as disk:
        buffers = []
        while True:
            try:
                buffers.append(disk.alloc(4096))
            except vublk.Error as error:
                check(error.errno == errno.ENOSPC, repr(error))
                break
        buffers.clear()
        disk.alloc(4096)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')), hard))
        raises(disk.alloc, 4096, code=errno.EMFILE)
        raises(vublk.open, path, code=errno.EMFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        disk.alloc(4096)


def arguments(path, pid):
    core = vublk._core
    with vublk.open(path) as disk:
        queue, view = disk.queue(0), disk.alloc(4096).view()
        for offset in -1, 1 << 64, 1 << 200:
            raises(disk.pread, offset, 1, kind=OverflowError)
            raises(queue.read, offset, view, kind=OverflowError)
            raises(disk.discard, 0, offset, kind=OverflowError)
        raises(disk.pread, 0, -1, kind=ValueError)
        if not rig.RUNTIME:  # the sanitizer's, which reports a request for so much memory as an error
            raises(disk.pread, 0, 1 << 62, kind=(vublk.Error, MemoryError))
        for bad in None, 'text', 1.5, object():
            raises(disk.pread, bad, 1, kind=TypeError)
            raises(disk.pwrite, 0, bad, kind=TypeError)
            raises(queue.write, 0, bad, kind=TypeError)
        raises(queue.read, 0, b'x' * BLOCK, kind=BufferError)
        raises(queue.read, 0, view.toreadonly(), kind=BufferError)
        raises(queue.read, 0, view[::2], kind=BufferError)
        for offset in DISK_BYTES, DISK_BYTES - 512, (1 << 64) - 512:
            raises(queue.read, offset, view, code=errno.EINVAL)
        raises(disk._core.add, 0, 99, 0, 0, 0, None, code=errno.EINVAL)
        raises(disk._core.add, 0, core.READ, 0, view, 0x80, None, code=errno.EINVAL)
        raises(core.Buffer, kind=TypeError)
        check(queue.in_flight == 0, 'a refused request is in flight')
    for bad in ((), (None,), (1, ()), (b'x\0y', ()), (b'x', ('a\0', 'b')), (b'x', (1, 2))):
        raises(core.Disk, *bad, kind=(TypeError, ValueError))
    unopened = core.Disk(os.fsencode(path), ())
    for call in unopened.flush, unopened.statistics, lambda: unopened.queue_fd(0), lambda: unopened.alloc(1):
        raises(call, code=errno.EBUSY)


def several_threads(path, pid):
    """Threads that use everything at the same time, while another opens and closes disks."""
    disk = vublk.open(path, statistics=True)
    failures = []

    def use(number):
        try:
            for i in range(100):
                view = disk.alloc(4096).view()
                disk.readinto(i * 512, view)
                disk.pread(number * 512, 4096)
                disk.statistics()
                disk.next_event()
                try:
                    queue = disk.queue(0)
                    queue.read(0, view)
                    queue.wait(timeout=0.01)
                except vublk.Error as error:
                    check(error.errno in (errno.EBUSY, errno.EAGAIN), repr(error))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    disk.close()
    check(not failures, f'{failures}')


def two_waiters(path, pid):
    with vublk.open(path) as disk:
        queue, view = disk.queue(0), disk.alloc(4096).view()
        queue._waiting.acquire()  # as if another thread were in wait()
        raises(queue.wait, code=errno.EBUSY)
        queue._waiting.release()
        queue.read(0, view)
        queue.wait()


def suspended(pid):
    """Stops the back-end, and returns when it has stopped."""
    os.kill(pid, signal.SIGSTOP)
    while any(path.read_text().rpartition(')')[2].split()[0] != 'T'
              for path in pathlib.Path(f'/proc/{pid}/task').glob('*/stat')):
        pass


def close_under(disk, *calls):
    """Closes the disk while each of `calls` waits in a thread. Returns what they raised."""
    found, sleeping, sleep = [None] * len(calls), threading.Semaphore(0), vublk._disk.wait_readable

    def tell(*arguments):
        sleeping.release()
        return sleep(*arguments)

    def wait(number, call):
        try:
            call()
        except BaseException as error:
            found[number] = error

    vublk._disk.wait_readable = tell
    threads = [threading.Thread(target=wait, args=pair, daemon=True) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
        sleeping.acquire()
    vublk._disk.wait_readable = sleep
    while not disk.closed:
        try:
            disk.close(timeout=0)
        except vublk.Error as error:  # EBUSY: a thread has just looked whether it can end
            check(error.errno in (errno.EBUSY, errno.ETIMEDOUT), repr(error))
    for thread in threads:
        thread.join(60)
        check(not thread.is_alive(), 'a thread waits for a closed disk')
    check(all(isinstance(error, vublk.Error) for error in found), f'{found}')
    return [error.errno for error in found]


def closed_while_waiting(path, pid):
    disk = vublk.open(path)
    check(close_under(disk, disk.wait_event) == [errno.EBADF], 'another error')
    disk = vublk.open(path, num_queues=2, request_timeout_ms=100)
    queue, buffer = disk.queue(0), disk.alloc(4096)
    suspended(pid)
    queue.read(0, buffer)
    check(close_under(disk, queue.wait, lambda: disk.alloc(4096))[0] == errno.EBADF, 'another error')


class Cycle:
    """A token that refers to the disk, as the tasks of a program do."""


def garbage(path, pid):
    """A disk that is dropped with requests in flight is closed, with its memory in a reference cycle or not."""
    for in_cycle in False, True:
        warnings.simplefilter('always')
        with warnings.catch_warnings(record=True) as caught:
            disk = vublk.open(path, request_timeout_ms=100)
            buffer, token = disk.alloc(4096), Cycle()
            queue = disk.queue(0)
            token.disk = disk if in_cycle else None
            suspended(pid)
            queue.read(0, buffer, token)
            queue.submit()
            del disk, buffer, queue, token
            gc.collect()
            os.kill(pid, signal.SIGCONT)
        check([one.category for one in caught] == [ResourceWarning], f'{[str(one.message) for one in caught]}')
        disk = vublk.open(path)  # a back-end with one client accepts the next
        check(len(disk.pread(0, 1)) == 1, 'no read')
        disk.close()


def fork(path, pid):
    disk = vublk.open(path)
    queue, buffer = disk.queue(0), disk.alloc(4096)
    view = buffer.view()
    queue.read(0, view)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for call in (disk.info, disk.flush, disk.close, queue.poll, queue.wait, lambda: disk.pread(0, 1),
                         lambda: disk.alloc(1), lambda: queue.read(0, view)):
                check('fork' in raises(call, code=errno.EBADF).strerror, 'another sentence')
            del disk, queue, buffer, view
            gc.collect()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    check(os.waitpid(child, 0)[1] == 0, 'the child failed')
    other = os.fork()  # a child that ends as Python programs do
    if other == 0:
        sys.exit(0)
    check(os.waitpid(other, 0)[1] == 0, 'the second child failed')
    check(len(queue.wait()) == 1 and bytes(view) == disk.pread(0, 4096), 'the disk of the parent does not work')
    disk.close()


def exit_in_use(path, pid):
    """The interpreter ends with an open disk, requests in flight, and a thread in a call."""
    disk = vublk.open(path, request_timeout_ms=100)
    disk.pread(0, 1)
    queue, buffer = disk.queue(0), disk.alloc(4096)
    suspended(pid)
    for _ in range(10):
        queue.read(0, buffer)
    queue.submit()
    threading.Thread(target=disk.pread, args=(0, 1), daemon=True).start()
    vublk.kept = disk, queue, buffer


CASES = [closed, views_outlive_the_disk, released, memory_runs_out, arguments, several_threads, two_waiters,
         closed_while_waiting, garbage, fork, exit_in_use]


def run(function, tool, case):
    backend = rig.Backend(case, peer.VublkServe(tool))
    result = case.call([sys.executable, '-X', 'dev', __file__, '--child', function.__name__, backend.path,
                        backend.child.pid], env=rig.interpreter())
    backend.resume()
    check(result.code == 0, f'{result}')
    if function is not exit_in_use:
        check(not result.err, f'{result}')
    backend.stop()


if __name__ == '__main__':
    if sys.argv[1] == '--child':
        {function.__name__: function for function in CASES}[sys.argv[2]](sys.argv[3], int(sys.argv[4]))
        sys.exit(0)
    sys.exit(peer.main([(function.__name__, functools.partial(run, function, sys.argv[1])) for function in CASES],
                       sys.argv[2:]))
