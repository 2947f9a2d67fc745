#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compares the static probes in the library (src/util/probe.h) with docs/probes.md, and checks that each costs
one nop.

    probes.py LIBRARY SOURCE-ROOT yes|no    whether the build has probes; TAP on standard output
"""
import pathlib
import re
import subprocess
import sys

import tap

NOTE = re.compile(r'Provider: vublk\n\s+Name: (\w+)\n\s+Location: (0x[0-9a-f]+),.*\n\s+Arguments: ?(.*)')


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def documented(text):
    """Returns probe name -> number of arguments, from the rows of the table in the document."""
    rows = re.findall(r'^\| `(\w+)` \| (.*?) \| .*\|$', text, re.M)
    return {name: arguments.count('`') // 2 for name, arguments in rows}


def compare(notes, table):
    found = {name for name, _, _ in notes}
    yield from (f'docs/probes.md has no row for the probe {name}' for name in sorted(found - set(table)))
    yield from (f'docs/probes.md has a row for {name}, and the library has no such probe' for name in sorted(set(table) - found))
    for name, location, arguments in notes:
        if name in table and len(arguments.split()) != table[name]:
            yield f'{name} at {location} has {len(arguments.split())} arguments, and {table[name]} in docs/probes.md'


def not_a_nop(library, notes):
    for name, location, _ in notes:
        address = int(location, 16)
        code = output('objdump', '-d', '--no-show-raw-insn', f'--start-address={address}', f'--stop-address={address + 1}', library)
        if not re.search(rf'^\s*{address:x}:\s+nop\b', code, re.M):
            yield f'{name} at {location} is no nop'


def without_example(text, table):
    example = ''.join(re.findall(r'```\n(.*?)```', text, re.S))
    for name in table:
        if not re.search(rf'vublk:({name}\b|{name.rsplit("_", 1)[0]}_\*)', example):
            yield f'docs/probes.md has no example with {name}'


def main():
    library, root, has_probes = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3] == 'yes'
    text = (root / 'docs/probes.md').read_text()
    table = documented(text)
    notes = NOTE.findall(output('readelf', '-n', library))
    cases = [('each probe has an example', list(without_example(text, table)))]
    if has_probes:
        cases += [('the documented probes are those of the library', list(compare(notes, table))),
                  ('a probe is one nop', list(not_a_nop(library, notes)))]
    else:
        cases.append(('a build without probes has none', [f'{name} at {location}' for name, location, _ in notes]))
    return tap.report(cases)


if __name__ == '__main__':
    sys.exit(main())
