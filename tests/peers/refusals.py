#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Command lines and situations that the tool refuses: one sentence on standard error, exit
status 1 (failed) or 2 (misused), nothing on standard output, and nothing changed.

    refusals.py VUBLK [-l] [-k] [WORD...]
"""
import os
import pathlib
import signal
import socket
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

# An absolute path, because some cases start it in another folder.
VUBLK = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20
FAILED, MISUSED = [1], [2]
EITHER = FAILED + MISUSED


def check_sentence(result, codes, *words):
    """Checks that the command has printed one line, which names the command and says why it failed."""
    check(result.code in codes, f'exit {" or ".join(map(str, codes))} was expected: {result}')
    lines = result.err.splitlines()
    check(len(lines) == 1, f'one sentence was expected: {result}')
    check(lines[0].startswith('vublk '), f'the sentence does not name the command: {result}')
    check(len(lines[0]) > 25, f'that is not a sentence: {result}')
    for word in words:
        check(word in lines[0], f'the sentence does not mention {word}: {result}')


def refuse(case, codes, arguments, *words, **options):
    result = case.call([VUBLK, *arguments], **options)
    check_sentence(result, codes, *words)
    check(not result.out, f'nothing was expected on standard output: {result}')


def image_file(case, name='disk', size=8 * MIB, fill=b''):
    path = case.path(name)
    with open(path, 'wb') as file:
        file.write(fill)
        file.truncate(size)
    return path


def uses_of(case, path):
    """Returns the commands that open a disk."""
    source = image_file(case, 'source', MIB)
    return [['info', path], ['bench', path, '--rw', 'randread', '--runtime', '1'],
            ['copy', source, path], ['copy', path, case.path('target')]]


def ticks_of(child):
    """Returns the processor time of a back-end, which grows while it works for a client."""
    fields = pathlib.Path(f'/proc/{child.pid}/stat').read_text().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12])


# --- paths without a back-end --------------------------------------------------------------

def no_such_socket(case):
    path = case.path('nothing')
    refuse(case, FAILED, ['info', path], str(path))
    refuse(case, FAILED, ['bench', path, '--rw', 'read'], str(path))
    refuse(case, FAILED, ['copy', path, case.path('target')], str(path))


def not_a_socket(case):
    path = image_file(case)
    refuse(case, FAILED, ['info', path], str(path))
    refuse(case, FAILED, ['bench', path, '--rw', 'read'], str(path))
    refuse(case, FAILED, ['info', case.folder], str(case.folder))


def no_listener(case):
    path = case.path('stale')
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    for command in uses_of(case, path):
        refuse(case, FAILED, command, str(path))


def a_path_too_long(case):
    path = case.path('x' * 120)
    refuse(case, FAILED, ['info', path])
    result = case.call([VUBLK, 'serve', '--socket-path', path, '--blk-file', image_file(case)])
    check_sentence(result, EITHER)


def no_ublk_driver(case):
    """On a host without the driver, the commands for block devices say so, and do not touch the back-end."""
    if os.path.exists('/dev/ublk-control'):
        raise peer.Skip('this host has the ublk driver')
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case))
    before = ticks_of(child)
    for command in ['attach', path], ['attach', '--list'], ['detach', '0'], ['detach', '--orphans']:
        refuse(case, FAILED, command, 'no ublk driver', '/dev/ublk-control', 'ublk_drv')
    check(ticks_of(child) <= before + 1, 'the back-end was used')
    server.stop(case, child)


def misuse_of_attach(case):
    refuse(case, MISUSED, ['attach'], 'SOCKET')
    refuse(case, MISUSED, ['attach', 'a', 'b'], "'b'")
    refuse(case, MISUSED, ['attach', 'a', '--depth', '5000'], '--depth')
    refuse(case, MISUSED, ['attach', 'a', '--request-size', '12k'], '--request-size')
    refuse(case, MISUSED, ['attach', '--list', 'a'], '--list')
    refuse(case, MISUSED, ['attach', 'a', '--json'], '--json')
    refuse(case, FAILED, ['attach', case.path('no/folder/socket')], 'folder')
    refuse(case, MISUSED, ['detach'], '--orphans')
    refuse(case, MISUSED, ['detach', '--orphans', '0'], '--orphans')


# --- paths that a device cannot use --------------------------------------------------------

def device_paths(case):
    """Bad paths are refused at the start, even if the device would use them only later, or never."""
    server = peer.VublkServe(VUBLK)
    child, used = server.start(case, image_file(case))
    absent, file = case.path('absent'), image_file(case, 'file')
    long, deep = case.path('x' * 120), case.path('no/socket')
    for chardev, bus, word in ((long, 'bus', '107'), (file, 'bus', 'not a socket'),
                               (file / 'socket', 'bus', 'Not a directory'),
                               (f'path={long},server=on', 'bus', '107'),
                               (f'path={file},server=on', 'bus', 'not a socket'),
                               (f'path={deep},server=on', 'bus', 'does not exist'),
                               (f'path={used},server=on', 'bus', 'listens'),
                               (absent, long, '107'), (absent, file, 'not a socket'),
                               (absent, deep, 'does not exist'), (absent, used, 'listens'),
                               (absent, f'{case.folder}/', 'is a directory')):
        for kind in ('vhost-user', 'vfio-user'):
            refuse(case, FAILED, ['device', '--chardev', chardev, '--bus', f'{kind}:{os.path.join(case.folder, bus)}'], word)
    refuse(case, MISUSED, ['device', '--chardev', absent, '--bus', f'vhost-user:{absent}'], 'the same path')
    check(not case.path('bus').exists(), 'a socket was left behind')
    case.run([VUBLK, 'info', used])
    server.stop(case, child)


def paths_that_are_equal(case):
    """
    Two options of one command line must not have the same file, by whatever path, whether it exists or not: one socket
    would replace the other, or the image.
    """
    image, folder = image_file(case), case.path('link')
    folder.symlink_to(case.folder)
    case.path('image-link').symlink_to(image)
    serve = {'--socket-path': 'a', '--blk-file': image, '--control': case.path('c'), '--metrics-listen': case.path('m')}
    device = {'--chardev': case.path('a'), '--bus': 'vhost-user:b', '--control': case.path('c'),
              '--metrics-listen': case.path('m'), '-o': f'mirror-state={case.path("s")}'}
    for command, options, wrong in (
            ('serve', serve, (('--socket-path', '--control', case.path('a')), ('--socket-path', '--control', './a'),
                              ('--socket-path', '--control', folder / 'a'), ('--blk-file', '--control', case.path('image-link')),
                              ('--blk-file', '--socket-path', 'disk'), ('--control', '--metrics-listen', './c'))),
            ('device', device, (('--chardev', '--control', './a'), ('--chardev', '--bus', f'vhost-user:{folder / "a"}'),
                                ('--bus', '--control', 'b'), ('--control', '--metrics-listen', './c'),
                                ('--chardev', '--chardev', f'path=./a,reconnect-ms=5'),
                                ('mirror-state', '--control', 's')))):
        for first, second, value in wrong:
            words = [word for option in {**options, second: value}.items() for word in option]
            if first == second:
                words = ['--chardev', options['--chardev'], *words]
            refuse(case, MISUSED, [command, *words], first, second if first != second else 'chardev-2', 'are the same',
                   cwd=case.folder)
    check(image.stat().st_size == 8 * MIB, 'the image has changed')
    refuse(case, MISUSED, ['chaos', case.path('a'), '--through', folder / 'a', '--', 'true'], '--through', 'are the same')


def device_properties(case):
    """Values that contradict each other are misuse, and are refused without a back-end."""
    refuse(case, MISUSED, ['device', '--chardev', case.path('absent'), '--bus', f'vhost-user:{case.path("bus")}',
                           '-o', 'reconnect-ms=0', '-o', 'reconnect-deadline-ms=5'], 'reconnect-ms')


def chardev_that_becomes_a_file(case):
    """The device waits while there is no file at the path, and ends when the file is not a socket."""
    chardev = case.path('chardev')
    child = case.start([VUBLK, 'device', '--chardev', chardev, '--bus', f'vhost-user:{case.path("bus")}',
                        '-o', 'reconnect-ms=10'])
    peer.wait_until(lambda: 'does not exist' in case.output(child), 'the device does not wait')
    image_file(case, 'chardev')
    check(child.wait(peer.LIMIT_S) == 1, case.output(child))
    check('not a socket' in case.output(child), case.output(child))


def chaos_socket_that_is_a_file(case):
    refuse(case, FAILED, ['chaos', image_file(case, 'file'), '--', 'sleep', '1000'], 'not a socket')


# --- wrong programs at the socket ------------------------------------------------------------

class Fake:
    """A socket that calls `behave(connection)` for each client."""

    def __init__(self, case, behave=None):
        self.path = case.path('fake')
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(8)
        self.behave = behave
        if behave:
            threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                try:
                    self.behave(connection)
                except OSError:
                    pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def never_answers(case):
    """No process accepts the connection. The command ends at its time limit."""
    with Fake(case) as fake:
        for command in uses_of(case, fake.path):
            refuse(case, FAILED, [*command, '--timeout', '300ms'])


def stops_answering(case):
    """The back-end reads messages and never answers. The command ends at its time limit."""
    def swallow(connection):
        while connection.recv(4096):
            pass
    with Fake(case, swallow) as fake:
        for command in uses_of(case, fake.path):
            refuse(case, FAILED, [*command, '--timeout', '300ms'], 'raise --timeout')


def closes_immediately(case):
    with Fake(case, lambda connection: None) as fake:
        for command in uses_of(case, fake.path):
            refuse(case, FAILED, command)


def answers_garbage(case):
    def babble(connection):
        connection.recv(12)
        connection.sendall(b'\xff' * 512)
        connection.recv(1)
    with Fake(case, babble) as fake:
        for command in uses_of(case, fake.path):
            refuse(case, FAILED, command)


def closes_after_every_byte_count(case):
    """The connection to a real back-end ends after 1, 11, ... bytes of its answers."""
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case))
    cut = [0]

    def relay(connection):
        left = cut[0]
        with socket.socket(socket.AF_UNIX) as behind:
            behind.connect(str(path))
            while left > 0:
                request, fds, _, _ = socket.recv_fds(connection, 4096, 8)
                if not request:
                    return
                socket.send_fds(behind, [request], fds)
                for fd in fds:
                    os.close(fd)
                behind.settimeout(0.05)
                try:
                    answer = behind.recv(left)
                except TimeoutError:
                    continue
                left -= len(answer)
                connection.sendall(answer)
    with Fake(case, relay) as fake:
        for cut[0] in (1, 11, 12, 19, 20, 33, 60, 100):
            refuse(case, FAILED, ['info', fake.path])
    server.stop(case, child)


def dies_in_the_middle(case):
    """The back-end is killed while requests are in flight."""
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case, size=64 * MIB))
    bench = case.start([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '60', '--iodepth', '32'])
    peer.wait_until(lambda: busy(child), 'the back-end is not used')
    child.kill()
    code = case.stop(bench, 0)
    check(code == 1, f'bench ended with {code}: {case.output(bench)}')
    lines = [line for line in case.output(bench).splitlines() if line]
    check(len(lines) == 1, f'one sentence was expected: {lines}')


def busy(child):
    """Returns whether the back-end has used some processor time, which shows that it is serving."""
    fields = pathlib.Path(f'/proc/{child.pid}/stat').read_text().rpartition(')')[2].split()
    return int(fields[11]) + int(fields[12]) > 20


def a_vfio_user_socket(case):
    """The socket speaks another protocol. The error names the protocol, and the kind of socket that is needed."""
    child, path = peer.VublkServe(VUBLK).start(case, image_file(case))
    door = case.path('door')
    device = case.start([VUBLK, 'device', '--chardev', path, '--bus', f'vfio-user:{door}'])
    peer.wait_for_socket(case, device, door)
    for command in uses_of(case, door):
        refuse(case, FAILED, command, 'the socket of a vfio-user device', str(door), 'vhost-user-blk', command[0])
    check(case.stop(device) == 0, case.output(device))
    check(case.stop(child) == 0, case.output(child))


# --- images and disks ------------------------------------------------------------------------

def serve_refuses(case, arguments, *words):
    refuse(case, EITHER, ['serve', '--socket-path', case.path('socket'), *arguments], *words)
    check(not case.path('socket').exists(), 'a socket was left behind')


def not_a_multiple_of_512(case):
    image = image_file(case, size=MIB + 100)
    serve_refuses(case, ['--blk-file', image], str(image), '512')


def unsuitable_images(case):
    serve_refuses(case, ['--blk-file', case.path('missing')], 'missing')
    serve_refuses(case, ['--blk-file', case.folder], str(case.folder))
    empty = image_file(case, 'empty', 0)
    serve_refuses(case, ['--blk-file', empty], str(empty))


def wrong_options(case):
    image = image_file(case)
    for arguments in (['--num-queues', '0'], ['--num-queues', '100000'], ['--num-queues', 'many'],
                      ['--engine', 'steam'], ['--poll', 'perhaps']):
        result = case.call([VUBLK, 'serve', '--socket-path', case.path('socket'),
                            '--blk-file', image, *arguments])
        check_sentence(result, EITHER)
    for arguments in (['serve'], ['info'], ['copy', image], ['bench'], ['nonsense'], ['info', '--nonsense', 'x'],
                      ['bench', image, '--rw', 'sideways'], ['bench', image, '--bs', '0'],
                      ['info', image, '-o', 'steam=on'], ['copy', image, image, '-o', 'chardev=x'],
                      ['copy', image, image, '--stall-time', '0'], ['bench', image, '--stall-time', '0']):
        result = case.call([VUBLK, *arguments])
        check(result.code == 2, f'exit 2 was expected: {result}')
        check(result.err and not result.out, f'a sentence on standard error was expected: {result}')
    for rate in ('0', '-1', '1.5', '1000000001', 'fast'):
        refuse(case, MISUSED, ['bench', image, '--rate_iops', rate], '--rate_iops must be')


def misuse_of_a_disk(case):
    """Each command finds a wrong option before it connects to a back-end."""
    absent, image = case.path('absent'), image_file(case)
    with socket.socket(socket.AF_UNIX) as listener:  # the socket's file stays, without a listener
        listener.bind(str(absent))
    wrong = [(['--queue-size', '3'], 'from 4 to 1024'), (['--queue-size', '12'], 'power of two'), (['--queue-size', '2'], 'from 4 to 1024'),
             (['-o', 'queue-size=12'], 'power of two'), (['-o', 'queue-size=2'], 'from 4 to 1024'),
             (['--queue-size', '2048'], 'from 4 to 1024'), (['--timeout', '0'], '--timeout'),
             (['--timeout', '-1'], '--timeout'), (['-o', 'request-timeout-ms=0'], 'from 1 to 3600000'),
             (['--num-queues', '0'], 'from 1 to 256'), (['-o', 'num-queues=0'], 'from 1 to 256'),
             (['-o', 'keepalive-ms=-1'], 'from 0 to 3600000'), (['-o', 'steam=on'], 'steam'),
             (['-o', 'steam=on'], '--list-properties'), (['-o', 'request-timeout-ms=0'], ' request-timeout-ms must')]
    for arguments, words in wrong:
        for command in (['info', absent], ['bench', absent], ['copy', absent, image]):
            refuse(case, MISUSED, [*command, *arguments], words)
        refuse(case, MISUSED, ['chaos', *arguments, case.path('socket'), '--', VUBLK, 'serve', '--socket-path',
                               case.path('socket'), '--engine', 'memory', '--size', '8M', '-q'], words)


def misuse_of_serve(case):
    """A wrong option is misuse; an unsuitable image is a failure."""
    image = image_file(case)
    for arguments, words in (
            (['--num-queues', '0'], 'from 1 to 256'), (['-o', 'num-queues=257'], 'from 1 to 256'),
            (['-o', 'steam=on'], 'steam'), (['-o', 'steam'], 'NAME=VALUE'), (['--poll', 'perhaps'], 'adaptive'),
            (['--poll-budget', '101'], '--poll-budget must be'), (['-o', 'poll-budget=half'], ' poll-budget must be'),
            (['--fd', '3'], 'cannot be used together'), (['--size', '1M'], 'size'), (['-o', 'threads=0'], 'threads'),
            (['--num-queues', '2', '-o', 'threads=3'], 'threads'), (['--engine', 'steam'], 'null'),
            (['--engine', 'memory', '--size', '1M'], 'does not use a file'),
            (['--engine', 'memory', '--size', '1M'], 'remove --blk-file'), (['--fd', '3'], '--socket-path and --fd'),
            (['--num-queues', '0'], '--num-queues must'), (['-o', 'num-queues=0'], ' num-queues must'),
            (['-o', 'steam=on'], '--list-options')):
        refuse(case, MISUSED, ['serve', '--socket-path', case.path('socket'), '--blk-file', image, *arguments], words)
    for size in ('-1', '0', '1000', 'large'):
        refuse(case, MISUSED, ['serve', '--socket-path', case.path('socket'), '--engine', 'null', '--size', size],
               '--size must')
    refuse(case, MISUSED, ['serve', '--socket-path', case.path('socket'), '--engine', 'null'], 'set --size=')
    refuse(case, MISUSED, ['serve', '--socket-path', case.path('socket')], 'set --blk-file=')
    for wrong in (image_file(case, 'empty', 0), image_file(case, 'odd', 1000), case.path('missing'), case.folder,
                  '/dev/null'):
        refuse(case, FAILED, ['serve', '--socket-path', case.path('socket'), '--blk-file', wrong], str(wrong))


def misuse_of_device(case):
    common = ['device', '--chardev', case.path('absent'), '--bus', f'vhost-user:{case.path("bus")}']
    for arguments, words in ((['--num-queues', '0'], 'from 1 to 256'), (['-o', 'queue-size=3'], 'power of two'),
                             (['-o', 'reconnect-ms=-1'], 'from 0 to 3600000'), (['-o', 'steam=on'], 'steam'),
                             (['--bus', 'steam:x'], 'vhost-user')):
        refuse(case, MISUSED, [*common, *arguments], words)


def serve_a_wrong_descriptor(case):
    """serve refuses a descriptor that cannot carry the protocol, or to which no front-end can connect."""
    image = image_file(case)
    tcp, unbound, packets, datagrams = (socket.socket(*kind) for kind in (
        (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_UNIX, socket.SOCK_SEQPACKET), (socket.AF_UNIX, socket.SOCK_DGRAM)))
    tcp.bind(('127.0.0.1', 0))
    tcp.listen()
    packets.bind(str(case.path('packets')))
    packets.listen()
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(case.path('bound')))
    with tcp, unbound, packets, datagrams, pair[0], pair[1], bound, open(image, 'rb') as file:
        for given, words in ((tcp, 'AF_UNIX'), (unbound, 'neither listening nor connected'), (packets, 'SOCK_STREAM'),
                             (datagrams, 'SOCK_STREAM'), (pair[0], 'SOCK_STREAM'), (file, 'not a socket'),
                             (bound, 'neither listening nor connected')):
            refuse(case, MISUSED, ['serve', '--fd', str(given.fileno()), '--blk-file', image], words,
                   pass_fds=[given.fileno()])
    refuse(case, MISUSED, ['serve', '--fd', '99', '--blk-file', image], 'not a socket')


def a_socket_in_use(case):
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case))
    refuse(case, FAILED, ['serve', '--socket-path', path, '--blk-file', image_file(case, 'other')], str(path))
    case.run([VUBLK, 'info', path])
    server.stop(case, child)


def read_only_written(case):
    server = peer.VublkServe(VUBLK)
    image = image_file(case, fill=b'keep' * 100)
    before = image.read_bytes()
    child, path = server.start(case, image, read_only=True)
    refuse(case, FAILED, ['copy', image_file(case, 'source', MIB), path], 'read-only')
    refuse(case, FAILED, ['bench', path, '--rw', 'randwrite', '--runtime', '1'], 'read-only')
    server.stop(case, child)
    check(image.read_bytes() == before, 'the image has changed')


def copy_to_smaller(case):
    """A copy to a smaller disk is refused before the first byte."""
    server = peer.VublkServe(VUBLK)
    image = image_file(case, size=MIB, fill=b'keep' * 100)
    before = image.read_bytes()
    child, path = server.start(case, image)
    source = image_file(case, 'source', MIB + 1, b'new' * 1000)
    refuse(case, FAILED, ['copy', source, path])
    server.stop(case, child)
    check(image.read_bytes() == before, 'something was written')


def copy_of_nothing(case):
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case))
    refuse(case, FAILED, ['copy', case.path('missing'), path], 'missing')
    refuse(case, FAILED, ['copy', path, case.path('no/such/folder')], 'no/such/folder')
    server.stop(case, child)


# --- out of descriptors --------------------------------------------------------------------------

def with_descriptors(case, count, arguments):
    return case.call(['sh', '-c', f'ulimit -n {count}; exec "$@"', 'sh', VUBLK, *arguments])


def out_of_descriptors(case):
    """With any limit on open descriptors, a command works or fails with a sentence."""
    server = peer.VublkServe(VUBLK)
    child, path = server.start(case, image_file(case), queues=4)
    refused = set()
    for command in uses_of(case, path):
        for count in range(4, 40):
            result = with_descriptors(case, count, command)
            if result.err.startswith('/') or 'shared librar' in result.err:
                continue  # the dynamic linker itself failed
            if result.code != 0:
                check_sentence(result, FAILED)
                refused.add(command[0])
    server.stop(case, child)
    check(refused == {'info', 'bench', 'copy'}, f'not all commands met a shortage: {refused}')


def serve_out_of_descriptors(case):
    """With too few descriptors for its start, serve fails. With too few for a client, only the client fails."""
    image, path = image_file(case), case.path('socket')
    served = refused = 0
    for count in range(4, 48, 2):
        child = case.start(['sh', '-c', f'ulimit -n {count}; exec "$@"', 'sh', VUBLK, 'serve',
                            '--socket-path', path, '--blk-file', image, '--num-queues', '4'])
        peer.wait_until(lambda: peer.listens(path) or child.poll() is not None, 'serve neither serves nor ends')
        if child.poll() is not None:
            refused += child.returncode == 1
            check(child.returncode != 1 or len(case.output(child).splitlines()) == 1, case.output(child))
            continue
        result = case.call([VUBLK, 'info', path])
        if result.code:
            check_sentence(result, FAILED)
        served += result.code == 0
        code = case.stop(child)
        check(code == 0, f'serve ended with {code}: {case.output(child)}')
        path.unlink(missing_ok=True)
    check(served and refused, f'of 22 attempts {served} served and {refused} refused')


def a_new_back_end_that_does_not_suit(case):
    """bench and copy refuse new back-ends that do not suit the disk, and print each reason once."""
    unsuitable = [(1, [], 'the back-end has 1 queue, but the device has 2'),
                  (2, ['--read-only'], 'the back-end is read-only, but the previous one was writable'),
                  (2, ['-o', 'logical-block-size=4096'], 'the back-end reports 4096 for blk_size')]
    image, path = image_file(case, size=256 * MIB), case.path('socket')
    server = peer.VublkServe(VUBLK)
    waits = ['-o', 'reconnect-ms=5', '--num-queues', '2', '--stall-time', '10m']
    for command in (['copy', path, case.path('target'), '--requests', '1', '--request-size', '4k', *waits],
                    ['bench', path, '--numjobs', '2', '--rw', 'randread', '--iodepth', '1', '--number_ios', '50000', *waits]):
        child, _ = server.start(case, image, 2, path=path)
        before = ticks_of(child)  # on a busy machine, its start also takes some processor time
        waiting = case.start([VUBLK, *command])
        peer.wait_until(lambda: ticks_of(child) > before + 10 or waiting.poll() is not None, 'nothing is read')
        case.stop(child, signal.SIGKILL)
        for queues, arguments, reason in unsuitable:
            path.unlink(missing_ok=True)
            child, _ = server.start(case, image, queues, path=path, arguments=arguments)
            peer.wait_until(lambda: reason in case.output(waiting) or waiting.poll() is not None,
                            f'{command[0]} does not say "{reason}"')
            check(waiting.poll() is None, f'{command[0]} ended: {case.output(waiting)}')
            case.stop(child, signal.SIGKILL)
        path.unlink(missing_ok=True)
        child, _ = server.start(case, image, 2, path=path)
        code = case.stop(waiting, 0)
        told = case.output(waiting)
        check(code == 0, f'{command[0]} ended with {code}: {told}')
        for _, _, reason in unsuitable:
            check(told.count(reason) == 1, f'{reason}: not printed once:\n{told}')
        server.stop(case, child)


CASES = [no_such_socket, not_a_socket, no_listener, a_path_too_long, device_paths, paths_that_are_equal, device_properties,
         chardev_that_becomes_a_file, chaos_socket_that_is_a_file, never_answers, stops_answering,
         closes_immediately, answers_garbage, a_vfio_user_socket, closes_after_every_byte_count, dies_in_the_middle,
         not_a_multiple_of_512, unsuitable_images, wrong_options, misuse_of_a_disk, misuse_of_serve, misuse_of_device,
         misuse_of_attach, no_ublk_driver, serve_a_wrong_descriptor, a_socket_in_use, read_only_written, copy_to_smaller, copy_of_nothing,
         a_new_back_end_that_does_not_suit, out_of_descriptors, serve_out_of_descriptors]

if __name__ == '__main__':
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(peer.main(CASES, sys.argv[2:]))
