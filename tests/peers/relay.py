#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk device --bus vhost-user:...` between the block API, which takes the place of a VMM, and
real back-ends, which are killed.

    relay.py VUBLK [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20
QUEUES = 4


def image_file(case, size=32 * MIB):
    path = case.path('disk')
    with open(path, 'wb') as file:
        file.truncate(size)
    return path


def start_relay(case, backend, *arguments):
    path = case.path(f'relay-{len(case.children)}')
    child = case.start([VUBLK, 'device', '--chardev', f'path={backend},reconnect-ms=50',
                        '--bus', f'vhost-user:{path}', *arguments])
    peer.wait_for_socket(case, child, path)
    return child, path


def stop_relay(case, child, path):
    code = case.stop(child)
    check(code == 0, f'the relay ended with {code}: {case.output(child)}')
    check(not os.path.exists(path), f'{path} is still there')


def many_queues(case):
    """A relay has as many queues as its back-end by default, up to the limit in --help, and more on request."""
    backend = case.path('backend')
    server = case.start([VUBLK, 'serve', '--engine', 'memory', '--size', '1M', '--num-queues', 256,
                         '--socket-path', backend])
    peer.wait_for_socket(case, server, backend)
    check('at most 128' in ' '.join(case.run([VUBLK, 'device', '--help']).split()), '--help names no limit')
    for arguments, queues in (((), 128), (('--num-queues', 200), 200)):
        child, path = start_relay(case, backend, *arguments)
        told = json.loads(case.run([VUBLK, 'info', path, '--json']))
        check(told['max_queues'] == queues, f'the relay has {told["max_queues"]} queues')
        verify(case, path, '--num-queues', '128', '--iodepth', '2', '--timeout', '60s')
        stop_relay(case, child, path)
    case.stop(server)


def kill(child):
    child.kill()
    child.wait()


def start_again(case, image, path, *arguments):
    """Starts another back-end for the image at `path`, which was the socket of a killed back-end."""
    child = case.start([VUBLK, 'serve', '--socket-path', path, '--blk-file', image, '--num-queues', QUEUES,
                        *arguments])
    return child


def verify(case, path, *arguments):
    case.run([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '1', '--verify', *arguments])


def info(case, path):
    return json.loads(case.run([VUBLK, 'info', path, '--json']))


def bytes_written(child):
    lines = pathlib.Path(f'/proc/{child.pid}/io').read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith('write_bytes')))


def as_without_it(case, backend):
    """The disk has the same properties and content with and without a relay."""
    image = image_file(case)
    child, socket = backend.start(case, image, QUEUES)
    direct = info(case, socket)
    relay, path = start_relay(case, socket)
    relayed = info(case, path)
    for name in ('capacity_bytes', 'block_size_bytes', 'read_only', 'write_cache', 'discard_bytes'):
        check(direct.get(name) == relayed.get(name),
              f'{name} is {direct.get(name)}, and {relayed.get(name)} through the relay')
    for queues in (1, QUEUES):
        verify(case, path, '--numjobs', queues)
    stop_relay(case, relay, path)
    backend.stop(case, child)


def killed(case, queues):
    """Repeated kills during a verified load lose nothing."""
    image = image_file(case)
    child, socket = peer.VublkServe(VUBLK).start(case, image, QUEUES)
    relay, path = start_relay(case, socket)
    bench = case.start([VUBLK, 'bench', path, '--rw', 'randrw', '--runtime', '6', '--verify', '--numjobs', queues])
    for _ in range(10):
        peer.wait_until(lambda: bytes_written(child) > MIB or bench.poll() is not None, 'nothing is written')
        check(bench.poll() is None, f'the bench ended: {case.output(bench)}')
        kill(child)
        child = start_again(case, image, socket)
    code = bench.wait(peer.LIMIT_S)
    check(code == 0, f'the bench ended with {code}: {case.output(bench)}')
    check('all correct' in case.output(bench), case.output(bench))
    stop_relay(case, relay, path)
    case.stop(child)


def killed_without_an_area(case):
    """Without an in-flight area the relay does not know which requests had begun, and reports this."""
    image = image_file(case)
    child, socket = peer.VublkServe(VUBLK).start(case, image, QUEUES, arguments=['-o', 'inflight=off'])
    relay, path = start_relay(case, socket)
    bench = case.start([VUBLK, 'bench', path, '--rw', 'randwrite', '--runtime', '60', '--iodepth', '64'])
    peer.wait_until(lambda: bytes_written(child) > MIB or bench.poll() is not None, 'nothing is written')
    kill(child)
    child = start_again(case, image, socket, '-o', 'inflight=off')
    check(bench.wait(peer.LIMIT_S) == 1, case.output(bench))
    check('the device cannot tell which of them the back-end had begun' in case.output(relay), case.output(relay))
    verify(case, path)
    stop_relay(case, relay, path)
    case.stop(child)


def killed_when_idle(case, backend):
    """Any back-end can be replaced while no request is in flight."""
    image = image_file(case)
    child, socket = backend.start(case, image, QUEUES)
    relay, path = start_relay(case, socket)
    for _ in range(3):
        verify(case, path)
        kill(child)
        if os.path.exists(socket):
            os.unlink(socket)
        child, again = backend.start(case, image, QUEUES)
        os.rename(again, socket)
    verify(case, path)
    stop_relay(case, relay, path)
    backend.stop(case, child)


def client_killed(case):
    """A VMM is killed; the next one can use the disk."""
    image = image_file(case)
    child, socket = peer.VublkServe(VUBLK).start(case, image, QUEUES)
    relay, path = start_relay(case, socket)
    for _ in range(5):
        before = bytes_written(child)
        bench = case.start([VUBLK, 'bench', path, '--rw', 'randwrite', '--runtime', '60', '--iodepth', '64'])
        peer.wait_until(lambda: bytes_written(child) > before + MIB or bench.poll() is not None,
                        'nothing is written')
        check(bench.poll() is None, f'the bench ended: {case.output(bench)}')
        kill(bench)
    verify(case, path)
    stop_relay(case, relay, path)
    peer.VublkServe(VUBLK).stop(case, child)


def relay_behind_relay(case):
    """A relay can be the back-end of another relay."""
    image = image_file(case)
    child, socket = peer.VublkServe(VUBLK).start(case, image, QUEUES)
    inner, middle = start_relay(case, socket)
    outer, path = start_relay(case, middle)
    verify(case, path, '--numjobs', QUEUES)
    kill(child)
    child = start_again(case, image, socket)
    verify(case, path, '--numjobs', QUEUES)
    stop_relay(case, outer, path)
    stop_relay(case, inner, middle)
    case.stop(child)


def backends_connect(case):
    """With server=on, the relay listens for back-ends. It offers no disk before a back-end has connected."""
    inner = case.path('inner')
    path = case.path('relay')
    relay = case.start([VUBLK, 'device', '--chardev', f'path={inner},server=on', '--bus', f'vhost-user:{path}'])
    peer.wait_for_socket(case, relay, inner)
    check(not os.path.exists(path), 'there is a disk before there is a back-end')
    check(case.stop(relay) == 0, case.output(relay))
    check(not os.path.exists(inner), f'{inner} is still there')


def misuse(case):
    for words, sentence in (([], '--chardev=SOCKET'),
                            (['--chardev', 'x'], '--bus, the socket for the VMM'),
                            (['--bus', 'vhost-user:x'], '--chardev=SOCKET'),
                            (['--chardev', 'x', '--bus', 'pci:y'], "the bus 'pci:y' is invalid"),
                            (['--chardev', 'path=x,colour=red', '--bus', 'vhost-user:y'], "no property 'colour'; --list-properties"),
                            (['--chardev', 'x,colour=red', '--bus', 'vhost-user:y'], 'write path=x'),
                            (['--chardev', 'x', '--bus', 'vhost-user:y', '-o', 'colour=red'], '--list-properties'),
                            (['--chardev', 'path=x,,reconnect-ms=a', '--bus', 'vhost-user:y'], 'reconnect-ms'),
                            (['--chardev', 'x', '--bus', 'vhost-user:y', '-o', 'queue-size'], 'NAME=VALUE'),
                            (['--chardev', 'x', '--bus', 'vhost-user:y', 'z'], "unexpected argument 'z'"),
                            (['--chardev', 'x', '--bus', 'vhost-user:y', '--num-queues', '0'], '--num-queues must be')):
        result = case.call([VUBLK, 'device', *words])
        check(result.code == 2 and sentence in result.err, str(result))


def gone_for_good(case):
    image = image_file(case)
    child, socket = peer.VublkServe(VUBLK).start(case, image, QUEUES)
    path = case.path('relay')
    relay = case.start([VUBLK, 'device', '--chardev', f'path={socket},reconnect-ms=0', '--bus', f'vhost-user:{path}'])
    peer.wait_for_socket(case, relay, path)
    kill(child)
    check(relay.wait(peer.LIMIT_S) == 1, 'the relay still runs')
    check('the peer closed the connection' in case.output(relay), case.output(relay))
    check(not os.path.exists(path), f'{path} is still there')


def signals(case):
    image = image_file(case)
    child, socket = peer.VublkServe(VUBLK).start(case, image, QUEUES)
    for number in (signal.SIGTERM, signal.SIGINT):
        relay, path = start_relay(case, socket)
        bench = case.start([VUBLK, 'bench', path, '--rw', 'randwrite', '--runtime', '60'])
        before = bytes_written(child)
        peer.wait_until(lambda: bytes_written(child) > before + MIB, 'nothing is written')
        check(case.stop(relay, number) == 0, f'signal {number}: {case.output(relay)}')
        check(bench.wait(peer.LIMIT_S) == 1, 'the bench has a disk still')
        check(not os.path.exists(path), f'{path} is still there')
    peer.VublkServe(VUBLK).stop(case, child)


def signals_that_do_not_end_it(case):
    """Signals that are often sent by mistake must not end the relay."""
    image = image_file(case)
    child, socket = peer.VublkServe(VUBLK).start(case, image, QUEUES)
    relay, path = start_relay(case, socket, '-o', 'config-poll-ms=0')
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        for process in (relay, child):
            process.send_signal(number)
            verify(case, path)
            check(process.poll() is None, f'signal {number}: {case.output(process)}')
    peer.wait_until(lambda: 'configuration again' in case.output(relay), 'SIGHUP does nothing')
    # While no ring runs, the back-end does not report the new size, so the relay must ask for it.
    os.truncate(image, 64 * MIB)
    child.send_signal(signal.SIGHUP)

    def is_seen():
        relay.send_signal(signal.SIGHUP)
        return info(case, path)['capacity_bytes'] == 64 * MIB
    peer.wait_until(is_seen, 'the relay does not ask for the size')
    check(case.stop(relay) == 0, case.output(relay))
    peer.VublkServe(VUBLK).stop(case, child)


def outage_is_shown(case):
    """Without a back-end the relay still answers all messages, but info must not show a healthy disk."""
    image = image_file(case)
    child, socket = peer.VublkServe(VUBLK).start(case, image, QUEUES)
    relay, path = start_relay(case, socket)
    check(info(case, path)['is_answering'], 'the disk is there')
    kill(child)
    peer.wait_until(lambda: 'the disk waits for a back-end' in case.output(relay), 'the loss is not logged')
    shown = info(case, path)
    check(not shown['is_answering'] and shown['capacity_bytes'] == 32 * MIB, str(shown))
    check('not answered' in case.run([VUBLK, 'info', path]), 'the text says nothing of an outage')
    child = start_again(case, image, socket)
    peer.wait_until(lambda: info(case, path)['is_answering'], 'the next back-end is not shown')
    check('not answered' not in case.run([VUBLK, 'info', path]), 'the outage is over')
    check(case.stop(relay) == 0, case.output(relay))
    peer.VublkServe(VUBLK).stop(case, child)


def info_while_in_use(case):
    """
    While the relay serves another client, it reads the messages of `info` only later. They must be valid
    vhost-user messages.
    """
    child, socket = peer.VublkServe(VUBLK).start(case, image_file(case), QUEUES)
    relay, path = start_relay(case, socket)
    bench = case.start([VUBLK, 'bench', path, '--rw', 'randwrite', '--runtime', '60'])
    peer.wait_until(lambda: bytes_written(child) > MIB or bench.poll() is not None, 'nothing is written')
    result = case.call([VUBLK, 'info', path, '-o', 'request-timeout-ms=300'])
    check(result.code == 1 and 'did not answer' in result.err, str(result))
    kill(bench)
    check(info(case, path)['is_answering'], 'the relay serves no other client')
    check('protocol version' not in case.output(relay), case.output(relay))
    stop_relay(case, relay, path)
    peer.VublkServe(VUBLK).stop(case, child)


def listed_defaults(case):
    """The list of properties shows the command's defaults, which depend on the bus."""
    for words, defaults in ((['device'], {'reconnect-ms': '1000', 'queue-size': '128'}),
                            (['device', '--bus', 'vhost-user:x'], {'reconnect-ms': '1000', 'queue-size': '1024'}),
                            (['device', '--bus', 'vfio-user:x'], {'request-timeout-ms': '3000', 'queue-size': '128'}),
                            (['info'], {'reconnect-ms': '0'}), (['chaos'], {'reconnect-ms': '1000'})):
        lines = [line.split() for line in case.run([VUBLK, *words, '--list-properties']).splitlines()]
        listed = {line[0]: line[2] for line in lines}
        for name, value in defaults.items():
            check(listed[name] == value, f'{words}: {name} is {listed[name]}, not {value}')


def descriptions(case):
    """The descriptions of all options begin with a small letter, also those that several lists share."""
    for words in (['device', '--bus', 'vhost-user:x', '--list-properties'], ['info', '--list-properties'],
                  ['device', '--bus', 'vfio-user:x', '--list-properties'], ['serve', '--list-options']):
        for line in case.run([VUBLK, *words]).splitlines():
            check(line.split(None, 3)[3][0].islower(), f'{words}: {line}')


def mode_and_group(case, bus):
    """The bus socket has the requested mode and group; bad ones are refused at the start, without a back-end."""
    backend, path = case.path('backend'), case.path('bus')
    device = [VUBLK, 'device', '--chardev', backend, '--bus', f'{bus}:{path}']
    group = os.getegid() or 12345  # root may use any group
    server = case.start([VUBLK, 'serve', '--engine', 'memory', '--size', '1M', '--socket-path', backend])
    before = os.umask(0o077)
    try:
        child = case.start([*device, '--socket-mode', '660', '--socket-group', group])
    finally:
        os.umask(before)
    peer.wait_for_socket(case, child, path)
    check((path.stat().st_mode & 0o7777, path.stat().st_gid) == (0o660, group), str(path.stat()))
    check(case.stop(child) == 0 and case.stop(server) == 0, case.output(child))
    for option in ('mode=8', 'mode=01000', 'mode=', 'group=', 'group=no-such-group', 'group=4294967295'):
        result = case.call([*device, f'--socket-{option}'])
        check(result.code == 2 and len(result.err.splitlines()) == 1, f'{option}: {result}')


def bind(function, *arguments):
    return lambda case: function(case, *arguments)


def main():
    cases = []
    for backend in (peer.VublkServe(VUBLK), peer.StorageDaemon()):
        cases.append((f'{backend.name}: as without a relay', bind(as_without_it, backend)))
        cases.append((f'{backend.name}: killed when idle', bind(killed_when_idle, backend)))
    cases += [(f'killed under a load, {queues} queues', bind(killed, queues)) for queues in (1, QUEUES)]
    cases += [('killed under a load without an in-flight area', killed_without_an_area),
              ('the client is killed', client_killed),
              ('a relay behind a relay', relay_behind_relay),
              ('back-ends that connect', backends_connect),
              ('a back-end that is lost for good', gone_for_good),
              ('ended by signals', signals),
              ('signals that do not end it', signals_that_do_not_end_it),
              ('an outage is shown', outage_is_shown),
              ('info while the disk is in use', info_while_in_use),
              ('defaults in the list', listed_defaults),
              ('descriptions in the lists', descriptions),
              ('many queues', many_queues),
              *((f'mode and group of {bus}', bind(mode_and_group, bus)) for bus in ('vhost-user', 'vfio-user')),
              ('misuse', misuse)]
    return peer.main(cases, sys.argv[2:])


if __name__ == '__main__':
    sys.exit(main())
