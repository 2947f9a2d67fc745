#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Checks that the layers of the source tree use only the layers below them.

Key idea: the table ALLOWED is the architecture. It lists the layers that the files of a layer
may include and its meson.build may link; docs/architecture.md has the reasons. An include
names the layer ("util/fd.h"). Every layer may include itself and the installed headers
<vublk/...>. circles.py checks the files within a layer.

    layers.py [SOURCE-ROOT]    TAP on standard output
"""
import pathlib
import re
import sys
import tempfile

import tap

ALLOWED = {
    'src/util': [],
    'src/proto': ['util'],
    'src/handover': ['util', 'proto'],
    'src/virtio': ['util'],
    'src/plane': ['util', 'virtio', 'worker'],
    'src/frontend': ['util', 'proto', 'virtio'],
    'src/device': ['util', 'proto', 'virtio', 'plane', 'frontend'],
    'src/virtio-pci': ['util', 'virtio'],
    'src/inproc': ['util', 'virtio', 'device'],
    'src/bus': ['util', 'proto', 'handover', 'virtio', 'device', 'virtio-pci'],
    'src/blk': ['util', 'virtio', 'inproc'],
    'src/worker': ['util', 'proto', 'virtio'],
    'src/backend': ['util', 'proto', 'handover', 'virtio', 'worker'],
    'src/cli': [],
    'plugins': [],
    'engines': [],
    'examples': [],
}
LAYERS = {folder.split('/')[1] for folder in ALLOWED if '/' in folder}

INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')
DEPENDENCIES = re.compile(r'\bdependencies\s*:\s*(\[[^\]]*\]|\w+)', re.S)
LINKS = re.compile(r'\blink_(?:with|whole)\s*:\s*(\[[^\]]*\]|\w+)', re.S)


def may_include(folder, header):
    own = folder.rsplit('/', 1)[-1]
    return any(header.startswith(layer + '/') for layer in [own, *ALLOWED[folder]])


def sources(root, folder):
    return sorted(p for p in (root / folder).rglob('*') if p.suffix in ('.c', '.h'))


def include_faults(root, folder):
    for path in sources(root, folder):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            kind, header = match.groups()
            where = f'{path.relative_to(root)}:{number}'
            if kind == '"' and not may_include(folder, header):
                may = ', '.join(ALLOWED[folder]) or 'no other layer'
                yield f'{where}: includes "{header}"; {folder} may use {may} and <vublk/...>'
            if kind == '<' and header.split('/')[0] in LAYERS:
                yield f'{where}: includes <{header}>; a layer is included with quotes'


def link_faults(root, folder):
    """Yields layers that a build file must not link. Their names there are `virtio_pci` or `lib_virtio_pci`."""
    allowed = {*ALLOWED[folder], folder.rsplit('/', 1)[-1]}
    for path in sorted((root / folder).rglob('meson.build')):
        text = re.sub(r'#.*', '', path.read_text())
        lists = DEPENDENCIES.findall(text) + LINKS.findall(text)
        for word in re.findall(r'\w+', ' '.join(lists)):
            layer = word.removeprefix('lib_').replace('_', '-')
            if layer in LAYERS and layer not in allowed:
                yield f'{path.relative_to(root)}: links {word}, which {folder} may not use'


def unknown_folders(root):
    for path in sorted((root / 'src').iterdir()):
        if path.is_dir() and f'src/{path.name}' not in ALLOWED:
            yield f'src/{path.name}: the folder is not in the table of layers'


def header_faults(root):
    """Yields the includes of source tree headers in installed headers, which must have no such include."""
    for path in sources(root, 'include'):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = INCLUDE.match(line)
            if match and match[1] == '"' and not match[2].startswith('vublk/'):
                yield f'{path.relative_to(root)}:{number}: an installed header includes "{match[2]}"'


def faults(root):
    found = list(unknown_folders(root)) + list(header_faults(root))
    for folder in ALLOWED:
        found += include_faults(root, folder)
        found += link_faults(root, folder)
    return found


# Small trees with one violation each, which the lint has to find.
VIOLATIONS = {
    'a layer above': ('src/util/a.c', '#include "proto/message.h"\n'),
    'the other end of the socket': ('src/backend/a.c', '#include "frontend/frontend.h"\n'),
    'the tool past the public headers': ('src/cli/a.c', '#include "util/fd.h"\n'),
    'an include that names no layer': ('src/proto/a.c', '#include "message.h"\n'),
    'a bus in the block API': ('src/blk/a.c', '#include "bus/relay/relay.h"\n'),
    'messages in the PCI model': ('src/virtio-pci/a.c', '#include "proto/vfio-user/codec.h"\n'),
    'a library with messages in the PCI model': ('src/virtio-pci/meson.build',
        "virtio_pci = declare_dependency(dependencies: [util, proto])\n"),
    'a layer in angle brackets': ('src/device/a.c', '#include <backend/server.h>\n'),
    'a library that may not be linked': ('src/frontend/meson.build',
                                         "lib_frontend = static_library('f', 'a.c',\n"
                                         "  dependencies: [util, backend])\n"),
    'a folder without a row': ('src/misc/a.c', ''),
    'an installed header into the tree': ('include/vublk/a.h', '#include "util/fd.h"\n'),
}
PERMITTED = {
    'src/blk/a.c': '#include <vublk/blk.h>\n#include "inproc/inproc.h"\n'
                   '#include "blk/queue.h"\n#include "virtio/ring.h"\n',
    'src/blk/meson.build': "blk = declare_dependency(link_with: lib_blk, dependencies: [util, inproc])\n",
    'src/bus/meson.build': "bus = declare_dependency(dependencies: [util, virtio_pci])\n",
    'src/cli/a.c': '#include <vublk/device.h>\n#include "cli/cli.h"\n',
}


def faults_of(files):
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch)
        for name in ['src', 'include']:
            (root / name).mkdir()
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        return faults(root)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else '.').resolve()
    cases = [(f'reports {name}', [] if faults_of({path: text}) else ['was not reported'])
             for name, (path, text) in VIOLATIONS.items()]
    cases.append(('accepts what the table permits', faults_of(PERMITTED)))
    cases.append(('the tree keeps to its layers', faults(root)))
    return tap.report(cases)


if __name__ == '__main__':
    sys.exit(main())
