#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Prints the completion file of a shell: the template, with the tables of the tool inserted.

    generate.py bash|zsh|fish MODULES tables.json TEMPLATE

MODULES is the folder of the engines that are modules.

Key idea: the argument of an option, as --help shows it, says what to complete. `adaptive|off|busy` are
words, `vhost-user:SOCKET` is a word and then a socket, FILE is a file; other capital words are
free text. The result is a list of specifications, which the functions in each template understand:

    adaptive            this word
    @socket             something of this kind; KINDS has them all
    vhost-user:@socket  this word, then something of this kind
    ,                   the value is a list of what follows, separated by commas
"""
import json
import pathlib
import re
import sys

KINDS = {
    'FILE': '@file', 'PATH': '@file', 'SOURCE': '@file', 'DESTINATION': '@file', 'SOCKET': '@socket',
    'GROUP': '@group', 'MODULE': '@module', 'DEVICE': '@device',
}


class Option:
    def __init__(self, row, list_option):
        self.names, self.text, self.argument = row['names'], row['text'], row['argument']
        self.has_value = bool(self.argument) and not row['is_optional']
        self.specs = specs_of(self.argument)
        if '--option' in self.names and list_option:
            self.specs = ['@' + list_option]


class Command:
    def __init__(self, row):
        self.name, self.summary = row['name'], row['summary']
        names = {name for option in row['options'] for name in option['names']}
        # The option that prints the names for -o.
        list_option = next((name for name in ('--list-options', '--list-properties') if name in names), None)
        self.options = [Option(option, list_option) for option in row['options']]
        usage = row['arguments'].split('\n')[0]  # SOCKET COMMAND [NAME[=VALUE]...]; further lines have other uses
        self.operands = [operand_of(self.name, word) for word in usage.split() if word != '--']
        self.repeats = usage.rstrip(']').endswith('...')


def operand_of(command, word):
    """Returns the name of the operand, and the specification of its values."""
    word = word.strip('[].')
    special = {('ctl', 'COMMAND'): '@control', ('ctl', 'NAME[=VALUE'): '@control-argument',
               ('chaos', 'COMMAND'): '@program', ('chaos', 'ARGUMENT'): '@file'}
    return word.split('[')[0], special.get((command, word)) or KINDS.get(word, '')


def specs_of(argument):
    """Returns the specifications for the argument of an option."""
    group = re.fullmatch(r'\[(\w+)\]\((.*)\)', argument)  # [rand](read|write)
    if group:
        words = group[2].split('|')
        return words + [group[1] + word for word in words]
    specs = [','] if ',...|' in argument else []
    for part in argument.split('|'):
        word = part.removesuffix(',...')
        prefixed = re.match(r'([a-z-]+[:=])([A-Z]+)', word)
        if prefixed:
            specs.append(prefixed[1] + KINDS[prefixed[2]])
        elif re.fullmatch(r'[a-z]\w*', word):
            specs.append(word)
        elif word in KINDS:
            specs.append(KINDS[word])
    return specs


def quote(text):
    return "'" + text.replace("'", r"'\''") + "'"


# --- bash ---------------------------------------------------------------------------------


def bash(commands, control):
    lines = [f'_vublk_commands={quote(" ".join(command.name for command in commands))}',
             f'_vublk_control={quote(" ".join(control))}', 'declare -gA _vublk_options=(']
    for command in commands:
        names = [name for option in command.options for name in option.names if name != '-?']
        lines.append(f'\t[{command.name}]={quote(" ".join(names))}')
    lines += [')', 'declare -gA _vublk_values=(']
    for command in commands:
        for option in command.options:
            lines += [f'\t[{quote(f"{command.name} {name}")}]={quote(" ".join(option.specs))}'
                      for name in option.names if option.has_value]
    lines += [')', 'declare -gA _vublk_operands=(']
    for command in commands:
        specs = [spec or '@none' for _, spec in command.operands] + (['...'] if command.repeats else [])
        lines.append(f'\t[{command.name}]={quote(" ".join(specs))}')
    lines += [')', 'declare -gA _vublk_arguments=(']
    lines += [f'\t[{name}]={quote(" ".join(arguments))}' for name, arguments in control.items()]
    return lines + [')']


# --- zsh ----------------------------------------------------------------------------------


def zsh_escape(text):
    return re.sub(r'([\[\]:\\])', r'\\\1', text)


def zsh_value(name, specs):
    """Returns the part of a specification of _arguments that completes a value."""
    action = ' _vublk_value ' + zsh_escape(' '.join(specs)) if specs else ' '
    return f':{zsh_escape(name)}:{action}'


def zsh_option(option, name):
    if not option.argument:
        return quote(f'{name}[{zsh_escape(option.text)}]')
    if not option.has_value:  # an optional value has to be in the same word
        return quote(f'*{name}=-[{zsh_escape(option.text)}]:{zsh_value(option.argument, option.specs)}')
    mark = '=' if name.startswith('--') else '+'
    return quote(f'*{name}{mark}[{zsh_escape(option.text)}]{zsh_value(option.argument, option.specs)}')


def zsh_operands(command):
    for number, (name, spec) in enumerate(command.operands, 1):
        if spec == '@program':  # _vublk_program completes what follows the word --
            yield quote(f'{number}:--: _vublk_value --')
            return
        is_last = number == len(command.operands)
        place = '*' if is_last and command.repeats else str(number)
        yield quote(place + zsh_value(name, [spec] if spec else []))


def zsh(commands, control):
    lines = ['_vublk_commands=(']
    lines += [f'\t{quote(command.name + ":" + zsh_escape(command.summary))}' for command in commands]
    with_program = ' '.join(command.name for command in commands if '@program' in dict(command.operands).values())
    lines += [')', f'_vublk_with_program=({with_program})', f'_vublk_control=({" ".join(control)})', 'typeset -gA _vublk_arguments=(']
    lines += [f'\t{name} {quote(" ".join(arguments))}' for name, arguments in control.items()]
    lines += [')', '', '_vublk_complete() {', '\tcase $1 in']
    for command in commands:
        rows = [zsh_option(option, name) for option in command.options for name in option.names if name != '-?']
        rows += zsh_operands(command)
        lines += [f'\t{command.name})', '\t\t_arguments -s -S : \\', ' \\\n'.join('\t\t\t' + row for row in rows), '\t\t;;']
    return lines + ['\tesac', '}']


# --- fish ---------------------------------------------------------------------------------


def fish_quote(text):
    return "'" + text.replace('\\', '\\\\').replace("'", "\\'") + "'"


def fish_action(specs):
    if specs == ['@file']:
        return ' -F'
    return f' -f -a {fish_quote("(__vublk_value " + " ".join(specs) + ")")}' if specs else ' -f'


def fish_name(name):
    return f'-l {name[2:]}' if name.startswith('--') else f'-s {name[1:]}'


def fish(commands, control):
    lines = [f'set -g __vublk_control {" ".join(control)}', 'function __vublk_arguments', '\tswitch $argv[1]']
    for name, arguments in control.items():
        if arguments:
            lines += [f'\t\tcase {name}', f'\t\t\tprintf \'%s\\n\' {" ".join(arguments)}']
    lines += ['\tend', 'end', 'function __vublk_valued', '\tswitch $argv[1]']
    for command in commands:
        names = [name for option in command.options for name in option.names if option.has_value]
        lines += [f'\t\tcase {command.name}', f'\t\t\tcontains -- $argv[2] {" ".join(names)}'] if names else []
    lines += ['\t\tcase "*"', '\t\t\tfalse', '\tend', 'end', '']
    for command in commands:
        lines.append(f'complete -c vublk -n __vublk_no_command -f -a {command.name} -d {fish_quote(command.summary)}')
        lines.append(f'complete -c vublk -n "__vublk_operand help 1" -f -a {command.name} -d {fish_quote(command.summary)}')
    for command in commands:
        lines += fish_command(command)
    return lines


def fish_command(command):
    for option in command.options:
        names = ' '.join(fish_name(name) for name in option.names if name != '-?')
        value = ' -r' + fish_action(option.specs) if option.has_value else ''
        yield f'complete -c vublk -n "__vublk_command {command.name}" {names}{value} -d {fish_quote(option.text)}'
    for number, (name, spec) in enumerate(command.operands, 1):
        more = '+' if number == len(command.operands) and command.repeats else ''
        if spec:
            yield f'complete -c vublk -n "__vublk_operand {command.name} {number}{more}"{fish_action([spec])}'


def main():
    shell, modules, tables, template = sys.argv[1:]
    tables = json.loads(pathlib.Path(tables).read_text())
    commands = [Command(row) for row in tables['commands']]
    lines = {'bash': bash, 'zsh': zsh, 'fish': fish}[shell](commands, tables['control'])
    text = pathlib.Path(template).read_text()
    print(text.replace('@TABLES@', '\n'.join(lines)).replace('@MODULES@', modules), end='')


if __name__ == '__main__':
    main()
