#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks that each option in a command's --help is in its man page, or in vublk(1) if several
commands share it, and that the pages name no option that does not exist. A command that an
example continues on the next line must keep its backslash.

    man.py SOURCE-ROOT VUBLK    TAP on standard output
"""
import pathlib
import re
import subprocess
import sys

import tap

EVERYWHERE = {'--help', '--usage', '--version'}


def options(text):
    return set(re.findall(r'(?<![\w-])--[a-z][a-z_-]*', text))


def page(root, name):
    path = root / 'man' / f'{name}.1.scd'
    return path.read_text() if path.exists() else ''


def help_of(vublk, *words):
    return subprocess.run([vublk, *words], capture_output=True, text=True, check=True).stdout


def backslash_faults(name, text):
    """Yields lines that end in a single backslash, which scdoc reads as an escape even in a block of code."""
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r'(?<!\\)\\$', line):
            yield f'{name}:{number}: the backslash at the end of the line is not in the page; write two'


def faults(root, vublk):
    assert list(backslash_faults('page', 'a \\')) and not list(backslash_faults('page', 'a \\\\'))
    for path in sorted((root / 'man').glob('*.scd')):
        yield from backslash_faults(path.name, path.read_text())
    common = options(page(root, 'vublk'))
    known = set(EVERYWHERE)
    commands = re.findall(r'^  (\w+)  ', help_of(vublk, '--help'), re.M)
    for command in commands:
        listed = options(help_of(vublk, command, '--help')) - EVERYWHERE
        own = options(page(root, f'vublk-{command}'))
        known |= listed
        if command not in page(root, 'vublk'):
            yield f'vublk(1) does not name the command {command}'
        for option in sorted(listed - own - common):
            yield f'{command} {option} is in no man page'
        for option in sorted(own - listed - EVERYWHERE):
            yield f'vublk-{command}(1) names {option}, which the command does not know'
    for option in sorted(common - known):
        yield f'vublk(1) names {option}, which no command knows'


def main():
    found = list(faults(pathlib.Path(sys.argv[1]), sys.argv[2]))
    return tap.report([('man pages and --help agree', found)])


if __name__ == '__main__':
    sys.exit(main())
