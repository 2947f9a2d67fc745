# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ways to connect a guest's disk: the back-end that serves the disk, and the door through which QEMU reaches
it. A Disk is an image, its back-end, and the process of the door.
"""
import contextlib
import json
import os
import signal
import socket

import peer
from peer import check


class Serve(peer.VublkServe):
    """`vublk serve`. When its image has grown, a signal makes it read the size again."""
    has_inflight = True
    has_legacy = True
    tells_growth = True
    finishes_at_stop = True
    says_unshared = True
    is_replaceable = True

    def __init__(self, program, qemu):
        super().__init__(program)

    def start(self, case, image, is_shared=False, seg_max=None, inflight=True, control=None, **options):
        arguments = ['-o', 'lock=off'] if is_shared else []
        arguments += ['--control', control] if control else []
        arguments += [] if inflight else ['-o', 'inflight=off']
        arguments += ['-o', f'seg-max={seg_max}'] if seg_max else []
        return super().start(case, image, arguments=arguments, **options)

    def start_second(self, disk):
        """Starts one more back-end for the image of `disk`, because a back-end serves only one front-end."""
        return self.start(disk.case, disk.image, queues=disk.queues, **disk.options)

    def stop_second(self, disk):
        self.stop(disk.case, disk.child)

    def grow(self, case, child, image, bytes_):
        os.truncate(image, bytes_)
        child.send_signal(signal.SIGHUP)


# What the daemon and the relay say if the daemon stops with requests in flight.
STOPPED_EARLY = 'Error writing eventfd', 'a stop must wait for all requests, but the back-end returned queue'


class Daemon(peer.StorageDaemon):
    """QEMU's qemu-storage-daemon, with a monitor through which its disk is enlarged."""
    has_inflight = False
    says_unshared = False
    is_replaceable = False
    has_legacy = False  # the daemon needs a driver that has accepted VERSION_1

    def __init__(self, program, qemu):
        self.program, self.environment = qemu.program('qemu-storage-daemon'), qemu.environment
        self.tells_growth = qemu.version >= (8,)  # measured: 7.2 does not announce a new size
        # Measured in one run of ten on a busy machine, also without vublk in between: 7.2 answers
        # GET_VRING_BASE while requests are in flight, and panics when they end ("Error writing eventfd").
        # 11.1 panics less often: see Disk.stopped_under_load().
        self.finishes_at_stop = qemu.version >= (8,)

    def start(self, case, image, path=None, is_shared=False, **options):
        monitor = case.path(f'monitor-{len(case.children)}')
        child, path = super().start(case, image, path=path, locking='off' if is_shared else 'auto', arguments=[
            '--chardev', f'socket,id=monitor,path={monitor},server=on,wait=off',
            '--monitor', 'chardev=monitor'], **options)
        child.monitor = monitor
        peer.wait_for_socket(case, child, monitor)
        return child, path

    def command(self, child, name, **arguments):
        """Sends a command to the daemon's monitor."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(child.monitor))
            lines = monitor.makefile('rw')
            for request in {'execute': 'qmp_capabilities'}, {'execute': name, 'arguments': arguments}:
                lines.write(json.dumps(request) + '\n')
                lines.flush()
                reply = {}
                while 'return' not in reply and 'error' not in reply:
                    reply = json.loads(lines.readline())
                check('return' in reply, f'{request}: {reply}')

    def grow(self, case, child, image, bytes_):
        self.command(child, 'block_resize', **{'node-name': 'disk', 'size': bytes_})

    def start_second(self, disk):
        """Makes one more export of the image in the same daemon."""
        path = disk.case.path(f'{disk.socket.name}-second')
        self.command(disk.child, 'block-export-add', **{
            'type': 'vhost-user-blk', 'id': path.name, 'node-name': 'disk', 'writable': True,
            'num-queues': disk.queues, 'addr': {'type': 'unix', 'path': str(path)}})
        return disk.child, path

    def stop_second(self, disk):
        """Does nothing, because the daemon must keep its other export."""


class Own(Serve):
    """Any other back-end, started by `script SOCKET IMAGE QUEUES`. `has` lists its abilities, as keys of WORDS."""
    WORDS = {'inflight': 'has_inflight', 'legacy': 'has_legacy', 'growth': 'tells_growth', 'drains': 'finishes_at_stop',
             'unshared': 'says_unshared'}
    is_replaceable = False

    def __init__(self, script, has):
        self.script, self.name = script, str(script)
        for word, attribute in self.WORDS.items():
            setattr(self, attribute, word in has)

    def __call__(self, program, qemu):
        """Returns this object, so that an Own can be called like the classes above, once the QEMU is known."""
        return self

    def start(self, case, image, queues=1, path=None, **options):
        path = path or case.path(f'socket-{len(case.children)}')
        child = case.start([self.script, path, image, queues or 1])
        peer.wait_for_socket(case, child, path)
        return child, path

    def stop(self, case, child):
        case.stop(child)


class Direct:
    """QEMU's own front-end, connected to the back-end directly. It is the reference for the other doors."""
    name = 'direct'
    title = 'no device between'
    has_process = False
    bus = None
    has_plane = False
    has_legacy = True
    is_migratable = True
    is_unpluggable = True

    def __init__(self, program):
        self.program = program

    def start(self, case, backend, queues, options=()):
        """Starts the door. Returns its process, or None if it needs no process, and the socket for QEMU."""
        return None, backend

    def chardev(self, path, qemu):
        return {'path': str(path), **qemu.reconnect()}

    def device(self, path, chardev, queues):
        return {'driver': 'vhost-user-blk-pci', 'chardev': chardev, **({'num-queues': queues} if queues else {})}


class Relay(Direct):
    """`vublk device` is QEMU's back-end, and the front-end of the real back-end."""
    name = 'relay'
    title = 'relay'
    has_process = True
    bus = 'vhost-user'
    options = ()

    def start(self, case, backend, queues, path=None, options=()):
        path = path or case.path(f'door-{len(case.children)}')
        child = case.start([self.program, 'device', '--chardev', f'path={backend},reconnect-ms=100',
                            '--num-queues', queues, '--bus', f'{self.bus}:{path}', *self.options,
                            *options])
        peer.wait_for_socket(case, child, path)
        return child, path


class VfioUser(Relay):
    """`vublk device` is a PCI device on a socket."""
    name = 'vfio-user'
    title = 'vfio-user'
    has_legacy = False
    is_migratable = False
    is_unpluggable = False  # QEMU 11.1's client fails one of its own assertions at the unplug
    bus = 'vfio-user'

    def chardev(self, path, qemu):
        return None

    def device(self, path, chardev, queues):
        return {'driver': 'vfio-user-pci', 'socket': {'type': 'unix', 'path': str(path)}}


class ShadowRelay(Relay):
    """The relay with shadow rings, with which it keeps a record of each request."""
    name = 'relay-shadow'
    title = 'relay with shadow rings'
    has_plane = True
    options = ('-o', 'shadow=on')


class ShadowVfioUser(VfioUser):
    name = 'vfio-user-shadow'
    title = 'vfio-user with shadow rings'
    has_plane = True
    options = ('-o', 'shadow=on')


DOORS = {door.name: door for door in (Direct, Relay, VfioUser, ShadowRelay, ShadowVfioUser)}
BACKENDS = {'vublk-serve': Serve, 'storage-daemon': Daemon}


class Disk:
    """An image, the back-end that serves the image, and the door through which QEMU reaches the back-end."""

    def __init__(self, case, way, image, queues=1, name='disk', second_of=None, door_options=(),
                 **options):
        self.case, self.way, self.image, self.queues, self.name = case, way, image, queues, name
        self.options = options
        self.properties = {}  # further properties of QEMU's device
        self.child, self.socket = (way.backend.start_second(second_of) if second_of else
                                   way.backend.start(case, image, queues=queues, **options))
        self.told = self.info()
        self.door, self.path = way.door.start(case, self.socket, queues, options=door_options)

    def arguments(self, qemu, **device):
        """Returns the words that add the disk to QEMU's command line."""
        chardev = self.way.door.chardev(self.path, qemu)
        words = [] if chardev is None else [
            '-chardev', ','.join(['socket', f'id={self.name}-chardev',
                                  *(f'{key}={value}' for key, value in chardev.items())])]
        return words + ['-device', json.dumps(self.device(**device))]

    def device(self, **more):
        return {'id': self.name, **self.way.door.device(self.path, f'{self.name}-chardev', self.queues),
                **self.properties, **more}

    def plug(self, guest):
        chardev = self.way.door.chardev(self.path, guest.qemu)
        if chardev is not None:
            reconnect = {key: value for key, value in chardev.items() if key != 'path'}
            guest.qmp('chardev-add', id=f'{self.name}-chardev', backend={
                'type': 'socket', 'data': {'server': False, **reconnect, 'addr': {
                    'type': 'unix', 'data': {'path': str(self.path)}}}})
        guest.qmp('device_add', **self.device(bus='slot-disk'))

    def unplug(self, guest):
        guest.qmp('device_del', id=self.name)
        guest.event('DEVICE_DELETED', lambda data: data.get('device') == self.name)
        if self.way.door.chardev(self.path, guest.qemu) is not None:
            guest.qmp('chardev-remove', id=f'{self.name}-chardev')

    def kill(self):
        """Kills the back-end."""
        self.child.kill()
        self.child.wait()

    def start_again(self):
        self.child, _ = self.way.backend.start(self.case, self.image, queues=self.queues,
                                               path=self.socket, **self.options)

    @contextlib.contextmanager
    def stopped_under_load(self, guest):
        """
        Skips the case if qemu-storage-daemon answers GET_VRING_BASE while requests are in flight. It panics when they
        end, unless it is disconnected before. The relay reports this to the guest or refuses the stop, so the case
        would fail although vublk is correct.
        """
        try:
            guest.needed = self.child
            yield
            guest.needed = None
        except peer.Failure:
            said = ''.join(self.case.output(child) for child in self.case.children)
            if isinstance(self.way.backend, Daemon) and any(words in said for words in STOPPED_EARLY):
                raise peer.Skip('this back-end stopped with requests under way') from None
            raise

    def grow(self, bytes_):
        self.way.backend.grow(self.case, self.child, self.image, bytes_)

    def info(self):
        """Returns the back-end's description of its disk. The back-end must have no other front-end."""
        return json.loads(self.case.run([self.way.program, 'info', self.socket, '--json']))

    def stop_door(self):
        if self.door:
            code = self.case.stop(self.door)
            check(code == 0, f'vublk device ended with {code}: {self.case.output(self.door)}')
            self.door = None

    def kill_door(self):
        self.door.kill()
        self.door.wait()
        self.door = None

    def start_door_again(self):
        self.door, _ = self.way.door.start(self.case, self.socket, self.queues, self.path)

    def stop(self):
        self.stop_door()
        self.way.backend.stop(self.case, self.child)

    def another(self):
        """Returns a Disk with the same image and another connection, for a guest that moves to the connection."""
        return Disk(self.case, self.way, self.image, self.queues, self.name, second_of=self, **self.options)

    def leave(self):
        """Ends the connection to this disk. The guest must have moved to another disk."""
        self.stop_door()
        self.way.backend.stop_second(self)

    def descriptors(self):
        """Returns the open files of the process to which QEMU is connected."""
        folder = f'/proc/{(self.door or self.child).pid}/fd'
        targets = []
        for number in os.listdir(folder):
            try:
                targets.append(os.readlink(f'{folder}/{number}'))
            except FileNotFoundError:
                pass  # closed in the meantime
        return sorted(targets)


class Way:
    """A door, a back-end (its name in BACKENDS, or an Own) and a QEMU."""

    def __init__(self, program, door, backend, which):
        self.program, self.qemu = program, which
        self.door = DOORS[door](program)
        self.backend = BACKENDS[backend] if isinstance(backend, str) else backend

    def prepare(self):
        """Finds the version of QEMU, and makes the back-end. Raises peer.Skip if there is no such QEMU."""
        self.qemu.find_version()
        self.backend = self.backend(self.program, self.qemu)

    def keeps_requests(self):
        """Returns whether the loss of a back-end is hidden from a driver with outstanding requests."""
        return self.backend.has_inflight or self.door.has_plane

    def has_legacy(self):
        """Returns whether a driver may use the legacy interface, that is, the one before virtio 1.0."""
        return self.door.has_legacy and self.backend.has_legacy

    def __str__(self):
        return f'{self.door.title}, {self.qemu}, {self.backend.name}'
