#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The engine rbd of `vublk serve`, with a real cluster (mini_ceph.py), which all cases share.

    rbd.py VUBLK FOLDER-OF-THE-MODULE [-l] [-k] [WORD...]
"""
import functools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import mini_ceph  # noqa: E402
import peer  # noqa: E402
from mini_ceph import HOST, POOL, READER, USER, WRITER  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MODULES = sys.argv[2] if len(sys.argv) > 2 else ''
MIB = 1 << 20
IMAGE_MIB = 32
# Loads on a small cluster stand still while it replays its log.
PATIENT = ['--stall-time', f'{peer.LIMIT_S}s']

os.environ['VUBLK_ENGINE_PATH'] = MODULES


@functools.cache
def start_cluster():
    return mini_ceph.Cluster().__enter__()


def cluster():
    if not MODULES:
        raise peer.Skip('this build is without the engine rbd')
    return start_cluster()


class Rbd:
    """An image, and the back-ends that serve it."""
    def __init__(self, case, name, mib=IMAGE_MIB, spec=None, create=()):
        self.case, self.name, self.cluster = case, name, cluster()
        self.spec = spec or f'{POOL}/{name}'
        self.cluster.rbd('create', '--size', f'{mib}M', *create, self.spec)

    def command(self, path, *options, conf=None, user=USER):
        given = {'image': self.name, 'conf': conf or self.cluster.conf, 'user': user}
        given.update(option.split('=', 1) for option in options)
        return [VUBLK, 'serve', '--engine', 'rbd', '--socket-path', path,
                *(word for name, value in given.items() for word in ('-o', f'{name}={value}'))]

    def start(self, *options, more=(), **which):
        path = self.case.path(f'socket-{len(self.case.children)}')
        child = self.case.start([*self.command(path, *options, **which), *more])
        peer.wait_for_socket(self.case, child, path)
        return child, path

    def refuse(self, *options, code=1, **which):
        """Checks that serve refuses the options with one sentence, which it returns."""
        result = self.case.call([*self.command(self.case.path('refused'), *options, **which), '--quiet'])
        check(result.code == code and len(result.err.splitlines()) == 1, str(result))
        return result.err

    def stop(self, child):
        code = self.case.stop(child)
        check(code == 0, f'serve ended with {code}: {self.case.output(child)}')

    def size(self, path):
        return json.loads(self.case.run([VUBLK, 'info', path, '--json']))['capacity_bytes']

    def export(self, spec=None):
        """The content of the image, read by Ceph's own program."""
        path = self.case.path(f'exported-{len(os.listdir(self.case.folder))}')
        self.cluster.rbd('export', '--no-progress', spec or self.spec, path)
        return path.read_bytes()

    def used_bytes(self):
        """How many bytes of the image take space."""
        extents = json.loads(self.cluster.rbd('diff', '--format', 'json', self.spec))
        return sum(extent['length'] for extent in extents if extent['exists'] == 'true')

    def counters(self, child):
        """librbd's counters of requests in a back-end's process."""
        told = self.cluster.perf_counters(child.pid)
        return next(values for name, values in told.items() if name.startswith('librbd-') and self.name in name)


def case_of(function):
    """Makes a case of a function that uses an image. The image has the function's name."""
    @functools.wraps(function)
    def run(case):
        function(case, Rbd(case, function.__name__))
    return run


def bench(case, path, *words):
    return case.run([VUBLK, 'bench', path, *PATIENT, *words])


def random_file(case, name, mib):
    path = case.path(name)
    path.write_bytes(os.urandom(mib * MIB))
    return path


# --- data -------------------------------------------------------------------------------------

@case_of
def verified_loads(case, image):
    child, path = image.start('threads=2')
    bench(case, path, '--rw', 'randrw', '--numjobs', '2', '--runtime', '3', '--verify')
    bench(case, path, '--rw', 'randrw', '--bs', '512', '--number_ios', '2000', '--verify')
    bench(case, path, '--rw', 'rw', '--bs', '1M', '--verify')
    image.stop(child)


@case_of
def content_is_the_clusters(case, image):
    """What vublk writes, Ceph's own program reads, and the other way round."""
    data = random_file(case, 'data', IMAGE_MIB)
    child, path = image.start()
    case.run([VUBLK, 'copy', data, path])
    check(image.export() == data.read_bytes(), 'the image has another content')
    image.stop(child)
    child, path = image.start()
    case.run([VUBLK, 'copy', path, case.path('back')])
    check(case.path('back').read_bytes() == data.read_bytes(), 'vublk reads another content')
    image.stop(child)


@case_of
def discards(case, image):
    data = random_file(case, 'data', IMAGE_MIB)
    child, path = image.start()
    case.run([VUBLK, 'copy', data, path])
    check(image.used_bytes() == IMAGE_MIB * MIB, f'{image.used_bytes()} bytes are used')
    half = IMAGE_MIB // 2
    bench(case, path, '--rw', 'trim', '--bs', '4M', '--size', f'{half}M')
    check(image.used_bytes() == half * MIB, f'{image.used_bytes()} bytes are used after discards')
    check(image.export()[half * MIB:] == data.read_bytes()[half * MIB:], 'the discards have changed other blocks')
    image.stop(child)


@case_of
def write_zeroes(case, image):
    """Zeroes that may unmap free space, and the others keep it. Their ends need not be those of an object."""
    data, zeroes = random_file(case, 'data', IMAGE_MIB), case.path('zeroes')
    with open(zeroes, 'wb') as file:
        file.truncate(9 * MIB + 512)
    child, path = image.start()
    for words, used in ((), IMAGE_MIB * MIB - 8 * MIB), (['--allocated'], IMAGE_MIB * MIB):
        case.run([VUBLK, 'copy', data, path])
        case.run([VUBLK, 'copy', *words, zeroes, path])
        content = image.export()
        check(content[:9 * MIB + 512] == bytes(9 * MIB + 512), f'{words}: not all is zero')
        check(content[9 * MIB + 512:] == data.read_bytes()[9 * MIB + 512:], f'{words}: too much is zero')
        check(image.used_bytes() in range(used - MIB - 512, used + 1), f'{words}: {image.used_bytes()} bytes are used')
    image.stop(child)


@case_of
def durable_writes(case, image):
    """Without a write cache each write is followed by a flush, and with it by none."""
    for options, least, most in ((['write-cache=off'], 50, 60), ([], 0, 10)):
        child, path = image.start(*options)
        bench(case, path, '--rw', 'randwrite', '--iodepth', '1', '--number_ios', '50')
        flushes = image.counters(child)['flush']
        check(least <= flushes <= most, f'{options}: {flushes} flushes for 50 writes')
        image.stop(child)


@case_of
def flushes(case, image):
    child, path = image.start()
    bench(case, path, '--rw', 'write', '--number_ios', '40', '--fsync', '2')
    count = image.counters(child)['flush']
    check(count >= 20, f'{count} flushes')
    image.stop(child)


@case_of
def a_sleeping_worker(case, image):
    """A completion wakes the worker, which does not look for it meanwhile."""
    child, path = image.start('poll=off')
    bench(case, path, '--rw', 'randwrite', '--iodepth', '1', '--number_ios', '40')
    image.stop(child)


# --- other kinds of images ----------------------------------------------------------------------

@case_of
def a_snapshot(case, image):
    """A snapshot keeps its content and its size, and is read-only."""
    before, after = random_file(case, 'before', IMAGE_MIB), random_file(case, 'after', IMAGE_MIB)
    child, path = image.start()
    case.run([VUBLK, 'copy', before, path])
    image.cluster.rbd('snap', 'create', '--no-progress', f'{image.spec}@one')
    case.run([VUBLK, 'copy', after, path])
    image.cluster.rbd('resize', '--no-progress', '--size', f'{2 * IMAGE_MIB}M', image.spec)
    snapshot, snapshot_path = image.start('snapshot=one', user=READER)
    check(image.size(snapshot_path) == IMAGE_MIB * MIB, 'the snapshot has the size of the image')
    case.run([VUBLK, 'copy', snapshot_path, case.path('copied')])
    check(case.path('copied').read_bytes() == before.read_bytes(), 'the snapshot has another content')
    result = case.call([VUBLK, 'bench', snapshot_path, '--rw', 'write', '--number_ios', '1'])
    check(result.code == 1 and 'read-only' in result.err, str(result))
    image.stop(snapshot)
    image.stop(child)


@case_of
def read_only(case, image):
    """A user without write capabilities can serve the image read-only, next to a client that writes to it."""
    child, path = image.start()
    bench(case, path, '--rw', 'write', '--verify')
    reader, reader_path = image.start('read-only=on', user=READER)
    bench(case, reader_path, '--rw', 'read', '--verify')
    result = case.call([VUBLK, 'bench', reader_path, '--rw', 'write', '--number_ios', '1'])
    check(result.code == 1 and 'read-only' in result.err, str(result))
    image.stop(reader)
    image.stop(child)


def a_namespace(case):
    cluster().rbd('namespace', 'create', f'{POOL}/ns')
    image = Rbd(case, 'inside', spec=f'{POOL}/ns/inside')
    child, path = image.start('namespace=ns')
    bench(case, path, '--rw', 'write', '--verify', '--number_ios', '100')
    check(any(image.export()), 'the image in the namespace is empty')
    check("'rbd/ns/inside'" in case.output(child), case.output(child))
    image.stop(child)


def serials(case):
    """The serial belongs to the image, under any name, and a snapshot has another one."""
    image = Rbd(case, 'named')
    told = []

    def tell(*options):
        child, path = image.start(*options)
        told.append(json.loads(case.run([VUBLK, 'info', path, '--json']))['serial'])
        image.stop(child)

    tell()
    image.cluster.rbd('snap', 'create', '--no-progress', f'{image.spec}@one')
    tell('snapshot=one')
    image.cluster.rbd('rename', image.spec, f'{POOL}/renamed')
    tell('image=renamed')
    check(told[0] == told[2] != told[1], f'the serials are {told}')


def threads_named(child, name):
    return sum(path.read_text().strip() == name for path in pathlib.Path(f'/proc/{child.pid}/task').glob('*/comm'))


@case_of
def settings_of_the_user(case, image):
    """
    The engine has defaults of its own. The configuration can change them, also back to those of Ceph. Adjacent writes
    are merged by default, because a sequential write costs more without that.
    """
    ours = {'librados_thread_count': '1', 'ms_tcp_prefetch_max_size': '32768', 'rbd_io_scheduler': 'simple',
            'rbd_non_blocking_aio': 'false'}
    cephs = {'librados_thread_count': '2', 'ms_tcp_prefetch_max_size': '4096', 'rbd_io_scheduler': 'simple',
             'rbd_non_blocking_aio': 'true'}
    conf = case.path('ceph.conf')
    lines = ''.join(f'{name} = {value}\n' for name, value in cephs.items())
    conf.write_text(image.cluster.conf.read_text() + f'[client]\n{lines}')
    for given, wanted in ({}, ours), ({'conf': conf}, cephs):
        child, path = image.start(**given)
        found = image.cluster.settings(child.pid, wanted)
        check(found == wanted, f'{found} instead of {wanted}')
        threads = threads_named(child, 'io_context_pool')
        check(threads == int(wanted['librados_thread_count']), f'{threads} threads for completions')
        bench(case, path, '--rw', 'randrw', '--number_ios', '500', '--verify')
        image.stop(child)


@case_of
def the_default_configuration(case, image):
    """Without the option conf, the engine reads the file that Ceph's programs read."""
    path = case.path('socket')
    command = image.command(path, 'conf=')
    result = case.call(command, env={**os.environ, 'CEPH_CONF': str(case.path('none'))})
    check(result.code == 1 and 'there is no configuration of a Ceph cluster' in result.err, str(result))
    child = case.start(command, env={**os.environ, 'CEPH_CONF': str(image.cluster.conf)})
    peer.wait_for_socket(case, child, path)
    image.stop(child)


# --- changes and failures -------------------------------------------------------------------------

@case_of
def resized(case, image):
    """The driver is told about a new size without a signal."""
    child, path = image.start()
    for mib in 2 * IMAGE_MIB, IMAGE_MIB // 2:
        image.cluster.rbd('resize', '--no-progress', '--allow-shrink', '--size', f'{mib}M', image.spec)
        peer.wait_until(lambda: f'to {mib * MIB} bytes' in case.output(child), f'{mib} MiB is never logged')
        check(image.size(path) == mib * MIB, f'the disk has {image.size(path)} bytes')
    before = case.output(child)
    image.cluster.rbd('snap', 'create', '--no-progress', f'{image.spec}@one')
    check(case.output(child) == before, 'a new snapshot is reported')
    bench(case, path, '--rw', 'write', '--verify')
    image.stop(child)


@case_of
def killed_under_load(case, image):
    """The next back-end waits until the cluster has given up the killed one, and no write is lost."""
    path = case.path('socket')
    told = json.loads(case.run([VUBLK, 'chaos', path, '--kills', '3', '--stuck-after', f'{peer.LIMIT_S}s', '--json',
                                '--', *image.command(path)], limit_s=10 * peer.LIMIT_S))
    check(told['faults']['kill'] == 3, str(told))


@case_of
def the_osd_restarts_under_load(case, image):
    child, path = image.start()
    load = case.start([VUBLK, 'bench', path, *PATIENT, '--rw', 'randrw', '--number_ios', '6000', '--verify'])
    counted = lambda: image.counters(child)['wr']
    peer.wait_until(lambda: counted() > 200, 'the load does not begin')
    image.cluster.kill('osd.0')
    check(load.poll() is None, f'the load ended too early: {case.output(load)}')
    image.cluster.daemon('osd.0')
    code = load.wait(peer.LIMIT_S)
    check(code == 0, f'bench ended with {code}: {case.output(load)}')
    image.stop(child)


def in_flight(case, control):
    stats = case.run([VUBLK, 'ctl', control, 'stats'])
    return sum(map(int, re.findall(r'"in_flight": *(\d+)', stats)))


@case_of
def an_unreachable_cluster(case, image):
    """Requests wait, and the control socket answers meanwhile."""
    control = case.path('control')
    child, path = image.start('statistics=on', more=['--control', control])
    image.cluster.suspend()
    try:
        load = case.start([VUBLK, 'bench', path, *PATIENT, '--rw', 'write', '--number_ios', '200', '--verify'])
        peer.wait_until(lambda: in_flight(case, control) > 0, 'no request is in flight')
        check(load.poll() is None, case.output(load))
    finally:
        image.cluster.resume()
    code = load.wait(peer.LIMIT_S)
    check(code == 0, f'bench ended with {code}: {case.output(load)}')
    image.stop(child)


@case_of
def the_time_limit_of_librados(case, image):
    conf = case.path('ceph.conf')
    conf.write_text(image.cluster.conf.read_text() + '[client]\nrados osd op timeout = 5\n')
    child, path = image.start(conf=conf)
    # After the first flush, librbd's cache would complete writes that the cluster does not have.
    bench(case, path, '--rw', 'write', '--number_ios', '4', '--fsync', '1')
    image.cluster.suspend()
    try:
        result = case.call([VUBLK, 'bench', path, *PATIENT, '--rw', 'write', '--number_ios', '1'])
        check(result.code == 1 and 'Input/output error' in result.err, str(result))
        check('rados_osd_op_timeout' in case.output(child), case.output(child))
    finally:
        image.cluster.resume()
    bench(case, path, '--rw', 'write', '--number_ios', '1')
    image.stop(child)


@case_of
def ended_while_the_cluster_is_unreachable(case, image):
    """SIGTERM waits for the cluster, and a second one does not."""
    child, _ = image.start()
    image.cluster.suspend()

    def has_ended():
        child.send_signal(signal.SIGTERM)
        return child.poll() is not None

    try:
        peer.wait_until(has_ended, 'serve does not end')
        check(child.returncode == -signal.SIGTERM, f'serve ended with {child.returncode}')
    finally:
        image.cluster.resume()


# --- several clients --------------------------------------------------------------------------------

@case_of
def an_image_in_use(case, image):
    """The image of a client is refused, whether or not that client keeps the lock."""
    for options in [], ['exclusive-lock=off']:
        child, path = image.start(*options)
        said = image.refuse()
        check('has the rbd image' in said and 'exclusive-lock=off' in said, said)
        bench(case, path, '--rw', 'write', '--number_ios', '10', '--verify')
        image.stop(child)


@case_of
def the_lock_is_kept(case, image):
    """Another client that writes fails, and does not take the lock."""
    child, path = image.start()
    bench(case, path, '--rw', 'write', '--number_ios', '10', '--verify')
    other = case.call(['rbd', '--conf', image.cluster.conf, 'bench', '--io-type', 'write', '--io-size', '4096',
                       '--io-total', '4096', image.spec])
    check(other.code and 'Read-only file system' in other.err, str(other))
    bench(case, path, '--rw', 'write', '--number_ios', '10', '--verify')
    image.stop(child)


@case_of
def a_wait_is_interrupted(case, image):
    """SIGTERM ends the wait for another client."""
    child, _ = image.start()
    second = case.start(image.command(case.path('second')))
    peer.wait_until(lambda: 'waiting for the client' in case.output(second), 'the second client does not wait')
    check(case.stop(second) == 1 and 'interrupted' in case.output(second), case.output(second))
    image.stop(child)


@case_of
def a_shared_image(case, image):
    """Without exclusive-lock, the lock moves to the client that writes."""
    both = [image.start('exclusive-lock=off') for _ in range(2)]
    for _ in range(2):
        for number, (_, path) in enumerate(both):
            bench(case, path, '--rw', 'write', '--number_ios', '10', '--verify', '--offset', f'{number}M')
    bench(case, both[0][1], '--rw', 'read', '--number_ios', '10', '--verify', '--offset', '1M')
    for child, _ in both:
        image.stop(child)


@case_of
def a_blocklisted_client(case, image):
    """A client whose lock was broken says so once, and can be stopped."""
    child, path = image.start()
    bench(case, path, '--rw', 'write', '--number_ios', '1')
    watchers = json.loads(image.cluster.rbd('status', '--format', 'json', image.spec))['watchers']
    image.cluster.ceph('osd', 'blocklist', 'add', watchers[0]['address'])
    result = case.call([VUBLK, 'bench', path, *PATIENT, '--rw', 'write', '--number_ios', '1'])
    check(result.code == 1 and 'Input/output error' in result.err, str(result))
    check('blocklisted this client' in case.output(child), case.output(child))
    image.stop(child)


@case_of
def a_broken_lock(case, image):
    """After `rbd lock rm`, the requests of the old owner fail, and the next back-end has the image."""
    child, path = image.start()
    bench(case, path, '--rw', 'write', '--number_ios', '10', '--verify')
    lock = json.loads(image.cluster.rbd('lock', 'ls', '--format', 'json', image.spec))[0]
    image.cluster.rbd('lock', 'rm', image.spec, lock['id'], lock['locker'])
    result = case.call([VUBLK, 'bench', path, *PATIENT, '--rw', 'write', '--number_ios', '1'])
    check(result.code == 1 and 'Input/output error' in result.err, str(result))
    check('blocklisted this client' in case.output(child), case.output(child))
    second, path = image.start()
    bench(case, path, '--rw', 'read', '--number_ios', '10', '--verify')
    image.stop(child)
    bench(case, path, '--rw', 'write', '--number_ios', '10', '--verify')
    image.stop(second)


class OtherClient:
    """other_client.py, until end()."""
    def __init__(self, image, what):
        self.case = image.case
        self.child = image.case.start([pathlib.Path(__file__).with_name('other_client.py'), image.cluster.conf, POOL,
                                       image.name, what], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        check(self.child.stdout.readline() == b'ready\n', f'the other client fails: {image.case.output(self.child)}')

    def end(self):
        self.child.communicate(timeout=peer.LIMIT_S)
        check(self.child.returncode == 0, f'the other client failed: {self.case.output(self.child)}')


@case_of
def a_lock_that_another_client_keeps(case, image):
    """A back-end that shares the image cannot write meanwhile, and says why."""
    child, path = image.start('exclusive-lock=off')
    bench(case, path, '--rw', 'write', '--number_ios', '10', '--verify')
    other = OtherClient(image, 'lock')
    result = case.call([VUBLK, 'bench', path, *PATIENT, '--rw', 'write', '--number_ios', '1'])
    check(result.code == 1 and 'Input/output error' in result.err, str(result))
    check('another client keeps the exclusive lock' in case.output(child), case.output(child))
    bench(case, path, '--rw', 'read', '--number_ios', '10', '--verify')
    other.end()
    bench(case, path, '--rw', 'write', '--number_ios', '10', '--verify')
    image.stop(child)


@case_of
def many_other_clients(case, image):
    """More clients than the list of the engine has room for."""
    other = OtherClient(image, '33')
    waiting = case.start(image.command(case.path('waiting')))
    peer.wait_until(lambda: 'the client at several addresses' in case.output(waiting), lambda: case.output(waiting))
    check(case.stop(waiting) == 1, case.output(waiting))
    other.end()
    child, _ = image.start()
    image.stop(child)


@case_of
def a_user_who_must_not_break_locks(case, image):
    """The lock of a killed client is left, and only a user with 'profile rbd' may take it."""
    child, _ = image.start()
    case.stop(child, signal.SIGKILL)
    said = image.refuse(user=WRITER)
    check('cannot lock' in said and "'profile rbd'" in said, said)
    child, _ = image.start()
    image.stop(child)


@case_of
def a_blocklisted_host(case, image):
    """A host all of whose clients the cluster refuses."""
    image.cluster.ceph('osd', 'blocklist', 'add', HOST)
    try:
        said = image.refuse()
        check('has blocklisted this host' in said, said)
    finally:
        image.cluster.ceph('osd', 'blocklist', 'rm', HOST)
    child, _ = image.start()
    image.stop(child)


def without_the_lock_feature(case):
    image = Rbd(case, 'unlocked', create=['--image-feature', 'layering'])
    child, path = image.start()
    check('does not have the feature exclusive-lock' in case.output(child), case.output(child))
    bench(case, path, '--rw', 'write', '--number_ios', '10', '--verify')
    image.stop(child)


# --- mistakes ---------------------------------------------------------------------------------------

@case_of
def wrong_names(case, image):
    for options, words in (
            (['image=none'], "the rbd image 'rbd/none' does not exist"),
            (['pool=none'], "no pool 'none'"),
            (['namespace=none'], "no namespace 'none'"),
            (['snapshot=none'], "'rbd/wrong_names@none' does not exist"),
            (['user=none'], "as the user 'none'"),
            ([f'user={READER}'], f"the user '{READER}' has no permission to write"),
            (['conf=/none'], "'/none' (No such file or directory)"),
    ):
        said = image.refuse(*options)
        check(words in said, f'{options}: {said}')
    broken = case.path('broken.conf')
    broken.write_text('this is no ceph.conf\n')
    check('configuration' in (said := image.refuse(f'conf={broken}')), said)
    broken.write_text('[global]\n')
    result = case.call(image.command(case.path('refused'), conf=broken))  # librados itself prints a line, too
    check(result.code == 1 and "'mon host'" in result.err, str(result))
    for options, words in (['image='], 'needs an image'), (['user='], 'user must be'), (['exclusive-lock=2'], 'on or off'):
        said = image.refuse(*options, code=2)
        check(words in said, f'{options}: {said}')


@case_of
def a_cluster_that_does_not_answer(case, image):
    conf = case.path('ceph.conf')
    text = re.sub('(?m)^mon host.*$', f'mon host = v2:127.0.0.1:{mini_ceph.free_port()}', image.cluster.conf.read_text())
    conf.write_text(text + '[client]\nclient mount timeout = 2\n')
    said = image.refuse(conf=conf)
    check('no monitor has answered' in said, said)


def an_image_of_an_odd_size(case):
    image = Rbd(case, 'odd')
    child, _ = image.start('exclusive-lock=off')
    for size, words in ('1000B', '1000 bytes'), ('0', 'is empty'):
        image.cluster.rbd('resize', '--no-progress', '--allow-shrink', '--size', size, image.spec)
        peer.wait_until(lambda: words in case.output(child), f'{size} is never logged')
    image.stop(child)
    check('is empty' in (said := image.refuse()), said)


CASES = [
    wrong_names, verified_loads, content_is_the_clusters, discards, write_zeroes, durable_writes, flushes,
    a_sleeping_worker, a_snapshot, read_only, a_namespace, serials, settings_of_the_user, the_default_configuration,
    resized, killed_under_load, the_osd_restarts_under_load, an_unreachable_cluster, the_time_limit_of_librados,
    ended_while_the_cluster_is_unreachable, an_image_in_use, the_lock_is_kept, a_wait_is_interrupted, a_shared_image,
    a_blocklisted_client, a_broken_lock, a_lock_that_another_client_keeps, many_other_clients,
    a_user_who_must_not_break_locks, a_blocklisted_host, without_the_lock_feature, a_cluster_that_does_not_answer,
    an_image_of_an_odd_size,
]

if __name__ == '__main__':
    try:
        status = peer.main(CASES, sys.argv[3:])
    finally:
        if start_cluster.cache_info().currsize:
            start_cluster().close()
    sys.exit(status)
