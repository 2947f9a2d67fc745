# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plays systemd for one process: passes it a listening socket, and receives its notifications."""
import os
import socket
import sys

import peer
from peer import check

# Runs in the child: only the process itself knows the PID that it passes on. argv: the socket (0: none), the command.
CHILD = '''
import os, sys
given, extra = int(sys.argv[1]), int(sys.argv[2])
if given:
    os.dup2(given, 3, inheritable=True)
if extra:
    os.environ.setdefault('LISTEN_FDS', '1')
    os.environ.setdefault('LISTEN_PID', str(os.getpid()))
os.execvp(sys.argv[3], sys.argv[3:])
'''


class Supervisor:
    """The notifications of a process are in `lines`, in order, each as sent."""

    def __init__(self, case, name='notify'):
        self.case, self.lines = case, []
        self.path = case.path(name)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.setblocking(False)

    def start(self, command, given=None, passes=None, **variables):
        """Starts the command. `given`: its descriptor 3. `passes`: whether LISTEN_FDS says so, by default if it is given."""
        passes = given is not None if passes is None else passes
        env = {**os.environ, 'NOTIFY_SOCKET': str(self.path), **variables}
        number = given.fileno() if given is not None else 0
        return self.case.start([sys.executable, '-c', CHILD, number, int(passes), *command], env=env,
                               pass_fds=[number] if number else [])

    def receive(self):
        while True:
            try:
                self.lines += self.socket.recv(4096).decode().split('\n')
            except BlockingIOError:
                return self.lines

    def wait_for(self, line, child, count=1):
        """Waits until `line` was sent `count` times, or a line that begins with it if it ends with '='."""
        def found():
            return [sent for sent in self.receive()
                    if sent == line or (line.endswith('=') and sent.startswith(line))][count - 1:]
        peer.wait_until(lambda: found() or child.poll() is not None,
                        lambda: f'no {line}; sent were {self.lines}; it said {self.case.output(child)}')
        check(found(), f'the process ended without {line}: {self.lines}, {self.case.output(child)}')
        return found()[0]

    def status(self):
        return [line for line in self.receive() if line.startswith('STATUS=')][-1]

    def wait_for_status(self, words, child):
        peer.wait_until(lambda: any(line.startswith('STATUS=') for line in self.receive()) and words in self.status() or
                        child.poll() is not None, lambda: f'"{words}" is never the status: {self.lines}')
        check(words in self.status(), f'the process ended: {self.case.output(child)}')


def listener(path, kind=socket.SOCK_STREAM):
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(str(path))
    if kind == socket.SOCK_STREAM:
        made.listen()
    return made
