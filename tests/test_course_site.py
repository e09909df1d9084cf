"""The course as a static site: built once from the stored notebooks, without a network; then each page is looked at."""

import html
import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.course_files import BUILD, COURSE, LESSONS, ROOT, figure_tags, read

SITE = COURSE / "site"
# Runs a script where nothing can be reached. Sphinx's workers are forks of this process.
NO_NETWORK = """
import runpy, socket, sys
def refuse(*_):
    raise OSError("the site must be built without a network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LOADED = {  # what a browser fetches by itself: tag, attribute
    ("img", "src"),
    ("img", "srcset"),
    ("script", "src"),
    ("iframe", "src"),
    ("source", "src"),
    ("source", "srcset"),
    ("video", "src"),
    ("audio", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("image", "href"),
    ("use", "href"),
}
LINK_NOT_LOADED = {"prev", "next", "index", "search", "canonical", "author", "copyright"}
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def run_build(out):
    command = [sys.executable, "-c", NO_NETWORK, str(SITE / "build.py"), str(out)]
    return subprocess.run(command, cwd=out.parent, capture_output=True, text=True, encoding="utf-8")


class Page(HTMLParser):
    """What the tests ask about one page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loaded, self.images, self.rel = set(), [], [], [], {}
        self.tags, self.title, self.folded, self.text = Counter(), "", [], []
        self.inside = []  # the tags that are open
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags[tag] += 1
        if "id" in given:
            assert given["id"] not in self.ids or tag in ("path", "symbol"), f"two elements have the id {given['id']}"
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link":
            kinds = set((given.get("rel") or "").split())
            self.rel.update(dict.fromkeys(kinds, given.get("href")))
            (self.links if kinds <= LINK_NOT_LOADED else self.loaded).append(given["href"])
        if tag == "img":
            self.images.append(given)
        self.loaded += [value for name, value in attributes if (tag, name) in LOADED and value]
        self.loaded += re.findall(r"url\(['\"]?([^'\")]+)", given.get("style") or "")
        if tag == "details":
            self.folded.append("")
        if tag not in VOID:
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        if "title" in self.inside and "svg" not in self.inside:
            self.title += data
        if "style" in self.inside:
            self.loaded += re.findall(r"url\(['\"]?([^'\")]+)", data)
        elif "script" not in self.inside:
            self.text.append(("code" if {"pre", "code"} & set(self.inside) else "text", data))
            if "details" in self.inside and "summary" not in self.inside:
                self.folded[-1] += data


class Site:
    def __init__(self, folder):
        self.folder = folder
        self.pages = {path.relative_to(folder).as_posix(): Page(path) for path in sorted(folder.rglob("*.html"))}

    def of(self, source, solved=False):
        return self.pages[f"{'solved/' if solved else ''}{source.stem}.html"]

    def index(self):
        text = (self.folder / "searchindex.js").read_text(encoding="utf-8")
        return json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "the course"  # a name that an address has to quote
    done = run_build(out)
    assert done.returncode == 0, done.stdout + done.stderr
    return Site(out)


# ---- all pages ----


def goes_nowhere(site, page, target):
    """What is wrong with a link of a page, or nothing."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return "" if parts.scheme == "https" and parts.netloc else "not a complete https address"
    path = (site.folder / page).parent / unquote(parts.path) if parts.path else site.folder / page
    path = Path(os.path.normpath(path))
    if not path.is_file():
        return "there is no such file on the site"
    if not path.is_relative_to(site.folder):
        return "that lies outside of the site"
    if path.suffix == ".html" and parts.fragment:
        known = site.pages[path.relative_to(site.folder).as_posix()].ids
        return "" if unquote(parts.fragment) in known else "that page has no such place"
    return ""


def test_every_link_leads_somewhere(site):
    wrong = {}
    for name, page in site.pages.items():
        for target in page.links:
            if trouble := goes_nowhere(site, name, target):
                wrong[name, target] = trouble
    assert wrong == {}
    assert sum(len(page.links) for page in site.pages.values()) > 20 * len(LESSONS)


@pytest.mark.parametrize(
    ("target", "trouble"),
    [
        ("glossary.html#forget-gate", ""),
        ("#three-questions", ""),
        ("solved/../glossary.html", ""),
        ("https://arxiv.org/abs/1503.04069", ""),
        ("glossary.html#forget-goat", "no such place"),
        ("#nowhere", "no such place"),
        ("glossary.ipynb", "no such file"),
        ("../kernels/cell_update.cu", "no such file"),
        ("http://arxiv.org", "complete https"),
        ("//arxiv.org", "complete https"),
        ("file:///etc/hosts", "complete https"),
    ],
)
def test_links_that_lead_nowhere_are_recognised(site, target, trouble):
    found = goes_nowhere(site, f"{LESSONS[0].stem}.html", target)
    assert trouble in found and bool(trouble) == bool(found)


def test_nothing_is_loaded_from_elsewhere(site):
    wrong = []
    for name, page in site.pages.items():
        for target in page.loaded:
            if target.startswith("#"):  # a drawing in this very page
                continue
            parts = urlsplit(target)
            there = (site.folder / name).parent / unquote(parts.path)
            if parts.scheme != "data" and (parts.scheme or parts.netloc or not there.is_file()):
                wrong.append((name, target))
    assert wrong == []
    assert all(page.loaded for page in site.pages.values())  # style sheets at least


def test_style_sheets_load_nothing_from_elsewhere(site):
    for path in site.folder.rglob("*.css"):
        text = re.sub(r"/\*.*?\*/", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", text):
            target = "".join(target)
            assert target.startswith("data:") or (path.parent / urlsplit(target).path).is_file(), (path.name, target)


def test_every_image_has_words_for_those_who_do_not_see_it(site):
    silent = [
        name for name, page in site.pages.items() for image in page.images if not (image.get("alt") or "").strip()
    ]
    assert silent == []


def test_every_page_has_a_title_of_its_own(site):
    titles = Counter(page.title for page in site.pages.values())
    assert [title for title, count in titles.items() if count > 1 or not title.strip()] == []


# ---- the lessons ----


def titled(source):
    return re.search(r"^# # (.+)$", source.read_text(encoding="utf-8"), re.MULTILINE)[1].strip()


def test_each_lesson_has_its_page_and_its_solved_one(site):
    for source in LESSONS:
        for solved in (False, True):
            title = " ".join(site.of(source, solved).title.split())
            assert title.startswith(titled(source).replace("`", "") + (": solved" if solved else "")), source.name


def test_from_page_to_page_in_order(site):
    lessons = [f"{source.stem}.html" for source in LESSONS]
    way = ["index.html", *lessons, "glossary.html", "solved/index.html", *(f"solved/{name}" for name in lessons)]
    for before, after in zip(way, way[1:], strict=False):
        onward = unquote(site.pages[before].rel["next"])
        back = unquote(site.pages[after].rel["prev"])
        assert os.path.normpath(Path(before).parent / onward) == os.path.normpath(after)
        assert os.path.normpath(Path(after).parent / back) == os.path.normpath(before)


def test_each_page_has_the_figures_of_its_notebook(site):
    for source in LESSONS:
        for solved in (False, True):
            stored = [
                tag for cell in read(source, solved).cells if cell.cell_type == "code" for tag in figure_tags(cell)
            ]
            alts = [html.unescape(re.search(r'alt="([^"]*)"', tag)[1]) for tag in stored]
            assert [image["alt"] for image in site.of(source, solved).images] == alts, source.name


def test_hints_solutions_and_answers_are_folded_away(site):
    for source in LESSONS:
        stored = [cell for cell in read(source).cells if cell.source.startswith("<details>")]
        page = site.of(source)
        assert page.tags["details"] == page.tags["summary"] == len(stored) > 0, source.name
        for cell, shown in zip(stored, page.folded, strict=True):
            inside = cell.source.partition("</summary>")[2].removesuffix("</details>")
            inside = re.sub(
                r"```\w*|\$[^$]*\$|\]\([^)]*\)", " ", inside
            )  # fences, formulas and addresses look otherwise
            wanted, found = (set(re.findall(r"[A-Za-z]{3,}", text)) for text in (inside, shown))
            assert wanted <= found, (source.name, wanted - found)


def test_formulas_are_drawn(site):
    for source in [*LESSONS, COURSE / "src" / "glossary.py"]:
        prose = "\n".join(cell.source for cell in read(source).cells if cell.cell_type == "markdown")
        prose = re.sub(r"```.*?```|`[^`]*`|<code>.*?</code>", "", prose, flags=re.DOTALL)
        page = site.of(source)
        assert page.tags["math"] == len(re.findall(r"\$\$[^$]+\$\$|\$[^$]+\$", prose)), source.name
        assert not any("$" in text for kind, text in page.text if kind == "text"), source.name


def test_what_is_not_for_readers_is_gone(site):
    for name, page in site.pages.items():
        everything = "".join(text for _, text in page.text)
        assert "git clone" not in everything and "<details" not in everything, name
    for source in LESSONS:
        assert "from lab import" in "".join(text for kind, text in site.of(source).text if kind == "code")


def test_the_notebooks_can_be_taken_along(site):
    for source in LESSONS:
        for solved in (False, True):
            (target,) = [link for link in site.of(source, solved).links if "_downloads/" in link]
            taken = (site.folder / ("solved" if solved else ".") / unquote(target)).resolve()
            stored = BUILD.notebook_path(source, solved)
            assert taken.name == stored.name and taken.read_bytes() == stored.read_bytes()


def test_the_start_page_leads_to_every_lesson_and_says_how_to_begin(site):
    page = site.pages["index.html"]
    listed = [link for link in page.links if re.fullmatch(r"\d\d_\w+\.html", link)]
    assert list(dict.fromkeys(listed)) == [f"{source.stem}.html" for source in LESSONS]
    everything = "".join(text for _, text in page.text)
    command = re.search(r"<!-- course command -->\n```sh\n(.+)\n```", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert command[1] in everything and "%" not in everything


# ---- the glossary, the files, the search ----


def test_every_term_of_the_glossary_has_its_place(site):
    terms = re.findall(r"^# ### (.+)$", (COURSE / "src" / "glossary.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(terms) > 50
    assert {term.replace(" ", "-") for term in terms} - site.pages["glossary.html"].ids == set()


def test_files_of_the_repository_are_shown_whole(site):
    shown = [name for name in site.pages if re.fullmatch(r"files/.+/.+\.html", name)]
    assert "files/kernels/cell_update.cu.html" in shown and "files/gpulstm/equations.py.html" in shown
    for name in shown:
        path = ROOT / name.removeprefix("files/").removesuffix(".html")
        code = "".join(text for kind, text in site.pages[name].text if kind == "code")
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
        numbered = "".join(f"{number}{line}" for number, line in enumerate(lines, start=1))
        assert re.sub(r"\s", "", numbered) in re.sub(r"\s", "", code), name


def test_the_search_knows_the_words_of_the_lessons(site):
    index = site.index()
    names = index["docnames"]

    def pages_with(stem):
        found = [terms.get(stem, []) for terms in (index["terms"], index["titleterms"])]
        return {names[one] for some in found for one in (some if isinstance(some, list) else [some])}

    lessons = {source.stem for source in LESSONS}
    assert lessons | {"glossary", "index"} <= set(names)
    assert {source.stem for source in LESSONS if source.stem in pages_with("hint")} == lessons  # in summaries
    assert {"03_sigmoid_and_tanh", "glossary"} <= pages_with("overflow")
    assert {"13_cell_kernel", "glossary"} <= pages_with("coalesc")  # words are cut to their stems
    assert not any(name.startswith("solved/") and name != "solved/index" for name in pages_with("hint"))
    assert index["titles"][names.index(LESSONS[0].stem)].startswith("00 · ")


def test_the_search_fetches_nothing_where_pages_may_not(site):
    """Opened from a folder, one page may not read another: browsers refuse it."""
    text = (site.folder / "search.html").read_text(encoding="utf-8")
    scripts = [Path(urlsplit(name).path).name for name in re.findall(r'<script[^>]* src="([^"]+)"', text)]
    for needed in ("searchtools.js", "language_data.js", "searchindex.js"):
        assert needed in scripts
    assert scripts.index("documentation_options.js") < scripts.index("opened_as_a_file.js")


# ---- building ----


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "letter.txt").write_text("dear")
    done = run_build(out)
    assert done.returncode != 0 and "something else than an earlier site" in done.stderr
    assert [path.name for path in out.iterdir()] == ["letter.txt"]


@pytest.fixture
def parts(monkeypatch):
    """The site's own modules."""
    monkeypatch.syspath_prepend(str(SITE))
    import mathml
    import pages

    yield pages, mathml
    for name in ("mathml", "pages"):
        del sys.modules[name]


def test_a_link_to_nothing_stops_the_build_and_is_named(parts, tmp_path):
    pages = parts[0].Pages(tmp_path)
    for target in ("99_nothing.ipynb", "../kernels", "../../outside.md"):
        with pytest.raises(ValueError, match=re.escape(target)):
            pages.address(target, LESSONS[0])


def test_links_become_the_site_s_own_and_code_stays(parts, tmp_path):
    pages = parts[0].Pages(tmp_path)
    lesson, solved = COURSE / "13_cell_kernel.ipynb", COURSE / "solved" / "13_cell_kernel.ipynb"
    kernel = "[its kernel](../kernels/cell_update.cu) `x[i](../kernels/cell_update.cu)`"
    assert pages.markdown(kernel, lesson) == kernel.replace(
        "../kernels/cell_update.cu", "files/kernels/cell_update.cu.md", 1
    )
    assert pages.markdown("[x](../../gpulstm/ops.py)", solved) == "[x](../files/gpulstm/ops.py.md)"
    assert pages.markdown("[x](../glossary.ipynb#gate)", solved) == "[x](../glossary.ipynb#gate)"
    assert pages.links_in_html('<a href="00_welcome.ipynb#x">', lesson) == '<a href="00_welcome.html#x">'
    assert "<math" in pages.markdown("<details><summary>1. Why $x &lt; 3$?</summary>\n\n$y$\n\n</details>", lesson)
    assert {path.name for path in pages.files} == {"cell_update.cu", "ops.py"}


@pytest.mark.parametrize(
    ("formula", "wanted"),
    [
        (r"o \tanh c", "o</mi><mspace"),  # a space before
        (r"\tanh c", "\u2061</mo><mspace"),  # and behind
        (r"\tanh(c)", "\u2061</mo><mo"),  # none before a bracket
        (r"\tanh^2 c", "</msup><mspace"),
        (r"\frac12", "<mfrac><mn>1</mn><mn>2</mn></mfrac>"),
        (r"\frac x2", "<mfrac><mi>x</mi><mn>2</mn></mfrac>"),
        (r"x < 3", "&lt;"),
    ],
)
def test_formulas(parts, formula, wanted):
    assert wanted in parts[1].mathml(formula)
