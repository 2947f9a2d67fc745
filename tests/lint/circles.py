#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Finds the files of one layer that call each other in a circle.

Key idea: file A uses file B if A's object file has an undefined symbol that B's object file
defines. A file with a table of functions uses these functions. Files that reach each other in
this graph form a circle: none of them can be read, tested or changed without the others. A circle
is a fault unless an entry of KNOWN has exactly its files and a reason. An entry that no longer
matches a circle is a fault, too.

    circles.py SOURCE-ROOT BUILD-ROOT    TAP on standard output
"""
import pathlib
import subprocess
import sys

import tap

# Layer, the files of the circle, and the reason why the circle is permitted.
KNOWN = []

# Compiled only for a test program, so the build folder's src/ has no object file of these.
NOT_IN_LIBRARY = {'util/kill-point.c', 'cli/completion/tables.c'}


def parse_symbols(lines):
    """Returns two sets from lines of nm: the defined global symbols and the undefined symbols."""
    defined, undefined = set(), set()
    for line in lines:
        *_, kind, name = line.split()
        if kind in 'Uvw':
            undefined.add(name)
        elif kind.isupper():
            defined.add(name)
    return defined, undefined


def list_symbols(objects):
    """Returns object file -> its lines of nm. nm runs once for all object files, because it is slow to start."""
    listed = subprocess.run(['nm', '-A', *objects], capture_output=True, text=True, check=True)
    listings = {path: [] for path in objects}
    for line in listed.stdout.splitlines():
        path, symbol = line.rsplit(':', 1)
        listings[path].append(symbol)
    return listings


def alternative(name):
    """Returns x-fallback.c for x.c, and the reverse. A build has only one of them."""
    return name.replace('-fallback.c', '.c') if name.endswith('-fallback.c') else name.replace('.c', '-fallback.c')


def find_object(build, name):
    return sorted(build.glob(f'*.p/{name.replace("/", "_")}.o'))


def read_layer(source, build):
    """Returns file name -> the file's symbols, and a list of the sources without an object file."""
    objects, missing = {}, []
    for path in sorted(source.rglob('*.c')):
        name = str(path.relative_to(source))
        built = find_object(build, name)
        if built:
            objects[name] = str(built[0])
        elif f'{source.name}/{name}' not in NOT_IN_LIBRARY and not find_object(build, alternative(name)):
            missing.append(f'src/{source.name}/{name} has no object file in {build}')
    listings = list_symbols(objects.values())
    return {name: parse_symbols(listings[path]) for name, path in objects.items()}, missing


def graph_of(files):
    """Returns file name -> {name of a file that it uses: the used symbols}."""
    owner = {symbol: name for name, (defined, _) in files.items() for symbol in defined}
    graph = {name: {} for name in files}
    for name, (_, undefined) in files.items():
        for symbol in sorted(undefined):
            used = owner.get(symbol, name)
            if used != name:
                graph[name].setdefault(used, []).append(symbol)
    return graph


def reachable(graph, start):
    seen, pending = set(), list(graph[start])
    while pending:
        name = pending.pop()
        if name not in seen:
            seen.add(name)
            pending += graph[name]
    return seen


def circles_of(graph):
    reach = {name: reachable(graph, name) for name in graph}
    found = {frozenset(other for other in reach[name] if name in reach[other])
             for name in graph if name in reach[name]}
    return sorted(found, key=sorted)


def describe(layer, graph, circle):
    yield f'src/{layer}: {len(circle)} files call each other in a circle: {" ".join(sorted(circle))}'
    for name in sorted(circle):
        for used, symbols in sorted(graph[name].items()):
            if used in circle:
                yield f'    {name} -> {used}: {", ".join(symbols[:4])}{", ..." if len(symbols) > 4 else ""}'


def faults_of(layers, known):
    listed = {(layer, frozenset(files.split())) for layer, files, _ in known}
    found = set()
    for layer, files in layers.items():
        graph = graph_of(files)
        for circle in circles_of(graph):
            found.add((layer, circle))
            if (layer, circle) not in listed:
                yield from describe(layer, graph, circle)
    for layer, files in sorted(listed - found, key=lambda entry: (entry[0], sorted(entry[1]))):
        yield (f'src/{layer}: {" ".join(sorted(files))} are no longer exactly one circle; '
               f'update KNOWN in circles.py')


# Listings of nm for a made-up layer: a.c -> b.c -> c.c -> a.c, and d.c uses a.c.
MADE_UP = {
    'a.c': '0000 T begin\n     U middle\n0010 t helper\n     U memcpy\n',
    'b.c': '0000 T middle\n     U table\n',
    'c.c': '0000 R table\n     U begin\n',
    'd.c': '0000 T user\n0008 t begin\n     U begin\n',
}


def made_up(**changes):
    listings = {**MADE_UP, **{f'{name}.c': text for name, text in changes.items()}}
    return {'layer': {name: parse_symbols(text.splitlines()) for name, text in listings.items()}}


def self_tests():
    entry = ('layer', 'a.c b.c c.c', 'a reason')
    straight = made_up(c='0000 R table\n')
    yield 'finds a circle', \
        [] if any('a.c b.c c.c' in fault for fault in faults_of(made_up(), [])) else ['was not found']
    yield 'accepts a circle that the list names', list(faults_of(made_up(), [entry]))
    yield 'accepts files without a circle', list(faults_of(straight, []))
    yield 'finds an entry that is no longer a circle', \
        [] if list(faults_of(straight, [entry])) else ['was not found']
    yield 'finds a circle that lost a file', \
        [] if list(faults_of(made_up(c='0000 R table\n     U middle\n'), [entry])) else ['was not found']


def main():
    source, build = (pathlib.Path(argument).resolve() / 'src' for argument in sys.argv[1:3])
    layers, missing = {}, []
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        layers[folder.name], without = read_layer(folder, build / folder.name)
        missing += without
    return tap.report([
        *self_tests(),
        ('every file has its object file', missing),
        ('every entry of the list has a reason', [f'src/{layer}: {files}' for layer, files, why in KNOWN
                                                  if not why]),
        ('no files call each other in a circle', list(faults_of(layers, KNOWN))),
    ])


if __name__ == '__main__':
    sys.exit(main())
