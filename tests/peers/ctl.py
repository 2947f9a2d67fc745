#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The clients of a control socket (`vublk ctl`, `vublk device --take-over`), connected to another program. It
may be slow and may send anything, but must neither block the client nor control the terminal.

    ctl.py VUBLK [-l] [-k] [WORD...]
"""
import contextlib
import json
import pathlib
import select
import socket
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
COMMANDS = ['status', 'upgrade']
GREETING = json.dumps({'vublk': '0', 'protocol': 1, 'role': 'device', 'commands': COMMANDS}).encode() + b'\n'
# ESC, DEL and U+009B begin sequences that a terminal obeys.
EVIL = 'a\x1b[31m\x7f\u009b31mz\r\x08'


class Foreign:
    """A program that listens at a control socket, in a thread of the test. `talk` is called with each connection."""

    def __init__(self, case, talk):
        self.path, self.talk, self.is_ending = case.path('foreign'), talk, threading.Event()
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.path))
        self.socket.listen()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while select.select([self.socket], [], [], 0.05)[0] or not self.is_ending.is_set():
            if select.select([self.socket], [], [], 0)[0]:
                with self.socket.accept()[0] as connection, contextlib.suppress(OSError):
                    self.talk(self, connection)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_ending.set()
        self.thread.join()
        self.socket.close()

    def drip(self, connection, data=b'{"' + b'x' * 1000000):
        """Sends `data` one byte at a time, with short pauses, until the data, the client or the case ends."""
        for byte in data:
            if self.is_ending.wait(0.02):
                return
            connection.sendall(bytes([byte]))


def receive(connection):
    """Receives a request. A client may send blanks before it (see send_blanks() of the tool)."""
    line = b''
    while not line.endswith(b'\n') and (more := connection.recv(1 << 16)):
        line += more
    return line


def answering(*lines):
    """Returns a server that sends the greeting, and after each request the next one of `lines`."""
    def talk(_, connection):
        connection.sendall(GREETING)
        for line in lines:
            receive(connection)
            connection.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b'\n')
        receive(connection)
    return talk


def ctl(case, foreign, *words):
    return case.call([VUBLK, 'ctl', *words[:-1], foreign.path, words[-1]])


def check_refused(result, *words):
    check(result.code == 1 and all(word in result.err for word in words) and len(result.err.splitlines()) == 1,
          str(result))


def slow_greeting(case):
    """The time limit applies to the whole greeting, not to each of its bytes."""
    with Foreign(case, Foreign.drip) as foreign:
        check_refused(ctl(case, foreign, '--timeout', '300ms', 'status'), 'sent no greeting within')


def the_socket_of_a_disk(case):
    """
    At the socket of a disk instead of a control socket, a client ends immediately if the process there reads its bytes:
    a back-end, a relay, a PCI device, another program. Otherwise it ends soon, and says what is wrong. The disk can be
    used as before.
    """
    case.path('disk').write_bytes(bytes(1 << 20))
    disk, path = peer.VublkServe(VUBLK).start(case, case.path('disk'), arguments=['--control', case.path('control')])
    for bus in ('vhost-user', 'vfio-user'):
        relay = case.start([VUBLK, 'device', '--chardev', path, '--bus', f'{bus}:{case.path(bus)}'])
        peer.wait_for_socket(case, relay, case.path(bus))
        for words in (['ctl', '--timeout', '1h', case.path(bus), 'status'], ['device', '--take-over', case.path(bus)]):
            check_refused(case.call([VUBLK, *words]), 'closed the connection')
        case.stop(relay)
    check_refused(case.call([VUBLK, 'ctl', '--timeout', '1h', path, 'status']), 'without a greeting', '--control')
    bench = case.start([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '60'])
    peer.wait_until(lambda: '"serving"' in case.run([VUBLK, 'ctl', case.path('control'), 'status']), 'the disk is not used')
    check_refused(case.call([VUBLK, 'ctl', path, 'status']), 'sent no greeting', '3000 ms', '--control')
    case.stop(bench)
    case.run([VUBLK, 'bench', path, '--rw', 'randrw', '--number_ios', '64'])
    case.stop(disk)


def slow_answer(case):
    """The time limit applies to each whole answer, also to a later one of --watch."""
    def talk(self, connection):
        connection.sendall(GREETING)
        for _ in range(num_prompt):
            receive(connection)
            connection.sendall(b'{"result": {"n": 1}}\n')
        self.drip(connection)

    for num_prompt, words in ((0, ()), (2, ('--watch=10ms',))):
        with Foreign(case, talk) as foreign:
            result = ctl(case, foreign, '--timeout', '300ms', *words, 'status')
            check_refused(result, 'within 300 ms', 'may still carry out')
            check(result.out.count('"n"') == num_prompt, str(result))


def slow_take_over(case):
    """A take-over waits only for a limited time, both for the greeting and for the answer."""
    def talk(self, connection):
        if is_greeted:
            connection.sendall(GREETING)
            receive(connection)
        self.drip(connection)

    for is_greeted in (False, True):
        with Foreign(case, talk) as foreign:
            check_refused(case.call([VUBLK, 'device', '--take-over', foreign.path]), 'in time')


def a_stream_has_no_limit(case):
    """Any amount of time may pass between two events."""
    def talk(self, connection):
        connection.sendall(GREETING)
        receive(connection)
        connection.sendall(b'{"result": {"stream": true}}\n{"event": 1}\n')
        self.drip(connection, b'{"event": 2}')  # takes longer than the limit
        connection.sendall(b'\n')

    with Foreign(case, talk) as foreign:
        result = ctl(case, foreign, '--timeout', '100ms', 'events')
        check([json.loads(line) for line in result.out.splitlines()] == [{'event': 1}, {'event': 2}], str(result))
        check_refused(result, 'closed the connection')


def controls(text):
    """Returns the characters of a text that a terminal may obey, except newlines and tabs."""
    return [c for c in text if (ord(c) < 32 and c not in '\n\t') or 127 <= ord(c) < 160]


def escapes(case):
    """Control characters in text from another program are printed as escapes, wherever they occur."""
    record = {'type': EVIL, 'status': EVIL, 'completed_ns': 1}
    for answer, words in (
            ({'error': {'code': 'EIO', 'message': EVIL}}, ('status',)),
            ({'result': {EVIL: [EVIL]}}, ('status',)),
            ({'result': {'content_type': 'text/plain', 'text': EVIL + '\n\tx\n'}}, ('metrics',)),
            ({'result': {'records': [record], 'active': 0}}, ('trace',)),
            ({'result': {'records': [record], 'active': 0}}, ('--format', 'json', 'trace'))):
        # Without "ensure_ascii", DEL and C1 characters are sent unescaped, which JSON permits.
        for is_ascii in (True, False):
            line = json.dumps(answer, ensure_ascii=is_ascii).encode() + b'\n'
            with Foreign(case, answering(line, line)) as foreign:
                result = ctl(case, foreign, *words)
            check('31mz' in result.out + result.err, f'{words}: {result}')
            check(not controls(result.out + result.err), f'{words}: {result!r}')
            if words == ('status',) and result.code == 0:
                check(json.loads(result.out) == answer['result'], f'the value has changed: {result}')
            if 'json' in words:
                check([json.loads(line) for line in result.out.splitlines()] == [record] * 2, f'{result!r}')
    event = json.dumps({'event': EVIL}, ensure_ascii=False).encode() + b'\n'

    def stream(_, connection):
        connection.sendall(GREETING)
        receive(connection)
        connection.sendall(b'{"result": {"stream": true}}\n' + event)

    with Foreign(case, stream) as foreign:
        result = ctl(case, foreign, 'events')
    check(json.loads(result.out) == {'event': EVIL} and not controls(result.out), repr(result))
    greeting = {'protocol': 1, 'role': EVIL, 'commands': COMMANDS}
    for line in (greeting, {'error': {'message': EVIL}}):
        with Foreign(case, lambda _, connection: connection.sendall(json.dumps(line).encode() + b'\n')) as foreign:
            result = case.call([VUBLK, 'device', '--take-over', foreign.path])
        check('31mz' in result.err and not controls(result.err), repr(result))


def own_words(case):
    """Control characters in words of the command line, such as a path from another program, are also escaped."""
    result = case.call([VUBLK, 'ctl', case.path('x\x1b[31m'), 'status'])
    check(result.code == 1 and '\\x1b[31m' in result.err and not controls(result.err), repr(result))


def duplicates(case):
    """A line in which an object has two members with the same name is refused, however the name is written."""
    for line in (b'{"result": {"a": 1}, "result": {}}', b'{"result": {"a": 1, "b": {"c": 1, "c": 1}}}',
                 b'{"result": [{"a": 1, "\\u0061": 2}]}', b'{"error": 1, "error": {"message": "x"}}'):
        with Foreign(case, answering(line + b'\n')) as foreign:
            check_refused(ctl(case, foreign, 'status'), 'the same name')
    for line in (b'{"result": {"a": ":\\":", "b": [{"a": 1}, {"a": 1}]}}', b'{"result": {}}'):
        with Foreign(case, answering(line + b'\n')) as foreign:
            check(ctl(case, foreign, 'status').code == 0, f'{line} is refused')
    double = GREETING.replace(b'"protocol": 1', b'"protocol": 2, "protocol": 1')
    for words in (('ctl',), ('device', '--take-over')):
        with Foreign(case, lambda _, connection: connection.sendall(double)) as foreign:
            check_refused(case.call([VUBLK, *words, foreign.path, *(['status'] if words == ('ctl',) else [])]),
                          'the same name')
    result = case.call([VUBLK, 'ctl', case.path('x'), 'limit', 'iops=1', 'iops=2'])
    check(result.code == 2 and 'given twice' in result.err, str(result))


def duplicates_in_requests(case):
    """A server refuses a request in which two members have the same name, and executes nothing."""
    control = case.path('control')
    child = case.start([VUBLK, 'serve', '--engine', 'memory', '--size', '1M', '--socket-path', case.path('disk.sock'),
                        '--control', control])
    peer.wait_for_socket(case, child, control)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(peer.LIMIT_S)
        client.connect(str(control))
        lines = client.makefile('rb')
        lines.readline()
        for request in (b'{"command": "status", "command": "stats"}', b'{"command": "status", "id": 1, "id": 2}',
                        b'{"command": "stats", "arguments": {"enable": false, "\\u0065nable": true}}',
                        b'{"command": "status", "arguments": {"x": [{"y": 1, "y": 2}]}}'):
            client.sendall(request + b'\n')
            answer = json.loads(lines.readline())
            check(answer.get('error', {}).get('code') == 'EPROTO' and 'same name' in answer['error']['message'],
                  f'{request}: {answer}')
        client.sendall(b'{"command": "status"}\n')
        check('result' in json.loads(lines.readline()), 'the connection is of no use any more')
    case.stop(child)


CASES = [slow_greeting, the_socket_of_a_disk, slow_answer, slow_take_over, a_stream_has_no_limit, escapes, own_words, duplicates,
         duplicates_in_requests]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
