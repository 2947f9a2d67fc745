#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A Linux guest in QEMU uses a disk of a vhost-user-blk back-end.

    guest.py VUBLK [-l] [-k] [WORD...]         the back-end is `VUBLK serve`
    guest.py --storage-daemon [...]            it is qemu-storage-daemon, to tell
                                               whose fault a failure is

QEMU emulates the processor, so that no /dev/kvm is needed; a boot is a few seconds.
The guest says what it found on its serial console (see init).
"""
import functools
import hashlib
import os
import pathlib
import selectors
import signal
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'harness'))

import initramfs  # noqa: E402
import peer  # noqa: E402
from peer import check  # noqa: E402

BOOT_LIMIT_S = 120
DISK_BYTES = 96 << 20
MARK = 'vublk: '


class Boot:
    """One boot of the guest; what it says becomes `facts` and `words`."""

    def __init__(self, case, socket, queues, job, reconnect=False):
        peer.need('qemu-system-x86_64')
        self.facts, self.words = {}, []
        self.case, self.job, self.boots = case, job, 0
        self.command = [
            'qemu-system-x86_64', '-machine', 'q35,accel=tcg,memory-backend=memory', '-m', '256M',
            '-smp', queues, '-object', 'memory-backend-memfd,id=memory,size=256M,share=on',
            '-no-user-config', '-nodefaults', '-display', 'none', '-no-reboot', '-serial', 'stdio',
            '-kernel', initramfs.kernel(), '-initrd', memory_disk(),
            '-append', f'console=ttyS0 quiet panic=-1 printk.devkmsg=on job={job}',
            '-chardev', f'socket,id=disk,path={socket}' + (',reconnect=1' if reconnect else ''),
            '-device', f'vhost-user-blk-pci,chardev=disk,num-queues={queues}']
        self.start()

    def start(self):
        self.boots += 1
        self.console = self.unfinished = ''
        self.end = time.monotonic() + BOOT_LIMIT_S
        self.child = self.case.start(self.command, stdout=-1)

    def hangs_before_init(self):
        """
        Now and then an emulated processor of several never comes out of the kernel's
        own start, in which the disk has no driver yet. That says nothing of the disk.
        """
        return 'begin' not in self.words and 'BUG: soft lockup' in self.console and self.boots < 3

    def start_again(self):
        print('# the guest hangs before its first process, and is booted again', flush=True)
        self.__exit__()
        self.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self.child.stdout.close()

    def read(self):
        """The next piece of the console; empty when the guest is gone."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.stdout, selectors.EVENT_READ)
            ready = selector.select(max(0, self.end - time.monotonic()))
        check(ready, f'the guest did not end its job {self.job} in {BOOT_LIMIT_S} s:\n{self.console[-2000:]}')
        return os.read(self.child.stdout.fileno(), 65536).decode(errors='replace')

    def take(self, line):
        said = line.rstrip('\r').partition(MARK)[2]
        name, equals, value = said.partition('=')
        if equals:
            self.facts.setdefault(name, []).append(value)
        elif said:
            self.words.append(said)
        check(not said.startswith('failed'), f'the guest: {said}\n{self.console[-2000:]}')

    def until(self, word):
        """Listens until the guest said the word."""
        while word not in self.words:
            piece = self.read()
            if not piece:
                code = self.child.wait(peer.LIMIT_S)
                raise peer.Failure(f'the guest ended before it said "{word}" (QEMU: {code}): '
                                   f'{self.case.output(self.child)}\n{self.console[-2000:]}')
            self.console += piece
            *lines, self.unfinished = (self.unfinished + piece).split('\n')
            for line in lines:
                self.take(line)
            if self.hangs_before_init():
                self.start_again()

    def finish(self):
        """Until QEMU has ended by itself."""
        self.until('end')
        while self.read():
            pass
        self.child.wait(peer.LIMIT_S)
        check(self.child.returncode == 0, f'QEMU ended with {self.child.returncode}')
        return self

    def last(self, name):
        check(name in self.facts, f'the guest did not tell "{name}":\n{self.console[-2000:]}')
        return self.facts[name][-1]


@functools.cache
def memory_disk():
    scratch.append(tempfile.TemporaryDirectory(prefix='vublk-'))
    return initramfs.make(pathlib.Path(scratch[0].name))


scratch = []


def make_image(case, random_bytes=0):
    image = case.path('disk')
    with open(image, 'wb') as file:
        file.write(os.urandom(random_bytes))
        file.truncate(DISK_BYTES)
    return image


def boot(case, backend, image, queues, job, **options):
    """One boot with a back-end of its own."""
    child, socket = backend.start(case, image, queues, **options)
    with Boot(case, socket, queues, job) as guest:
        guest.finish()
    backend.stop(case, child)
    return guest


def debugfs(case, image, request):
    return case.call(['debugfs', '-R', request, image],
                     env={**os.environ, 'PATH': os.environ['PATH'] + ':/usr/sbin:/sbin'})


def check_file_system(case, image):
    result = case.call(['/sbin/e2fsck', '-fn', image])
    check(result.code == 0, str(result))


def check_sums_on_host(case, image, guest):
    """The host reads the files from the image by itself: guest and host mean the same sectors."""
    sums = [(name[4:], values[-1]) for name, values in guest.facts.items() if name.startswith('sum ')]
    check(len(sums) == 8, f'the guest told {len(sums)} checksums')
    for name, wanted in sums:
        copy = case.path('copy')
        debugfs(case, image, f'dump {name} {copy}')
        found = hashlib.sha256(copy.read_bytes()).hexdigest()
        check(found == wanted, f'{name} in the image is {found}, and {wanted} for the guest')


def files_survive(case, backend, queues):
    """Written and synced by one boot, verified by the next, and by the host."""
    image = make_image(case)
    first = boot(case, backend, image, queues, 'write')
    check(first.last('sectors') == str(DISK_BYTES // 512), f'the guest sees {first.last("sectors")} sectors')
    check(first.last('queues') == str(queues), f'the guest sees {first.last("queues")} queues')
    check(first.last('ro') == '0', 'the guest sees a read-only disk')
    if backend.write_back:
        check(first.last('cache') == 'write back', f'the cache is {first.last("cache")}')
        check(int(first.last('flushes')) > 0, 'the guest sent no flush')
    boot(case, backend, image, queues, 'verify')
    check_file_system(case, image)
    check_sums_on_host(case, image, first)
    check_trim(case, backend, image, queues)


def check_trim(case, backend, image, queues):
    """What the guest discards, the image gives back to the host."""
    before = image.stat().st_blocks
    guest = boot(case, backend, image, queues, 'trim')
    freed = (before - image.stat().st_blocks) * 512
    check(int(guest.last('discards')) > 0, 'the guest sent no discard')
    check(freed > 10_000_000, f'the image gave back {freed} bytes of the 13 MB that were trimmed')
    check_file_system(case, image)


def read_only(case, backend):
    image = make_image(case, random_bytes=1 << 20)
    before = image.read_bytes()
    guest = boot(case, backend, image, 1, 'look', read_only=True)
    check(guest.last('ro') == '1', 'the guest sees a writable disk')
    check(guest.last('head') == hashlib.sha256(before[:1 << 20]).hexdigest(), 'the guest read something else')
    check('refused' in guest.words, 'the guest wrote to a read-only disk')
    check(image.read_bytes() == before, 'the image has changed')


def grow(case, backend):
    """A resize under the running guest arrives there, and the new end can be written."""
    image = make_image(case)
    child, socket = backend.start(case, image)
    with Boot(case, socket, 1, 'grow') as guest:
        guest.until('waiting')
        os.truncate(image, DISK_BYTES + (32 << 20))
        child.send_signal(signal.SIGHUP)
        guest.finish()
    backend.stop(case, child)
    check(guest.last('sectors') == str((DISK_BYTES + (32 << 20)) // 512),
          f'the guest still sees {guest.last("sectors")} sectors')


def cache_mode(case, backend):
    """The guest turns the write cache off and on (the one writable config field)."""
    guest = boot(case, backend, make_image(case), 1, 'cache')
    check(guest.facts['cache'] == ['write back', 'write through', 'write back'],
          f'the cache went {guest.facts["cache"]}')


def bytes_written(child):
    lines = pathlib.Path(f'/proc/{child.pid}/io').read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith('write_bytes')))


def kill_in_the_middle(child):
    """When it has written a part of what the guest syncs, which are 17 MB."""
    peer.wait_until(lambda: bytes_written(child) > 2 << 20, 'nothing is written')
    child.kill()
    child.wait()


def killed(case, backend, queues):
    """
    The back-end is killed in the middle of writes, again and again. QEMU gives the next one
    the area in which it noted what was in flight, and the guest is none the wiser.
    """
    image = make_image(case)
    child, socket = backend.start(case, image, queues)
    with Boot(case, socket, queues, 'rewrite', reconnect=True) as guest:
        for number in range(1, 6):
            guest.until(f'syncing {number}')
            kill_in_the_middle(child)
            child, _ = backend.start(case, image, queues, path=socket)
        guest.finish()
    backend.stop(case, child)
    check('verified' in guest.words, 'the guest did not verify its files')
    check_file_system(case, image)


def cases_of(backend, ours):
    def bind(function, *arguments):
        return lambda case: function(case, backend, *arguments)
    cases = [(f'files survive a reboot, {queues} queues', bind(files_survive, queues)) for queues in (1, 4)]
    cases.append(('a read-only disk is one in the guest', bind(read_only)))
    if ours:
        cases.append(('the guest sees its disk grow', bind(grow)))
        cases.append(('the guest switches the write cache', bind(cache_mode)))
        cases += [(f'killed back-ends are survived, {queues} queues', bind(killed, queues)) for queues in (1, 4)]
    return cases


def main():
    words = sys.argv[1:]
    if not words:
        sys.exit(__doc__)
    ours = words[0] != '--storage-daemon'
    backend = peer.VublkServe(words[0]) if ours else peer.StorageDaemon()
    return peer.main(cases_of(backend, ours), words[1:])


if __name__ == '__main__':
    sys.exit(main())
