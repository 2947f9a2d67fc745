# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rates of back-ends and clients, row by row (rates_rows.py), of what systems.py has. What
is compared takes turns, round after round; medians of the rounds are compared.
"""
import collections
import contextlib
import statistics

import peer
import rates_rows
import systems

# The end of one duel for one goal. `is_met` is None where nothing could be compared.
Verdict = collections.namedtuple('Verdict', 'row point ours theirs metric values ratio bound is_met')

METRICS = {
    'iops': 'rate', 'backend_us': 'CPU of the back-end', 'client_us': 'CPU of the client',
    'client_instructions': "instructions of the client", 'backend_instructions': 'instructions of the back-end',
}


class Figures:
    """All that was measured, by entry."""

    def __init__(self):
        self.samples = collections.defaultdict(list)
        self.costs = {}

    def values(self, entry, metric):
        cost = getattr(self.costs.get(entry), metric, None)
        if cost is not None:
            return [cost]
        return [value for sample in self.samples[entry] if (value := getattr(sample, metric, None)) is not None]

    def median(self, entry, metric):
        values = self.values(entry, metric)
        return statistics.median(values) if values else None


def entries_of(point):
    """Each once, in the order of the duels."""
    return list(dict.fromkeys(entry for duel in point.duels for entry in (duel.ours, duel.theirs)))


# --- goals ----------------------------------------------------------------------------

def judge(figures, row, point, duel, goal):
    values = [figures.median(entry, goal.metric) for entry in (duel.ours, duel.theirs)]
    ratio = values[0] / values[1] if None not in values and values[1] else None
    is_least = goal.at_least is not None
    bound = f'>= {goal.at_least}' if is_least else f'<= {goal.at_most}'
    is_met = None if ratio is None else ratio >= goal.at_least if is_least else ratio <= goal.at_most
    return Verdict(row.name, point.title, duel.ours, duel.theirs, goal.metric, values, ratio, bound, is_met)


def judge_duel(figures, row, point, duel):
    """A goal that may be reached instead of the first one is then said to be the one that counts."""
    verdicts = [judge(figures, row, point, duel, goal) for goal in duel.goals]
    for goal, verdict in list(zip(duel.goals, verdicts)):
        if not goal.instead:
            continue
        verdicts.remove(verdict)
        if verdict.is_met and not verdicts[0].is_met:
            verdicts[0] = verdict
    return verdicts


# --- text -----------------------------------------------------------------------------

def number(value, form, unit=''):
    return '-' if value is None else format(value, form) + unit


def entry_line(figures, entry):
    rates = figures.values(entry, 'iops')
    median = {name: figures.median(entry, name) for name in systems.Sample._fields}
    pairs = [f"{number(median[f'backend_{name}'], form)} + {number(median[f'client_{name}'], form)}"
             for name, form in (('us', '.3f'), ('switches', '.4f'))]
    return (f'    {entry.system:16}{entry.client:12}{median["iops"]:11,.0f}/s ({min(rates):,.0f} - {max(rates):,.0f})'
            f'  p50 {median["p50_us"]:.2f} us  p99 {median["p99_us"]:.2f} us  CPU {pairs[0]} us'
            f'  switches {pairs[1]}  peak {number(median["backend_peak_kib"], ",.0f", " KiB")}')


def verdict_line(verdict):
    ends = [name for name in ('system', 'client', 'load')
            if getattr(verdict.ours, name) != getattr(verdict.theirs, name)]
    said = {True: 'met', False: 'NOT met', None: 'not measured'}[verdict.is_met]
    name = 'client' if ends == ['client'] else 'system'
    return (f'      by {getattr(verdict.theirs, name):16}{METRICS[verdict.metric]:28}{number(verdict.ratio, ".2f"):>6}'
            f'  goal {verdict.bound}: {said}')


# --- the part -------------------------------------------------------------------------

def measure_point(tools, stack, options, figures, row, point):
    """Returns the verdicts."""
    entries = [entry for entry in entries_of(point) if not systems.why_not(entry)]
    print(f'  {point.title}', flush=True)
    for _ in range(options.rounds):
        for entry in entries:
            image = tools.image(stack, entry.load.store)
            figures.samples[entry].append(
                systems.measure(tools, entry, image, options.ramp_ms, options.runtime_ms))
    for entry in entries:
        print(entry_line(figures, entry), flush=True)
    verdicts = [verdict for duel in point.duels if duel.theirs in entries
                for verdict in judge_duel(figures, row, point, duel)]
    for verdict in verdicts:
        print(verdict_line(verdict), flush=True)
    return verdicts


def absent(rows):
    """What cannot be measured here and why, each once."""
    reasons = {}
    for row in rows:
        for point in row.points:
            for entry in entries_of(point):
                if reason := systems.why_not(entry):
                    reasons[entry.system if systems.SYSTEMS[entry.system].which else entry.client] = reason
    return reasons


def chosen(options):
    rows = rates_rows.rows([name for name, _ in options.sockets])
    return [row for row in rows if not options.rows or any(word in row.name for word in options.rows)]


def compare_all(case, options):
    for name, path in options.sockets:
        systems.SYSTEMS[name] = systems.listening(path)
    rows, figures, verdicts = chosen(options), Figures(), []
    peer.check(rows, f'no row has a name with {" or ".join(options.rows)}')
    for name, reason in absent(rows).items():
        print(f'  without {name}: {reason}')
    tools = systems.Tools(options, case.folder)
    with contextlib.ExitStack() as stack:
        for row in rows:
            print(f'{row.name}: {row.title}', flush=True)
            for point in row.points:
                verdicts += measure_point(tools, stack, options, figures, row, point)
    return {'verdicts': [verdict._asdict() for verdict in verdicts]}
