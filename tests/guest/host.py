# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest in QEMU that is itself the host of a block device: its kernel has the drivers ublk_drv and nbd, and back-ends,
`vublk attach` and NBD's programs run in the guest.
"""
import functools
import json
import lzma
import pathlib
import tempfile

import initramfs
import linux
import peer
import qemu
from peer import check

QUEUES = 2


def folder():
    return qemu.cache_folder() / 'guest-newer'


def find(name):
    if not (folder() / name).exists():
        raise peer.Skip(f'no {name} of a newer kernel here: scripts/setup check fetches it where it can be had')
    return folder() / name


def kernel():
    return find('vmlinuz')


def add_program(tree, program, target):
    """Adds a program of the build, or a plugin, with its libraries."""
    initramfs.copy(program, tree, target)
    for library in initramfs.libraries(program):
        # The loader of the guest searches this folder. The library of the build is in another one.
        initramfs.copy(library, tree, f'lib/x86_64-linux-gnu/{pathlib.Path(library).name}'
                       if 'ld-linux' not in library else library)


@functools.cache
def memory_disk(load, vublk, plugin, programs, module_names):
    linux.scratch.append(tempfile.TemporaryDirectory(prefix='vublk-'))
    scratch = pathlib.Path(linux.scratch[-1].name)

    def modules():
        paths = []
        for name in module_names:
            paths.append(scratch / f'{name}.ko')
            paths[-1].write_bytes(lzma.decompress(find(f'{name}.ko.xz').read_bytes()))
        return paths

    def more(tree):
        initramfs.copy(initramfs.HERE / 'init-attach', tree, 'jobs')
        add_program(tree, vublk, 'bin/vublk')
        if plugin:
            add_program(tree, plugin, 'lib/nbdkit-vublk-plugin.so')
    return initramfs.make(scratch, load, more=more, programs=['e2fsck', *programs], order=modules)


class Host(linux.Guest):
    """A guest that is the host of a block device."""
    loses_requests = False  # the kernel may report failed requests

    def __init__(self, case, which, load, vublk, plugin=None, programs=(), modules=('ublk_drv',), processors=QUEUES,
                 arguments=()):
        self.parts = load, vublk, plugin, programs, modules
        super().__init__(case, which, processors, [], load, arguments)

    def system(self):
        return kernel(), memory_disk(*self.parts)

    def take(self, line):
        if not (self.loses_requests and 'I/O error' in line):
            super().take(line)

    def vublk_says(self, *words):
        facts = self.run('vublk', *words)
        return int(facts['exit'][-1]), facts['said'][-1]

    def devices(self):
        facts = self.run('list')
        check(facts['exit'] == ['0'], facts['list'][-1])
        return json.loads(facts['list'][-1])

    def attach(self, *options):
        self.run('attach', *options)
        check(self.last('device') == '/dev/ublkb0', f'vublk attach printed {self.last("device")}')
