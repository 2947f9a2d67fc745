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
    check({'blk.h', 'device.h', 'backend.h', 'engine.h', 'error.h', 'image.h', 'memory.h', 'version.h'} <= set(headers), f'{headers}')
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


class Modules:
    """Builds modules with the installed headers, and starts the installed tool with them."""

    def __init__(self, case):
        self.case = case
        root, self.include = install(case)
        folder = one(root, 'vublk.pc').parent
        self.pkg = {**os.environ, 'PKG_CONFIG_PATH': str(folder), 'PKG_CONFIG_SYSROOT_DIR': str(root)}
        self.tool = one(root, 'bin/vublk')
        self.env = {**os.environ, 'LD_LIBRARY_PATH': str(one(root, 'libvublk.so.0').parent),
                    'VUBLK_ENGINE_PATH': f'/nowhere:{case.folder}'}

    def build(self, name, source, *flags):
        libraries = self.case.run(['pkg-config', '--cflags', '--libs', 'vublk'], env=self.pkg).split()
        self.case.run(['gcc', '-shared', '-fPIC', '-Wall', '-Wextra', '-Werror', source, *flags, *libraries, '-o',
                       self.case.path(f'libvublk-engine-{name}.so')])

    def serve(self, *arguments):
        command = [self.tool, 'serve', '--socket-path', self.case.path('socket'), *arguments]
        return self.case.call(command, env=self.env, limit_s=20)


def engine_builds(case):
    """The example of an engine builds as its comment says, and the installed tool serves a disk with it."""
    modules = Modules(case)
    modules.build('ram', f'{EXAMPLES}/engine-ram.c')
    flags = case.run(['pkg-config', '--cflags', '--libs', 'vublk'], env=modules.pkg).split()
    case.run(['gcc', f'{EXAMPLES}/disk-sum.c', *flags, '-o', case.path('disk-sum')])
    child = case.start([modules.tool, 'serve', '--socket-path', case.path('socket'), '--engine', 'ram', '--size', '1M',
                        '-o', 'fill=3', '-v'], env=modules.env)
    peer.wait_for_socket(case, child, case.path('socket'))
    told = case.run([case.path('disk-sum'), case.path('socket')], env=modules.env)
    check(str(3 << 20) in told.split(), f'the sum of a disk full of 3 was told as: {told}')
    case.run([modules.tool, 'bench', case.path('socket'), '--rw', 'randrw', '--number_ios', '3000', '--numjobs', '2',
              '--verify'], env=modules.env)
    check(case.stop(child) == 0, case.output(child))
    for words in ('a disk in memory, filled with 3', 'the disk is filled with 3'):
        check(words in case.output(child), f'the log does not say "{words}": {case.output(child)}')


def engine_options(case):
    """The options of a module are listed and checked like all others."""
    modules = Modules(case)
    modules.build('ram', f'{EXAMPLES}/engine-ram.c')
    told = case.run([modules.tool, 'serve', '--list-options', '--engine', 'ram'], env=modules.env)
    check(re.search('^fill +number +0 ', told, re.M) and re.search('^seg-max ', told, re.M), told)
    check('fill' not in case.run([modules.tool, 'serve', '--list-options']), 'fill is an option of every engine')
    ram = ['--engine', 'ram', '--size', '1M']
    for code, words, arguments in ((2, 'from 0 to 255', [*ram, '-o', 'fill=256']), (2, 'a whole number', [*ram, '-o', 'fill=x']),
                                   (2, "no option 'fool'", [*ram, '-o', 'fool=1']), (2, 'needs a size', ram[:2]),
                                   (2, "no option 'fill'", ['--engine', 'null', '--size', '1M', '-o', 'fill=1']),
                                   (2, 'does not use a file', [*ram, '--blk-file', '/dev/null'])):
        result = modules.serve(*arguments)
        check(result.code == code and words in result.err and len(result.err.splitlines()) == 1, f'expected "{words}": {result}')


def unfit_engines(case):
    """A module that is missing, or does not fit, is refused with one sentence that names it."""
    modules = Modules(case)
    source = pathlib.Path(EXAMPLES, 'engine-ram.c').read_text()
    of = {name: case.path(f'{name}.c') for name in ('version', 'size', 'symbol', 'name', 'option', 'function', 'undefined')}
    of['version'].write_text(source.replace('<vublk/engine.h>', '<vublk/engine.h>\n#undef VUBLK_ENGINE_VERSION\n'
                                            '#define VUBLK_ENGINE_VERSION 99'))
    of['size'].write_text(source.replace('VUBLK_ENGINE_MODULE(ram_ops);', 'const struct vublk_engine_module '
                                         'vublk_engine_module = { .version = VUBLK_ENGINE_VERSION, .ops = &ram_ops };'))
    of['symbol'].write_text('int a;\n')
    of['name'].write_text(source)
    of['option'].write_text(source.replace('.name = "ram"', '.name = "option"').replace('{ .name = "fill"', '{ .name = "poll"'))
    of['function'].write_text(source.replace('.name = "ram"', '.name = "function"').replace('\t.close = ram_close,\n', ''))
    of['undefined'].write_text('extern int there_is_no_such_symbol(void);\nint a(void);\n'
                               'int a(void)\n{\n\treturn there_is_no_such_symbol();\n}\n')
    for name in ('version', 'size', 'option', 'function'):
        check(source not in (of[name].read_text(), of[name].read_text().replace(f'"{name}"', '"ram"')), f'{name}: the example has changed')
    for name, path in of.items():
        modules.build(name, path, '-Wno-unused-function', '-Wno-missing-field-initializers')
    case.path('libvublk-engine-text.so').write_text('no library')
    for name, words in (('version', 'version 99'), ('size', 'other sizes'), ('symbol', 'no symbol vublk_engine_module'),
                        ('name', "has the engine 'ram', not 'name'"), ('option', "cannot have the option 'poll'"),
                        ('function', 'no function open'), ('undefined', 'there_is_no_such_symbol'),
                        ('text', 'cannot load the engine text')):
        result = modules.serve('--engine', name, '--size', '1M')
        check(result.code == 1 and words in result.err and len(result.err.splitlines()) == 1, f'expected "{words}": {result}')
    for name in ('rbd', '../x', '', 'x' * 5000):
        result = modules.serve('--engine', name, '--size', '1M')
        check(result.code == 2 and 'is not installed; ' in result.err and len(result.err.splitlines()) == 1, str(result))


def engine_ignores_read_only(case):
    """A module that would write to a read-only disk is refused with one sentence."""
    modules = Modules(case)
    source = pathlib.Path(EXAMPLES, 'engine-ram.c').read_text()
    changed = case.path('writer.c')
    changed.write_text(source.replace('.name = "ram"', '.name = "writer"').replace(
        '\tram->engine.geometry.read_only = params->read_only;\n', ''))
    check(changed.read_text().count('read_only') == 0, 'the example has changed')
    modules.build('writer', changed)
    result = modules.serve('--engine', 'writer', '--size', '1M', '-o', 'read-only=on')
    check(result.code == 1 and 'the engine writer ignores the option read-only' in result.err and
          len(result.err.splitlines()) == 1, f'{result}')


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
    for name in ('disk-epoll.c', 'disk-sum.c', 'embed.c', 'engine-ram.c'):
        check(one(root, f'examples/{name}').read_text() == pathlib.Path(EXAMPLES, name).read_text(), f'{name} differs')


def units(case):
    """systemd accepts the units, and their sandbox is tight: an exposure below 3."""
    peer.need('systemd-analyze')
    root, _ = install(case)
    tool, names = pathlib.Path(BUILD).resolve() / 'src/cli/vublk', []
    for source in root.rglob('lib/systemd/system/vublk-*'):
        text, count = re.subn(r'^ExecStart=\S*/bin/vublk ', f'ExecStart={tool} ', source.read_text(), flags=re.M)
        check(count == ('.service' in source.name), f'{source.name} starts another program')
        check('@sandbox@' not in text and '@bindir@' not in text, f'{source.name} has an unset variable')
        case.path(source.name).write_text(text)
        names.append(source.name)
    check(len(names) == 3, f'there are {names}')
    told = case.call(['systemd-analyze', 'verify', '--man=no', *[case.path(name.replace('@', '@x')) for name in names]])
    check(told.code == 0 and not told.err, str(told))
    for name in names:
        if name.endswith('.service'):
            case.run(['systemd-analyze', 'security', '--offline=true', '--threshold=29', '--no-pager', case.path(name)])
    check('u vublk ' in one(root, 'sysusers.d/vublk.conf').read_text(), 'sysusers.d does not create the user vublk')
    for name in ('serve.conf', 'device.conf', 'network.conf'):
        one(root, f'examples/systemd/{name}')


def python_package(case):
    """The installed Python package reads a disk, and is where Python looks for packages of this prefix."""
    root, _ = install(case)
    found = list(root.rglob('vublk/_core.abi3.so'))
    if not found:
        raise peer.Skip('built without the Python package')
    package = found[0].parent
    check(package.parent.name in ('dist-packages', 'site-packages'), f'{package}')
    check({'__init__.py', '_core.pyi', 'py.typed'} <= {path.name for path in package.iterdir()}, 'files are missing')
    image = case.path('image')
    image.write_bytes(b'installed' + bytes(4096 - 9))
    child = case.start([one(root, 'bin/vublk'), 'serve', '--socket-path', case.path('socket'), '--blk-file', image])
    peer.wait_for_socket(case, child, case.path('socket'))
    code = 'import sys, vublk\nwith vublk.open(sys.argv[1]) as disk: print(disk.pread(0, 9).decode(), vublk.__file__)'
    told = case.run(['/usr/bin/python3', '-c', code, case.path('socket')],
                    env={**os.environ, 'PYTHONPATH': str(package.parent), 'PYTHONDONTWRITEBYTECODE': '1',
                         'LD_LIBRARY_PATH': str(one(root, 'libvublk.so.0').parent)})
    check(told.split() == ['installed', str(package / '__init__.py')], told)
    code = 'import site; print(*site.getsitepackages())'
    folders = case.run(['/usr/bin/python3', '-c', code]).split()
    check('/' + str(package.parent.relative_to(root)) in folders, f'{package} is in none of {folders}')


def the_program_finds_its_library(case):
    """The program finds its library in any install folder, without environment variables."""
    root, _ = install(case)
    environment = {name: value for name, value in os.environ.items() if name != 'LD_LIBRARY_PATH'}
    told = case.run([one(root, 'bin/vublk'), '--version'], env=environment)
    check(told.startswith('vublk '), f'--version printed {told}')
    needed = case.run(['readelf', '-d', one(root, 'bin/vublk')])
    check('$ORIGIN/../lib' in needed, f'the library is not looked for relative to the program: {needed}')


def nbdkit_plugin(case):
    """nbdkit loads the installed plugin, which finds its library in any install folder."""
    peer.need('nbdkit')
    root, _ = install(case)
    if not list(root.rglob('nbdkit')):
        raise peer.Skip('the plugin was not built')
    plugin = one(root, 'nbdkit/plugins/nbdkit-vublk-plugin.so')
    environment = {name: value for name, value in os.environ.items() if name != 'LD_LIBRARY_PATH'}
    told = case.run(['nbdkit', plugin, '--dump-plugin'], env=environment)
    check('\nvublk_version=' in told, told)
    check('$ORIGIN/../..' in case.run(['readelf', '-d', plugin]), 'the library is not looked for relative to the plugin')
    one(root, 'man1/nbdkit-vublk-plugin.1')


def described_backend(case):
    """The description for management software names a binary with the options of the conventions, which serves a disk."""
    root, _ = install(case)
    path = one(root, '50-vublk-serve.json')
    check(path.parent.parts[-3:] == ('share', 'qemu', 'vhost-user'), f'{path}')
    told = json.loads(path.read_text())
    # The members of VhostUserBackend in QEMU's docs/interop/vhost-user.json; tags are optional.
    check({'description', 'type', 'binary'} <= set(told) <= {'description', 'type', 'binary', 'tags'}, f'{told}')
    check(all(isinstance(told[name], str) for name in ('description', 'binary')) and told['type'] == 'block', f'{told}')
    check(all(isinstance(tag, str) for tag in told.get('tags', [])), f'{told}')
    check(os.path.isabs(told['binary']), f'{told}')
    binary = root / told['binary'].lstrip('/')
    check(not os.path.isabs(os.readlink(binary)), 'the link leads out of the folder that stands for /')
    capabilities = json.loads(case.run([binary, '--print-capabilities']))
    check(capabilities == {'type': 'block', 'features': ['read-only', 'blk-file']}, f'{capabilities}')
    case.path('image').write_bytes(bytes(1 << 20))
    child = case.start([binary, '--socket-path', case.path('socket'), '--blk-file', case.path('image'), '--read-only'])
    peer.wait_for_socket(case, child, case.path('socket'))
    disk = json.loads(case.run([one(root, 'bin/vublk'), 'info', '--json', case.path('socket')]))
    check(disk['read_only'], f'{disk}')
    check(case.stop(child) == 0, case.output(child))
    result = case.call([binary])
    check(result.code == 2 and result.err.startswith('vublk serve: --socket-path or --fd is missing'), str(result))


def shell_completion(case):
    """Each shell finds its completion file when the user completes vublk for the first time."""
    root, _ = install(case)
    share = one(root, 'bash-completion/completions/vublk').parent.parent.parent
    functions = one(root, '_vublk').parent
    check(functions.relative_to(share) == pathlib.Path('zsh/site-functions'), f'{functions}')
    environment = {**os.environ, 'HOME': str(case.folder), 'XDG_DATA_DIRS': f'{share}:/usr/share',
                   'PATH': f'{one(root, "bin/vublk").parent}:/usr/bin:/bin'}
    loads = {
        'bash': ['bash', '--norc', '-c', '. /usr/share/bash-completion/bash_completion; _completion_loader vublk; complete -p vublk'],
        'zsh': ['zsh', '-fc', f'fpath=({functions} $fpath); autoload -U compinit; compinit -u -D; print $_comps[vublk]'],
        'fish': ['fish', '-c', 'complete -C "vublk ser"'],
    }
    for shell, command in loads.items():
        peer.need(shell)
        if shell == 'bash' and not os.path.exists('/usr/share/bash-completion/bash_completion'):
            raise peer.Skip('no bash-completion here')
        told = case.run(command, env=environment)
        wanted = {'bash': 'complete -F _vublk vublk', 'zsh': '_vublk', 'fish': 'serve\tServe a file'}[shell]
        check(wanted in told, f'{shell}: {told}')


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


CASES = [headers_stand_alone, programs_build, engine_builds, engine_options, unfit_engines, engine_ignores_read_only, readme_program, readme_doors,
         no_other_development_files, examples, units, python_package, the_program_finds_its_library, nbdkit_plugin, described_backend, shell_completion,
         make_installs_the_product,
         make_demo_builds_the_tool, manual_pages]

if __name__ == '__main__':
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    sys.exit(peer.main(CASES, sys.argv[3:]))
