"Build and check the documentation site without Quarto: `python .ci/docs.py {build,check,browse,lab} --help`"
import argparse, contextlib, functools, http.server, json, os, re, shutil, socket, subprocess, sys, tarfile, tempfile, threading, time, warnings
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import nbformat, yaml

from notebooks import VIEW, cfg, directives, nbs, root, skipped

base = f'{cfg.doc_host}{cfg.doc_baseurl}'.rstrip('/') + '/'
SCRIPTS = {'mathjax@3.2.2': r'es5/tex-svg\.js', 'requirejs@2.3.7': r'require\.js', '@jupyter-widgets/html-manager@1.0.14': r'dist/(embed-amd\.js|\w+\.(woff2?|ttf))'} # npm package -> its files
PHONE, DESKTOP = dict(width=390, height=844), dict(width=1280, height=900)

CONF = '''
project = {title!r}
extensions = ['myst_nb']
html_theme = 'sphinx_book_theme'
html_title = {title!r}
html_theme_options = dict(repository_url={git!r}, use_repository_button=True, use_issues_button=True, use_download_button=False, show_toc_level=2)
html_static_path = ['_static']
html_css_files = ['styles.css']
html_js_files = [('site.js', dict(priority=100))]
html_context = dict(default_mode='auto')
html_show_sourcelink = False
html_copy_source = False
nb_execution_mode = 'off'
nb_ipywidgets_js = {widgets!r}
nb_mime_priority_overrides = [('html', 'text/markdown', 5)]
mathjax_path = 'npm/mathjax/es5/tex-svg.js'
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4
suppress_warnings = ['myst.header', 'myst.xref_missing', 'misc.highlighting_failure', 'mystnb.unknown_mime_type', 'config.cache']
'''

SITE_JS = '''// the scripts of widgets lie here, and they ask for maths in the way of MathJax 2
window.require = { baseUrl: new URL('npm/', document.currentScript.src).href };
{
  const hub = { Queue() { if (maths?.typesetPromise) maths.typesetPromise() } };
  let maths;
  Object.defineProperty(window, 'MathJax', { get: () => maths, set: m => { m.Hub ??= hub; maths = m } });
}
'''

WIDGETS = {'npm/requirejs/require.js': {}, 'npm/@jupyter-widgets/html-manager/dist/embed-amd.js': {}}

def vendor(folder):
    "Fetch the scripts for maths and widgets, once; they lie as on a mirror of npm"
    for package, wanted in SCRIPTS.items():
        target = folder/package.rpartition('@')[0]
        if target.exists(): continue
        with tempfile.TemporaryDirectory() as work:
            subprocess.run(['npm', 'pack', '--silent', '--pack-destination', work, package], check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(next(Path(work).glob('*.tgz'))) as tar:
                for member in tar.getmembers():
                    if re.fullmatch(f'package/{wanted}', member.name):
                        file = Path(work)/'chosen'/member.name.removeprefix('package/')
                        file.parent.mkdir(parents=True, exist_ok=True)
                        file.write_bytes(tar.extractfile(member).read())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(Path(work)/'chosen', target)
        for font in target.glob('dist/*.*[2f]'): shutil.copy(font, target.parent) # asked for there, too

def contents():
    "What the sidebar lists: [(section or None, [notebook, ...]), ...]"
    listed = yaml.safe_load((nbs/'sidebar.yml').read_text())['website']['sidebar']['contents']
    return [(e['section'], e['contents']) if isinstance(e, dict) else (None, [e]) for e in listed]

class Pages:
    "Names of pages, and links between them"
    def __init__(self, cache):
        self.read = {f.relative_to(cache).as_posix(): nbformat.read(f, as_version=4) for f in sorted(cache.glob('**/*.ipynb'))}
        self.about = {f: yaml.safe_load(nb.cells[0].source.strip().strip('-')) for f, nb in self.read.items()}
        self.name = {f: (Path(f).parent/Path(a.get('output-file', f)).stem).as_posix() for f, a in self.about.items()}

    def links(self, page, text):
        "Links to notebooks become addresses of pages, which `inwards` makes relative once Sphinx is done"
        def address(m):
            path, anchor = urldefrag(m[1])
            name = self.name.get(os.path.normpath(Path(page).parent/path))
            return f']({base}{name}.html' + (f'#{anchor}' if anchor else '') + ')' if name else m[0]
        return re.sub(r'\]\(([^)\s]+)\)', address, text)

def inwards(out):
    "Addresses of the site's own pages become relative"
    for f in out.glob('**/*.html'):
        up = '../'*len(f.relative_to(out).parents[1:])
        said = f.read_text(encoding='utf-8')
        f.write_text(re.sub(rf'(?:reference external" )?href="{re.escape(base)}([^"]*)"', lambda m: ('reference internal" ' if m[0].startswith('ref') else '') + f'href="{up}{m[1]}"', said), encoding='utf-8')

def documented(markdown):
    "What `show_doc` says, as a section with an anchor"
    source = re.search(r'\[source\]\(([^)]+)\)', markdown)
    body = re.sub(r'^---\s*', '', re.sub(r'\[source\][^\n]*\n', '', markdown)).strip()
    name = re.search(r'^#+ (.+)$', body, re.M)[1]
    plain = re.sub(r'```.*?```', lambda m: re.sub(r'\[`?([^`\]]+)`?\]\(http[^)]*\)', r'\1', m[0]), body, flags=re.S)
    head = f'<span id="{name.lower()}"></span>\n\n#### {name}' + (f'\n\n<a class="source" href="{source[1]}">source</a>' if source else '')
    return re.sub(r'^#+ .+$', lambda m: head, plain, count=1, flags=re.M)

def in_order(cells):
    "nbdev documents what a cell defines from last to first: the other way round"
    kept = []
    for c in cells:
        if 'show_doc(' not in c.source or not kept or 'show_doc(' not in kept[-1][0].source: kept.append([])
        kept[-1].insert(0, c)
    return sum(kept, [])

def page(pages, file):
    "The notebook as MyST-NB reads it"
    nb, about = pages.read[file], pages.about[file]
    cells = [nbformat.v4.new_markdown_cell(f'# {about["title"]}\n\n*{about.get("description", "")}*')]
    for c in in_order(nb.cells[1:]):
        d = directives(c.source) if c.cell_type == 'code' else {}
        shown = [o.get('data', {}).get('text/markdown', '') for o in c.get('outputs', [])]
        if d.get('echo') == 'false' and any(shown): c = nbformat.v4.new_markdown_cell(documented(shown[0]) if 'show_doc(' in c.source else shown[0])
        elif c.cell_type == 'code':
            c.metadata = nbformat.from_dict(dict(tags=['remove-input'] if d.get('echo') == 'false' else [], **({'mystnb': {'image': {'alt': json.loads(d['fig-alt'])}}} if 'fig-alt' in d else {})))
            c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M)
            if not c.source.strip() and not c.outputs: continue
        if c.cell_type == 'markdown':
            if 'AUTOGENERATED' in c.source: continue
            notebook = f'{cfg.git_url}/blob/{cfg.branch}/{cfg.nbs_path.name}/{file}'
            c.source = re.sub(r'\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)', rf'[Open in Colab](\1) · [the notebook]({notebook})', c.source)
            c.source = pages.links(file, c.source)
        cells.append(c)
    nb.cells = cells
    return nb

def build(args):
    "Write the site"
    from nbdev.serve import proc_nbs
    out, work = root/args.out, root/'_site_src'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        pages = Pages(proc_nbs(n_workers=0, force=True))
    sections = contents()
    listed = [f for _, files in sections for f in files]
    if wrong := set(listed) ^ set(pages.read): sys.exit(f'nbs/sidebar.yml and the notebooks differ: {", ".join(sorted(wrong))}')
    shutil.rmtree(work, ignore_errors=True)
    (work/'_static').mkdir(parents=True)
    shutil.copytree(nbs/'images', work/'images')
    shutil.copy(nbs/'styles.css', work/'_static')
    if not args.bare:
        vendor(root/'_vendor')
        shutil.copytree(root/'_vendor', work/'_static'/'npm')
    (work/'_static'/'site.js').write_text(SITE_JS)
    for file in pages.read:
        nb = page(pages, file)
        if file == 'index.ipynb':
            trees = ['```{toctree}\n:hidden:\n' + (f':caption: {section}\n' if section else '') + '\n' + '\n'.join(f'/{pages.name[f]}' for f in files) + '\n```' for section, files in sections if section]
            nb.cells.append(nbformat.v4.new_markdown_cell('\n\n'.join(trees)))
        target = work/f'{pages.name[file]}.ipynb'
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, target)
    (work/'conf.py').write_text(CONF.format(title=cfg.title, git=cfg.git_url, widgets={} if args.bare else WIDGETS))
    subprocess.run([sys.executable, '-m', 'sphinx', '-b', 'html', '-q', '-j', str(os.cpu_count()), '-d', str(work/'.doctrees'), str(work), str(work/'_build'/'html')], check=True)
    inwards(work/'_build'/'html')
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(work/'_build'/'html', out)
    print(out/'index.html')

def html_files(out): return sorted(f for f in out.glob('**/*.html') if '_static' not in f.parts)

def check(args):
    "Links, anchors, files, alt texts, and nothing from the network: what can be seen without a browser"
    from bs4 import BeautifulSoup
    out, wrong, counted = root/args.out, [], 0
    soups = {f: BeautifulSoup(f.read_text(encoding='utf-8'), 'html.parser') for f in html_files(out)}
    if not soups: sys.exit(f'{args.out}: no site; build it first')
    ids = {f: {t['id'] for t in s.find_all(id=True)} | {t['name'] for t in s.find_all('a', attrs={'name': True})} for f, s in soups.items()}
    for f, soup in soups.items():
        name = f.relative_to(out)
        for tag, key in (('a', 'href'), ('img', 'src'), ('script', 'src'), ('link', 'href')):
            for t in soup.find_all(tag, attrs={key: True}):
                path, anchor = urldefrag(t[key].split('?')[0] if not urlparse(t[key]).scheme else t[key])
                counted += 1
                if urlparse(path).scheme or path.startswith('//'):
                    if tag != 'a' and not path.startswith('data:') and t.get('rel') not in (['canonical'],): wrong.append(f'{name}: {tag} from the network: {path}')
                    continue
                target = f if not path else (f.parent/unquote(path)).resolve()
                if target.is_dir(): target = target/'index.html'
                if '/npm/' in path and not (out/'_static'/'npm').exists(): continue # a bare site
                if not target.exists(): wrong.append(f'{name}: {t[key]} leads nowhere')
                elif anchor and target.suffix == '.html' and unquote(anchor) not in ids[target]: wrong.append(f'{name}: {t[key]}: no such anchor')
        for t in soup.find_all('img'):
            alt = t.get('alt', '')
            if not alt or alt == t.get('src') or re.match(r'(_images|\.\./_images)', alt): wrong.append(f'{name}: a figure without alt text: {t.get("src")}')
        if re.search(r'\{target=|\[source\]\(|:::', soup.get_text()): wrong.append(f'{name}: markup that was not read')
    print('\n'.join(dict.fromkeys(wrong)) or f'{len(soups)} pages, {counted} links and files: all there')
    sys.exit(bool(wrong))

@contextlib.contextmanager
def served(folder):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f'http://127.0.0.1:{server.server_port}/'
    finally: server.shutdown()

@contextlib.contextmanager
def browser():
    from playwright.sync_api import sync_playwright
    chromium = next((p for n in ('chromium', 'chromium-browser', 'google-chrome') if (p := shutil.which(n))), None)
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--no-sandbox']) # without one of the system: playwright's own
        try: yield b
        finally: b.close()

TOO_WIDE = '''() => { const w = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= w + 1) return [];
  return [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > w + 1).slice(0, 3).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40)); }'''

def faults(tab, url, name):
    "What is wrong with a page"
    said = []
    tab.on('console', lambda m: said.append(f'console: {m.text}') if m.type == 'error' else None)
    tab.on('pageerror', lambda e: said.append(f'error: {e}'))
    tab.on('response', lambda r: said.append(f'{r.status}: {r.url}') if r.status >= 400 else None)
    tab.route('**/*', lambda r: r.continue_() if r.request.url.startswith((url, 'data:', 'blob:')) else (said.append(f'network: {r.request.url}'), r.abort()))
    tab.goto(url + name, wait_until='load')
    if tab.locator('.math').count():
        try: tab.wait_for_function("() => [...document.querySelectorAll('.math')].every(m => m.querySelector('mjx-container'))", timeout=20000)
        except Exception: said.append('maths is not typeset')
        if tab.locator('mjx-merror, [data-mjx-error]').count(): said.append(f'an equation has an error: {tab.locator("[data-mjx-error]").first.get_attribute("data-mjx-error")}')
    wanted = tab.locator(f'script[type="{VIEW}"]').count()
    if wanted:
        try: tab.wait_for_function(f"() => document.querySelectorAll('.widget-subarea, .jupyter-widgets').length >= {wanted}", timeout=20000)
        except Exception: said.append(f'{wanted} widgets are not drawn')
    flat = tab.evaluate("() => [...document.querySelectorAll('main img')].filter(i => !i.naturalWidth).map(i => i.src)")
    return said + [f'a figure without a size: {i}' for i in flat] + [f'too wide: {w}' for w in tab.evaluate(TOO_WIDE)]

def shot(args, of, name, **options):
    if args.shots: of.screenshot(path=root/args.shots/f'{name.replace("/", "_")}.png', **options) # makes the folder

def browse(args):
    "Every page in Chromium, on a desktop and on a phone: errors, missing files, maths, figures, widgets, width; then the search"
    out, wrong, seen = root/args.out, [], 0
    names = [n for n in (f.relative_to(out).as_posix() for f in html_files(out)) if not args.names or any(w in n for w in args.names)]
    with served(out) as url, browser() as chromium:
        for kind, viewport in (('desktop', DESKTOP), ('phone', PHONE)):
            context = chromium.new_context(viewport=viewport)
            for name in names:
                tab = context.new_page()
                wrong += [f'{kind}, {name}: {said}' for said in faults(tab, url, name)]
                shot(args, tab, f'{kind}_{name}', full_page=kind == 'phone' and name == 'index.html')
                tab.close(); seen += 1
            context.close()
        tab = chromium.new_page()
        tab.goto(url + 'search.html?q=partition')
        try: tab.wait_for_function("() => document.querySelectorAll('#search-results li a').length > 2", timeout=20000)
        except Exception: wrong.append('search: partition is not found')
        tab.goto(url + 'index.html')
        before = tab.evaluate("() => getComputedStyle(document.body).backgroundColor")
        tab.evaluate("() => { document.documentElement.dataset.theme = 'dark' }")
        if tab.evaluate("() => getComputedStyle(document.body).backgroundColor") == before: wrong.append('dark mode changes nothing')
    print('\n'.join(dict.fromkeys(wrong)) or f'{seen} pages looked at, desktop and phone; search and dark mode work')
    sys.exit(bool(wrong))

def without_flagged(nb):
    "As far as the last widget, and without cells that take long"
    if not any('import ipywidgets' in c.source for c in nb.cells): return nbformat.v4.new_notebook()
    used = [i for i, c in enumerate(nb.cells) if any(VIEW in o.get('data', {}) for o in c.get('outputs', []))]
    nb.cells = [c for c in nb.cells[:used[-1] + 1] if not directives(c.source).keys() & skipped] if used else []
    for c in nb.cells:
        if c.cell_type == 'code': c.outputs, c.execution_count = [], None
    return nb

SHOWN = '''cell => [...cell.querySelectorAll('.widget-output, .widget-html, .widget-image')].map(e => e.innerHTML + (e.src || '')).join()'''
FAILED = '[data-mime-type="application/vnd.jupyter.error"]'
FRESH = f'''([cell, before]) => ({SHOWN})(cell) !== before'''

KNOBS = dict(slider='.noUi-handle', list='select', toggle='.widget-toggle-button, .widget-toggle-buttons button:not(.mod-active), .widget-checkbox input')

def move(kind, knob):
    "One step on a slider, another entry of a list, or a click"
    if kind == 'slider':
        knob.focus()
        knob.press('ArrowRight' if float(knob.get_attribute('aria-valuenow')) < float(knob.get_attribute('aria-valuemax')) else 'ArrowLeft')
    elif kind == 'list': knob.select_option(index=1 if knob.evaluate('k => k.selectedIndex') == 0 else 0)
    else: knob.click()

def lab(args):
    "In JupyterLab, move every slider, choose in every list and press every toggle: does what is shown change?"
    wrong, driven = [], []
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as stack:
        work = Path(work)
        shutil.copytree(nbs, work/'nbs', ignore=shutil.ignore_patterns('.*'))
        found = [f for f in sorted((work/'nbs').glob('**/*.ipynb')) if not args.names or any(w in f.name for w in args.names)]
        files = [f for f in found if (nb := without_flagged(nbformat.read(f, as_version=4))).cells and not nbformat.write(nb, f)]
        for plugin, chosen in (('notebook-extension/tracker', dict(windowingMode='none')), ('apputils-extension/notification', dict(fetchNews='false'))):
            file = work/'settings'/'@jupyterlab'/f'{plugin}.jupyterlab-settings'
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(chosen))
        with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
        env = dict(os.environ, JUPYTERLAB_SETTINGS_DIR=str(work/'settings'), OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TQDM_DISABLE='1')
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}', '--IdentityProvider.token=', f'--ServerApp.root_dir={work/"nbs"}'],
                                  env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(server.terminate)
        chromium = stack.enter_context(browser())
        for _ in range(120):
            with socket.socket() as s:
                if not s.connect_ex(('127.0.0.1', port)): break
            time.sleep(.5)
        for f in files:
            name = f.relative_to(work/'nbs').as_posix()
            tab = chromium.new_page(viewport=dict(width=1400, height=1000))
            tab.goto(f'http://127.0.0.1:{port}/lab/tree/{name}?reset')
            tab.wait_for_selector('.jp-Notebook .jp-Cell', timeout=120000)
            tab.wait_for_selector('text=/[|] Idle/', timeout=120000)
            tab.get_by_role('menuitem', name='Run', exact=True).click()
            tab.get_by_role('menuitem', name='Run All Cells', exact=True).click()
            n = sum(c.cell_type == 'code' and bool(c.source.strip()) for c in nbformat.read(f, as_version=4).cells)
            tab.wait_for_function(f"() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].filter(p => /\\[\\d+\\]/.test(p.textContent)).length >= {n} || document.querySelector('{FAILED}')", timeout=600000)
            if tab.locator(FAILED).count(): wrong.append(f'{name}: a cell fails: {tab.locator(FAILED).first.inner_text()[-300:]}')
            cells = tab.locator('.jp-CodeCell:has(.jupyter-widgets)')
            for cell, kind, knob in [(cell, kind, knob) for cell in cells.all() for kind, selector in KNOBS.items() for knob in cell.locator(selector).all()]:
                knob.scroll_into_view_if_needed()
                before, start = cell.evaluate(SHOWN), time.perf_counter()
                move(kind, knob)
                try: tab.wait_for_function(FRESH, arg=[cell.element_handle(), before], timeout=15000, polling=10)
                except Exception: wrong.append(f'{name}: a {kind} changes nothing')
                driven.append((name, kind, time.perf_counter() - start))
                tab.wait_for_timeout(400)
            if all(n != name for n, *_ in driven): wrong.append(f'{name}: no widget with anything to move')
            shot(args, cells.last, f'lab_{f.stem}')
            tab.close()
    for name, kind, seconds in driven: print(f'{name}: {kind}, {1000*seconds:.0f} ms from key to picture')
    print('\n'.join(wrong) or f'{len(driven)} sliders, lists and toggles change what is shown')
    sys.exit(bool(wrong or not driven))

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    for f, text in ((build, 'write the site'), (check, 'links, anchors, alt texts; no browser'), (browse, 'every page in Chromium'), (lab, 'every widget in JupyterLab, in Chromium')):
        p = commands.add_parser(f.__name__, help=text); p.set_defaults(f=f)
        if f is not lab: p.add_argument('--out', default='_site', help='folder of the site')
        if f is build: p.add_argument('--bare', action='store_true', help='without the scripts for maths and widgets, which npm fetches')
        if f in (browse, lab):
            p.add_argument('names', nargs='*', help='only those whose name contains one of these')
            p.add_argument('--shots', help='folder for screenshots')
    args = parser.parse_args()
    args.f(args)
