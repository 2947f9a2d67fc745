# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The available QEMUs, and a QEMU process. The process inherits the sockets of its monitor (QMP) and of its
serial console, so the tests can use them immediately.

The code here does not know the guest (linux.py), or where its disk comes from (doors.py).
"""
import json
import os
import pathlib
import selectors
import shutil
import socket
import subprocess
import time

import peer
import stall
from peer import check

SHARE = pathlib.Path('/usr/share')
MEMORY = '256M'


def cache_folder():
    cache = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    return pathlib.Path(cache) / 'vublk'


class Qemu:
    """The QEMU that the distribution installs."""
    name = 'system'
    share, firmware = SHARE, []
    environment = {}

    def program(self, name='qemu-system-x86_64'):
        peer.need(name)
        return [name]

    version = None

    def find_version(self):
        words = subprocess.run(self.program() + ['--version'], env={**os.environ, **self.environment},
                               capture_output=True, text=True, check=True).stdout.split()
        self.version = tuple(int(part) for part in words[words.index('version') + 1].split('.'))

    def __str__(self):
        return f'QEMU {self.version[0]}.{self.version[1]}' if self.version else f'{self.name} QEMU'

    def reconnect(self):
        """Returns the option that makes a character device reconnect. Older QEMUs take the time in seconds."""
        return {'reconnect-ms': 100} if self.version >= (9, 2) else {'reconnect': 1}

    def ovmf(self):
        path = self.share / 'OVMF/OVMF_CODE_4M.fd'
        if not path.exists():
            raise peer.Skip('no OVMF here: scripts/setup check installs it')
        return path, self.share / 'OVMF/OVMF_VARS_4M.fd'


class NewerQemu(Qemu):
    """The QEMU that scripts/setup has unpacked. It runs with a dynamic loader and libraries of its own."""
    name = 'newer'

    def __init__(self):
        self.root = cache_folder() / 'newer'
        self.share = self.root / 'usr/share'
        libraries = self.root / 'usr/lib/x86_64-linux-gnu'
        self.environment = {'QEMU_MODULE_DIR': str(libraries / 'qemu')}
        self.firmware = ['-L', self.share / 'qemu', '-L', self.share / 'seabios']
        self.loader = [self.root / 'usr/lib64/ld-linux-x86-64.so.2', '--library-path', libraries]

    def program(self, name='qemu-system-x86_64'):
        if not (self.root / 'recipe').exists():
            raise peer.Skip('no newer QEMU here: scripts/setup check fetches it where it can be had')
        return [*self.loader, self.root / 'usr/bin' / name]


QEMUS = {qemu.name: qemu for qemu in (Qemu, NewerQemu)}


class Process:
    """A QEMU process. Its monitor answers commands and reports events. Its console is only read."""

    def __init__(self, case, qemu, arguments, limit_s, memory='', memory_kind='memfd'):
        """`memory`: further options of the guest's memory, each after a comma."""
        self.case, self.limit_s = case, limit_s
        self.needed = None  # a process whose end makes it useless to wait
        self.monitor, self.events = b'', []
        self.command = qemu.program() + [
            *qemu.firmware, '-no-user-config', '-nodefaults', '-display', 'none',
            '-machine', 'q35,accel=tcg,memory-backend=memory', '-m', MEMORY,
            '-object', f'memory-backend-{memory_kind},id=memory,size={MEMORY},share=on{memory}', *arguments]
        self.qmp_socket, qmp = socket.socketpair()
        self.console_socket, console = socket.socketpair()
        with qmp, console:
            inherited = [end.fileno() for end in (qmp, console)]
            self.child = case.start(self.command + [
                '-chardev', f'socket,id=qmp,fd={inherited[0]}', '-mon', 'chardev=qmp,mode=control',
                '-chardev', f'socket,id=console,fd={inherited[1]}', '-serial', 'chardev:console'],
                pass_fds=inherited, env={**os.environ, **qemu.environment})
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.qmp_socket, selectors.EVENT_READ, self.hear_monitor)
        self.selector.register(self.console_socket, selectors.EVENT_READ, self.hear_console)
        self.until(lambda: self.take_reply('QMP'), 'the monitor greets')
        self.qmp('qmp_capabilities')

    def hear_console(self, piece):
        """Called with each piece of the console's output. A class that understands the guest overrides it."""

    def hear_monitor(self, piece):
        self.monitor += piece
        *lines, self.monitor = self.monitor.split(b'\n')
        self.events += [json.loads(line) for line in lines if line.strip()]

    def wait_for_input(self, end, what):
        """Waits until the time `end`, and reads what arrives first. Returns False if QEMU has closed both sockets."""
        if not self.selector.get_map():
            return False
        while not (ready := self.selector.select(min(1, max(0, end - time.monotonic())))):
            if self.needed and self.needed.poll() is not None:
                raise peer.Failure(f'the back-end ended before this: {what}{self.remarks()}')
            if time.monotonic() < end:
                continue
            raise peer.Failure(f'not in {self.limit_s} s: {what}{self.remarks()}{stall.evidence(self)}')
        for key, _ in ready:
            try:
                piece = key.fileobj.recv(65536)
            except ConnectionResetError:
                piece = b''
            if piece:
                key.data(piece)
            else:
                self.selector.unregister(key.fileobj)
        return True

    def catch_up(self, limit_s=0):
        """Reads what has arrived already. If nothing has arrived, waits for something until the time limit."""
        while self.selector.get_map() and self.selector.select(limit_s):
            self.wait_for_input(0, 'what has arrived')
            limit_s = 0

    def catch_up_for(self, seconds):
        """Reads what arrives in this time."""
        end = time.monotonic() + seconds
        while self.selector.get_map() and time.monotonic() < end:
            self.catch_up(max(0, end - time.monotonic()))

    def wait_until(self, condition, sentence):
        """
        Like peer.wait_until(), but meanwhile reads what QEMU and the guest say. If a socket is full, QEMU
        waits only briefly, and then drops what the guest says.
        """
        end = time.monotonic() + peer.LIMIT_S
        while not condition():
            check(time.monotonic() < end and self.selector.get_map(), f'{sentence}{self.remarks()}')
            self.catch_up(0.005)

    def until(self, condition, what):
        """Reads until the condition returns a true value, and returns that value."""
        end = time.monotonic() + self.limit_s
        while not (found := condition()):
            if not self.wait_for_input(end, what):
                code = self.child.wait(peer.LIMIT_S)
                raise peer.Failure(f'QEMU ended ({code}) before this: {what}{self.remarks()}')
        return found

    def remarks(self):
        """Returns the output that explains a failed case."""
        return f'\nQEMU: {self.case.output(self.child)}'

    def take_reply(self, *names):
        for message in self.events:
            if any(name in message for name in names):
                self.events.remove(message)
                return message
        return None

    def qmp(self, command, **arguments):
        request = {'execute': command, 'arguments': {key.replace('_', '-'): value
                                                     for key, value in arguments.items()}}
        self.qmp_socket.sendall(json.dumps(request).encode() + b'\n')
        reply = self.until(lambda: self.take_reply('return', 'error'), f'an answer to {command}')
        check('return' in reply, f'{command} {arguments}: {reply.get("error")}')
        return reply['return']

    def take_event(self, name, fits):
        for message in self.events:
            if message.get('event') == name and fits(message.get('data', {})):
                self.events.remove(message)
                return message
        return None

    def event(self, name, fits=lambda data: True):
        """Waits for an event and returns it. It may have occurred earlier, if no other call has returned it."""
        return self.until(lambda: self.take_event(name, fits), f'the event {name}')

    def wait(self):
        """Waits until QEMU has ended by itself, with exit status 0."""
        end = time.monotonic() + self.limit_s
        while self.wait_for_input(end, 'the end of QEMU'):
            pass
        code = self.child.wait(peer.LIMIT_S)
        check(code == 0, f'QEMU ended with {code}{self.remarks()}')

    def kill(self):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.close()

    def close(self):
        self.selector.close()
        self.qmp_socket.close()
        self.console_socket.close()
