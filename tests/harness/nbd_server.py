# SPDX-License-Identifier: LGPL-2.1-or-later
"""NBD servers of others, each serving one file at a Unix socket. A socket that a killed server has left is removed."""
import peer


def start(case, path, command):
    path.unlink(missing_ok=True)
    child = case.start(command)
    peer.wait_for_socket(case, child, path)
    return child


def nbdkit(case, path, *arguments):
    """`arguments`: filters, the plugin and its parameters."""
    peer.need('nbdkit')
    return start(case, path, ['nbdkit', '--foreground', '--exit-with-parent', '--unix', path, *arguments])


def qemu_nbd(case, path, *arguments):
    """`arguments`: options, and at the end the image."""
    peer.need('qemu-nbd')
    return start(case, path, ['qemu-nbd', '--persistent', '--format', 'raw', '--socket', path, *arguments])
