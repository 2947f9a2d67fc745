#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The installed units run under systemd, in a container: activation, loss under load, reload, watchdog, sandbox.

    units.py BUILD-FOLDER [-l] [-k] [WORD...]
"""
import contextlib
import json
import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import huge_pages  # noqa: E402
import peer  # noqa: E402
from container import Container  # noqa: E402
from peer import check  # noqa: E402

BUILD = sys.argv[1] if len(sys.argv) > 1 else 'build'
VUBLK = '/usr/local/bin/vublk'
SERVE, DEVICE, SOCKET = 'vublk-serve@disk01.service', 'vublk-device@disk01.service', 'vublk-device@disk01.socket'
SECOND = 'vublk-serve@disk02.service'
KEYRING = '/etc/ceph/ceph.client.vublk.keyring'
VM, BACK = '/run/vublk/disk01.sock', '/run/vublk-serve/disk01/back.sock'
EXAMPLES = '/usr/local/share/doc/vublk/examples/systemd'
# stand-in.c
STAND_IN, BLOCKS, BLOCK_BYTES, HUGE_PAGES = pathlib.Path(BUILD) / 'tests/systemd', 64, 64 << 10, 1


@contextlib.contextmanager
def booted(case, watchdog='30s', options='-o io=io_uring', binds=()):
    """A container with one disk, as docs/operating.md sets it up."""
    container = Container(case, BUILD, binds)
    try:
        container.run('systemd-sysusers')
        container.run('ldconfig')
        container.run('install', '-d', '-o', 'vublk', '-g', 'vublk', '-m', '750', '/var/lib/vublk')
        container.run('truncate', '-s', '64M', '/var/lib/vublk/disk01.img')
        container.run('chown', 'vublk', '/var/lib/vublk/disk01.img')
        container.write('/etc/vublk/serve/disk01.conf',
                        f'OPTIONS="--blk-file /var/lib/vublk/disk01.img --num-queues 4 {options}"\n')
        for unit in ('serve', 'device'):
            container.write(f'/etc/systemd/system/vublk-{unit}@.service.d/watchdog.conf', f'[Service]\nWatchdogSec={watchdog}\n')
        container.run('systemctl', 'daemon-reload')
        yield container
    except peer.Failure:
        journal = container.call('journalctl', '--no-pager', '-o', 'short-monotonic', '-u', 'vublk-*').out
        print('\n'.join(f'# {line}' for line in journal.splitlines()[-40:]))
        raise
    finally:
        container.close()


def info(container, path=VM):
    return json.loads(container.run(VUBLK, 'info', path, '--timeout', '100s', '--json'))


def documented(name, first):
    """The text of the block of a document that begins with the given line, with the paths of this installation."""
    text = (pathlib.Path(__file__).parents[2] / 'docs' / name).read_text().replace('/usr/share', '/usr/local/share')
    found = re.findall(r'^ *```\n( *' + re.escape(first) + r'\n.*?)^ *```', text, re.M | re.S)
    check(len(found) == 1, f'docs/{name} has {len(found)} blocks that begin with {first}')
    return found[0]


def write_documented(container, name, *paths):
    """Writes files of a document whose first line is their path."""
    for path in paths:
        container.write(path, documented(name, f'# {path}'))


def wait_for_words(container, unit, *words):
    """Starts a unit that cannot run yet, and waits until its journal has the words."""
    container.call('systemctl', 'start', '--no-block', unit)
    def journal():
        return container.run('journalctl', '--no-pager', '-o', 'cat', '-u', unit)
    peer.wait_until(lambda: all(word in journal() for word in words), lambda: f'{words} not in {journal()[-1000:]}')


def activation(case):
    """The first client starts the relay. Both processes run as vublk, in their sandbox, and serve the disk."""
    with booted(case) as container:
        container.run('systemctl', 'enable', '--now', SERVE, SOCKET)
        check(container.show(DEVICE, 'ActiveState') == 'inactive', 'the relay runs before a client has connected')
        mode = container.run('stat', '-c', '%A %U %G', VM).strip()
        check(mode == 'srw-rw---- root kvm', f'the socket is {mode}')
        check(info(container)['capacity_bytes'] == 64 << 20, 'another size')
        container.wait_for(DEVICE, 'ActiveState', 'active')
        for unit in (SERVE, DEVICE):
            fields = container.run('cat', f'/proc/{container.show(unit, "MainPID")}/status')
            for line in (r'Seccomp:\s2', r'NoNewPrivs:\s1', r'CapEff:\s0{16}', r'CapBnd:\s0{16}'):
                check(re.search(line, fields), f'{unit}: no {line} in {fields}')
            check(container.show(unit, 'NRestarts') == '0', container.status(unit))
        check('no VMM is connected' in container.show(DEVICE, 'StatusText'), container.status(DEVICE))
        container.run(VUBLK, 'bench', VM, '--timeout', '100s', '--rw', 'randrw', '--number_ios', '5000', '--verify')
        owner = container.run('stat', '-c', '%U', f'/proc/{container.show(SERVE, "MainPID")}').strip()
        check(owner == 'vublk', f'the back-end runs as {owner}')
        told = container.run(VUBLK, 'ctl', '/run/vublk-serve/disk01/serve.ctl', 'status')
        check('listening' in told or 'serving' in told, told)
        container.run(VUBLK, 'ctl', '/run/vublk-device/disk01/device.ctl', 'status')


def main_pid(container, unit):
    return container.show(unit, 'MainPID')


def killed_under_load(case):
    """Both processes are killed while a client writes and verifies. The client fails at no request."""
    with booted(case) as container:
        container.run('systemctl', 'start', SERVE, SOCKET)
        bench = container.start(VUBLK, 'bench', VM, '--timeout', '100s', '--rw', 'randrw', '--runtime', '600', '--iodepth', '32', '--verify',
                                '--number_ios', '300000', '--rate_iops', '20000', '-o', 'reconnect-ms=50')
        container.wait_for(DEVICE, 'ActiveState', 'active')
        for unit in (SERVE, DEVICE) * 4:
            before = main_pid(container, unit)
            container.run('systemctl', 'kill', '-s', 'KILL', unit)
            peer.wait_until(lambda: main_pid(container, unit) not in ('0', before), f'{unit} is not started again')
            container.wait_for(unit, 'ActiveState', 'active')
        check(bench.poll() is None, f'the client ended too early: {case.output(bench)}')
        check(bench.wait(600) == 0, case.output(bench))
        for unit in (SERVE, DEVICE):
            check(container.show(unit, 'NRestarts') == '4', container.status(unit))


def watchdog(case):
    """A process that is stopped is replaced. Neither is touched while it runs, with or without a client."""
    with booted(case, watchdog='3s') as container:
        container.run('systemctl', 'start', SERVE, SOCKET)
        info(container)
        container.wait_for(DEVICE, 'ActiveState', 'active')
        for unit in (SERVE, DEVICE):
            before = main_pid(container, unit)
            container.run('kill', '-STOP', before)
            container.wait_for(unit, 'NRestarts', '1')
            container.wait_for(unit, 'ActiveState', 'active')
        check('watchdog' in container.run('journalctl', '--no-pager', '-u', SERVE).lower(), 'the journal has no reason')
        info(container)
        for unit in (SERVE, DEVICE):
            check(container.show(unit, 'NRestarts') == '1', container.status(unit))


def reload_and_restart(case):
    """A reload finds a larger image. A restart keeps the VMM's socket, and a stop of the socket stops the relay."""
    with booted(case) as container:
        container.run('systemctl', 'start', SERVE, SOCKET)
        info(container)
        for size in (128, 192):
            container.run('truncate', '-s', f'{size}M', '/var/lib/vublk/disk01.img')
            container.run('systemctl', 'reload', SERVE)
            peer.wait_until(lambda: info(container)['capacity_bytes'] == size << 20, 'the size does not change')
            check(f'{size} MiB' in container.show(SERVE, 'StatusText'), container.status(SERVE))
        container.run('systemctl', 'reload', DEVICE)
        inode = container.run('stat', '-c', '%i', VM)
        container.run('systemctl', 'restart', SERVE, DEVICE)
        info(container)
        check(container.run('stat', '-c', '%i', VM) == inode, 'the socket was replaced')
        container.run('systemctl', 'stop', SOCKET)
        check(container.show(DEVICE, 'ActiveState') == 'inactive', container.status(DEVICE))
        check(container.show(DEVICE, 'Result') == 'success', container.status(DEVICE))
        container.run('systemctl', 'stop', SERVE)
        check(container.show(SERVE, 'Result') == 'success', container.status(SERVE))
        check(container.call('test', '-e', VM).code, 'the socket is left')


def without_a_back_end(case):
    """The relay starts, and waits for its back-end. A back-end with wrong options is not tried again until it is started."""
    with booted(case, options='--num-queues 100000') as container:
        container.run('systemctl', 'start', SOCKET)
        waiting = container.start(VUBLK, 'info', '--timeout', '100s', VM)
        container.wait_for(DEVICE, 'ActiveState', 'activating')
        peer.wait_until(lambda: 'Waits for the first back-end' in container.show(DEVICE, 'StatusText'),
                        lambda: container.status(DEVICE))
        check(container.call('systemctl', 'start', SERVE).code, 'wrong options start')
        check(container.show(SERVE, 'ActiveState') == 'failed', container.status(SERVE))
        check(container.show(SERVE, 'NRestarts') == '0', container.status(SERVE))
        container.write('/etc/vublk/serve/disk01.conf', 'OPTIONS="--blk-file /var/lib/vublk/disk01.img"\n')
        container.run('systemctl', 'start', SERVE)
        container.wait_for(DEVICE, 'ActiveState', 'active')
        check(waiting.wait(peer.LIMIT_S) == 0, case.output(waiting))


def starts(container, unit):
    return container.run('journalctl', '--no-pager', '-o', 'cat', '-u', unit).count('Starting')


def wrong_options_of_a_relay(case):
    """While a VMM waits, the relay is tried with a pause. It serves the VMM when the options are right."""
    with booted(case) as container:
        container.write('/etc/vublk/device/disk01.conf', 'OPTIONS="-o reconnect-ms=never"\n')
        container.run('systemctl', 'start', SERVE, SOCKET)
        waiting = container.start(VUBLK, 'info', '--timeout', '100s', VM)
        container.wait_for(DEVICE, 'SubState', 'stop-post')
        check(starts(container, DEVICE) == 1, 'the relay is started again without a pause')
        peer.wait_until(lambda: starts(container, DEVICE) > 1, lambda: container.status(DEVICE))
        container.write('/etc/vublk/device/disk01.conf', '')
        check(waiting.wait(peer.LIMIT_S) == 0, case.output(waiting))
        check(container.show(SOCKET, 'ActiveState') == 'active', container.status(SOCKET))


def upgrade(case):
    """docs/operating.md's drop-in: a reload starts a new process, which becomes the main one. A client sees no change."""
    text = (pathlib.Path(__file__).parents[2] / 'docs/operating.md').read_text()
    drop_in, = re.findall(r'^```\n(\[Service\]\n[^`]*ExecReload=/bin/sh.*?)```', text, re.M | re.S)
    with booted(case, watchdog='3s') as container:
        for unit, name in ((SERVE, 'serve'), (DEVICE, 'device')):
            container.write(f'/etc/systemd/system/vublk-{name}@.service.d/upgrade.conf', drop_in.replace('serve', name).replace('30000000', '3000000'))
        container.run('systemctl', 'daemon-reload')
        container.run('systemctl', 'start', SERVE, SOCKET)
        bench = container.start(VUBLK, 'bench', VM, '--timeout', '100s', '--rw', 'randrw', '--number_ios', '300000', '--rate_iops', '20000',
                                '--verify', '-o', 'reconnect-ms=0')
        container.wait_for(DEVICE, 'ActiveState', 'active')
        for unit in (SERVE, DEVICE) * 2:
            before = main_pid(container, unit)
            container.run('systemctl', 'reload', unit)
            peer.wait_until(lambda: main_pid(container, unit) not in ('0', before), lambda: container.status(unit))
        check(bench.wait(600) == 0, case.output(bench))
        for unit in (SERVE, DEVICE):
            check(container.show(unit, 'NRestarts') == '0', container.status(unit))
            container.run('systemctl', 'stop', unit)
            check(container.show(unit, 'Result') == 'success', container.status(unit))


@contextlib.contextmanager
def loop_device(case):
    peer.need('losetup')
    case.run(['truncate', '-s', '64M', case.path('blocks')])
    made = case.call(['losetup', '--find', '--show', case.path('blocks')])
    if made.code:
        raise peer.Skip(f'no loop device here: {made.err}')
    try:
        yield made.out.strip()
    finally:
        case.call(['losetup', '--detach', made.out.strip()])


def block_device(case):
    """The sandbox opens a block device of the user vublk, and no other one."""
    with loop_device(case) as device, booted(case) as container:
        minor = os.minor(os.stat(device).st_rdev)
        container.run('mknod', '-m', '600', '/dev/disk01', 'b', '7', str(minor))
        container.write('/etc/vublk/serve/disk01.conf', 'OPTIONS="--blk-file /dev/disk01"\n')
        container.call('systemctl', 'start', '--no-block', SERVE)
        peer.wait_until(lambda: 'Permission denied' in container.run('journalctl', '--no-pager', '-u', SERVE),
                        'the device of root is not refused')
        container.run('chown', 'vublk', '/dev/disk01')
        container.wait_for(SERVE, 'ActiveState', 'active')
        container.run('systemctl', 'start', SOCKET)
        container.run(VUBLK, 'bench', VM, '--timeout', '100s', '--rw', 'randrw', '--number_ios', '5000', '--verify')


def network(case):
    """Metrics over TCP work with the drop-in that is installed as an example, and not without it."""
    ask = r'exec 3<>/dev/tcp/127.0.0.1/9100 && printf "GET /metrics HTTP/1.0\r\n\r\n" >&3 && cat <&3'
    with booted(case, options='--metrics-listen 9100') as container:
        container.call('systemctl', 'start', '--no-block', SERVE)
        peer.wait_until(lambda: container.show(SERVE, 'NRestarts') != '0', lambda: container.status(SERVE))
        folder = f'/etc/systemd/system/{SERVE}.d'
        container.run('install', '-D', '-t', folder, '/usr/local/share/doc/vublk/examples/systemd/network.conf')
        container.run('systemctl', 'daemon-reload')
        container.wait_for(SERVE, 'ActiveState', 'active')
        told = container.run('bash', '-c', ask)
        check('vublk' in told and '200 OK' in told, told)


def nbd_on_a_socket(case):
    """The engine nbd with a server of systemd's, as docs/nbd.md describes it."""
    with booted(case) as container:
        container.run('truncate', '-s', '32M', '/srv/disk01.img')
        write_documented(container, 'nbd.md', '/etc/systemd/system/nbd-disk01.socket', '/etc/systemd/system/nbd-disk01.service',
                         f'/etc/systemd/system/{SERVE}.d/nbd.conf', '/etc/vublk/serve/disk01.conf')
        container.run('systemctl', 'daemon-reload')
        container.run('systemctl', 'start', SERVE)
        container.run(VUBLK, 'bench', BACK, '--timeout', '100s', '--rw', 'randrw', '--number_ios', '2000', '--verify')
        container.run('systemctl', 'stop', SERVE, 'nbd-disk01.service', 'nbd-disk01.socket')
        check(container.show(SERVE, 'Result') == 'success', container.status(SERVE))
        check(container.call('cmp', '-n', str(32 << 20), '/srv/disk01.img', '/dev/zero').code == 1, 'the image was not written')


def storage_on_the_network(case):
    """The engines nbd and rbd reach servers on this host with the drop-in of the documents, and not without it."""
    with booted(case) as container:
        container.write('/etc/hosts', '127.0.0.1 localhost\n')
        container.run('systemd-run', '--unit=server', 'nbdkit', '--foreground', '--ipaddr', '127.0.0.1', 'memory', '32M')
        container.write('/etc/vublk/serve/disk01.conf', 'OPTIONS="--engine nbd -o uri=nbd://localhost/"\n')
        wait_for_words(container, SERVE, 'cannot connect')
        container.run('sh', '-euc', documented('nbd.md', f'install -D -t /etc/systemd/system/{SERVE}.d {EXAMPLES}/network.conf'))
        container.wait_for(SERVE, 'ActiveState', 'active')
        container.run(VUBLK, 'bench', BACK, '--timeout', '100s', '--rw', 'randrw', '--number_ios', '2000', '--verify')

        # No monitor listens. The time limit is not the default, 300 s.
        container.write('/etc/ceph/ceph.conf', '[global]\nmon host = v2:127.0.0.1:3300\nclient mount timeout = 1\n')
        container.write(KEYRING, '[client.vublk]\nkey = AQBVY29uAAAAABAAvublkvublkvublkvublkug==\n')
        container.write('/etc/vublk/serve/disk02.conf', 'OPTIONS="--engine rbd -o image=disk -o user=vublk"\n')
        container.run('sh', '-euc', documented('rbd.md', f'chgrp vublk {KEYRING}').replace('disk01', 'disk02'))
        container.run('runuser', '-u', 'vublk', '--', 'test', '-r', KEYRING)
        wait_for_words(container, SECOND, "as the user 'vublk'", 'no monitor has answered')
        container.run('systemctl', 'stop', SECOND)


def images(case):
    """What an image needs that is not in /var/lib/vublk, or not of vublk: the journal says it, and it helps."""
    with booted(case) as container:
        container.run('install', '-o', 'vublk', '/var/lib/vublk/disk01.img', '-D', '/srv/images/disk01.img')
        container.write('/etc/vublk/serve/disk01.conf', 'OPTIONS="--blk-file /srv/images/disk01.img"\n')
        wait_for_words(container, SERVE, '/srv/images/disk01.img', 'ReadWritePaths=', 'or use read-only')
        container.write(f'/etc/systemd/system/{SERVE}.d/image.conf', '[Service]\nReadWritePaths=/srv/images\n')
        container.run('systemctl', 'daemon-reload')
        container.wait_for(SERVE, 'ActiveState', 'active')

        container.run('install', '-m', '640', '/var/lib/vublk/disk01.img', '/var/lib/vublk/disk02.img')
        container.write('/etc/vublk/serve/disk02.conf', 'OPTIONS="--blk-file /var/lib/vublk/disk02.img"\n')
        user = container.run('id', '-u', 'vublk').strip()
        wait_for_words(container, SECOND, '/var/lib/vublk/disk02.img', f'as user {user}', 'give this user access')
        container.run('chown', 'vublk', '/var/lib/vublk/disk02.img')
        container.wait_for(SECOND, 'ActiveState', 'active')

        container.run('install', '-m', '444', '/var/lib/vublk/disk01.img', '/srv/read-only.img')
        container.write('/etc/vublk/serve/disk03.conf', 'OPTIONS="--blk-file /srv/read-only.img --read-only"\n')
        container.run('systemctl', 'start', 'vublk-serve@disk03.service')


def guest_memory(case):
    """The back-end uses memory of a client in a memfd, and on huge pages."""
    pages = huge_pages.add(HUGE_PAGES)
    try:
        with booted(case, binds=[f'{STAND_IN}:/stand-in']) as container:
            container.run('systemctl', 'start', SERVE, SOCKET)
            for kind in ('memfd', *(['huge'] if pages == HUGE_PAGES else [])):
                record = f'/run/record-{kind}'
                client = f'client-{kind}.service'
                container.run('systemd-run', f'--unit={client}', '/stand-in/stand-in', VM, kind, record)
                peer.wait_until(lambda: container.call('grep', '-q', '[1-9]', record).code == 0,
                                lambda: f'{container.status(client)} {container.status(SERVE)}')
                mapped = container.run('cat', f'/proc/{container.show(SERVE, "MainPID")}/smaps')
                check((kind == 'huge') == bool(re.search(r'KernelPageSize: +2048 kB', mapped)), f'{kind}: {mapped}')
                container.run('systemctl', 'stop', client)
                check(container.run('cat', record).endswith(' end\n'), f'{kind}: {container.status(client)}')
        if pages < HUGE_PAGES:
            raise peer.Skip(f'the host has {pages} huge pages to spare of {HUGE_PAGES}; memfd is tested')
    finally:
        if pages > 0:
            huge_pages.add(-pages)


def check_image(path, record):
    """Every write that the stand-in has recorded is in the image."""
    last = int(record.read_text().split()[0])
    content = path.read_bytes()
    for number in range(max(1, last - BLOCKS + 1), last + 1):
        block = content[number % BLOCKS * BLOCK_BYTES:][:BLOCK_BYTES]
        check(block == number.to_bytes(8, 'little') * (BLOCK_BYTES // 8), f'write {number} of {last} is not in the image')


def shutdown(case):
    """When the host ends, a VM with the order of docs/operating.md writes until it has ended, and the image has all of it."""
    shared = case.path('shared')
    shared.mkdir()
    with booted(case, binds=[f'{STAND_IN}:/stand-in', f'{shared}:/srv/images']) as container:
        container.run('install', '-o', 'vublk', '/var/lib/vublk/disk01.img', '/srv/images/disk01.img')
        container.write('/etc/vublk/serve/disk01.conf', 'OPTIONS="--blk-file /srv/images/disk01.img"\n')
        container.write(f'/etc/systemd/system/{SERVE}.d/image.conf', '[Service]\nReadWritePaths=/srv/images\n')
        unit = re.sub('^ +', '', documented('operating.md', '[Unit]'), flags=re.M)
        container.write('/etc/systemd/system/vm.service',
                        f'{unit}\n[Service]\nExecStart=/stand-in/stand-in {VM} memfd /srv/images/record\nTimeoutStopSec=20s\n')
        container.run('systemctl', 'daemon-reload')
        container.run('systemctl', 'start', 'vm.service')
        record = shared / 'record'
        peer.wait_until(lambda: record.exists() and re.search('[1-9]', record.read_text()), lambda: container.status('vm.service'))
        container.call('systemctl', 'poweroff')
        check(container.process.wait(peer.LIMIT_S) == 0, case.output(container.process))
        check(record.read_text().endswith(' end\n'), f'the VM could not end: {record.read_text()}')
        check_image(shared / 'disk01.img', record)


def socket_group(case):
    """A VMM without the relay: the back-end gives its socket to the group kvm, in its sandbox."""
    with booted(case, options='--socket-mode 0660 --socket-group kvm') as container:
        container.run('systemctl', 'start', SERVE)
        mode = container.run('stat', '-c', '%A %U %G', '/run/vublk-serve/disk01/back.sock').strip()
        check(mode == 'srw-rw---- vublk kvm', f'the socket is {mode}')


if __name__ == '__main__':
    sys.exit(peer.main([activation, killed_under_load, watchdog, reload_and_restart, without_a_back_end,
                        wrong_options_of_a_relay, upgrade, block_device, network, nbd_on_a_socket, storage_on_the_network, images,
                        guest_memory, shutdown, socket_group],
                       sys.argv[2:]))
