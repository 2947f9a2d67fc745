#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks that the library exports exactly the functions that the installed headers declare, and that the symbols file of the
Debian package lists them.

    symbols.py LIBVUBLK.SO DEBIAN-SYMBOLS HEADER-FOLDER...    TAP on standard output
"""
import pathlib
import re
import subprocess
import sys

import tap

# A name before a parenthesis, on a line that begins a declaration rather than a member or a comment.
DECLARATION = re.compile(r'^(?!typedef|\s|#|\*|/).*?\b(vublk_\w+)\(', re.M)


def declared(folders):
    found = set()
    for folder in folders:
        for path in pathlib.Path(folder).glob('*.h'):
            text = re.sub(r'/\*.*?\*/', '', path.read_text(), flags=re.S)
            found |= set(DECLARATION.findall(text))
    return found


def exported(library):
    """Returns the exported functions, without version names such as VUBLK_0, which are absolute symbols (A)."""
    listed = subprocess.run(['nm', '-D', '--defined-only', library], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {row[2].split('@')[0] for row in rows if row[1] != 'A' and not row[2].startswith('__')}


def listed_by_debian(path):
    return set(re.findall(r'^ (vublk_\w+)@', pathlib.Path(path).read_text(), re.M))


def main():
    library, debian, *folders = sys.argv[1:]
    inside, outside, packaged = declared(folders), exported(library), listed_by_debian(debian)
    cases = [('what the headers declare is exported', [f'{name} is declared, but not exported' for name in sorted(inside - outside)]),
             ('what is exported is declared', [f'{name} is exported, but no header declares it' for name in sorted(outside - inside)]),
             ('the symbols file of the Debian package is complete',
              [f'{name} is exported, and {debian} has no line for it' for name in sorted(outside - packaged)] +
              [f'{name} is in {debian}, but not exported' for name in sorted(packaged - outside)]),
             ('the headers were read', [] if 'vublk_version' in inside else ['vublk_version was not found'])]
    return tap.report(cases)


if __name__ == '__main__':
    sys.exit(main())
