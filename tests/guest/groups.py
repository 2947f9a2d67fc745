# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cases that share a machine: a boot takes seconds, so one boot serves many cases. Each case is a line of
TAP. After a case that failed, the next one gets a new machine.
"""
import shutil
import tempfile
import time

import peer


class Group:
    """Derived classes list their `cases`, each with a text and a method, in the order of execution."""
    cases = []

    def __init__(self, way, load):
        self.way, self.load = way, load
        self.folder = tempfile.mkdtemp(prefix='vublk-')
        self.case = peer.Case(self.folder)

    @classmethod
    def cases_for(cls, way):
        """Returns the cases that are possible with this way."""
        return cls.cases

    def open(self):
        """Creates the machine that the cases share."""

    def last_words(self):
        """Returns the last output of each program: QEMUs, back-ends, and doors."""
        return ''.join(f'\n{" ".join(child.args)[:200]}: {self.case.output(child)[-1000:]}'
                       for child in self.case.children)

    def drop(self):
        """Ends all processes and removes the folder, in any state of the machine."""
        self.case.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class Runner:
    def __init__(self, way, load):
        self.way, self.load = way, load
        self.number, self.failed, self.group = 0, False, None
        self.obstacle = 'ok', ''

    def prepare(self):
        """Prepares the way. If this fails or is skipped, `obstacle` is the outcome of each case."""
        self.obstacle = peer.outcome_of(self.way.prepare)

    def run_case(self, kind, method):
        if self.group is None:
            self.group = kind(self.way, self.load)
            self.group.open()
        getattr(self.group, method)()

    def drop_group(self):
        if self.group:
            self.group.drop()
            self.group = None

    def run_group(self, kind, cases):
        for text, method in cases:
            start = time.monotonic()
            outcome, remarks = self.obstacle
            if outcome == 'ok':
                outcome, remarks = peer.outcome_of(lambda: self.run_case(kind, method))
            if outcome == 'not ok' and self.group:
                # Repeats the reason at the end, because a long text may be cut at its beginning.
                remarks += f'{self.group.last_words()}\n{remarks.splitlines()[0] if remarks else ""}'
            self.number += 1
            name = f'{self.way}: {text} ({time.monotonic() - start:.0f} s)'
            peer.report(self.number, name, outcome, remarks)
            self.failed |= outcome == 'not ok'
            if outcome == 'not ok':
                self.drop_group()
        self.drop_group()


def main(groups, way, load, words, only_list):
    """Runs the cases whose text contains one of the words; without words, all cases. Returns the exit status."""
    wanted = [(kind, [case for case in kind.cases_for(way)
                      if not words or any(word in case[0] for word in words)])
              for kind in groups]
    if only_list:
        print('\n'.join(text for _, cases in wanted for text, _ in cases))
        return 0
    peer.clean_up_at_signals()
    print(f'1..{sum(len(cases) for _, cases in wanted)}')
    runner = Runner(way, load)
    try:
        runner.prepare()
        for kind, cases in wanted:
            runner.run_group(kind, cases)
    finally:
        runner.drop_group()
    return int(runner.failed)
