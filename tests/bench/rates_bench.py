# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rates of back-ends and clients (systems.py), row by row (rates_rows.py). The systems that are compared
take turns, round after round, and the medians of the rounds are compared. The result is a tree of lists
and dictionaries, which report.py prints and draws.
"""
import collections
import contextlib
import statistics

import costs
import peer
import rates_rows
import report
import systems


class Figures:
    """All measurements of the entries of one point."""

    def __init__(self):
        self.samples, self.costs = collections.defaultdict(list), {}

    def values(self, entry, metric):
        cost = getattr(self.costs.get(entry), metric, None)
        if cost is not None:
            return [cost]
        return [value for sample in self.samples[entry] if (value := getattr(sample, metric, None)) is not None]

    def median(self, entry, metric):
        values = self.values(entry, metric)
        return statistics.median(values) if values else None

    def of(self, entry):
        """Returns the measurements of an entry, for report.py."""
        names = systems.Sample._fields
        rates = self.values(entry, 'iops')
        return {'system': entry.system, 'client': entry.client, 'load': entry.load._asdict(),
                'median': {name: self.median(entry, name) for name in names}, 'range': [min(rates), max(rates)],
                'samples': [sample._asdict() for sample in self.samples[entry]],
                'costs': self.costs[entry]._asdict() if entry in self.costs else None}


def entries_of(point):
    """Returns each entry of the point once, in the order of the duels."""
    return list(dict.fromkeys(entry for duel in point.duels for entry in (duel.ours, duel.theirs)))


# --- goals ----------------------------------------------------------------------------

def names_of(duel):
    """Returns the names by which a report distinguishes the two entries."""
    ours, theirs = duel.ours, duel.theirs
    if ours.load.jobs != theirs.load.jobs:
        return [f'{end.load.jobs} queue{"s" * (end.load.jobs > 1)}' for end in (ours, theirs)]
    return [ours.client, theirs.client] if ours.client != theirs.client else [ours.system, theirs.system]


def judge(figures, duel, goal):
    """Returns the outcome of a goal. Its `is_met` is None if a value is missing."""
    values = [figures.median(entry, goal.metric) for entry in (duel.ours, duel.theirs)]
    ratio = values[0] / values[1] if None not in values and values[1] else None
    is_least = goal.at_least is not None
    bound = goal.at_least if is_least else goal.at_most
    is_met = None if ratio is None else ratio >= bound if is_least else ratio <= bound
    ours, theirs = names_of(duel)
    return {'ours': ours, 'theirs': theirs, 'metric': goal.metric, 'values': values, 'ratio': ratio, 'bound': bound,
            'is_least': is_least, 'is_met': is_met, 'note': ''}


def judge_duel(figures, duel):
    """Returns the verdicts. If the first goal is missed, an alternative decides, which is always reported, too."""
    verdicts = [judge(figures, duel, goal) for goal in duel.goals if not goal.instead]
    for goal in duel.goals:
        if goal.instead:
            other = judge(figures, duel, goal)
            verdicts[0]['note'] = f'{report.METRICS[goal.metric]} {report.number(other["ratio"], ".2f")}'
            if not verdicts[0]['is_met'] and other['is_met']:
                verdicts[0]['is_met'] = True
                verdicts[0]['note'] += f', which is enough (<= {goal.at_most})'
    return verdicts


# --- the part -------------------------------------------------------------------------

def count(tools, figures, entry, image):
    """Counts the costs of an entry. If that is impossible here, only prints the reason."""
    try:
        figures.costs[entry] = costs.count_all(tools, entry, image)
    except peer.Failure as failure:
        print(f'    not counted: {failure}')


def measure_point(tools, stack, options, row, point):
    figures, entries = Figures(), [entry for entry in entries_of(point) if not systems.why_not(entry)]
    images = {entry: tools.image(stack, entry.load.store) for entry in entries}
    for _ in range(options.rounds):
        for entry in entries:
            figures.samples[entry].append(
                systems.measure(tools, entry, images[entry], options.ramp_ms, options.runtime_ms))
    for entry in entries if row.costs and options.costs else []:
        count(tools, figures, entry, images[entry])
    verdicts = [verdict for duel in point.duels if {duel.ours, duel.theirs} <= set(entries)
                for verdict in judge_duel(figures, duel)]
    return {'title': point.title, 'entries': [figures.of(entry) for entry in entries], 'verdicts': verdicts}


def measure_row(tools, stack, options, row):
    print(f'\n{row.name}: {row.title}', flush=True)
    found = {'name': row.name, 'title': row.title, 'points': [], 'findings': []}
    for point in row.points:
        found['points'].append(measure_point(tools, stack, options, row, point))
        report.print_point(found['points'][-1])
    if row.check:
        found['findings'] = row.check(tools)
        report.print_findings(found['findings'])
    return found


def version_of(case, tools, name):
    """Returns the version that a system prints; the socket's path (or '') if scripts/bench does not start it."""
    system = systems.SYSTEMS[name]
    if not system.command:
        return str(system.path or '')
    words = [*system.which.program('qemu-storage-daemon'), '--version'] if system.which else [tools.vublk, '--version']
    return case.run(words, env=systems.environment_of(system)).split('\n')[0]


def legend(case, tools, rows):
    """Prints and returns the version of each system, or the reason why the system is not available here."""
    entries = [entry for row in rows for point in row.points for entry in entries_of(point)]
    found = {}
    for entry in entries:
        reason = systems.why_not(entry)
        name = entry.client if reason and not systems.SYSTEMS[entry.system].which else entry.system
        if name not in found and entry.system != 'none':
            found[name] = f'not here: {reason}' if reason else version_of(case, tools, name)
            print(f'{name}: {found[name]}')
    return found


def chosen(options, rows):
    """Returns the rows that the options name."""
    found = [row for row in rows if not options.rows or any(word in row.name for word in options.rows)]
    peer.check(found, f'no row has {" or ".join(options.rows)} in its name; there are '
               f'{", ".join(row.name for row in rows)}')
    return found


def compare(case, tools, stack, options, rows):
    found = {'rounds': options.rounds, 'runtime_ms': options.runtime_ms, 'systems': legend(case, tools, rows),
             'rows': [measure_row(tools, stack, options, row) for row in rows]}
    report.print_summary(found)
    return found


def compare_all(case, options):
    for name, path in options.sockets:
        systems.SYSTEMS[name] = systems.listening(path)
    rows = chosen(options, rates_rows.rows([name for name, _ in options.sockets]))
    with contextlib.ExitStack() as stack:
        return compare(case, systems.Tools(options, case.folder), stack, options, rows)
