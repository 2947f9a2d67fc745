# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The guest's initramfs: busybox, the kernel modules for the disk, some programs of the host, the load, and the
script `init` of this folder. The kernel is the one that scripts/setup downloaded.
"""
import os
import pathlib
import re
import shutil
import subprocess

import peer
import qemu

MODULES = ['virtio_pci', 'virtio_blk', 'ext4']
PROGRAMS = ['mke2fs', 'blkdiscard']  # busybox knows neither ext4 nor "write zeroes"
HERE = pathlib.Path(__file__).resolve().parent


def guest_folder():
    return qemu.cache_folder() / 'guest'


def kernel():
    path = guest_folder() / 'vmlinuz'
    if not path.exists():
        raise peer.Skip('no guest kernel here: scripts/setup check fetches it')
    return path


def depends(module):
    """Returns the names of the modules that `module` needs, from its .modinfo section."""
    match = re.search(rb'\0depends=([\w,-]*)\0', b'\0' + module.read_bytes())
    return [name for name in match[1].decode().split(',') if name] if match else []


def modules():
    """Returns the files of the modules to load, each after the modules that it needs."""
    found = {path.stem.replace('-', '_'): path
             for path in (guest_folder() / 'lib/modules').rglob('*.ko')}
    ordered = []

    def add(name):
        path = found.get(name.replace('-', '_'))
        if path and path not in ordered:  # a module without a file is built in
            for other in depends(path):
                add(other)
            ordered.append(path)
    for name in MODULES:
        add(name)
    return ordered


def libraries(program):
    listed = subprocess.run(['ldd', program], capture_output=True, text=True, check=True).stdout
    return re.findall(r'(/\S+) \(0x', listed)


def copy(source, tree, target):
    path = tree / str(target).lstrip('/')
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, path)


def make(folder, load=None, init='init', more=lambda tree: None, programs=(), order=modules):
    """
    Creates the initramfs in `folder` and returns its path. `load` is the path of the load's program, `programs` names
    further ones of the host, and `more` adds files to the tree. `order` returns the modules to load.
    """
    programs = [*PROGRAMS, *programs]
    peer.need('busybox', 'cpio', *programs)
    tree = folder / 'tree'
    search = os.environ.get('PATH', '') + ':/usr/sbin:/sbin'
    copy(HERE / init, tree, 'init')
    (tree / 'init').chmod(0o755)
    copy(shutil.which('busybox', path=search), tree, 'bin/busybox')
    if load:
        copy(load, tree, 'bin/load')
    for name in programs:
        program = shutil.which(name, path=search)
        copy(program, tree, f'bin/{name}')
        for library in libraries(program):
            copy(library, tree, library)
    ordered = order()
    for path in ordered:
        copy(path, tree, f'modules/{path.name}')
    (tree / 'modules').mkdir(exist_ok=True)
    (tree / 'modules/order').write_text('\n'.join(path.name for path in ordered))
    more(tree)
    names = '\n'.join(str(path.relative_to(tree)) for path in tree.rglob('*'))
    with open(folder / 'initramfs', 'wb') as output:
        subprocess.run(['cpio', '--quiet', '-o', '-H', 'newc'], cwd=tree, input=names.encode(),
                       stdout=output, check=True)
    shutil.rmtree(tree)
    return folder / 'initramfs'
