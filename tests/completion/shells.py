# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Interactive shells that complete command lines.

Key idea: bash and zsh run on a terminal of their own and get real key strokes, so that the word at the
cursor is what the shell's own editor makes of the line. A wrapper in the shell writes the candidates to a
file, and a key writes the resulting line to another.
"""
import os
import pty
import re
import select
import subprocess
import termios
import time
import tty

import peer

TAB, LINE_KEY = '\t', '\x18\x0c'  # control-X control-L writes the line to a file and empties it


class Terminal:
    """A shell on a terminal, which reads what the shell prints and forgets it."""

    def __init__(self, case, command, env):
        self.case = case
        self.ours, theirs = pty.openpty()
        tty.setraw(theirs)
        termios.tcsetwinsize(theirs, (100, 1000))  # room for descriptions
        self.child = subprocess.Popen([*map(str, command)], stdin=theirs, stdout=theirs, stderr=theirs, cwd=case.folder,
                                      env=env, preexec_fn=peer.tie_to_parent, start_new_session=True)
        os.close(theirs)
        self.said = b''

    def send(self, text):
        os.write(self.ours, text.encode())

    def drain(self):
        while select.select([self.ours], [], [], 0)[0]:
            try:
                self.said += os.read(self.ours, 1 << 16)
            except OSError:  # the shell has ended
                return

    def wait_for(self, path):
        """Waits for a file, and returns its text."""
        end = time.monotonic() + peer.LIMIT_S
        while not path.exists():
            select.select([self.ours], [], [], 0.02)
            self.drain()
            ended = self.child.poll() is not None
            peer.check(not ended and time.monotonic() < end, f'the shell wrote no {path.name}: {self.said[-2000:]}')
        return path.read_text()

    def close(self):
        self.child.kill()
        self.child.wait()
        os.close(self.ours)


def environment(case, tool):
    return {'HOME': str(case.folder), 'PATH': f'{tool.parent}:/usr/local/bin:/usr/bin:/bin', 'TERM': 'dumb', 'LC_ALL': 'C.UTF-8',
            'INPUTRC': '/dev/null', 'HISTFILE': '/dev/null', 'XDG_DATA_DIRS': '/nonexistent',
            'VUBLK_ENGINE_PATH': str(case.path('modules'))}


class Edited:
    """A shell with a line editor. Sub-classes have `command`, and the `setup`, which ends with writing the file `ready`."""

    def __init__(self, case, tool, file):
        peer.need(self.command[0])
        self.case = case
        self.line_file, self.words_file = case.path('line'), case.path('words')
        self.terminal = Terminal(case, self.command, environment(case, tool))
        setup = case.path('setup')
        setup.write_text(self.setup.replace('FILE', str(file)).replace('FOLDER', str(case.folder)))
        self.terminal.send(f'. {setup}\r')
        self.terminal.wait_for(case.path('ready'))

    def complete(self, line):
        """Returns the line after TAB, and the candidates with their descriptions."""
        self.line_file.unlink(missing_ok=True)
        self.words_file.unlink(missing_ok=True)
        self.terminal.send(line + TAB)
        self.terminal.send(LINE_KEY)
        result = self.terminal.wait_for(self.line_file).removesuffix('\n')
        text = self.words_file.read_text() if self.words_file.exists() else ''
        errors = self.case.path('errors').read_text()
        peer.check(not errors, f'{self.command[0]} says at "{line}": {errors}')
        return result, dict(row.partition('\t')[::2] for row in text.splitlines() if row)

    def close(self):
        self.terminal.close()


class Bash(Edited):
    command = ['bash', '--norc', '--noprofile', '-i']
    has_descriptions = False
    setup = r"""
PS1=
set +o history
bind 'set bell-style none'
. FILE
record() { _vublk "$@" 2>>FOLDER/errors; printf '%s\n' "${COMPREPLY[@]}" >FOLDER/words; }
complete -F record vublk
record_line() { printf '%s' "$READLINE_LINE" >FOLDER/line.new; mv FOLDER/line.new FOLDER/line; READLINE_LINE=; }
bind -x '"\C-x\C-l": record_line'
: >FOLDER/errors
: >FOLDER/ready
"""


class Zsh(Edited):
    command = ['zsh', '-f', '-i']
    has_descriptions = True
    setup = r"""
PS1=
unsetopt beep autolist automenu
mkdir FOLDER/functions
cp FILE FOLDER/functions/_vublk
fpath=(FOLDER/functions $fpath)
autoload -U compinit
zstyle ':completion:*' list-grouped false
compinit -u -D
compadd() {
	local -a hits texts
	local name
	if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
		builtin compadd "$@"
		return
	fi
	if (($@[(I)-d])); then
		name=${@[$((${@[(i)-d]} + 1))]}
		texts=("${(@P)name}")
	fi
	builtin compadd -A hits -D texts "$@"
	for ((i = 1; i <= $#hits; i++)); do
		print -r -- "$hits[i]"$'\t'"${texts[i]#*-- }" >>FOLDER/words
	done
	builtin compadd "$@"
}
record() { _vublk "$@" 2>>FOLDER/errors }
compdef record vublk
record_line() { print -r -- $BUFFER >FOLDER/line.new; mv FOLDER/line.new FOLDER/line; BUFFER=; }
zle -N record_line
bindkey '^X^L' record_line
bindkey '^I' complete-word
: >FOLDER/errors
: >FOLDER/ready
"""


class Fish:
    """fish has a command that completes a line, so it needs no terminal."""
    has_descriptions = True

    def __init__(self, case, tool, file):
        peer.need('fish')
        self.case = case
        loop = 'while read -l line; complete -C $line; echo END; end'
        self.errors = open(case.path('errors'), 'w+')
        self.child = subprocess.Popen(['fish', '--no-config', '-c', f'source {file}; {loop}'], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=self.errors, text=True, cwd=case.folder, env=environment(case, tool),
                                      preexec_fn=peer.tie_to_parent)

    def complete(self, line):
        """Returns None for the line, and the candidates with their descriptions."""
        self.child.stdin.write(line + '\n')
        self.child.stdin.flush()
        rows = []
        while (row := self.child.stdout.readline().removesuffix('\n')) != 'END':
            peer.check(self.child.poll() is None or row, f'fish has ended at {line}')
            rows.append(row)
        errors = self.case.path('errors').read_text()
        peer.check(not errors, f'fish says at "{line}": {errors}')
        option = re.match(r'--[^=]*=', line.split(' ')[-1])
        return None, {word.removeprefix(option[0] if option else ''): text
                      for word, _, text in (row.partition('\t') for row in rows)}

    def close(self):
        self.child.stdin.close()
        self.child.wait()
        self.child.stdout.close()
        self.errors.close()


ALL = {'bash': Bash, 'zsh': Zsh, 'fish': Fish}
