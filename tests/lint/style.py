#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks the part of the house style that a program can see: every file has a licence line and
at most 800 lines, a function has at most 100, no line ends in white space, no function reads
the error that it has to fill, and no write to an eventfd may block. language.py checks wording.

    style.py [SOURCE-ROOT]    TAP on standard output
"""
import pathlib
import re
import subprocess
import sys

import tap

FILE_LINES = 800
FUNCTION_LINES = 100
SOURCE = re.compile(r'\.(c|h|in|py|sh|map)$|(^|/)(meson\.build|meson_options\.txt|Makefile)$|^scripts/|^\.ci/')


FUNCTION = re.compile(r'^(?P<head>\w[^;{}#]*?)\n\{\n(?P<body>.*?)^\}', re.S | re.M)
ERROR_OUTPUT = re.compile(r'(?<!const )struct vublk_error \*(\w+)')


# Files whose eventfds no peer has, and two files in which another thread unblocks a blocked writer.
EVENTFD_WRITERS = {
    'src/util/eventfd.c', 'src/util/loop.c', 'src/util/fault.c', 'src/bus/bus.c', 'src/backend/backend.c',
    'src/backend/engine/file/sync.c', 'src/backend/queue-complete.c', 'src/blk/queue.c', 'src/plane/publish.c',
}


def files(root, more=r'(?!)'):
    """Yields the names and paths of the tree's sources, and of other files whose names match `more`."""
    listed = subprocess.run(['git', '-C', root, 'ls-files', '-co', '--exclude-standard'],
                            capture_output=True, text=True)
    if listed.returncode == 0:
        names = listed.stdout.splitlines()
    else:  # a release archive has no repository
        names = [str(p.relative_to(root)) for p in root.rglob('*') if p.is_file()]
    return [(name, root / name) for name in sorted(names)
            if (SOURCE.search(name) or re.search(more, name)) and (root / name).is_file() and not name.startswith('build')]


def licence_faults(name, lines):
    if not any('SPDX-License-Identifier: LGPL-2.1-or-later' in line for line in lines[:3]):
        yield f'{name}: its first lines have no SPDX-License-Identifier'


def length_faults(name, lines):
    if len(lines) > FILE_LINES:
        yield f'{name}: {len(lines)} lines are more than {FILE_LINES}'


def function_faults(name, lines):
    """Yields functions that are too long. A line that is only an opening brace begins a function."""
    if not name.endswith(('.c', '.h')):
        return
    start = None
    for number, line in enumerate(lines, 1):
        if line == '{':
            start = number
        elif line == '}' and start:
            if number - start - 1 > FUNCTION_LINES:
                yield f'{name}:{start}: a function of {number - start - 1} lines'
            start = None


def error_faults(name, lines):
    """
    Yields reads of an error that the function has to fill. A `struct vublk_error *` that is not
    const is an output and may be NULL, so a function may read it only after a check for NULL.
    """
    if not name.endswith('.c') or name.startswith('tests/'):
        return
    for function in FUNCTION.finditer('\n'.join(lines)):
        body = function['body']
        for parameter in ERROR_OUTPUT.findall(function['head']):
            reads = re.search(rf'\b{parameter}->(code|text)\b', body)
            if reads and not re.search(rf'if \(!?{parameter}\)', body[:reads.start()]):
                number = function.string.count('\n', 0, function.start('body') + reads.start()) + 1
                yield f'{name}:{number}: reads {parameter}, which the caller may not have given'


def eventfd_faults(name, lines):
    """Yields plain writes to eventfds. A peer can block such a write, unless another thread unblocks the writer."""
    if name in EVENTFD_WRITERS or not name.endswith('.c') or name.startswith('tests/'):
        return
    for number, line in enumerate(lines, 1):
        if 'vublk_eventfd_write(' in line:
            yield f'{name}:{number}: vublk_eventfd_signal() never blocks; see src/util/fd.h'


def space_faults(name, lines):
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield f'{name}:{number}: white space at the end of the line'


CHECKS = {
    'every file has its licence line': (licence_faults, ['int x;']),
    'no file is too long': (length_faults, ['x'] * (FILE_LINES + 1)),
    'no function is too long': (function_faults, ['{'] + ['x'] * (FUNCTION_LINES + 1) + ['}']),
    'no function reads the error that it fills':
        (error_faults, ['int f(struct vublk_error *error)', '{', '\treturn -error->code;', '}']),
    'no write to an eventfd may block': (eventfd_faults, ['\tvublk_eventfd_write(fd);']),
    'no white space at line ends': (space_faults, ['int x; ']),
}


def faults_of(check, bad, contents):
    """Returns the faults that `check` finds in the tree, and one more if it finds no fault in the lines `bad`."""
    found = [fault for name, lines in contents for fault in check(name, lines)]
    if not list(check('bad.c', bad)):
        found.append('the check itself does not find a fault')
    return found


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else '.').resolve()
    contents = [(name, path.read_text().splitlines()) for name, path in files(root)]
    return tap.report((title, faults_of(check, bad, contents)) for title, (check, bad) in CHECKS.items())


if __name__ == '__main__':
    sys.exit(main())
