# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's pool of huge pages, from which memory of 2 MiB pages is allocated."""
import fcntl
import pathlib

POOL = pathlib.Path('/proc/sys/vm/nr_hugepages')


def add(count):
    """Changes the size of the pool by `count`, and returns by how much it has changed. Other tests use the pool, too."""
    with POOL.open('r+') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = int(file.read())
        file.seek(0)
        file.write(f'{before + count}\n')
        file.flush()
        file.seek(0)
        return int(file.read()) - before
