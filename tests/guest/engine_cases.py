# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`vublk serve` with an engine whose storage is a server, as a back-end for guests, and what happens when the server dies.
`meson test` sets VUBLK_ENGINE_PATH to the folder of the engine's module.
"""
import disk_cases
import doors
import nbd_server
import peer
from peer import check

KILLS = 10


class EngineServe(doors.Serve):
    """Derived classes have a name, the name of the engine, and the functions below that raise NotImplementedError."""
    tells_growth = False
    is_replaceable = False
    has_storage = True

    def open_storage(self, case, image):
        """Starts the server for the image unless it runs. Returns the options of the engine."""
        raise NotImplementedError

    def kill_storage(self, case, image):
        """Kills the server and starts it again."""
        raise NotImplementedError

    def begin(self, case, image, queues, path, read_only=False):
        """Starts the process, and does not wait until it listens."""
        return case.start([self.program, 'serve', '--socket-path', path, '--engine', self.engine,
                           *self.open_storage(case, image), *(['--num-queues', queues] if queues else []),
                           *(['--read-only'] if read_only else [])])

    def start(self, case, image, queues=1, path=None, read_only=False, **_):
        path = path or case.path(f'socket-{len(case.children)}')
        child = self.begin(case, image, queues, path, read_only)
        peer.wait_for_socket(case, child, path)
        return child, path


class Nbd(EngineServe):
    """The NBD servers here write to a file without a cache of their own, so completed writes survive them."""
    engine = 'nbd'

    def __init__(self, program, qemu):
        super().__init__(program, qemu)
        self.servers = {}  # by image

    def serve(self, case, path, image):
        """Starts a server."""
        raise NotImplementedError

    def open_storage(self, case, image):
        path = image.with_name(f'{image.name}.nbd')
        if image not in self.servers or self.servers[image].poll() is not None:
            self.servers[image] = self.serve(case, path, image)
        return ['-o', f'uri=nbd+unix:///?socket={path}', '-o', 'unflushed=trust']

    def kill_storage(self, case, image):
        self.servers[image].kill()
        self.servers[image].wait()
        self.open_storage(case, image)


class Nbdkit(Nbd):
    name = 'vublk serve with nbdkit'

    def serve(self, case, path, image):
        # With one thread per connection, nbdkit 1.32 cannot fail its assertion when a back-end is killed (nbd_chaos.py).
        return nbd_server.nbdkit(case, path, '--threads', '1', 'file', image)


class QemuNbd(Nbd):
    name = 'vublk serve with qemu-nbd'

    def serve(self, case, path, image):
        return nbd_server.qemu_nbd(case, path, '--shared', '8', '--discard', 'unmap', image)


BACKENDS = {'nbdkit': Nbdkit, 'qemu-nbd': QemuNbd}


class StorageKilled(disk_cases.Machine):
    """Neither the loss of the server nor that of the back-end reaches the guest."""
    kills = KILLS
    cases = [(f'the storage is killed {KILLS} times under a verified load', 'kill_under_load'),
             (f'storage and back-end are killed in turn, up to {KILLS} times, while files are written', 'kill_while_writing')]

    @classmethod
    def cases_for(cls, way):
        return cls.cases if getattr(way.backend, 'has_storage', False) else []

    def kill_storage(self):
        self.way.backend.kill_storage(self.case, self.disk.image)

    def kill_backend(self):
        """Also starts the next one, and reads meanwhile what the guest says: QEMU drops text that is not read for long."""
        disk = self.disk
        disk.kill()
        disk.child = self.way.backend.begin(self.case, disk.image, disk.queues, disk.socket)
        self.guest.wait_until(lambda: peer.listens(disk.socket) or disk.child.poll() is not None,
                              'the next back-end does not listen')
        check(disk.child.poll() is None, f'vublk serve ended: {self.case.output(disk.child)}')

    def changes(self):
        """Returns a value that differs when the guest has written to the disk."""
        return self.image.stat().st_mtime_ns

    def kill_under_load(self):
        self.guest.start_load()
        for number in range(self.kills):
            self.kill_storage()
            # Some kills come shortly after the previous one, and others after many requests.
            self.guest.listen_for_more(1 if number % 2 else 100)
        self.guest.stop_load()

    def kill_while_writing(self):
        """A kill follows each time that the image has changed."""
        kills = 0
        self.guest.begin('files')
        while kills < self.kills and not self.has_written():
            (self.kill_backend if kills % 2 else self.kill_storage)()
            kills += 1
            before = self.changes()
            self.guest.wait_until(lambda: self.changes() != before or self.has_written(),
                                  'the guest writes no more')
        check(kills > 2, f'{kills} kills while the guest wrote its files')
        self.take_sums(self.guest.end())
        self.files_are_the_same()
        self.end()

    def has_written(self):
        return f'done {self.guest.jobs}' in self.guest.words
