# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A Ceph cluster for tests: one monitor, one manager and one OSD in a scratch folder, on the loopback interface only. The
daemons are children of the test, in the foreground, so they end with it.

    with Cluster() as cluster:
        cluster.rbd('create', '--size', '64M', 'disk')

The clients authenticate, so that a test can use a wrong user. All keys and capabilities are in the keyring with which the
monitor creates its database, because each later call of `ceph` takes a second.
"""
import json
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid

import peer
from peer import check

POOL = 'rbd'
# A client that can write to images, one that can only read them, and one that can write but not break a dead client's lock.
USER, READER, WRITER = 'vublk', 'reader', 'writer'
HOST = '127.0.0.1'
# A client that died keeps its watch of an image, and so its lock, for this time. The default is 30 s.
WATCH_TIMEOUT_S = 10

PROGRAMS = ['ceph', 'ceph-authtool', 'ceph-mgr', 'ceph-mon', 'ceph-osd', 'monmaptool', 'rbd']

CONF = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{port}
public network = 127.0.0.0/8
keyring = {folder}/$name.keyring
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
run dir = {folder}
admin socket =
pid file =
log file = {folder}/$name.log
objecter tick interval = 1
osd client watch timeout = {watch_timeout}
[client]
admin socket = {folder}/client.$pid.asok
[mon]
mon data = {folder}/mon
[mgr]
mgr data = {folder}/mgr
# The modules that are on by default cost more time than all tests.
mgr initial modules =
[osd]
osd data = {folder}/osd
osd objectstore = bluestore
osd memory target = 939524096
# A sparse file. With 2 GiB an OSD ended after half an hour of small writes, because it had no room for another log.
bluestore block size = 8589934592
bluestore block create = true
"""

CAPABILITIES = {
    'mon.': {'mon': 'allow *'},
    'client.admin': {'mon': 'allow *', 'osd': 'allow *', 'mgr': 'allow *', 'mds': 'allow *'},
    'mgr.x': {'mon': 'allow profile mgr', 'osd': 'allow *', 'mds': 'allow *'},
    'osd.0': {'mon': 'allow profile osd', 'mgr': 'allow profile osd', 'osd': 'allow *'},
    f'client.{USER}': {'mon': 'profile rbd', 'osd': f'profile rbd pool={POOL}', 'mgr': f'profile rbd pool={POOL}'},
    f'client.{READER}': {'mon': 'profile rbd', 'osd': f'profile rbd-read-only pool={POOL}'},
    f'client.{WRITER}': {'mon': 'allow r', 'osd': f'profile rbd pool={POOL}'},
}


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Cluster:
    def __init__(self):
        peer.need(*PROGRAMS)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='vublk-ceph-'))
        self.conf = self.folder / 'ceph.conf'
        self.case = peer.Case(self.folder)
        self.daemons = {}

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    # --- the start ---------------------------------------------------------------------

    def make_keys(self):
        """One keyring per entity, and one with all of them for the monitor's database."""
        everything = self.folder / 'all.keyring'
        everything.write_text('')
        for entity, capabilities in CAPABILITIES.items():
            words = [word for service, text in capabilities.items() for word in ('--cap', service, text)]
            ring = self.folder / f'{entity}.keyring'
            self.case.run(['ceph-authtool', '--create-keyring', ring, '--gen-key', '--name', entity, *words])
            everything.write_text(everything.read_text() + ring.read_text())
        return everything

    def daemon(self, name):
        """Starts a daemon by its name: mon.a, mgr.x or osd.0."""
        kind, name_of = name.split('.')
        self.daemons[name] = self.case.start([f'ceph-{kind}', '--conf', self.conf, '--id', name_of, '--foreground'])

    def start(self):
        fsid = uuid.uuid4()
        port = free_port()
        self.conf.write_text(CONF.format(folder=self.folder, fsid=fsid, port=port, watch_timeout=WATCH_TIMEOUT_S))
        for name in 'mon', 'mgr', 'osd':
            (self.folder / name).mkdir()
        keys = self.make_keys()
        monmap = self.folder / 'monmap'
        self.case.run(['monmaptool', '--create', '--fsid', fsid, '--addv', 'a', f'[v2:127.0.0.1:{port}]', monmap])
        self.case.run(['ceph-mon', '--conf', self.conf, '--id', 'a', '--mkfs', '--monmap', monmap, '--keyring', keys])
        self.daemon('mon.a')
        self.daemon('mgr.x')
        osd = uuid.uuid4()
        self.ceph('osd', 'new', osd, '0')
        self.case.run(['ceph-osd', '--conf', self.conf, '--id', '0', '--mkfs', '--osd-uuid', osd])
        self.daemon('osd.0')
        self.ceph('osd', 'pool', 'create', POOL, '8')
        self.rbd('pool', 'init', POOL)

    # --- use -----------------------------------------------------------------------------

    def ceph(self, *words):
        return self.case.run(['ceph', '--conf', self.conf, '--connect-timeout', peer.LIMIT_S, *words])

    def rbd(self, *words):
        return self.case.run(['rbd', '--conf', self.conf, *words])

    def ask(self, pid, prefix, **arguments):
        """Sends a command to the admin socket of a client's process."""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.folder / f'client.{pid}.asok'))
            client.sendall(json.dumps({'prefix': prefix, **arguments}).encode() + b'\0')
            answer = client.makefile('rb').read()
        return json.loads(answer[4:])  # the length comes first

    def perf_counters(self, pid):
        return self.ask(pid, 'perf dump')

    def settings(self, pid, names):
        return {name: self.ask(pid, 'config get', var=name)[name] for name in names}

    def kill(self, name):
        self.case.stop(self.daemons[name], signal.SIGKILL)

    def suspend(self):
        """Makes the cluster unreachable: connections stay open, and no daemon answers."""
        for daemon in self.daemons.values():
            peer.suspend(daemon)

    def resume(self):
        for daemon in self.daemons.values():
            daemon.send_signal(signal.SIGCONT)

    def close(self):
        self.case.close()
        shutil.rmtree(self.folder, ignore_errors=True)
