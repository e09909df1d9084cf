"""The course's words: links lead somewhere, the glossary covers what must be explained, and the spelling is British."""

import html
import re
from urllib.parse import unquote, urlsplit

import pytest
from spellchecker import SpellChecker

from tests.course_files import BUILD, COURSE, FORMS, ROOT, figure_tags, read

WORD_LISTS = sorted((COURSE / "words").glob("*.txt"))
FORM_IDS = [f"{source.stem}{'-solved' if solved else ''}" for source, solved in FORMS]
every_form = pytest.mark.parametrize(("source", "solved"), FORMS, ids=FORM_IDS)
every_source = pytest.mark.parametrize("source", BUILD.sources(), ids=lambda path: path.stem)

MUST_EXPLAIN = """
    forget gate, input gate, candidate, output gate, cell state, hidden state, cell, lstm, gate, sigmoid, tanh,
    saturation, bptt, truncated bptt, vanishing gradient, exploding gradient, forget bias, half-life, gradient
    check, clipping, kernel, thread, block, grid, guard, warp, coalescing, memory sector, shared memory, barrier,
    race, roofline, persistent kernel, dropout, recurrent dropout, zoneout, bidirectional, attention, softmax,
    encoder-decoder, masking, padding, persistence, autoregression, leakage, held-out data, temperature, ctc, blank,
    ablation, embedding
"""


def markdown(source, solved=False):
    return [cell.source for cell in read(source, solved).cells if cell.cell_type == "markdown"]


def prose(text):
    """Without code, formulas, tags and addresses."""
    text = re.sub(r"```.*?```|<code>.*?</code>|\$\$.*?\$\$", " ", text, flags=re.DOTALL)
    return re.sub(r"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|<[^>]*>|https?://\S+", " ", text)


def headings(notebook_source):
    """Of a notebook, as JupyterLab and nbconvert make anchors of them."""
    text = re.sub(r"```.*?```", "", "\n".join(markdown(notebook_source)), flags=re.DOTALL)
    return {
        heading.strip().replace("`", "").replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


# ---- links ----


def links(text):
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)) + re.findall(
        r'href="([^"]+)"', text
    )


def broken(target, folder):
    """What is wrong with a link out of a file in ``folder``, or nothing. Nothing is fetched."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        fine = parts.scheme == "https" and re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc)
        return "" if fine else "not a complete https address"
    path = (folder / unquote(parts.path)).resolve() if parts.path else None
    if path is not None and not (path.exists() and path.is_relative_to(ROOT)):
        return "there is no such file"
    if parts.fragment and path is not None and path.suffix == ".ipynb":
        source = COURSE / "src" / f"{path.stem}.py"
        return "" if parts.fragment in headings(source) else "that notebook has no such heading"
    return ""


@every_form
def test_links_of_a_notebook_lead_somewhere(source, solved):
    folder = BUILD.notebook_path(source, solved).parent
    wrong = {target: broken(target, folder) for text in markdown(source, solved) for target in links(text)}
    assert {target: trouble for target, trouble in wrong.items() if trouble} == {}


def test_links_of_the_authors_page_lead_somewhere():
    text = re.sub(r"```.*?```|`[^`]*`", "", (COURSE / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert links(text)
    assert [target for target in links(text) if broken(target, COURSE)] == []


@pytest.mark.parametrize(
    ("target", "trouble"),
    [
        ("glossary.ipynb#forget-gate", ""),
        ("glossary.ipynb#Forget-gate", "no such heading"),
        ("glossary.ipynb#nothing", "no such heading"),
        ("../kernels/cell_update.cu", ""),
        ("kernels/cell_update.cu", "no such file"),
        ("../../README.md", "no such file"),
        ("https://arxiv.org/abs/1503.04069", ""),
        ("http://arxiv.org", "not a complete https address"),
        ("https://arxiv", "not a complete https address"),
    ],
)
def test_broken_links_are_recognised(target, trouble):
    assert trouble in broken(target, COURSE) and bool(trouble) == bool(broken(target, COURSE))


# ---- glossary ----


def terms():
    """From each term of the glossary to its explanation."""
    text = "\n".join(markdown(COURSE / "src" / "glossary.py"))
    found = re.findall(r"^### ([^\n]+)\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    return {term: body.strip() for term, body in found}


def test_the_glossary_explains_what_it_must():
    wanted = {" ".join(term.split()) for term in MUST_EXPLAIN.split(",")}
    assert wanted - set(terms()) == set()
    assert all(len(body) > 20 for body in terms().values())


def test_the_glossary_is_in_order_and_its_anchors_are_the_same_everywhere():
    assert list(terms()) == sorted(terms())
    assert [term for term in terms() if not re.fullmatch(r"[a-z0-9][a-z0-9 -]*", term)] == []


# ---- spelling ----

# The dictionary is American: a British word is known by its American twin.
TWINS = [(r"our", "or"), (r"is(e|es|ed|ing|er|ers|ation|ations)$", r"iz\1"), (r"ys(e|es|ed|ing)$", r"yz\1")]
TWINS += [
    (r"re(s?)$", r"er\1"),
    (r"ll(ed|ing|er)$", r"l\1"),
    (r"ence$", "ense"),
    (r"gre(y)", r"gra\1"),
    (r"ogue", "og"),
]
AMERICAN = r"""
    (\w*(?<!s)(?<!pr)(?<!se)iz(e|es|ed|ing|er|ers|ation|ations)) | (analyz\w+) | (gray\w*) | (center(s|ed|ing)?) |
    ((col|fav|flav|hon|hum|lab|vap|behavi|neighb|end?eav|harb|rum)or(s|ed|ing|ite|al|hood|ful)?) | (judgment\w*) |
    ((labe|mode|trave|cance|leve|signa)l(ed|ing)) | (fulfill) | (catalog) | (defense)
"""
NOT_AMERICAN = {"size", "sizes", "sized", "sizing", "resize", "resized", "prize", "prizes", "seize", "seized"}


def words(text):
    """Those that can be misspelt: at least three letters, and no abbreviations in capitals."""
    found = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", prose(text))
    found = {re.sub(r"['’]s$|['’]$", "", word) for word in found}
    return {word for word in found if len(word) > 2 and not re.fullmatch(r"[A-Z]{2,}s?", word)}


def american(word):
    return bool(re.fullmatch(AMERICAN, word.lower(), re.VERBOSE)) and word.lower() not in NOT_AMERICAN


@pytest.fixture(scope="module")
def unknown():
    checker = SpellChecker()
    own = {line for path in WORD_LISTS for line in path.read_text(encoding="utf-8").split()}

    def unknown(some):
        left = checker.unknown({word.lower() for word in some} - {word.lower() for word in own})
        twins = {word: {re.sub(british, us, word) for british, us in TWINS} for word in left}
        return sorted(word for word in left if not checker.known(twins[word]))

    return unknown


@every_source
def test_spelling(source, unknown):
    told = [html.unescape(text) for cell in read(source).cells for text in described(cell)]
    found = set().union(*map(words, markdown(source) + told))
    assert unknown(found) == [], f"misspelt, or missing in course/words/{word_list(source)}"
    assert sorted(filter(american, found)) == [], "American spelling"


def word_list(source):
    return f"{source.stem if source.stem == 'glossary' else source.stem[:2]}.txt"


def described(cell):
    return re.findall(r'alt="([^"]*)"', " ".join(figure_tags(cell))) if cell.cell_type == "code" else []


def test_misspelt_and_american_words_are_found(unknown):
    text = "The colour of the neuron's initialisation, labelled `frobnicate` and $xqzy$, is the centre of LSTMs."
    assert unknown(words(text)) == [] and not any(map(american, words(text)))
    assert unknown(words("A fogret gate, a memmory")) == ["fogret", "memmory"]
    for word in ("color", "Neighbors", "normalize", "optimizer", "gray", "center", "labeled", "vectorized"):
        assert american(word), word
    assert not any(map(american, ["size", "resized", "prize", "horizon", "entered", "error", "director", "model"]))


@pytest.mark.parametrize("path", WORD_LISTS, ids=lambda path: path.name)
def test_a_word_list_is_sorted_and_has_one_word_a_line(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == sorted(set(lines), key=lambda word: (word.lower(), word))
    assert all(re.fullmatch(r"\S+", line) for line in lines)
