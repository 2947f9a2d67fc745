# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A small Debian with systemd as its init, in systemd-nspawn, on the root that scripts/setup made. Its files are in memory
and end with it.
"""
import os
import pathlib
import shutil
import time

import peer
from peer import check

ROOT = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'vublk/systemd'


class Container:
    def __init__(self, case, build, binds=()):
        """Boots, with the build installed below /usr/local. Binds are FOLDER:PATH-IN-THE-CONTAINER."""
        for program in ('systemd-nspawn', 'nsenter'):
            peer.need(program)
        if os.geteuid() != 0:
            raise peer.Skip('systemd-nspawn needs root')
        if not (ROOT / 'usr/bin/nbdkit').exists():
            raise peer.Skip(f'there is no {ROOT} with nbdkit; run scripts/setup check')
        self.case, self.leader = case, None
        installed = case.path('installed')
        case.run(['meson', 'install', '-C', build, '--no-rebuild', '--quiet', '--destdir', installed])
        check((installed / 'usr/local/bin/vublk').exists(), 'the prefix of this build is not /usr/local')
        self.machine = f'vublk-{os.getpid()}-{len(case.children)}'
        # Without machined on the host, and with a hierarchy of cgroups of its own.
        self.process = case.start(
            ['systemd-nspawn', '--quiet', '-D', ROOT, '--volatile=overlay', '--boot', '--register=no', '--keep-unit',
             '--private-network', f'--machine={self.machine}', f'--bind-ro={installed}/usr/local:/usr/local',
             *(f'--bind={bind}' for bind in binds),
             '--console=pipe', 'systemd.unified_cgroup_hierarchy=1'],
            env={**os.environ, 'SYSTEMD_NSPAWN_UNIFIED_HIERARCHY': '1'})
        self.boot()

    def children(self):
        pid = self.process.pid
        try:
            return [int(word) for word in pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text().split()]
        except FileNotFoundError:
            return []

    def boot(self):
        def is_up():
            if self.process.poll() is not None:
                return True
            self.leader = next(iter(self.children()), None)
            return self.leader and self.call('systemctl', 'is-system-running').out.strip() in ('running', 'degraded')
        peer.wait_until(is_up, lambda: f'the container does not boot: {self.case.output(self.process)}')
        if self.process.poll() is not None:
            raise peer.Skip(f'systemd-nspawn cannot run here: {self.case.output(self.process)[-300:]}')

    def command(self, *words):
        return ['nsenter', '--all', '-t', self.leader, *words]

    def call(self, *words):
        return self.case.call(self.command(*words))

    def run(self, *words):
        return self.case.run(self.command(*words))

    def start(self, *words):
        return self.case.start(self.command(*words))

    def write(self, path, text):
        self.run('sh', '-c', 'mkdir -p "${1%/*}"; printf %s "$2" >"$1"', 'sh', path, text)

    def show(self, unit, name):
        return self.run('systemctl', 'show', '--value', '-p', name, unit).strip()

    def wait_for(self, unit, name, value):
        peer.wait_until(lambda: self.show(unit, name) == value,
                        lambda: f'{name} of {unit} does not become {value}: {self.status(unit)}')

    def status(self, unit):
        return self.call('systemctl', 'status', '--no-pager', '-l', unit).out

    def close(self):
        """Ends the init of the container, and all its processes with it."""
        if self.process.poll() is None:
            self.call('systemctl', 'poweroff', '--force', '--force')
            end = time.monotonic() + 20
            while self.process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
        if self.process.poll() is None:
            self.process.terminate()
        shutil.rmtree(f'/run/systemd/nspawn/propagate/{self.machine}', ignore_errors=True)
