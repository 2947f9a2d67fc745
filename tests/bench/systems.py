# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The systems that are compared: the table of back-ends, the table of clients, and the functions that start
and measure one of each. To add a system, add a line to SYSTEMS or CLIENTS.

Each measurement starts a back-end of its own and ends it, because an idle back-end may poll, hold the lock
on the image, or be adapted to an earlier load.
"""
import collections
import contextlib
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

import peer
import qemu
from door_bench import processor_seconds

# A back-end: its storage (one of STORES), its socket, and so on. With `is_awake`,
# the back-end polls all the time if it can. It is set if a polling client is traced, because the client's waiting
# would be counted.
Setup = collections.namedtuple('Setup', 'store path image size queues is_awake')
# The load of a client; `cores` is one of CORES; each job has a queue and a thread.
Load = collections.namedtuple('Load', 'store rw mode depth cores jobs', defaults=[1])
# One side of a comparison: names in SYSTEMS and CLIENTS, and a Load.
Entry = collections.namedtuple('Entry', 'system client load')
# One measurement. A value that could not be measured is None. Times are per request.
Sample = collections.namedtuple(
    'Sample', 'iops p50_us p99_us backend_us client_us backend_switches client_switches '
              'backend_peak_kib client_peak_kib')

# The kinds of storage; only the two files have an image. For a server, the image is its socket (nbd) or its
# configuration file (rbd); see engine_bench.py.
STORES = {'null': 'nothing', 'memory': "the back-end's memory", 'shm': 'a file in /dev/shm',
          'disk': 'a file on disk, O_DIRECT', 'nbd': 'an NBD server', 'rbd': 'a Ceph cluster'}
RBD_IMAGE, RBD_USER = 'disk', 'vublk'
# The processors that the back-end and the client may use.
PROCESSORS = sorted(os.sched_getaffinity(0))
FIRST, SECOND = PROCESSORS[0], PROCESSORS[min(1, len(PROCESSORS) - 1)]
CORES = {'two': ((FIRST,), (SECOND,)), 'one': ((FIRST,), (FIRST,)), 'all': ((FIRST, SECOND), (FIRST, SECOND))}
LISTENS = '00010000'  # the flag SO_ACCEPTCON in /proc/net/unix
START_S = 0.05  # a client takes at most this time before its first request, on an idle machine


# `command` returns the command line for a Setup; None: no process is started. `which` is the QEMU of a
# qemu-storage-daemon. `path` is the socket of a back-end that already listens.
System = collections.namedtuple('System', 'command which path', defaults=[None, None])


# --- back-ends ------------------------------------------------------------------------

def serve(*arguments):
    def command(tools, setup):
        what = {'null': ['--engine', 'null', '--size', setup.size],
                'memory': ['--engine', 'memory', '--size', setup.size],
                'shm': ['--blk-file', setup.image, '-o', 'cache=buffered'],
                'disk': ['--blk-file', setup.image, '-o', 'cache=direct'],
                'nbd': ['--engine', 'nbd', '-o', f'uri=nbd+unix:///?socket={setup.image}'],
                'rbd': ['--engine', 'rbd', '-o', f'conf={setup.image}', '-o', f'user={RBD_USER}',
                        '-o', f'image={RBD_IMAGE}']}[setup.store]
        return [tools.vublk, 'serve', '--socket-path', setup.path, '--num-queues', setup.queues,
                *what, *(['--poll', 'busy'] if setup.is_awake else arguments)]
    return command


def storage_daemon(which):
    """Returns qemu-storage-daemon with an I/O thread that, like our back-end, polls for a while before it sleeps."""
    def command(tools, setup):
        node = {'null': f'driver=null-co,size={setup.size},read-zeroes=off',
                'shm': f'driver=file,filename={setup.image},aio=io_uring',
                'disk': f'driver=file,filename={setup.image},cache.direct=on,aio=io_uring',
                'nbd': f'driver=nbd,server.type=unix,server.path={setup.image}',
                # like our engine, without the cache of librbd, which completes writes too early
                'rbd': f'driver=rbd,conf={setup.image},user={RBD_USER},pool=rbd,image={RBD_IMAGE},'
                       'cache.direct=on'}[setup.store]
        thread = f'iothread,id=thread{f",poll-max-ns={AWAKE_NS}" if setup.is_awake else ""}'
        return [*which.program('qemu-storage-daemon'), '--object', thread,
                '--blockdev', f'{node},node-name=disk', '--export',
                'type=vhost-user-blk,id=export,node-name=disk,iothread=thread,writable=on,'
                f'num-queues={setup.queues},addr.type=unix,addr.path={setup.path}']
    return command


def listening(path):
    """Returns a back-end that already runs, on unknown processors. It is assumed to have no storage (null)."""
    return System(None, path=path)


AWAKE_NS = 1000000000
DISTRIBUTION, NEWER = qemu.Qemu(), qemu.NewerQemu()

SYSTEMS = {
    'vublk': System(serve()),
    'vublk poll=off': System(serve('--poll', 'off')),
    'vublk poll-budget=100': System(serve('--poll-budget', '100')),
    'qsd newer': System(storage_daemon(NEWER), NEWER),
    'qsd': System(storage_daemon(DISTRIBUTION), DISTRIBUTION),
    'none': System(None),  # for a client that needs no back-end
    # 'spdk': System(lambda tools, setup: ['start-spdk', setup.path]),
}


# --- clients --------------------------------------------------------------------------

def load_words(load):
    return ['--rw', load.rw, '--bs', '4k', '--iodepth', load.depth, '--mode', load.mode]


def vublk_bench(tools, path, load):
    return [tools.vublk, 'bench', path, *load_words(load), '--numjobs', load.jobs,
            '--group_reporting', '--output-format', 'json']


def blkio_rate(tools, path, load):
    return [*NEWER.loader, tools.folder / 'blkio-rate', path, *load_words(load)]


def vublk_rate(tools, path, load):
    return [tools.folder / 'vublk-rate', path, *load_words(load)]


def memcpy_rate(tools, path, load):
    return [tools.folder / 'memcpy-rate', '--size', tools.size, *load_words(load)]


CLIENTS = {'libblkio': blkio_rate, 'libvublk': vublk_rate, 'vublk bench': vublk_bench, 'memcpy': memcpy_rate}


class Tools:
    """The paths of the tool `vublk`, of the programs of tests/bench, and of the images."""

    def __init__(self, options, folder):
        self.vublk = options.vublk
        self.folder = options.programs
        self.folders = {'shm': pathlib.Path(options.memory), 'disk': pathlib.Path(options.folder)}
        self.temporary, self.images = folder, {}
        self.size = options.size << 20

    def image(self, stack, store):
        """Returns the image of a store, and creates the image when it is first needed."""
        if store in self.folders and store not in self.images:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix='vublk-', dir=self.folders[store]))
            self.images[store] = pathlib.Path(folder, 'disk')
            fill(self.images[store], self.size)
        return self.images.get(store)


def fill(image, bytes_):
    """Fills the image, because a read of a block that was never written needs no disk access."""
    chunk = os.urandom(1 << 20)
    with open(image, 'wb') as file:
        for _ in range(bytes_ >> 20):
            file.write(chunk)
        os.fsync(file.fileno())


def why_not(entry):
    """The reason why the entry cannot be measured here, or None."""
    system = SYSTEMS[entry.system]
    try:
        if system.which:
            system.which.program('qemu-storage-daemon')
        if entry.client == 'libblkio':
            NEWER.program()
    except peer.Skip as reason:
        return str(reason)
    return 'there is one processor only' if entry.load.cores != 'one' and FIRST == SECOND else None


# --- a measurement --------------------------------------------------------------------

@contextlib.contextmanager
def processes(folder):
    """A case for processes and their output. At the end it kills them: a peer that hangs must not fail the run."""
    with tempfile.TemporaryDirectory(prefix='run-', dir=folder) as inner:
        case = peer.Case(inner)
        try:
            yield case
        finally:
            case.close()


def pinned(cores, words):
    return ['taskset', '-c', ','.join(str(core) for core in cores), *words]


def environment_of(system):
    return {**os.environ, **(system.which.environment if system.which else {})}


def is_listening(path):
    """Returns whether a socket listens. Its file appears earlier, and much earlier if the program is traced."""
    lines = pathlib.Path('/proc/net/unix').read_text().splitlines()
    return any(line.split()[3] == LISTENS for line in lines if line.endswith(f' {path}'))


def start_backend(case, tools, entry, image, before=(), is_awake=False):
    """Starts a back-end, with the words `before` before its command. Returns process (or None) and socket."""
    system, load, path = SYSTEMS[entry.system], entry.load, case.path('socket')
    if not system.command:
        return None, system.path
    words = system.command(tools, Setup(load.store, path, image, tools.size, load.jobs, is_awake))
    child = case.start(pinned(CORES[load.cores][0], [*before, *words]), env=environment_of(system))
    peer.wait_for_socket(case, child, path)
    peer.wait_until(lambda: is_listening(path), f'no process listens at {path}')
    return child, path


def status_of(process, field):
    return sum(int(number) for path in pathlib.Path(f'/proc/{process.pid}/task').glob('*/status')
               for number in re.findall(field, path.read_text(), re.M))


def peak_kib(process):
    found = re.search(r'^VmHWM:\s*(\d+)', pathlib.Path(f'/proc/{process.pid}/status').read_text(), re.M)
    return int(found[1]) if found else None


def reading(process):
    """Returns the time, and the process's seconds of processor time and context switches so far."""
    if not process:
        return None
    return time.monotonic(), processor_seconds(process), status_of(process, r'ctxt_switches:\s*(\d+)')


def wait_for_end(child, seconds):
    """Waits up to `seconds`, and returns whether the process has ended."""
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def watch(client, backend, ramp_s, runtime_s):
    """
    Reads the meters after about 10 % and 70 % of the time after the ramp. Returns two readings and the
    peaks of both processes, or None if the client ended earlier.
    """
    if wait_for_end(client, START_S + ramp_s + runtime_s * 0.1):
        return None
    begin = reading(backend)
    if wait_for_end(client, runtime_s * 0.6):
        return None
    return begin, reading(backend), [peak_kib(process) if process else None for process in (backend, client)]


def per_request(watched, iops):
    """
    Returns per request the back-end's processor time in microseconds and its context switches; and the peaks of
    memory.
    """
    if not watched or not watched[0] or not iops:
        return None, None, (watched[2] if watched else (None, None))
    begin, end, peaks = watched
    seconds, cpu, switches = (now - then for now, then in zip(end, begin))
    return cpu / seconds / iops * 1e6, switches / seconds / iops, peaks


def report_of(case, client, out):
    """Waits until the client has ended, and returns its report."""
    client.wait(peer.LIMIT_S)
    text = pathlib.Path(out.name).read_text()
    peer.check(client.returncode == 0, f'{" ".join(client.args)}: exit {client.returncode}\n'
               f'{case.output(client)}{text}')
    return json.loads(text)['jobs'][0]


def way_of(load):
    return 'write' if 'write' in load.rw else 'read'


def sample_of(job, way, watched):
    iops, requests = job[way]['iops'], max(job[way]['total_ios'], 1)
    latency = job[way]['clat_ns']['percentile']
    backend_us, backend_switches, peaks = per_request(watched, iops)
    client_us = (job['usr_cpu'] + job['sys_cpu']) / 100 * job['job_runtime'] * 1000 / requests
    return Sample(iops, latency['50.000000'] / 1000, latency['99.000000'] / 1000, backend_us, client_us,
                  backend_switches, job['ctx'] / requests, *peaks)


def prepare(case, tools, load, backend, path):
    """Fills a disk in memory, because unwritten memory is one page of zeroes, which is copied faster."""
    if load.store == 'memory' and backend:
        case.run([tools.vublk, 'bench', path, '--rw', 'write', '--bs', '1M', '--iodepth', '4',
                  '--number_ios', tools.size >> 20])
        peer.check(peak_kib(backend) >= tools.size >> 10,
                   f'the memory disk of {tools.size >> 10} KiB is not filled: its back-end has {peak_kib(backend)} KiB')


def measure(tools, entry, image, ramp_ms, runtime_ms):
    """Measures one run of a client on a back-end, and returns a Sample."""
    load = entry.load
    with processes(tools.temporary) as case:
        backend, path = start_backend(case, tools, entry, image)
        prepare(case, tools, load, backend, path)
        words = CLIENTS[entry.client](tools, path, load) + ['--runtime', f'{runtime_ms}ms',
                                                            '--ramp_time', f'{ramp_ms}ms']
        with open(case.path('report'), 'wb') as out:
            client = case.start(pinned(CORES[load.cores][1], words), stdout=out)
            watched = watch(client, backend, ramp_ms / 1000, runtime_ms / 1000)
            job = report_of(case, client, out)
    return sample_of(job, way_of(load), watched)
