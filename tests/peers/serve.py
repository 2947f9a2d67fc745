#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk serve` from start to end: options, clients that misbehave, resizes, signals.

    serve.py VUBLK [-l] [-k] [WORD...]
"""
import functools
import json
import os
import pathlib
import signal
import socket
import struct
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import frozen  # noqa: E402
import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20


def image_file(case, size=32 * MIB):
    path = case.path('disk')
    with open(path, 'wb') as file:
        file.truncate(size)
    return path


def info(case, path):
    return json.loads(case.run([VUBLK, 'info', path, '--json']))


def verify(case, path, *arguments):
    case.run([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '1', '--verify', *arguments])


def processor_ticks(child):
    fields = pathlib.Path(f'/proc/{child.pid}/stat').read_text().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12])


def start_bench(case, child, path):
    """Starts a client and waits until the back-end works for it."""
    before = processor_ticks(child)
    bench = case.start([VUBLK, 'bench', path, '--rw', 'randwrite', '--runtime', '60', '--iodepth', '64'])
    peer.wait_until(lambda: processor_ticks(child) > before + 10 or bench.poll() is not None,
                    'the back-end is not used')
    check(bench.poll() is None, case.output(bench))
    return bench


def serials(case):
    """info shows a serial without its padding."""
    path = case.path('sock')
    for given, told in (('disk 1       ', 'disk 1'), ('  disk', 'disk'), ('   ', None)):
        child = case.start([VUBLK, 'serve', '--engine', 'memory', '--size', '1M', '--socket-path', path,
                            '-o', f'serial={given}'])
        peer.wait_for_socket(case, child, path)
        check((found := info(case, path).get('serial')) in (told, told or ''), f'the serial is {found!r}')
        text = case.run([VUBLK, 'info', path])
        check(not any(line != line.rstrip() for line in text.splitlines()), f'there is padding in\n{text}')
        case.stop(child)


def capabilities(case):
    """--print-capabilities prints the JSON that the conventions of vhost-user back-end programs define."""
    told = json.loads(case.run([VUBLK, 'serve', '--print-capabilities']))
    check(told['type'] == 'block', f'the type is {told}')
    check({'blk-file', 'read-only'} <= set(told['features']), f'the features are {told}')


def a_listening_descriptor(case):
    path = case.path('socket')
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        child = case.start([VUBLK, 'serve', f'--fd={listener.fileno()}', '--blk-file', image_file(case)],
                           pass_fds=[listener.fileno()])
    verify(case, path)
    code = case.stop(child)
    check(code == 0, f'serve ended with {code}: {case.output(child)}')


def memory_and_null(case):
    for engine in ('memory', 'null'):
        path = case.path(engine)
        child = case.start([VUBLK, 'serve', '--socket-path', path, '--engine', engine, '--size', '16M'])
        peer.wait_for_socket(case, child, path)
        check(info(case, path)['capacity_bytes'] == 16 * MIB, f'{engine} has another size')
        if engine == 'memory':
            verify(case, path)
        else:
            case.run([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '1'])
        code = case.stop(child)
        check(code == 0, f'serve ended with {code}: {case.output(child)}')


def resized_by_signal(case):
    server, image = peer.VublkServe(VUBLK), image_file(case)
    child, path = server.start(case, image)
    for size in (64 * MIB, 16 * MIB):
        os.truncate(image, size)
        child.send_signal(signal.SIGHUP)
        peer.wait_until(lambda: info(case, path)['capacity_bytes'] == size, f'{size} bytes are never reported', 10)
    server.stop(case, child)


def resized_without_a_client(case):
    """Each SIGHUP causes a log line about the size, even if no front-end is connected."""
    server, image = peer.VublkServe(VUBLK), image_file(case)
    child, _ = server.start(case, image)

    def rescan(*words):
        child.send_signal(signal.SIGHUP)
        peer.wait_until(lambda: all(word in case.output(child).splitlines()[-1] for word in words),
                        f'{words} is never logged', 10)

    rescan(f'the size of the disk is unchanged: {32 * MIB} bytes')
    os.truncate(image, 64 * MIB)
    rescan(f'the size of the disk changed from {32 * MIB} to {64 * MIB} bytes')
    os.truncate(image, 1000)
    rescan('cannot resize the disk', '1000 bytes')
    server.stop(case, child)


def ends_cleanly(case):
    for number in (signal.SIGTERM, signal.SIGINT):
        server = peer.VublkServe(VUBLK)
        child, path = server.start(case, image_file(case))
        code = case.stop(child, number)
        check(code == 0, f'signal {number}: serve ended with {code}: {case.output(child)}')
        check(not path.exists(), 'the socket was left behind')


def drains_under_load(case):
    """serve gets SIGTERM during a client's writes. It exits with 0, and the client fails."""
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case))
    bench = start_bench(case, child, path)
    server.stop(case, child)
    code = case.stop(bench, 0)
    check(code == 1, f'bench ended with {code}: {case.output(bench)}')


def clients_connect_and_disconnect(case):
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case), queues=4)
    open_before = len(os.listdir(f'/proc/{child.pid}/fd'))
    for _ in range(10):
        info(case, path)
    verify(case, path, '--numjobs', '4')
    info(case, path)
    peer.wait_until(lambda: len(os.listdir(f'/proc/{child.pid}/fd')) <= open_before + 1,
                    'the back-end keeps descriptors of disconnected clients', 10)
    server.stop(case, child)


def killed_clients(case):
    """Clients are killed with requests in flight. The disk works for the next client."""
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case), queues=2)
    for _ in range(5):
        start_bench(case, child, path).kill()
    verify(case, path)
    server.stop(case, child)


def many_queues(case):
    """By default serve offers enough queues for any guest, and a program uses only a few of them."""
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case), queues=None)
    told = info(case, path)
    check(told['max_queues'] == 256, f"{told['max_queues']} queues are on offer")
    check(told['num_queues'] == 16, f"{told['num_queues']} queues are used")
    verify(case, path, '--numjobs', '20')
    server.stop(case, child)


def a_stale_socket(case):
    """The socket of a killed back-end does not keep the next one from starting."""
    server, image = peer.VublkServe(VUBLK), image_file(case)
    path = case.path('socket')
    for _ in range(2):
        child = case.start([VUBLK, 'serve', '--socket-path', path, '--blk-file', image])
        peer.wait_until(lambda: child.poll() is not None
                        or case.call([VUBLK, 'info', path]).code == 0, 'the disk never appears')
        check(child.poll() is None, case.output(child))
        child.kill()
        child.wait()
    child = case.start([VUBLK, 'serve', '--socket-path', path, '--blk-file', image])
    peer.wait_until(lambda: case.call([VUBLK, 'info', path]).code == 0, 'the disk never appears')
    server.stop(case, child)


def mode_and_group(case):
    """Mode and group do not depend on the umask. An invalid mode or group is misuse, and leaves no file."""
    path = case.path('socket')
    serve = [VUBLK, 'serve', '--engine', 'memory', '--size', '1M']
    group = os.getegid() or 12345  # root may use any group
    before = os.umask(0o077)
    try:
        child = case.start([*serve, '--socket-path', path, '--socket-mode', '0660', '--socket-group', group])
    finally:
        os.umask(before)
    peer.wait_for_socket(case, child, path)
    check((path.stat().st_mode & 0o7777, path.stat().st_gid) == (0o660, group), str(path.stat()))
    info(case, path)
    check(case.stop(child) == 0, case.output(child))
    for option in ('mode=8', 'mode=01000', 'mode=', 'mode=rw', 'group=', 'group=no-such-group', 'group=4294967295'):
        result = case.call([*serve, '--socket-path', path, f'--socket-{option}'])
        check(result.code == 2 and len(result.err.splitlines()) == 1, f'{option}: {result}')
        check(not path.exists(), f'{option} leaves a file')
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    for option in 'mode=0660', f'group={group}':
        result = case.call([*serve, '--fd', listener.fileno(), f'--socket-{option}'], pass_fds=[listener.fileno()])
        check(result.code == 2 and 'socket-path' in result.err, f'{option}: {result}')


def garbage_on_the_socket(case):
    """Clients that do not speak the protocol are dropped, and the next client is served."""
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case))
    for garbage in (b'', b'\0', b'\xff' * 12, b'\xff' * 5000, b'GET / HTTP/1.1\r\n\r\n'):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            try:
                client.sendall(garbage)
            except OSError:
                pass
        info(case, path)
    server.stop(case, child)


def a_busy_disk(case):
    """A back-end that serves another front-end does not answer. The error names this as a possible reason."""
    child, path = start_serve(case)
    with socket.socket(socket.AF_UNIX) as holder:
        holder.connect(str(path))
        holder.sendall(struct.pack('<III', 1, 1, 0))  # GET_FEATURES
        holder.recv(4096)
        result = case.call([VUBLK, 'info', path, '-o', 'request-timeout-ms=300'])
        check(result.code == 1 and 'another front-end' in result.err, str(result))
    info(case, path)
    check(case.stop(child) == 0, case.output(child))


def start_serve(case, *arguments):
    path = case.path('socket')
    child = case.start([VUBLK, 'serve', '--socket-path', path, '--blk-file', image_file(case), *arguments])
    peer.wait_for_socket(case, child, path)
    return child, path


def a_second_signal(case, second):
    """After the first signal serve logs that it waits for requests; the second signal ends it immediately."""
    child, path = start_serve(case, '-o', 'threads=1')
    worker, = peer.own_threads(child.pid) - {child.pid}
    before = processor_ticks(child)
    case.start([VUBLK, 'bench', path, '--rw', 'randwrite', '--runtime', '60'])
    peer.wait_until(lambda: processor_ticks(child) > before + 20, 'the back-end is not used')
    stopped = frozen.Frozen(worker)
    child.send_signal(signal.SIGTERM)
    peer.wait_until(lambda: 'the stop waits for the storage' in case.output(child), 'serve does not say what it waits for')
    check(child.poll() is None, 'serve ended while a request was under way')
    child.send_signal(second)
    try:
        stopped.wait_for_end()
    except peer.Failure:  # the child cannot die until its stopped thread has been waited for
        child.kill()
        stopped.wait_for_end()
        raise
    check(child.wait(peer.LIMIT_S) == -second, case.output(child))


def as_the_readme_says(case):
    """The commands of the README: the first block serves a disk, the second uses it in another terminal."""
    text = (pathlib.Path(__file__).parents[2] / 'README.md').read_text()
    chapter = text.partition('## A disk, served and used')[2].partition('\n## ')[0]
    chapter = chapter.replace('$PWD/build/src/cli', os.path.dirname(os.path.abspath(VUBLK)))
    first, second = chapter.split('```')[1:4:2]
    *prepare, serve = first.strip().splitlines()
    check(serve.startswith('vublk serve '), f'the first block does not end with vublk serve: {serve}')
    served = case.start(['sh', '-ec', '\n'.join([*prepare, f'exec {serve}'])], cwd=case.folder)
    peer.wait_for_socket(case, served, case.path('back.sock'))
    case.run(['sh', '-ec', second], cwd=case.folder)
    code = case.stop(served)
    check(code == 0, f'serve ended with {code}: {case.output(served)}')


def a_file_size_limit(case):
    """A write past the limit is an I/O error of that request, and the back-end continues."""
    path, image = case.path('socket'), image_file(case)
    child = case.start(['sh', '-c', 'ulimit -f 2048; exec "$@"', 'sh', VUBLK, 'serve', '--socket-path', path,
                        '--blk-file', image])
    peer.wait_for_socket(case, child, path)
    verify(case, path, '--size', '1M')
    for arguments in (['--offset', '16M'], ['--offset', '16M', '--bs', '1M']):
        result = case.call([VUBLK, 'bench', path, '--rw', 'write', '--number_ios', '100', *arguments])
        check(result.code == 1 and 'Input/output error' in result.err, str(result))
    child.send_signal(signal.SIGXFSZ)  # threads that write block the signal; the main thread must ignore it
    verify(case, path, '--size', '1M')
    code = case.stop(child)
    check(code == 0, f'serve ended with {code}: {case.output(child)}')


CASES = [a_busy_disk, *((f'a_second_signal ({number.name})', functools.partial(a_second_signal, second=number))
                        for number in (signal.SIGTERM, signal.SIGINT)), a_file_size_limit, capabilities, a_listening_descriptor, memory_and_null, resized_by_signal,
         resized_without_a_client, ends_cleanly, drains_under_load, serials, clients_connect_and_disconnect, killed_clients,
         many_queues, a_stale_socket, mode_and_group, garbage_on_the_socket, as_the_readme_says]

if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(peer.main(CASES, sys.argv[2:]))
