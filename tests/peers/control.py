#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The control socket of `vublk serve` and `vublk device` (docs/control.md): what each command answers,
and clients that are slow, silent or hostile.

    control.py VUBLK [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import select
import signal
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20
LINE_BYTES = 2048  # VUBLK_CONTROL_LINE_BYTES
MAX_CLIENTS = 16

# The types of the members of each result (see docs/control.md). A list has one type for all elements.
SERVE_STATUS = {
    'state': str, 'drain': str, 'num_queues': int, 'num_threads': int,
    'disk': {'storage': str, 'size_bytes': int, 'block_bytes': int, 'physical_block_bytes': int,
             'read_only': bool, 'write_cache': bool, 'serial': str},
    'front_end': ({'pid': int, 'features': [str], 'protocol_features': [str]}, None),
    'queues': [{'index': int, 'running': bool, 'size': int, 'avail_index': int, 'used_index': int}],
}
SHADOW = {'wanted': str, 'path': str, 'changing': bool, 'reasons': str, 'refusal': str}
DEVICE_STATUS = {
    'state': str, 'device': str, 'pause': str, 'size_bytes': int, 'num_queues': int, 'features': [str],
    'back_end': {'chardev': str, 'paths': [str], 'waits_for': ({'pid': int, 'reason': str}, None),
                 'connected': bool, 'outages': int, 'outage_ms': int, 'reason': str, 'max_queues': int,
                 'memory_slots': int, 'features': [str], 'protocol_features': [str]},
    'vmm': ({'pid': int, 'driver_status': int}, None), 'shadow': SHADOW,
    'replay': ({'kept_bytes': int, 'max_bytes': int, 'replaying': bool, 'failure': str, 'replays': int, 'last_writes': int,
                'last_bytes': int}, None),
    'queues': [{'index': int, 'size': int, 'base': int, 'outstanding': (int, None)}],
}
RESIZE = {'before_bytes': int, 'size_bytes': int}


def matches(value, schema, where='result'):
    """Returns the first difference between a value and a schema, or '' if there is none."""
    if isinstance(schema, tuple):
        found = [matches(value, one, where) for one in schema]
        return '' if '' in found else found[0]
    if schema is None:
        return '' if value is None else f'{where} is not null'
    if isinstance(schema, list):
        if not isinstance(value, list):
            return f'{where} is not an array'
        return next(filter(None, (matches(one, schema[0], f'{where}[]') for one in value)), '')
    if isinstance(schema, dict):
        if not isinstance(value, dict) or set(value) != set(schema):
            return f'{where} has the members {sorted(value or [])}, not {sorted(schema)}'
        return next(filter(None, (matches(value[name], schema[name], f'{where}.{name}') for name in schema)), '')
    return '' if type(value) is schema else f'{where} is {value!r}, not of type {schema.__name__}'


def check_schema(value, schema):
    check(not (fault := matches(value, schema)), fault)


class Client:
    """A client that is connected to a control socket, and has received the greeting."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(peer.LIMIT_S)
        self.socket.connect(str(path))
        self.data = b''
        self.greeting = self.receive()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def receive(self):
        while b'\n' not in self.data:
            more = self.socket.recv(1 << 16)
            check(more, 'the control socket was closed')
            self.data += more
        line, _, self.data = self.data.partition(b'\n')
        return json.loads(line)

    def send(self, line):
        self.socket.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b'\n')

    def ask(self, command, **arguments):
        request = {'command': command, 'id': 7}
        self.send({**request, 'arguments': arguments} if arguments else request)
        answer = self.receive()
        check(answer.pop('id', None) == 7, f'{command}: the answer has another id')
        return answer

    def result(self, command, **arguments):
        answer = self.ask(command, **arguments)
        check(list(answer) == ['result'], f'{command}: {answer}')
        return answer['result']


def start_serve(case, *arguments):
    """Starts a server. Returns the process, its disk's socket and its control socket."""
    image, control = case.path('disk'), case.path('control')
    if not image.exists():
        with open(image, 'wb') as file:
            file.truncate(32 * MIB)
    child, path = peer.VublkServe(VUBLK).start(case, image, arguments=['--control', control, *arguments])
    peer.wait_for_socket(case, child, control)
    return child, path, control


def start_device(case, bus='vhost-user', *arguments, timeout_ms=1000):
    """
    Starts a relay, which looks for a back-end at back.sock, and takes it for lost if a message has no answer within
    `timeout_ms`. Returns the process and its control socket.
    """
    control = case.path('device-control')
    child = case.start([VUBLK, 'device', '--chardev', f'path={case.path("back.sock")},request-timeout-ms={timeout_ms}',
                        '--bus', f'{bus}:{case.path("vm.sock")}', '--control', control, *arguments])
    peer.wait_for_socket(case, child, control)
    return child, control


def start_backend(case, *arguments):
    image = case.path('disk')
    if not image.exists():
        image.write_bytes(bytes(32 * MIB))
    return peer.VublkServe(VUBLK).start(case, image, path=case.path('back.sock'), arguments=arguments)[0]


def wait_for_status(case, control, condition, sentence):
    """Waits until the status fulfils a condition, and returns it."""
    found = []

    def holds():
        found.append(ctl(case, control, 'status'))
        check_schema(found[-1], DEVICE_STATUS)
        return condition(found[-1])

    peer.wait_until(holds, sentence)
    return found[-1]


def end(case, child):
    code = case.stop(child)
    check(code == 0, f'{child.args[1]} ended with {code}: {case.output(child)}')


def ctl(case, *words):
    return json.loads(case.run([VUBLK, 'ctl', *words]))


def start_load(case, child, path):
    bench = case.start([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '60'])
    return bench


def resident_bytes(child):
    return int(pathlib.Path(f'/proc/{child.pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


def serve_status(case):
    child, path, control = start_serve(case)
    status = ctl(case, control, 'status')
    check_schema(status, SERVE_STATUS)
    check((status['state'], status['front_end'], status['queues']) == ('listening', None, []), str(status))
    check(status['disk']['size_bytes'] == 32 * MIB, str(status))
    bench = start_load(case, child, path)
    peer.wait_until(lambda: [q for q in ctl(case, control, 'status')['queues'] if q['used_index']],
                    'no ring of the front-end moves')
    status = ctl(case, control, 'status')
    check_schema(status, SERVE_STATUS)
    check(status['state'] == 'serving' and status['front_end']['pid'] == bench.pid, str(status))
    check('VIRTIO_BLK_F_FLUSH' in status['front_end']['features'], str(status))
    check(status['queues'][0]['running'] and status['queues'][0]['size'] == 128, str(status))
    case.stop(bench)
    end(case, child)
    check(not control.exists(), 'the control socket was left behind')


def serve_resize(case):
    """serve answers `resize` once it has read the new size, and reports the size to a front-end."""
    child, path, control = start_serve(case)
    for size in (64 * MIB, 16 * MIB):
        os.truncate(case.path('disk'), size)
        result = ctl(case, control, 'resize')
        check_schema(result, RESIZE)
        check(result['size_bytes'] == size != result['before_bytes'], str(result))
        check(ctl(case, control, 'status')['disk']['size_bytes'] == size, 'status has another size')
    load = start_load(case, child, path)
    peer.wait_until(lambda: ctl(case, control, 'status')['state'] == 'serving', 'no front-end connects')
    os.truncate(case.path('disk'), 48 * MIB)
    check(ctl(case, control, 'resize')['size_bytes'] == 48 * MIB, 'not resized under load')
    case.stop(load)
    end(case, child)


def device_status(case):
    """The commands of a device before its first back-end, with a back-end, with a VMM, and during an outage."""
    child, control = start_device(case)
    status = wait_for_status(case, control, lambda s: s['back_end']['reason'], 'no reason is known')
    check((status['state'], status['back_end']['connected'], status['vmm']) == ('realizing', False, None), str(status))
    backend = start_backend(case)
    status = wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    with Client(control) as client:
        path = str(case.path('back.sock'))
        check(client.result('switch', to=path) == {'chardev': path}, 'a switch to the path in use')
        for iops in ('5\0', '5\0M'):
            check('NUL' in client.ask('limit', iops=iops)['error']['message'], f'a limit of {iops!r}')
        check(client.result('limit')['iops'] == 0, 'a limit is set')
        for to in (path + '\0x', None, 3, [path], 300 * 'x'):
            check(client.ask('switch', to=to)['error']['code'] == 'EINVAL', f'switch to {to}')
    check(status['back_end']['connected'] and status['size_bytes'] == 32 * MIB, str(status))
    check(status['back_end']['chardev'] == str(case.path('back.sock')) and not status['back_end']['reason'], str(status))
    bench = start_load(case, child, case.path('vm.sock'))
    status = wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run')
    check(status['state'] == 'serving' and status['vmm'] == {'pid': bench.pid, 'driver_status': 15}, str(status))
    check(status['queues'][0]['size'] == 128 and status['queues'][0]['index'] == 0, str(status))
    backend.kill()
    backend.wait()
    status = wait_for_status(case, control, lambda s: s['back_end']['outage_ms'], 'the loss is not noticed')
    # The connection is reset if the back-end had not read all bytes.
    check(status['back_end']['outages'] == 1 and 'connection' in status['back_end']['reason'], str(status))
    check(not status['back_end']['connected'] and status['device'] in ('lost', 'reconnecting'), str(status))
    backend = start_backend(case)
    status = wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run again')
    check((status['back_end']['outages'], status['back_end']['outage_ms']) == (1, 0), str(status))
    case.stop(bench)
    end(case, child)
    end(case, backend)
    check(not control.exists(), 'the control socket was left behind')


def pci_device_status(case):
    child, control = start_device(case, 'vfio-user')
    backend = start_backend(case)
    status = wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    check(status['queues'] == [] and status['vmm'] is None, str(status))
    end(case, child)
    end(case, backend)


def a_stuck_backend(case):
    """`status` is answered while the back-end hangs, before and after the loss is noticed."""
    child, control = start_device(case)
    backend = start_backend(case)
    wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    bench = start_load(case, child, case.path('vm.sock'))
    wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run')
    peer.suspend(backend)
    wait_for_status(case, control, lambda s: s['back_end']['outages'], 'the hanging back-end is not noticed')
    backend.send_signal(signal.SIGCONT)
    wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run again')
    case.stop(bench)
    end(case, child)
    end(case, backend)


def device_shadow(case):
    """Under load, the device switches between the direct path and shadow rings."""
    child, control = start_device(case, timeout_ms=100000)
    backend = start_backend(case)
    wait_for_status(case, control, lambda s: s['state'] == 'listening', 'the back-end is not found')
    status = ctl(case, control, 'shadow')
    check_schema(status, SHADOW)
    check((status['wanted'], status['path'], status['changing']) == ('off', 'direct', False), str(status))
    bench = start_load(case, child, case.path('vm.sock'))
    wait_for_status(case, control, lambda s: s['device'] == 'running', 'the rings do not run')
    for wanted, path, reasons in (('on', 'shadow', 'property'), ('auto', 'direct', ''), ('on', 'shadow', 'property'),
                                  ('off', 'direct', '')) * 5:
        expected = {'wanted': wanted, 'path': path, 'changing': False, 'reasons': reasons, 'refusal': ''}
        answer = ctl(case, control, 'shadow', wanted)
        check(answer == expected, f'{wanted}: {answer}')
        check(ctl(case, control, 'status')['shadow'] == expected, 'status says something else')
    for words in (['on', 'off'], ['on=1'], ['up']):
        result = case.call([VUBLK, 'ctl', str(control), 'shadow', *words])
        check(result.code == 1 and len(result.err.splitlines()) == 1, f'{words}: {result}')
    check(ctl(case, control, 'status')['back_end']['outages'] == 0, 'an exchange is an outage')
    case.stop(bench)
    end(case, child)
    end(case, backend)


def greeting_and_errors(case):
    child, _, control = start_serve(case)
    with Client(control) as client:
        check_schema(client.greeting, {'vublk': str, 'protocol': int, 'role': str, 'pid': int, 'commands': [str]})
        check((client.greeting['role'], client.greeting['pid']) == ('serve', child.pid), str(client.greeting))
        for line, code, word in (
                (b'\n{"command": "status"\n', 'EPROTO', 'middle'), (b'x\n', 'EPROTO', 'not JSON'),
                (b'[1]\n', 'EPROTO', 'not a JSON object'), (b'{}\n', 'EPROTO', "no 'command'"),
                (b'{"command": 5}\n', 'EPROTO', 'must be a string'), (b'{"command": "status"} 5\n', 'EPROTO', 'not JSON'),
                (b'{"command": "status"}\0 5\n', 'EPROTO', 'more text'),
                (b'{"command": "status", "x": 1}\n', 'EPROTO', 'unknown member'),
                (b'{"command": "status", "id": []}\n', 'EPROTO', "'id'"),
                (b'{"command": "status", "arguments": 1}\n', 'EPROTO', "'arguments'"),
                (b'{"command": "\xff"}\n', 'EPROTO', 'not JSON'), (b'{"command": "st\\u0000"}\n', 'EPROTO', 'name'),
                (b'\0\n', 'EPROTO', ''), (b'{"command": "' + b'a' * 100 + b'"}\n', 'EPROTO', 'name'),
                (b'{"command": "nope"}\n', 'EINVAL', 'the commands are status'),
                (b'{"command": "status", "arguments": {"a": 1}}\n', 'EINVAL', "no argument 'a'"),
                (b'{"command": "status", "arguments": {"a\\u0000": 1}}\n', 'EINVAL', 'NUL'),
                (b'[' * 1500 + b'\n', 'EPROTO', 'deep'), (b'{"a":' * 300 + b'\n', 'EPROTO', 'deep'),
                (b'a' * (LINE_BYTES + 1) + b'\n', 'EMSGSIZE', 'longer')):
            client.send(line)
            answer = client.receive()
            check_schema(answer, {'error': {'code': str, 'message': str}})
            check(answer['error']['code'] == code and word in answer['error']['message'], f'{line[:40]}: {answer}')
        client.send(b'{"command": "status"' + b' ' * (LINE_BYTES - 21) + b'}\n')
        check_schema(client.receive()['result'], SERVE_STATUS)
        check(client.ask('nope')['error']['code'] == 'EINVAL', 'an error has no id')
    end(case, child)


def permissions(case):
    """The socket's mode comes from --control-mode, not from the umask."""
    for mask in (0, 0o777):
        for option, mode in (([], 0o600), (['--control-mode', '0660'], 0o660)):
            before = os.umask(mask)
            try:
                child = case.start([VUBLK, 'serve', '--engine', 'memory', '--size', '1M', '--fd', listener(case).fileno(),
                                    '--control', case.path('control'), *option], pass_fds=[case.listener.fileno()])
            finally:
                os.umask(before)
            ctl_until_ready(case, child)
            check(case.path('control').stat().st_mode & 0o7777 == mode, oct(case.path('control').stat().st_mode))
            end(case, child)
    for mode in ('8', '01000', 'rw', ''):
        result = case.call([VUBLK, 'serve', '--engine', 'memory', '--size', '1M', '--socket-path', case.path('s'),
                            '--control', case.path('control'), f'--control-mode={mode}'])
        check(result.code == 2 and '--control-mode' in result.err, str(result))


def listener(case):
    case.listener = socket.socket(socket.AF_UNIX)
    case.path('sock').unlink(missing_ok=True)
    case.listener.bind(str(case.path('sock')))
    case.listener.listen()
    return case.listener


def ctl_until_ready(case, child):
    peer.wait_until(lambda: child.poll() is not None or case.call([VUBLK, 'ctl', case.path('control'), 'status']).code == 0,
                    'the control socket never answers')
    check(child.poll() is None, case.output(child))


def paths(case):
    """A stale socket is replaced; a socket in use and other files are refused."""
    serve = [VUBLK, 'serve', '--engine', 'memory', '--size', '1M']
    child, _, control = start_serve(case)
    for path, word in ((control, 'another process listens'), (case.path('disk'), 'not a socket'),
                       (case.path('no/where'), 'does not exist'), ('x' * 200, 'bytes'), ('', 'empty')):
        result = case.call([*serve, '--socket-path', case.path('s2'), '--control', path])
        check(result.code == 1 and word in result.err and len(result.err.splitlines()) <= 2, f'{path}: {result}')
    check(not case.path('s2').exists(), 'the disk\'s socket was left behind')
    check(ctl(case, control, 'status'), 'the first one was disturbed')
    child.kill()
    child.wait()
    check(control.is_socket(), 'there is no stale socket')
    child, _, control = start_serve(case)
    ctl_until_ready(case, child)
    end(case, child)


def ctl_fails(case):
    """Whenever the client (vublk ctl) fails, it says why in one sentence."""
    silent = listener(case)
    for words, code, word in (
            (['nowhere', 'status'], 1, '--control'), ([], 2, 'is missing'), ([case.path('sock')], 2, 'is missing'),
            ([case.path('sock'), '--timeout', '100ms', 'status'], 1, 'sent no greeting within'),
            ([case.path('sock'), 'status', '=x'], 2, 'NAME=VALUE')):
        result = case.call([VUBLK, 'ctl', *words])
        check(result.code == code and word in result.err and len(result.err.splitlines()) <= 2, f'{words}: {result}')
    silent.close()
    check('no process listens' in case.call([VUBLK, 'ctl', case.path('sock'), 'status']).err, 'a closed socket')


def errors_without_words(case):
    """A server sends an error without a valid message. Both kinds of clients still print a sentence."""
    for error in (b'"x"', b'null', b'{}', b'{"message":null}', b'{"message":3}'):
        for words in (('ctl', case.path('sock'), 'status'), ('device', '--take-over', case.path('sock'))):
            case.path('sock').unlink(missing_ok=True)
            fake = listener(case)
            child = case.start([VUBLK, *words])
            fake.settimeout(peer.LIMIT_S)
            connection, _ = fake.accept()
            connection.sendall(b'{"error":' + error + b'}\n')
            code = child.wait(peer.LIMIT_S)
            connection.close()
            fake.close()
            check(code == 1 and 'without a description' in case.output(child), f'{words} {error}: {case.output(child)}')


def hostile_clients(case):
    """Hostile clients disturb neither a verified load nor other clients, and memory use does not grow."""
    child, path, control = start_serve(case)
    ctl(case, control, 'status')
    before = resident_bytes(child)
    with Client(control) as endless, Client(control) as half, Client(control) as deaf, Client(control) as good:
        for _ in range(10 * MIB >> 16):  # 10 MB without a newline
            endless.send(b'x' * (1 << 16))
        check(endless.receive()['error']['code'] == 'EMSGSIZE', 'a line of 10 MB is not refused')
        half.send(b'{"command": "sta')
        deaf.socket.setblocking(False)
        request, sent = b'{"command": "status"}\n' * 100, 0
        while sent < 8 * MIB and select.select([], [deaf.socket], [], 1)[1]:  # until the server stops reading
            sent += deaf.socket.send(request)
        check(sent < 8 * MIB, 'a client that does not read is served forever')
        case.run([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '1', '--verify'])
        check_schema(good.result('status'), SERVE_STATUS)
        endless.send(b'\n{"command": "status"}\n')
        check('result' in endless.receive(), 'the connection of a long line is useless')
        half.send(b'tus"}\n')
        check('result' in half.receive(), 'a line in two parts is not answered')
    grown = resident_bytes(child) - before
    check(grown < 16 * MIB, f'the memory has grown by {grown} bytes')
    end(case, child)


def many_clients(case):
    """Of 1,000 connections, 16 are served. The others are refused with a reason, and no descriptor stays open."""
    child, _, control = start_serve(case)
    ctl(case, control, 'status')
    before = len(os.listdir(f'/proc/{child.pid}/fd'))
    clients = [Client(control) for _ in range(1000)]
    served = [client for client in clients if 'vublk' in client.greeting]
    refused = [client for client in clients if 'vublk' not in client.greeting]
    check(len(served) == MAX_CLIENTS, f'{len(served)} clients are served')
    check(all(client.greeting['error']['code'] == 'EBUSY' for client in refused), str(refused[0].greeting))
    check_schema(served[-1].result('status'), SERVE_STATUS)
    result = case.call([VUBLK, 'ctl', control, 'status'])
    check(result.code == 1 and 'connections are in use' in result.err, str(result))
    check(len(os.listdir(f'/proc/{child.pid}/fd')) <= before + MAX_CLIENTS, 'descriptors are left')
    for client in clients:
        client.socket.close()
    ctl_until_ready(case, child)
    peer.wait_until(lambda: len(os.listdir(f'/proc/{child.pid}/fd')) <= before, 'descriptors are left', 10)
    end(case, child)


def clients_that_leave(case):
    """Clients disconnect before their commands are answered. A client that only stops sending gets its answers."""
    child, _, control = start_serve(case)
    for _ in range(200):
        with Client(control) as client:
            if 'error' not in client.greeting:  # the commands of 16 clients may still be under way
                client.send(b'{"command": "resize"}\n{"command": "status"}\n')
    ctl_until_ready(case, child)
    with Client(control) as client:
        client.send(b'{"command": "status"}\n{"command": "status"}\nhalf')
        client.socket.shutdown(socket.SHUT_WR)
        check('result' in client.receive() and 'result' in client.receive(), 'no answer')
        check(client.socket.recv(1) == b'', 'the connection stays open')
    check(len(case.output(child).splitlines()) < 50, 'the log has a line per command')
    end(case, child)


def an_end_with_clients(case):
    child, _, control = start_serve(case)
    with Client(control) as client:
        client.result('status')
        end(case, child)
        check(client.socket.recv(1) == b'', 'the connection stays open')


CASES = [
    serve_status, serve_resize, device_status, pci_device_status, device_shadow, a_stuck_backend, greeting_and_errors, permissions, paths,
    ctl_fails, errors_without_words, hostile_clients, many_clients, clients_that_leave, an_end_with_clients,
]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
