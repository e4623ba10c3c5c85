"Run, test and check the notebooks: `python .ci/notebooks.py {run,test,readme,check} --help`"
import argparse, hashlib, json, os, re, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter
from nbdev.config import get_config
from nbdev.doclinks import nbglob

cfg = get_config()
root, nbs = Path(cfg.config_path), Path(cfg.config_path)/cfg.nbs_path.name
skipped = set(cfg.tst_flags.split())
tools = Path(sys.executable).parent # nbdev's commands of this very environment

quiet = dict(TQDM_DISABLE='1', HF_HUB_DISABLE_PROGRESS_BARS='1', HF_DATASETS_DISABLE_PROGRESS_BARS='1')
fast = dict(MALLOC_MMAP_MAX_='0', MALLOC_TRIM_THRESHOLD_=str(2**31)) # what `core.keep_freed_memory` does, from the start

def notebooks(names=()):
    "The notebooks called `names` (number, stem or path; all of them without names), in the order they are read"
    found = sorted((Path(f).resolve() for f in nbglob(nbs, as_path=True)), key=lambda f: (f.parent != nbs, f))
    called = lambda f: (f.stem, *(m.groups() if (m := re.fullmatch(r'(\d+[a-z]?)_(.+)', f.stem)) else ()))
    chosen = [f for f in found if not names or any(n in called(f) or Path(n).resolve() == f for n in names)]
    if not chosen: sys.exit(f'no notebook found for {" ".join(names) or nbs}')
    return chosen

def directives(source):
    return {m[1]: m[2].strip() for m in re.finditer(r'^#\|\s*([\w-]+):?(.*)$', source, re.M)}

WIDGETS, VIEW = 'application/vnd.jupyter.widget-state+json', 'application/vnd.jupyter.widget-view+json'

def stable_widgets(nb, name):
    "Keep the widgets that are shown, and number them in the order in which they are reached: their own ids are random"
    state = nb['metadata'].get('widgets', {}).get(WIDGETS, {}).get('state', {})
    reached, ahead = {}, [o['data'][VIEW]['model_id'] for c in nb.cells for o in c.get('outputs', []) if VIEW in o.get('data', {})][::-1]
    while ahead:
        model = ahead.pop()
        if model in reached or model not in state: continue
        reached[model] = state[model]
        ahead += re.findall(r'IPY_MODEL_([0-9a-f]{32})', json.dumps(state[model], sort_keys=True))[::-1]
    if reached: nb['metadata']['widgets'][WIDGETS]['state'] = reached
    else: nb['metadata'].pop('widgets', None)
    text = json.dumps(nb)
    for i, model in enumerate(reached): text = text.replace(model, hashlib.md5(f'{name}-{i}'.encode()).hexdigest())
    return nbformat.from_dict(json.loads(text))

def tidy(nb):
    "Drop what differs from run to run: progress bars, timings, our own tags"
    for c in nb.cells:
        for key in ('tags', 'execution'): c.metadata.pop(key, None)
        if c.cell_type == 'code': c.outputs = [o for o in c.outputs if o.get('name') != 'stderr' and not re.search(r'\d+%\|', str(o.get('data', {}).get('text/plain', '')))]
    return nb

def run_one(fn, flags=()):
    nb = nbformat.read(fn, as_version=4)
    for c in nb.cells:
        d = directives(c.source) if c.cell_type == 'code' else {}
        if d.get('eval', '').lower() == 'false' or (skipped - set(flags)) & d.keys():
            c.metadata['tags'] = ['skip-execution']
    kept = {id(c): list(c.outputs) for c in nb.cells if 'skip-execution' in c.metadata.get('tags', []) or c.get('outputs') and 'measured' in directives(c.source).keys() - set(flags)}
    NotebookClient(nb, timeout=7200, kernel_name='python3', coalesce_streams=True, resources={'metadata': {'path': str(fn.parent)}}).execute()
    for c in nb.cells:
        if id(c) in kept: c.outputs = kept[id(c)]
    nbformat.write(stable_widgets(tidy(nb), fn.name), fn)
    subprocess.run([tools/'nbdev_clean', '--fname', str(fn)], check=True)

def run(args):
    os.environ.pop('MPLBACKEND', None)
    os.environ.update(quiet | fast)
    for fn in notebooks(args.names):
        start = time.time(); run_one(fn, args.flags.split())
        print(f'ran {fn.relative_to(root)} in {time.time()-start:.0f} s', flush=True)

def test_one(fn, flags):
    start = time.time()
    env = dict(os.environ, MPLBACKEND='agg', OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '1'), **quiet, **fast)
    r = subprocess.run([tools/'nbdev_test', '--path', str(fn), '--n_workers', '0', '--flags', flags],
                       capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    print(f'{"FAIL" if r.returncode else "ok  "} {fn.relative_to(nbs)} {time.time()-start:.0f} s', flush=True)
    return r

def test(args):
    longest_first = notebooks(args.names)[::-1] # late chapters test what is built on all others
    with ThreadPoolExecutor(args.workers) as pool: results = list(pool.map(lambda f: test_one(f, args.flags), longest_first))
    failed = [r for r in results if r.returncode]
    for r in failed: print(r.stdout + r.stderr)
    print(f'{len(results)-len(failed)} passed, {len(failed)} failed')
    sys.exit(bool(failed))

def readme_text():
    "README.md from index.ipynb: hidden cells and directives go, links to notebooks and images lead to GitHub"
    nb = nbformat.read(nbs/'index.ipynb', as_version=4)
    nb.cells = [c for c in nb.cells if 'hide' not in directives(c.source)]
    nb.metadata['language_info'] = {'name': 'python'}
    body, _ = MarkdownExporter().from_notebook_node(nb)
    at = f'{cfg.user}/{cfg.repo}', f'{cfg.branch}/{cfg.nbs_path.name}'
    body = re.sub(r'\]\((?!https?:)([\w/]+\.ipynb)\)', rf'](https://github.com/{at[0]}/blob/{at[1]}/\1)', body)
    return re.sub(r'\]\((images/[\w.]+)\)', rf'](https://raw.githubusercontent.com/{at[0]}/{at[1]}/\1)', body).strip() + '\n'

def readme(args): (root/'README.md').write_text(readme_text())

COURSE = {'a Colab badge': 'colab-badge.svg', 'what its reader will know': '**At the end', 'a summary': '## Summary', 'an exercise': '**Exercise', 'a folded solution': '<details><summary>Solution</summary>', 'the next step': '\nNext: '}

def missing(nb):
    "What a chapter lacks that its readers rely on"
    prose = '\n'.join(c.source for c in nb.cells if c.cell_type == 'markdown')
    yield from (what for what, mark in COURSE.items() if mark not in prose)
    drawn = (c for c in nb.cells if any('image/png' in o.get('data', {}) or 'image/jpeg' in o.get('data', {}) for o in c.get('outputs', [])))
    yield from (f'alt text: {c.source[:60]!r}' for c in drawn if 'fig-alt' not in directives(c.source))

def check(args):
    "Notebooks are clean and complete, the library is what they export, README.md is what index.ipynb says, and no output names a machine's path"
    before = {f: f.read_bytes() for f in [*notebooks(), *root.glob('pacl_nb/**/*.py')]}
    for f in root.glob('pacl_nb/**/*.py'):
        if f.name != '__init__.py': f.unlink()
    for command in ('nbdev_clean', 'nbdev_export'): subprocess.run([tools/command], check=True, cwd=root)
    after = {f: f.read_bytes() for f in [*notebooks(), *root.glob('pacl_nb/**/*.py')]}
    wrong = [f'{f.relative_to(root)}: not in sync, run nbdev_clean and nbdev_export' for f in sorted(before.keys() | after.keys()) if before.get(f) != after.get(f)]
    if (root/'README.md').read_text() != readme_text(): wrong.append('README.md: not in sync, run `python .ci/notebooks.py readme`')
    for f in notebooks():
        raw = f.read_text()
        if len(raw) > 1_000_000: wrong.append(f'{f.relative_to(root)}: {len(raw)//1000} kB, the limit is 1 MB')
        if re.search(r'[\s"\'(](/root|/home|/tmp|/Users|C:\\\\)[/\\]', raw): wrong.append(f'{f.relative_to(root)}: an output names a path of one machine')
        if f.stem != 'index': wrong += [f'{f.relative_to(root)}: lacks {what}' for what in missing(nbformat.reads(raw, as_version=4))]
        if '"output_type": "error"' in raw: wrong.append(f'{f.relative_to(root)}: a saved output is an error')
    print('\n'.join(wrong) or 'notebooks, library and README are in sync')
    sys.exit(bool(wrong))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for f, text in ((run, 'execute notebooks and save their outputs'), (test, 'run the tests of each notebook in a process of its own'),
                    (readme, 'write README.md from index.ipynb'), (check, 'fail where notebooks, library and README differ')):
        p = commands.add_parser(f.__name__, help=text); p.set_defaults(f=f)
        if f in (run, test):
            p.add_argument('names', nargs='*', help='numbers, names or paths; all notebooks without any')
            p.add_argument('--flags', default='', help=f'also run cells with these flags, of: {cfg.tst_flags}' + (', and with `measured` save what was timed anew' if f is run else ''))
        if f is test: p.add_argument('--workers', type=int, default=min(os.cpu_count(), 4), help='notebooks tested at once')
    args = parser.parse_args()
    args.f(args)
