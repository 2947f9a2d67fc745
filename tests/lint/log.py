#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks that no peer can fill the log.

Key idea: each line above debug level must be logged by vublk_log_limited() with a limit in an
object that outlives the peer's connection. Otherwise a peer would get a new limit with each
connection.

    log.py [SOURCE-ROOT]    TAP on standard output
"""
import pathlib
import re
import sys

import tap

# Log lines that no peer can repeat: file, a part of the line, the reason.
UNLIMITED = [
    ('src/backend/backend.c', 'listening on', 'once per start'),
    ('src/backend/engine/file/file.c', 'io_uring is not available', 'once per start'),
    ('src/backend/engine/file/lost.c', 'so completed writes may be lost', 'once per image'),
    ('src/bus/bus.c', 'listening on', 'once per start'),
    ('src/device/link/listen.c', 'waiting for a back-end', 'once per realize'),
]

# The files that declare a vublk_log_limit, and the object that owns the limit. It must outlive a connection, because
# otherwise a peer could reset the limit by connecting again.
OWNERS = {
    'src/backend/backend.h': 'the server',
    'src/backend/engine/engine.h': 'the engine',
    'src/backend/engine/file/file.h': 'a queue of the engine, one per worker',
    'src/worker/worker.h': 'the worker',
    'src/blk/disk.h': 'the disk',
    'src/blk/queue.h': 'the disk',
    'src/bus/bus.h': 'the bus',
    'src/inproc/private.h': 'the disk',
    'src/bus/vfio-user/private.h': 'the bus',
    'src/virtio-pci/private.h': 'the bus',
    'src/device/device.h': 'the device',
}

FOLDERS = ('backend', 'blk', 'bus', 'device', 'frontend', 'inproc', 'proto', 'virtio', 'virtio-pci', 'worker')
CALL = re.compile(r'\bvublk_log\((?:[^;"]|"(?:[^"\\]|\\.)*")*;')
VISIBLE = re.compile(r'\bVUBLK_LOG_(ERROR|WARNING|INFO)\b')
MEMBER = re.compile(r'^[^*\n]*\bstruct vublk_log_limit \w+\b[^(\n]*;', re.M)


def sources(root):
    for folder in FOLDERS:
        for path in sorted((root / 'src' / folder).rglob('*.[ch]')):
            yield str(path.relative_to(root)), path.read_text()


def line_of(text, offset):
    return text.count('\n', 0, offset) + 1


def words_of(call):
    """Returns the string literals of a call, joined."""
    return ''.join(re.findall(r'"((?:[^"\\]|\\.)*)"', call))


def unlimited_calls(name, text):
    for call in CALL.finditer(text):
        if VISIBLE.search(call[0]):
            yield line_of(text, call.start()), words_of(call[0])


def line_faults(files):
    used = set()
    for name, text in files:
        for number, words in unlimited_calls(name, text):
            entries = [entry for entry in UNLIMITED if entry[0] == name and entry[1] in words]
            used.update(entries)
            if not entries:
                yield f'{name}:{number}: not limited: "{words[:60]}"'
    for entry in UNLIMITED:
        if entry not in used:
            yield f'{entry[0]}: no line has "{entry[1]}", but the list of exceptions names it'


def owner_faults(files):
    found = set()
    for name, text in files:
        for member in MEMBER.finditer(text):
            found.add(name)
            if name not in OWNERS:
                yield f'{name}:{line_of(text, member.start())}: the owner of this limit may be a connection; if not, add it to OWNERS'
    for name in OWNERS:
        if name not in found:
            yield f'{name}: has no limit, but the list of owners names it'


CHECKS = {
    'a line that a peer can cause is limited':
        (line_faults, 'vublk_log(log, known ? VUBLK_LOG_DEBUG : VUBLK_LOG_WARNING, "a;"\n"b");'),
    'a limit outlives the connection': (owner_faults, 'struct s {\n\tstruct vublk_log_limit limit;\n};'),
}


def faults_of(check, bad, files):
    """Returns the faults that `check` finds in the tree, and one more if it finds no fault in the text `bad`."""
    found = list(check(files))
    if not any(fault.startswith('bad.c:') for fault in check([('bad.c', bad)])):
        found.append('the check itself does not find a fault')
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else '.').resolve()
    files = list(sources(root))
    return tap.report((title, faults_of(check, bad, files)) for title, (check, bad) in CHECKS.items())


if __name__ == '__main__':
    sys.exit(main())
