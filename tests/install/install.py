#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The files that `meson install` installs are enough for an application.

    install.py BUILD-FOLDER EXAMPLES-FOLDER [-l] [-k] [WORD...]
"""
import json
import os
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / 'tests' / folder) for folder in ('harness', 'guest')]

import peer  # noqa: E402
import qemu  # noqa: E402
from peer import check  # noqa: E402

BUILD, EXAMPLES = sys.argv[1:3] if len(sys.argv) > 2 else ('build', 'examples')


def install(case):
    """Returns the folder that stands for /, and the folder of the headers in it."""
    root = case.path('root')
    case.run(['meson', 'install', '-C', BUILD, '--no-rebuild', '--quiet', '--destdir', root])
    header, = root.rglob('include/vublk/blk.h')
    return root, header.parent.parent


def one(root, name):
    found = list(root.rglob(name))
    check(found, f'{name} was not installed')
    return found[0]


def compilers():
    """Returns the compilers and their options. clang includes clang++, and the headers need no C++ library."""
    return [['gcc', '-std=c11', '-xc'], ['clang', '-std=c17', '-xc'], ['clang++', '-std=c++11', '-xc++']]


def headers_stand_alone(case):
    """Each header compiles as the only include, in C and in C++, with a strict compiler."""
    root, include = install(case)
    headers = sorted(path.name for path in (include / 'vublk').iterdir())
    check({'blk.h', 'device.h', 'backend.h', 'error.h', 'image.h', 'memory.h', 'version.h'} <= set(headers), f'{headers}')
    for command in compilers():
        peer.need(command[0])
        for header in headers:
            source = case.path('alone')
            source.write_text(f'#include <vublk/{header}>\n')
            case.run([*command, '-Wall', '-Wextra', '-pedantic-errors', '-Werror', f'-I{include}',
                      '-fsyntax-only', source])


def programs_build(case):
    """The examples build with pkg-config, and run with the installed library and tool."""
    root, _ = install(case)
    folder = one(root, 'vublk.pc').parent
    environment = {**os.environ, 'PKG_CONFIG_PATH': str(folder), 'PKG_CONFIG_SYSROOT_DIR': str(root)}
    flags = case.run(['pkg-config', '--cflags', '--libs', 'vublk'], env=environment).split()
    for name in ('disk-epoll', 'disk-sum', 'embed'):
        case.run(['gcc', '-Wall', '-Wextra', '-Werror', f'{EXAMPLES}/{name}.c', *flags, '-o', case.path(name)])
    installed = {**os.environ, 'LD_LIBRARY_PATH': str(one(root, 'libvublk.so.0').parent)}
    version = case.run(['pkg-config', '--modversion', 'vublk'], env=environment).strip()
    tool = one(root, 'bin/vublk')
    check(case.run([tool, '--version'], env=installed).strip() == f'vublk {version}', 'the versions differ')
    image = case.path('disk')
    image.write_bytes(b'\1' * 8192)
    child = case.start([tool, 'serve', '--socket-path', case.path('socket'), '--blk-file', image], env=installed)
    peer.wait_for_socket(case, child, case.path('socket'))
    told = case.run([case.path('disk-sum'), case.path('socket')], env=installed)
    check('8192' in told.split(), f'the sum of 8192 ones was told as: {told}')
    case.run([case.path('embed'), case.path('socket')], env=installed)
    check(case.stop(child) == 0, case.output(child))
    check(image.read_bytes() == b'a' * 4096 + b'\1' * 4096, 'embed wrote something else to the disk')


def readme_program(case):
    """The C program in README.md compiles as printed, in both ways that README gives, and reads a disk."""
    root, _ = install(case)
    text = (ROOT / 'README.md').read_text()
    program, = re.findall(r'^```c\n(.*?)^```', text, re.M | re.S)
    check(len(program.splitlines()) <= 32, f'it has {len(program.splitlines())} lines')
    case.path('read.c').write_text(program)
    uninstalled, = re.findall(r'^cc read\.c .*-Lbuild.*$', text, re.M)
    installed, = re.findall(r'`(cc read\.c .*pkg-config.*?)`', text)
    environment = {**os.environ, 'PKG_CONFIG_PATH': str(one(root, 'vublk.pc').parent), 'PKG_CONFIG_SYSROOT_DIR': str(root),
                   'LD_LIBRARY_PATH': str(one(root, 'libvublk.so.0').parent)}
    for name, folder in (('build', pathlib.Path(BUILD).resolve()), ('include', ROOT / 'include')):
        case.path(name).symlink_to(folder)
    image = case.path('image')
    image.write_bytes(bytes(range(256)) * 32)
    child = case.start([one(root, 'bin/vublk'), 'serve', '--socket-path', case.path('back.sock'), '--blk-file', image],
                       env=environment)
    peer.wait_for_socket(case, child, case.path('back.sock'))
    for command in (uninstalled, installed):
        told = case.run(['sh', '-ec', f'cd {case.path("read.c").parent}; {command} -Wall -Wextra -Werror; ./read back.sock'],
                        env=environment)
        check(told == ' '.join(f'{value:02x}' for value in range(16)) + '\n', f'it printed {told}')


def readme_doors(case):
    """Each QEMU of the table of doors in README.md starts with its disk, as written."""
    peer.need('qemu-system-x86_64')
    text = (ROOT / 'README.md').read_text()
    memory, = re.findall(r'^MEMORY=.*$', text, re.M)
    table = re.findall(r'^\| [^|]* \| (?:`(vublk device [^`]*)`)? *\| `(qemu-system-x86_64 [^`]*)` \|$', text, re.M)
    check(len(table) == 3, f'{len(table)} doors have a QEMU')
    folder, tool = case.path('read.c').parent, pathlib.Path(BUILD).resolve() / 'src/cli/vublk'
    case.path('image').write_bytes(bytes(1 << 20))
    serve = case.start([tool, 'serve', '--socket-path', case.path('back.sock'), '--blk-file', case.path('image')])
    peer.wait_for_socket(case, serve, case.path('back.sock'))
    for device, line in table:
        relay = None
        if device:
            relay = case.start(['sh', '-c', f'cd {folder}; exec {device.replace("vublk", str(tool), 1)}'])
            peer.wait_for_socket(case, relay, case.path(device.rpartition(':')[2]))
        start_qemu(case, folder, f'{memory}\n{line}', qemu.NewerQemu() if 'vfio-user' in line else qemu.Qemu())
        if relay:
            check(case.stop(relay) == 0, case.output(relay))


def start_qemu(case, folder, script, which):
    """
    Starts QEMU and makes it quit. QEMU realizes its devices before it reads the monitor, and exits with 1
    if that fails. The monitor uses standard input, which -nographic would give to the serial port.
    """
    program = ' '.join(map(str, [*which.program(), *which.firmware]))
    quit_now = ''.join(json.dumps({'execute': word}) for word in ('qmp_capabilities', 'quit'))
    result = case.call(['sh', '-c', f"""cd {folder}; qemu() {{ echo '{quit_now}' | {program} "$@" -display none -S -qmp stdio; }}
{script.replace('qemu-system-x86_64', 'qemu', 1).replace(' -nographic', '')}"""], env={**os.environ, **which.environment})
    check(result.code == 0 and '"SHUTDOWN"' in str(result), f'{script}: {result}')


def no_other_development_files(case):
    """pkg-config needs no .pc file of a dependency of vublk for a shared link."""
    root, _ = install(case)
    folder = one(root, 'vublk.pc').parent
    environment = {**os.environ, 'PKG_CONFIG_LIBDIR': str(folder), 'PKG_CONFIG_PATH': ''}
    for wanted in ('--cflags', '--libs'):
        flags = case.run(['pkg-config', wanted, 'vublk'], env=environment).split()
        check('-lvublk' in flags or wanted == '--cflags', f'{wanted} gives {flags}')


def examples(case):
    root, _ = install(case)
    for name in ('disk-epoll.c', 'disk-sum.c', 'embed.c'):
        check(one(root, f'examples/{name}').read_text() == pathlib.Path(EXAMPLES, name).read_text(), f'{name} differs')


def the_program_finds_its_library(case):
    """The program finds its library in any install folder, without environment variables."""
    root, _ = install(case)
    environment = {name: value for name, value in os.environ.items() if name != 'LD_LIBRARY_PATH'}
    told = case.run([one(root, 'bin/vublk'), '--version'], env=environment)
    check(told.startswith('vublk '), f'--version printed {told}')
    needed = case.run(['readelf', '-d', one(root, 'bin/vublk')])
    check('$ORIGIN/../lib' in needed, f'the library is not looked for relative to the program: {needed}')


def make_installs_the_product(case):
    """`make install` builds no test, and needs no root for a folder that belongs to the user."""
    build, prefix = case.path('build'), case.path('prefix')
    source = pathlib.Path(EXAMPLES).parent
    result = case.call(['make', '-C', source, 'install', f'BUILD={build}', f'PREFIX={prefix}', 'SETUP=no'],
                       limit_s=900)
    check(result.code == 0, str(result))
    check(not list((build / 'tests').rglob('*.o')), 'a test was compiled')
    case.run([prefix / 'bin/vublk', '--version'])


def make_demo_builds_the_tool(case):
    """`make demo` compiles neither examples nor tests, and a later `make` builds the rest."""
    build, source = case.path('build'), pathlib.Path(EXAMPLES).parent
    result = case.call(['make', '-C', source, 'demo', f'BUILD={build}', 'SETUP=no'], limit_s=900)
    check(result.code == 0, str(result))
    compiled = [str(path.relative_to(build)) for path in build.rglob('*.o')]
    check(any(path.startswith('src/cli/') for path in compiled), f'nothing was compiled: {compiled}')
    extra = [path for path in compiled if not path.startswith('src/')]
    check(not extra, f'more than the tool was compiled: {extra}')
    result = case.call(['make', '-C', source, f'BUILD={build}', 'SETUP=no'], limit_s=900)
    check(result.code == 0, str(result))
    check((build / 'examples/disk-sum').exists(), '`make` after `make demo` built no example')


def manual_pages(case):
    peer.need('scdoc')
    root, _ = install(case)
    for page in ('vublk', 'vublk-serve', 'vublk-info', 'vublk-bench', 'vublk-copy'):
        check(one(root, f'{page}.1').stat().st_size > 500, f'{page}.1 is empty')


CASES = [headers_stand_alone, programs_build, readme_program, readme_doors, no_other_development_files, examples,
         the_program_finds_its_library, make_installs_the_product,
         make_demo_builds_the_tool, manual_pages]

if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(peer.main(CASES, sys.argv[3:]))
