"""Formulas as MathML: browsers draw it themselves, so a page needs neither a script nor fonts from elsewhere.

docutils, on which Sphinx is built, translates. What it does not know is a warning, and with that an error.
"""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

logger = logging.getLogger(__name__)
NAMESPACE = "http://www.w3.org/1998/Math/MathML"
ET.register_namespace("", NAMESPACE)
APPLY = "\u2061"  # stands unseen between tanh and what it is taken of

# TeX reads \frac12 and \frac x2 as one half and half of x; docutils wants the braces.
BARE_FRACTION = re.compile(r"\\([dt]?frac)(?:\s+|(?=\d))(\w)\s*(\w)")


def mathml(formula: str, block: bool = False) -> str:
    """A <math> element without white space between its parts."""
    formula = BARE_FRACTION.sub(r"\\\1{\2}{\3}", formula.strip())
    text = tex2mathml(formula, as_block=block).replace("&ApplyFunction;", APPLY)
    tree = ET.fromstring(re.sub(r">\s+<", "><", text))
    for row in list(tree.iter()):
        if name(row) in ("math", "mrow", "mtd", "mstyle"):
            space_functions(row)
    return ET.tostring(tree, encoding="unicode")


def space_functions(row) -> None:
    """A thin space where tanh, ln and the like stand beside a letter or a number, as TeX has it and MathML has not."""
    for left, right in list(pairwise(row)):
        before = ends_an_operand(left) and is_function(right)
        after = (is_function(left) or left.text == APPLY) and begins_an_operand(right)
        if before or after:
            row.insert(list(row).index(right), ET.Element(f"{{{NAMESPACE}}}mspace", width="0.17em"))


def is_function(element) -> bool:
    if name(element) in ("msup", "msub", "msubsup"):  # tanh²
        element = element[0]
    return name(element) == "mi" and len(element.text or "") > 1


def ends_an_operand(element) -> bool:
    return name(element) not in ("mo", "mspace") or element.text in (")", "]", "|")


def begins_an_operand(element) -> bool:
    return name(element) not in ("mo", "mspace")


def name(element) -> str:
    return element.tag.rpartition("}")[2]


def visit(self, node, block: bool) -> None:
    try:
        self.body.append(mathml(node.astext(), block))
    except Exception as error:  # not only docutils' MathError: what it does not expect makes it stumble
        logger.warning("a formula could not be read: %s: %s", node.astext(), error, location=node, type="mathml")
    raise nodes.SkipNode


def visit_inline(self, node) -> None:
    visit(self, node, block=False)


def visit_block(self, node) -> None:
    visit(self, node, block=True)


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
