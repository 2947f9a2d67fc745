# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The results of the part `rates` (see rates_bench.py) as text, as a table in Markdown, and as a plot made
with gnuplot.
"""
import pathlib
import shutil
import subprocess
import tempfile

METRICS = {'iops': 'rate', 'backend_us': 'CPU of the back-end', 'client_us': 'CPU of the client',
           'backend_instructions': 'instructions of the back-end', 'client_instructions': 'instructions of the client'}
SAID = {True: 'met', False: 'NOT met', None: '-'}


def number(value, form, unit=''):
    return '-' if value is None else format(value, form) + unit


def pair(values, name, form):
    """Returns the values of both ends, as "back-end + client"."""
    return ' + '.join(number(values[f'{end}_{name}'], form) for end in ('backend', 'client'))


def goal_of(verdict):
    return f'{">=" if verdict["is_least"] else "<="} {verdict["bound"]:g}'


# --- text -----------------------------------------------------------------------------

def print_entry(entry):
    median, (low, high) = entry['median'], entry['range']
    print(f'    {entry["system"]:15}{entry["client"]:12}{median["iops"]:11,.0f}/s ({low:,.0f} - {high:,.0f})  '
          f'p50 {median["p50_us"]:.2f} p99 {median["p99_us"]:.2f} us  CPU {pair(median, "us", ".3f")} us  '
          f'switches {pair(median, "switches", ".4f")}  peak {pair(median, "peak_kib", ",.0f")} KiB')
    if entry['costs']:
        print(f'{"":31}instructions {pair(entry["costs"], "instructions", ",.0f")}  '
              f'system calls {pair(entry["costs"], "calls", ".3f")}')


def print_verdict(verdict):
    print(f'      {verdict["ours"]} by {verdict["theirs"]}: {METRICS[verdict["metric"]]} '
          f'{number(verdict["ratio"], ".2f")}, goal {goal_of(verdict)}: {SAID[verdict["is_met"]]}'
          f'{"  (" + verdict["note"] + ")" if verdict["note"] else ""}')


def print_point(point):
    print(f'  {point["title"]}')
    for entry in point['entries']:
        print_entry(entry)
    for verdict in point['verdicts']:
        print_verdict(verdict)
    print(end='', flush=True)


def print_findings(findings):
    for finding in findings:
        goal = '' if finding['limit'] is None else f', goal <= {finding["limit"]:g}: {SAID[finding["is_met"]]}'
        print(f'    {finding["what"]}: {finding["value"]:.6g} {finding["unit"]}{goal}')
    print(end='', flush=True)


def judged(found):
    """Yields each result that has a goal: the row, the result's place in the row, and the verdict or finding."""
    for row in found['rows']:
        for point in row['points']:
            yield from ((row, point['title'], verdict) for verdict in point['verdicts'])
        yield from ((row, finding['what'], finding) for finding in row['findings'] if finding['limit'] is not None)


def print_summary(found):
    ends = [one['is_met'] for _, _, one in judged(found)]
    print(f'\n{ends.count(True)} goals met, {ends.count(False)} not met, {ends.count(None)} not measured')


# --- Markdown -------------------------------------------------------------------------

def verdict_cells(point, verdict):
    """Returns the cells of a verdict, whose metric is a rate or a cost."""
    form = ',.0f' if verdict['metric'] == 'iops' or 'instructions' in verdict['metric'] else '.3f'
    values = [number(value, form) for value in verdict['values']]
    return [f'{point}: {verdict["ours"]} by {verdict["theirs"]}', METRICS[verdict['metric']], *values,
            number(verdict['ratio'], '.2f'), goal_of(verdict), SAID[verdict['is_met']] +
            (f' ({verdict["note"]})' if verdict['note'] else '')]


def finding_cells(finding):
    return [finding['what'], finding['unit'], f'{finding["value"]:.6g}', '', '', f'<= {finding["limit"]:g}',
            SAID[finding['is_met']]]


def table(header, rows):
    return [f'| {" | ".join(header)} |', '|' + '---|' * len(header), *(f'| {" | ".join(row)} |' for row in rows), '']


def goals_table(found):
    lines = []
    for row in found['rows']:
        cells = [finding_cells(one) if 'limit' in one else verdict_cells(place, one)
                 for owner, place, one in judged(found) if owner is row]
        if cells:
            lines += [f'**{row["title"]}** (`{row["name"]}`)', '',
                      *table(['what', 'of', 'ours', 'theirs', 'ratio', 'goal', ''], cells)]
    return lines


def entry_cells(row, point, entry):
    median, costs = entry['median'], entry['costs']
    return [f'{row["name"]}: {point["title"]}', f'{entry["system"]}, {entry["client"]}',
            f'{median["iops"]:,.0f} ({entry["range"][0]:,.0f} - {entry["range"][1]:,.0f})',
            f'{median["p50_us"]:.2f}, {median["p99_us"]:.2f}', pair(median, 'us', '.3f'),
            pair(median, 'switches', '.4f'), pair(costs, 'instructions', ',.0f') if costs else '',
            pair(costs, 'calls', '.3f') if costs else '', number(median['backend_peak_kib'], ',.0f')]


def figures_table(found):
    header = ['row', 'system, client', 'requests a second (range)', 'p50, p99 in us', 'CPU us', 'switches',
              'instructions', 'system calls', 'peak KiB']
    return table(header, [entry_cells(row, point, entry) for row in found['rows'] for point in row['points']
                          for entry in point['entries']])


def markdown(found, about):
    """Returns the results as Markdown. `about` is the time and the machine. Pairs are "back-end + client"."""
    systems = [f'- {name}: {text}' for name, text in found['systems'].items()]
    return '\n'.join([f'{about}; {found["rounds"]} rounds of {found["runtime_ms"]} ms.', '', *systems, '',
                      *goals_table(found), 'All figures, those of a request as back-end + client:', '',
                      *figures_table(found)])


# --- a drawing ------------------------------------------------------------------------

DRAWING = '''set terminal {terminal} size 1000,{height} font 'sans,11' background '#ffffff'
set output '{output}'
set label 1 '{title}' at screen 0.015,screen 0.985 left noenhanced
set tmargin 2.5
set logscale x 2
set xlabel 'ratio of the rates, ours by theirs; the mark is the goal'
set xrange [{low}:{high}]
set yrange [{last}:-0.6]
set xtics nomirror
set grid x
set key off
set style fill solid 0.9 noborder
set ytics noenhanced nomirror
set lmargin 58
set arrow from 1,graph 0 to 1,graph 1 nohead lc rgb '#888888'
plot '{data}' using 2:1:(1):2:($1-0.36):($1+0.36):4:ytic(5) with boxxyerror lc rgb variable, \\
     '' using 3:1:(0):(0.45) with vectors nohead lw 3 lc rgb '#000000', \\
     '' using 3:1:(0):(-0.45) with vectors nohead lw 3 lc rgb '#000000', \\
     '' using ({high}/1.06):1:(sprintf('%.2f', $2)) with labels right
'''
COLOURS = {True: '0x4c9a5b', False: '0xc8553d'}


def bars(found):
    return [(row, place, verdict) for row, place, verdict in judged(found)
            if verdict.get('metric') == 'iops' and verdict['ratio']]


def plot(found, about, output):
    """Draws the results to the file `output`. Returns an empty text, or the reason why this is impossible."""
    chosen = bars(found)
    if not chosen or not shutil.which('gnuplot'):
        return 'there is no rate to draw' if not chosen else 'no gnuplot here'
    lines = [f'{number} {verdict["ratio"]:.4f} {verdict["bound"]} {COLOURS[verdict["is_met"]]} '
             f'"{row["name"]}, {place}, {verdict["ours"]} by {verdict["theirs"]}"'
             for number, (row, place, verdict) in enumerate(chosen)]
    ends = [end for _, _, verdict in chosen for end in (verdict['ratio'], verdict['bound'], 1)]
    with tempfile.NamedTemporaryFile('w', suffix='.data') as data:
        data.write('\n'.join(lines) + '\n')
        data.flush()
        script = DRAWING.format(terminal='pngcairo' if pathlib.Path(output).suffix == '.png' else 'svg', output=output,
                                title=about, data=data.name, height=110 + 22 * len(chosen),
                                low=min(ends) / 1.3, high=max(ends) * 1.6, last=len(chosen) - 0.4)
        done = subprocess.run(['gnuplot'], input=script, text=True, capture_output=True)
    return f'gnuplot: {done.stderr.strip()}' if done.returncode else ''
