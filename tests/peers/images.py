#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Images that several programs open: `vublk serve` and `vublk copy` with QEMU's programs on
one image, and with a mounted block device.

    images.py VUBLK [-l] [-k] [WORD...]
"""
import hashlib
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / 'harness'))

import peer  # noqa: E402
from peer import check  # noqa: E402

VUBLK = sys.argv[1] if len(sys.argv) > 1 else 'vublk'
MIB = 1 << 20


def image_file(case, name='disk', byte=b'\x5a'):
    path = case.path(name)
    path.write_bytes(byte * MIB)
    return path


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def refused(case, command, *words):
    result = case.call(command)
    check(result.code == 1, f'it was not refused: {result}')
    for word in words:
        check(word in result.err, f'the sentence does not say {word!r}: {result}')


def serve_command(case, image, *arguments):
    return [VUBLK, 'serve', '--socket-path', case.path('refused'), '--blk-file', image, *arguments]


def qemu_io(case, image, command, *arguments):
    return case.call(['qemu-io', '-f', 'raw', *arguments, '-c', command, image])


def check_qemu_io(result, permitted):
    # qemu-io 7.2 exits with 0 even if it could not open the image.
    check(("can't open" not in result.err) == permitted and 'error' not in result.err, str(result))


def qemu_beside_a_writer(case):
    """While a server writes, QEMU's programs can read with -U, and cannot write."""
    peer.need('qemu-img', 'qemu-io')
    server, image = peer.VublkServe(VUBLK), image_file(case)
    child, _ = server.start(case, image)
    case.run(['qemu-img', 'info', '-U', image])
    case.run(['qemu-img', 'convert', '-U', '-f', 'raw', '-O', 'raw', image, case.path('copy')])
    check(digest(image) == digest(case.path('copy')), 'qemu-img convert -U made another image')
    check(case.call(['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', image, case.path('copy')]).code != 0,
          'qemu-img convert without -U was not told of the writer')
    before = digest(image)
    check_qemu_io(qemu_io(case, image, 'write -P 1 0 4k'), False)
    check(digest(image) == before, 'qemu-io wrote to a served image')
    server.stop(case, child)
    check_qemu_io(qemu_io(case, image, 'write -P 1 0 4k'), True)
    check(digest(image) != before, 'qemu-io cannot write after the server has ended')


def qemu_beside_a_reader(case):
    """A read-only server shares the image with readers, and keeps writers out."""
    peer.need('qemu-img', 'qemu-io')
    server, image = peer.VublkServe(VUBLK), image_file(case)
    before = digest(image)
    first, socket = server.start(case, image, read_only=True)
    second, _ = server.start(case, image, read_only=True)
    case.run(['qemu-img', 'info', image])
    case.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'raw', image, case.path('copy')])
    check_qemu_io(qemu_io(case, image, 'read -P 0x5a 0 4k', '-r'), True)
    check_qemu_io(qemu_io(case, image, 'write -P 1 0 4k'), False)
    refused(case, serve_command(case, image), str(image), 'write to it', 'read-only')
    refused(case, [VUBLK, 'copy', socket, image], str(image), 'write to it')
    check(digest(image) == before, 'the image of a read-only server has changed')
    server.stop(case, second)
    server.stop(case, first)


def an_image_that_qemu_writes(case):
    """An image in use is neither served, nor copied from or to. With lock=off, it is served."""
    daemon, ours = peer.StorageDaemon(), peer.VublkServe(VUBLK)
    image, other = image_file(case), image_file(case, 'other', b'\xa5')
    before = digest(image), digest(other)
    writer, _ = daemon.start(case, image)
    child, socket = ours.start(case, other)
    refused(case, serve_command(case, image), str(image), 'writes to it')
    refused(case, serve_command(case, image, '--read-only'), str(image), 'writes to it')
    refused(case, [VUBLK, 'copy', image, socket], str(image), 'writes to it')
    refused(case, [VUBLK, 'copy', socket, image], str(image), 'writes to it')
    check((digest(image), digest(other)) == before, 'a copy was refused and has written')
    migrating, _ = ours.start(case, image, arguments=['-o', 'lock=off'])
    ours.stop(case, migrating)
    daemon.stop(case, writer)
    case.run([VUBLK, 'copy', image, socket])
    ours.stop(case, child)
    check(digest(other) == before[0], 'the copy after the writer has ended is another')


def an_image_that_qemu_reads(case):
    peer.need('qemu-storage-daemon')
    daemon, ours = peer.StorageDaemon(), peer.VublkServe(VUBLK)
    image, other = image_file(case), image_file(case, 'other', b'\xa5')
    reader, _ = daemon.start(case, image, read_only=True)
    child, socket = ours.start(case, other)
    case.run([VUBLK, 'copy', image, socket])
    both, _ = ours.start(case, image, read_only=True)
    ours.stop(case, both)
    ours.stop(case, child)
    daemon.stop(case, reader)
    check(digest(other) == digest(image), 'the copy is another')


def an_image_of_another_format(case):
    """Images of other formats are served and copied as raw data, with one warning that names the format."""
    peer.need('qemu-img')
    server = peer.VublkServe(VUBLK)
    for form in ('qcow2', 'vmdk', 'vhdx'):
        image, target = case.path(f'disk.{form}'), image_file(case, 'target')
        case.run(['qemu-img', 'create', '-q', '-f', form, image, '16M'])
        os.truncate(image, -(-image.stat().st_size // 512) * 512)
        child, _ = server.start(case, image)
        server.stop(case, child)
        told = case.output(child)
        check(told.lower().count(f'looks like a {form} image') == 1, f'the warning about {form} is missing: {told}')
        os.truncate(target, image.stat().st_size)
        child, socket = server.start(case, target)
        result = case.call([VUBLK, 'copy', image, socket])
        check(result.code == 0 and f'looks like a {form} image' in result.err.lower(), str(result))
        server.stop(case, child)
        check(digest(target) == digest(image), f'{form} was not copied as it is')


class Mounted:
    """A file system on a loop device. Both end with the process in whose mount namespace it is mounted."""

    def __init__(self, case):
        peer.need('mkfs.ext2', 'mount', 'unshare', 'nsenter')
        if os.geteuid():
            raise peer.Skip('only root can mount')
        self.image, self.folder, device = case.path('file-system'), case.path('mounted'), case.path('device')
        with open(self.image, 'wb') as file:
            file.truncate(8 * MIB)
        self.folder.mkdir()
        environment = {**os.environ, 'PATH': os.environ['PATH'] + ':/usr/sbin:/sbin'}
        case.run(['mkfs.ext2', '-q', self.image], env=environment)
        script = (f'mount -o loop {self.image} {self.folder} && sync && '
                  f'findmnt -n -o SOURCE {self.folder} >{device}.new && mv {device}.new {device} && exec sleep 600')
        self.child = case.start(['unshare', '--mount', 'sh', '-c', script], env=environment)
        peer.wait_until(lambda: device.exists() or self.child.poll() is not None, 'nothing is mounted')
        check(device.exists(), f'nothing can be mounted: {case.output(self.child)}')
        self.device = device.read_text().strip()

    def inside(self, command):
        return ['nsenter', f'--mount=/proc/{self.child.pid}/ns/mnt', f'--wd={os.getcwd()}', *command]


def a_mounted_device(case):
    """serve and copy refuse a mounted block device, even if the mount is in another mount namespace."""
    mounted = Mounted(case)
    before = digest(mounted.image)
    server, other = peer.VublkServe(VUBLK), image_file(case)
    os.truncate(other, 8 * MIB)
    child, socket = server.start(case, other)
    commands = [serve_command(case, mounted.device), serve_command(case, mounted.device, '--read-only'),
                [VUBLK, 'copy', socket, mounted.device], [VUBLK, 'copy', mounted.device, socket]]
    for command in commands:
        refused(case, mounted.inside(command), f"is mounted on '{mounted.folder}'", 'unmount it first')
        refused(case, command, mounted.device, 'is in use by another program, a mounted partition')
    for command in [serve_command(case, mounted.image), serve_command(case, mounted.image, '--read-only'),
                    [VUBLK, 'copy', socket, mounted.image], [VUBLK, 'copy', mounted.image, socket]]:
        refused(case, command, str(mounted.image), f'is in use by the loop device {mounted.device}')
    server.stop(case, child)
    check(digest(mounted.image) == before, 'a mounted device was written to')


def a_device_with_two_users(case):
    """A block device has either one writer or several readers."""
    peer.need('losetup')
    if os.geteuid():
        raise peer.Skip('only root can set up a loop device')
    server = peer.VublkServe(VUBLK)
    device = case.run(['/usr/sbin/losetup', '--find', '--show', image_file(case)]).strip()
    try:
        writer, _ = server.start(case, device)
        refused(case, serve_command(case, device), device, 'is in use')
        refused(case, serve_command(case, device, '--read-only'), device, 'is in use')
        server.stop(case, writer)
        readers = [server.start(case, device, read_only=True)[0] for _ in range(2)]
        refused(case, serve_command(case, device), device, 'does not allow others to write to it')
        for reader in readers:
            server.stop(case, reader)
    finally:
        case.run(['/usr/sbin/losetup', '--detach', device])


CASES = [qemu_beside_a_writer, qemu_beside_a_reader, an_image_that_qemu_writes, an_image_that_qemu_reads,
         an_image_of_another_format, a_mounted_device, a_device_with_two_users]

if __name__ == '__main__':
    sys.exit(peer.main(CASES, sys.argv[2:]))
