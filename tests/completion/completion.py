#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Completion in bash, zsh and fish: what the shells offer is what `vublk --help` says.

    completion.py VUBLK TABLES GENERATE ENGINES BASH-FILE ZSH-FILE FISH-FILE [-l] [-k] [WORD...]

TABLES is the program that prints the tables of the tool; ENGINES the folder of a module. The expected options are
read from --help, which the completion files are not made from.
"""
import json
import pathlib
import re
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / 'tests/harness')]

import peer  # noqa: E402
import shells  # noqa: E402
from peer import check  # noqa: E402
from supervisor import listener  # noqa: E402

VUBLK, TABLES, GENERATE, ENGINES = (pathlib.Path(path).resolve() for path in sys.argv[1:5])
FILES = dict(zip(shells.ALL, (pathlib.Path(path).resolve() for path in sys.argv[5:8])))
# Templates are next to the generator.
TEMPLATE = '{}/vublk.{}.in'


def help_of(*words):
    return subprocess.run([VUBLK, *words, '--help'], capture_output=True, text=True, check=True).stdout


def commands():
    return re.findall(r'^  (\w+)  ', help_of(), re.M)


def options(command):
    """Returns the options in the help of a command, except -?, which is a pattern to most shells."""
    found = set()
    for line in help_of(command).splitlines():
        if re.match(r' +-', line):
            names = re.split(r' {2,}', line.strip())[0]
            found |= set(re.findall(r'(?:^|, )(--?[a-zA-Z][\w-]*)', names))
    return found


def tables():
    return json.loads(subprocess.run([TABLES], capture_output=True, text=True, check=True).stdout)


class Shell:
    """A shell in a folder that has a file, a folder, a socket and the module of an engine."""

    def __init__(self, case, name, file=None):
        case.path('modules').symlink_to(ENGINES)
        case.path('folder').mkdir()
        case.path('image').touch()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(case.path('disk.sock')))
        self.shell = shells.ALL[name](case, VUBLK, file or FILES[name])
        self.name, self.has_descriptions = name, self.shell.has_descriptions

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shell.close()
        self.listener.close()

    def offers(self, line):
        """Returns the candidates, without the / of folders, and their descriptions."""
        _, words = self.shell.complete(line)
        return {word.removesuffix('/'): text for word, text in words.items()}

    def line(self, line):
        """Returns the line after TAB."""
        return self.shell.complete(line)[0]

    def expect_word(self, line, name):
        """After TAB, the shell reads the file's name from the line that ends with its first letter."""
        found = self.line(line + name[0])
        if found is not None:
            told = subprocess.run([self.name, '-c', f'printf %s {found.removeprefix(line)}'], capture_output=True, text=True, check=False)
            check(told.stdout == name, f'{self.name} makes "{found}" of "{line + name[0]}", which is not {name}')

    def expect(self, line, wanted):
        found = set(self.offers(line))
        check(found == set(wanted), f'{self.name} offers for "{line}": {sorted(found)}, not {sorted(wanted)}')


def in_each_shell(function):
    """Returns a case per shell, which calls `function` with the started shell."""
    def case_of(name):
        def run(case):
            with Shell(case, name) as shell:
                function(case, shell)
        return f'{function.__name__}_{name}', run
    return [case_of(name) for name in shells.ALL]


def every_command(case, shell):
    """Each command is offered, also after `help`, by each of its prefixes."""
    all_commands = commands()
    check(set(all_commands) | {'help'} <= set(shell.offers('vublk ')), f'{shell.offers("vublk ")}')
    check({'--help', '--version'} <= set(shell.offers('vublk --')), f'{shell.offers("vublk --")}')
    for prefix in sorted({command[:length] for command in all_commands for length in range(1, len(command))}):
        wanted = {command for command in [*all_commands, 'help'] if command.startswith(prefix)}
        shell.expect(f'vublk {prefix}', wanted)
        if wanted != {'help'}:
            shell.expect(f'vublk help {prefix}', wanted - {'help'})
    shell.expect('vublk nothing --', set())


def every_option(case, shell):
    """Each option of each command is offered, by each prefix with up to four letters, and no other."""
    for command in commands():
        wanted = options(command)
        check({'--help', '--version', '-V'} <= wanted, f'{command} --help has {wanted}')
        long = {name for name in wanted if name.startswith('--')}
        shell.expect(f'vublk {command} -', wanted)
        for prefix in sorted({name[:length] for name in long for length in range(2, 7)}):
            shell.expect(f'vublk {command} {prefix}', {name for name in long if name.startswith(prefix)})


def descriptions(case, shell):
    """zsh and fish show the texts of --help."""
    if not shell.has_descriptions:
        raise peer.Skip(f'{shell.name} shows no descriptions')
    for command in tables()['commands']:
        told = shell.offers('vublk ')[command['name']]
        check(told == command['summary'], f'{command["name"]}: {told}')
        offered = shell.offers(f'vublk {command["name"]} --')
        for option in command['options']:
            long = next(name for name in option['names'] if name.startswith('--'))
            check(offered[long] == option['text'], f'{command["name"]} {long}: {offered[long]!r}, not {option["text"]!r}')


def words_of(argument):
    """Returns the words that an option accepts, if the help names them."""
    group = re.fullmatch(r'\[(\w+)\]\((.*)\)', argument)
    if group:
        return {before + word for before in ('', group[1]) for word in group[2].split('|')}
    words = {word.removesuffix(',...') for word in argument.split('|')}
    return {word for word in words if re.fullmatch('[a-z][a-z0-9]*', word)} if '|' in argument else set()


def valued():
    """Yields (command, name, words) for the options whose help names their words."""
    for command in tables()['commands']:
        for option in command['options']:
            words = words_of(option['argument'])
            for name in option['names'] if words else []:
                yield command['name'], name, words


def every_value(case, shell):
    """The words that an option accepts are offered, in the same word and in the next one."""
    count = 0
    for command, name, words in valued():
        count += 1
        extra = {'ram'} if name == '--engine' else set()  # a module
        shell.expect(f'vublk {command} {name} ', words | extra)
        shell.expect(f'vublk {command} {name}=', words | extra)
        for letter in sorted({word[0] for word in words}):
            shell.expect(f'vublk {command} {name}={letter}', {word for word in words | extra if word[0] == letter})
    check(count >= 8, f'{count} options have words')
    shell.expect('vublk serve --size ', set())
    found = shell.offers('vublk chaos --faults kill,st')
    check(len(found) == 1 and next(iter(found)).endswith('stop'), f'{found}')


def values_are_true(case):
    """The tool accepts the words of its help and no others, as its refusal says."""
    needed = {'serve': ['--socket-path', '/nonexistent/socket', '--size', '1M'], 'chaos': ['/nonexistent', '--', 'true'],
              'ctl': ['/nonexistent', 'trace'], 'bench': ['/nonexistent']}
    for command, name, words in valued():
        refused = case.call([VUBLK, command, *([] if name == '--engine' else ['--engine', 'null'] if command == 'serve' else []),
                             f'{name}=nonsense', *needed[command]])
        check(refused.code == 2, f'{command} {name} accepts nonsense: {refused}')
        told = re.sub(r'.*(must be|use one of)', '', refused.err.partition(', not ')[0])
        said = set(re.findall(r'[a-z_]+', told)) - {'a', 'list', 'of', 'one', 'more', 'or', 'and', 'separated', 'by', 'commas'}
        check(said == words, f'{command} {name}: the help has {sorted(words)}, the refusal {sorted(said)}')


def paths(case, shell):
    """Files, folders and sockets are offered where they fit."""
    check({'image', 'folder', 'disk.sock'} <= set(shell.offers('vublk copy ')) or shell.name == 'bash', 'copy')
    for line in ('vublk info ', 'vublk ctl ', 'vublk bench --verify ', 'vublk attach --id 3 ', 'vublk chaos --through ',
                 'vublk chaos --through=', 'vublk device --chardev ', 'vublk info -o a=b --num-queues 2 ', 'vublk ctl --watch '):
        found = set(shell.offers(line))
        check({'disk.sock', 'folder'} <= found and 'image' not in found, f'{shell.name}, {line}: {found}')
    for line, prefix in (('vublk device --bus ', 'vhost-user:'), ('vublk device --bus=', 'vfio-user:'),
                         ('vublk device --chardev ', 'path=')):
        check(prefix in shell.offers(line), f'{shell.name}, {line}: {shell.offers(line)}')
        found = shell.offers(line + prefix)
        check(any(word.endswith('disk.sock') for word in found) and not any('image' in word for word in found),
              f'{shell.name}, {line + prefix}: {found}')


def names_for_o(case, shell):
    """-o offers the names that the tool lists, also those of the engine and of the bus."""
    def listed(*words):
        return {line.split()[0] for line in case.run([VUBLK, *words]).splitlines()}

    def offered(line):
        return {word.removesuffix('=') for word in shell.offers(line)}

    for command, listing in LISTINGS.items():
        for option in ('-o ', '--option ', '--option='):
            check(offered(f'vublk {command} {option}') == listed(command, listing), f'{shell.name}: {command} {option}')
    check('fill' in offered('vublk serve --engine ram -o '), f'{shell.name}: the option of the module is not offered')
    check('fill' in offered('vublk serve --engine=ram -o '), f'{shell.name}: the option of the module is not offered')
    check('fill' not in offered('vublk serve -o '), f'{shell.name}: the option of a module is offered')
    bus = listed('device', '--bus', 'vhost-user:x', '--list-properties') - listed('device', '--list-properties')
    check(bus and bus <= offered('vublk device --bus vhost-user:x -o '), f'{shell.name}: the bus has {bus}')


def listed_values(command, listing):
    """Returns the words of each name that has a list of words."""
    rows = subprocess.run([VUBLK, command, listing], capture_output=True, text=True, check=True).stdout.splitlines()
    fields = [row.split()[:2] for row in rows]
    return {name: set(words.split('|')) for name, words in fields if '|' in words}


LISTINGS = {'serve': '--list-options', 'device': '--list-properties', 'info': '--list-properties'}


def values_for_o(case, shell):
    """After a name and =, -o offers the words of the name."""
    def offered(line):
        return {word.rpartition('=')[2] for word in shell.offers(line)}

    listed = listed_values('serve', '--list-options')
    check(len(listed) > 5, f'--list-options has the words of {listed}')
    for name, words in listed.items():
        found = offered(f'vublk serve -o {name}=')
        check(found == words, f'{shell.name}: serve -o {name}= offers {found}')
    for option in ('--option ', '--option='):
        check(offered(f'vublk serve {option}cache=') == {'auto', 'direct', 'buffered'}, f'{shell.name}: {option}cache=')
    check(offered('vublk serve -o cache=b') == {'buffered'}, f'{shell.name}: -o cache=b')
    check(offered('vublk device -o shadow=') == {'off', 'on', 'auto'}, f'{shell.name}: -o shadow=')
    check(offered('vublk info -o unflushed=') == {'auto', 'trust', 'fail', 'replay'}, f'{shell.name}: unflushed of info')
    check(offered('vublk device -o unflushed=') == {'auto', 'replay'}, f'{shell.name}: unflushed of device')
    check(offered('vublk device --bus vfio-user:x -o transitional=') == {'on', 'off'}, f'{shell.name}: an option of the bus')
    for value in ('serve -o size=', 'serve -o nothing=', 'device -o queue-size=', 'info -o chardev='):
        shell.expect(f'vublk {value}', set())


def values_for_o_are_true(case):
    """The tool accepts the words that it lists for -o and no others, as its refusal says."""
    socket, memory = case.path('no/socket'), ['--engine', 'memory', '--size', '1M']
    lines = {'serve': ['--socket-path', socket, *memory], 'device': ['--chardev', socket, '--bus', f'vhost-user:{case.path("no/bus")}'],
             'info': [socket]}
    for command, listing in LISTINGS.items():
        for name, words in listed_values(command, listing).items():
            refused = case.call([VUBLK, command, *lines[command], '-o', f'{name}=nonsense'])
            told = re.search(f'{name} must be (.*), not', refused.err)
            said = set(re.findall(r'[a-z_]+', told[1])) - {'or'} if told else None
            check(refused.code and said == words, f'{command} -o {name}: listed are {sorted(words)}, and the refusal is {refused}')
            for word in words:
                check(f'{name} must be' not in case.call([VUBLK, command, *lines[command], '-o', f'{name}={word}']).err,
                      f'{command} refuses -o {name}={word}')


def control_commands(case, shell):
    """Commands of control sockets are offered after the socket, then their arguments."""
    control = tables()['control']
    check({'status', 'drain', 'mirror', 'events'} <= set(control) and 'upgrade' not in control, f'{control}')
    shell.expect('vublk ctl disk.sock ', control)
    shell.expect('vublk ctl --timeout 3 disk.sock s', {name for name in control if name[0] == 's'})
    for name, arguments in control.items():
        found = set(shell.offers(f'vublk ctl disk.sock {name} ')) if arguments else set()
        check(found == set(arguments), f'{shell.name}, {name}: {found}, not {arguments}')


def programs(case, shell):
    """After -- a program and its files are offered."""
    shell.expect('vublk chaos disk.sock ', {'--'} if shell.name != 'x' else set())
    check('--kills' in shell.offers('vublk chaos disk.sock --ki'), 'options follow the socket')
    for line in ('vublk chaos disk.sock -- mkf', 'vublk chaos --kills 3 disk.sock --seed 1 -- mkf'):
        check('mkfifo' in shell.offers(line), f'{shell.name}, {line}: {shell.offers(line)}')
    if shell.name != 'bash':  # readline itself completes files
        check('image' in shell.offers('vublk chaos disk.sock -- cat i'), f'{shell.offers("vublk chaos disk.sock -- cat i")}')


def edited_lines(case, shell):
    """TAB inserts what it should, with a space only where the word is complete."""
    if shell.line('vublk') is None:
        raise peer.Skip(f'{shell.name} completes without a line editor here')
    equals = '=' if shell.name == 'zsh' else ' '
    for line, wanted in (('vublk ser', 'vublk serve '),
                         ('vublk serve --read', 'vublk serve --read-only '),
                         ('vublk serve --blk', f'vublk serve --blk-file{equals}'),
                         ('vublk serve --blk-file im', 'vublk serve --blk-file image '),
                         ('vublk serve --blk-file=im', 'vublk serve --blk-file=image '),
                         ('vublk serve --poll=a', 'vublk serve --poll=adaptive '),
                         ('vublk device --bus=vh', 'vublk device --bus=vhost-user:'),
                         ('vublk device --bus vf', 'vublk device --bus vfio-user:'),
                         ('vublk device --bus=vhost-user:di', 'vublk device --bus=vhost-user:disk.sock '),
                         ('vublk device --chardev path=di', 'vublk device --chardev path=disk.sock '),
                         ('vublk info fol', 'vublk info folder/'),
                         ('vublk info -o read-', 'vublk info -o read-only='),
                         ('vublk info -o unflushed=t', 'vublk info -o unflushed=trust '),
                         ('vublk serve --option=cache=d', 'vublk serve --option=cache=direct '),
                         ('vublk serve --option=ser', 'vublk serve --option=serial='),
                         ('vublk copy ima', 'vublk copy image '),
                         ('vublk chaos disk.sock -- cat im', 'vublk chaos disk.sock -- cat image ')):
        found = shell.line(line)
        check(found == wanted, f'{shell.name} makes "{found}" of "{line}", not "{wanted}"')


def operands(case, shell):
    """Each command is completed after its name, also with more words than it takes, and where there is no tool."""
    for command in commands():
        for line in (f'vublk {command} ', f'vublk {command} word ', f'vublk {command} word word word '):
            shell.offers(line)
    shell.expect('/nonexistent/vublk serve -o ', set())
    case.path('folder/vublk').symlink_to(VUBLK)
    check(shell.offers('~/folder/vublk serve -o ') == shell.offers('vublk serve -o ') != {}, f'{shell.name}: no names for -o')


def hostile_words(case, shell):
    """Nothing is executed: no name of a socket, and no word of the line. Names are inserted with quotes."""
    names = ['a$(touch made)', 'b`touch made`', 'h;touch made', "q'touch made", 'v w', 's>made']
    listeners = [listener(case.path(name)) for name in names]
    for word in ('$(touch made)', '(touch made)', '`touch made`', 'x[$(touch made)]', '"$(touch made)"'):
        for line in (f'vublk info {word}', f'vublk info --num-queues {word} ', f'vublk ctl disk.sock {word} ', f'vublk {word} ',
                     f'vublk serve --engine {word} -o ', f'vublk device --bus={word} -o ', f'{word}/vublk serve -o ',
                     f'vublk serve -o {word}=', f'vublk chaos disk.sock -- {word}', f'vublk chaos disk.sock -- {word} '):
            shell.offers(line)
            check(not case.path('made').exists(), f'{shell.name} executes a word of "{line}"')
    for line in ('vublk info ', 'vublk device --bus vhost-user:', 'vublk chaos --through='):
        check(len(shell.offers(line)) >= len(names), f'{line}: {shell.offers(line)}')
        for name in names:
            shell.expect_word(line, name)
    check(not case.path('made').exists(), f'{shell.name} executes the name of a socket')
    for made in listeners:
        made.close()


def new_rows(case):
    """A new option and a new command in the tables, with awkward descriptions, are offered by each shell."""
    told = tables()
    text = """It's [new]: "$HOME", `id`, \\ and 100 %"""
    told['commands'][0]['options'].append({'names': ['-z', '--zeal'], 'argument': 'high|low', 'is_optional': False, 'text': text})
    told['commands'].append({'name': 'yawn', 'summary': text, 'arguments': 'SOCKET', 'options': [
        {'names': ['--yes'], 'argument': '', 'is_optional': False, 'text': text}]})
    case.path('tables.json').write_text(json.dumps(told))
    for name in shells.ALL:
        folder = case.path(name)
        folder.mkdir()
        own = peer.Case(folder)
        file = case.path(f'file.{name}')
        file.write_text(case.run([GENERATE, name, '/nonexistent', case.path('tables.json'), TEMPLATE.format(GENERATE.parent, name)]))
        with Shell(own, name, file) as shell:
            shell.expect('vublk serve --z', {'--zeal'})
            shell.expect('vublk serve --zeal ', {'high', 'low'})
            shell.expect('vublk serve -z ', {'high', 'low'})
            check('-z' in shell.offers('vublk serve -'), f'{name} does not offer -z')
            shell.expect('vublk ya', {'yawn'})
            shell.expect('vublk yawn --y', {'--yes'})
            check({'disk.sock', 'folder'} <= set(shell.offers('vublk yawn ')), f'{name}: {shell.offers("vublk yawn ")}')
            if shell.has_descriptions:
                told = [shell.offers('vublk serve --z')['--zeal'], shell.offers('vublk yawn --y')['--yes'], shell.offers('vublk ya')['yawn']]
                check(told == [text] * 3, f'{name}: {told}')


CASES = [case for function in (every_command, every_option, descriptions, every_value, paths, names_for_o, values_for_o,
                               control_commands, programs, edited_lines, operands, hostile_words) for case in in_each_shell(function)] + [
    values_are_true, values_for_o_are_true, new_rows]

if __name__ == '__main__':
    if len(sys.argv) < 8:
        sys.exit(__doc__)
    sys.exit(peer.main(CASES, sys.argv[8:]))
