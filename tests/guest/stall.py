# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Evidence of a stall: the position of each thread of QEMU, relay and back-end, and the state of the guest's
rings, so that one failed run shows which side waits for which.

No function here can fail or wait without limit, because the case has already failed, and QEMU may not answer.
"""
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import time

ANSWER_LIMIT_S = 5
STACK_LIMIT_S = 30


def read(path):
    try:
        return pathlib.Path(path).read_text(errors='replace').strip()
    except OSError as error:
        return f'({error.strerror})'


def user_stacks(pid):
    """Returns the stacks of a process's threads, if gdb is installed."""
    if not shutil.which('gdb'):
        return '(no gdb here)'
    command = ['gdb', '-q', '-batch', '-p', str(pid), '-ex', 'set pagination off', '-ex', 'thread apply all bt 12']
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors='replace',
                              timeout=STACK_LIMIT_S)
    except subprocess.TimeoutExpired:
        return '(gdb does not end)'
    return '\n'.join(line for line in done.stdout.splitlines() if re.match(r'Thread|#', line))


def describe_process(child):
    if child.poll() is not None:
        return f'{child.args[0]} (pid {child.pid}) has ended: {child.returncode}'
    lines = [f'{" ".join(map(str, child.args[:2]))} (pid {child.pid})']
    for thread in sorted(pathlib.Path(f'/proc/{child.pid}/task').glob('*')):
        state = re.search(r'^State:\s*(\S+)', read(thread / 'status'), re.M)
        lines.append(f'  thread {thread.name} {read(thread / "comm")}: {state[1] if state else "?"} '
                     f'in {read(thread / "wchan")}, system call {read(thread / "syscall")}')
    return '\n'.join(lines + [user_stacks(child.pid)])


class Monitor:
    """Asks QEMU through its monitor, with a time limit. An answer is None if QEMU does not answer in time."""

    def __init__(self, process):
        self.process = process

    def ask(self, command, **arguments):
        words = {'execute': command, 'arguments': {key.replace('_', '-'): value for key, value in arguments.items()}}
        process, end = self.process, time.monotonic() + ANSWER_LIMIT_S
        try:
            process.qmp_socket.sendall(json.dumps(words).encode() + b'\n')
            process.qmp_socket.settimeout(ANSWER_LIMIT_S)
            while time.monotonic() < end:
                reply = process.take_reply('return', 'error')
                if reply:
                    return reply.get('return')
                piece = process.qmp_socket.recv(65536)
                if not piece:
                    return None
                process.hear_monitor(piece)
        except OSError:
            pass
        return None


def read_ring(memory, queue):
    """Returns the indices and event fields of a split ring. `memory` is QEMU's memory, which includes the guest's."""
    size = queue['num']
    flags, avail = struct.unpack('<HH', os.pread(memory, 4, queue['avail']))
    used_event, = struct.unpack('<H', os.pread(memory, 2, queue['avail'] + 4 + 2 * size))
    used_flags, used = struct.unpack('<HH', os.pread(memory, 4, queue['used']))
    avail_event, = struct.unpack('<H', os.pread(memory, 2, queue['used'] + 4 + 8 * size))
    return (f'avail {avail} (flags {flags}, used_event {used_event}), used {used} (flags {used_flags}, '
            f'avail_event {avail_event}), {(avail - used) % 65536} of {size} outstanding')


def describe_rings(process):
    monitor, lines = Monitor(process), []
    devices = monitor.ask('x-query-virtio')
    if devices is None:
        return ['the monitor does not answer, or does not know virtio devices']
    memory = os.open(f'/proc/{process.child.pid}/mem', os.O_RDONLY)
    try:
        for device in devices:
            # x-query-virtio-status reports the number of queues, but QEMU 11.1 fails an assertion there.
            index = 0
            while queue := monitor.ask('x-query-virtio-vhost-queue-status', path=device['path'], queue=index):
                if queue.get('avail') and queue.get('used'):
                    lines.append(f'{device["path"]} queue {index}: {read_ring(memory, queue)}')
                index += 1
    finally:
        os.close(memory)
    return lines or ['no ring is with a back-end, or QEMU does not tell where the rings are']


def evidence(process):
    """Returns all available evidence as text."""
    lines = ['', 'Where everything stands:']
    try:
        lines += describe_rings(process)
    except (OSError, struct.error, KeyError) as error:
        lines.append(f'the rings cannot be read: {error!r}')
    lines += [describe_process(child) for child in process.case.children]
    return '\n'.join(lines)
