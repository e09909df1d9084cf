"""The course in a real browser, in JupyterLab: run, moved, solved, and fit to be seen on a laptop and on a phone.

Wants Chromium and its driver. Where they are missing these tests are skipped, and fail if GPULSTM_BROWSER=required.
"""

import json
import os
from urllib.parse import urlsplit

import numpy as np
import pytest

from tests import lab_page, webdriver
from tests.lab_page import LAPTOP, PHONE

FIGURE = ".jp-OutputArea-output img"
MAP = f"{FIGURE}[alt^='Map of the course']"
BADGE = "https://colab.research.google.com/"  # its picture is the one thing that comes from elsewhere


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """JupyterLab as start.py starts it, at the address that it prints."""
    reason = webdriver.why_none()
    if reason and os.environ.get("GPULSTM_BROWSER") == webdriver.REQUIRED:
        pytest.fail(f"GPULSTM_BROWSER={webdriver.REQUIRED}, and {reason}")
    if reason:
        pytest.skip(f"the course was not opened in a browser: {reason}")
    with lab_page.opened(tmp_path_factory.mktemp("browser")) as page:
        page.start()
        yield page


@pytest.fixture(scope="module")
def welcome(page):
    """Lesson 00, all of it run."""
    stored = page.all(FIGURE, "one.alt.length")  # JupyterLab does not trust these: nobody ran them here
    page.run_all()
    return stored


@pytest.fixture
def lesson_00(page, welcome):
    page.browser.view(*LAPTOP)
    page.browser.click(page.browser.find("#jp-main-dock-panel .lm-TabBar-tab", "00_welcome"))
    page.wait_for("00_welcome.ipynb")
    return page


@pytest.fixture(scope="module")
def gates(page, welcome):
    """Lesson 04, come to by its link in the map, all of it run."""
    link = page.find(".jp-OutputArea a", "04 ·")
    page.show(link)
    page.browser.click(link)
    page.wait_for("04_forget_gate.ipynb")
    page.run_all()


@pytest.fixture
def lesson_04(page, gates):
    page.browser.view(*LAPTOP)
    page.browser.click(page.browser.find("#jp-main-dock-panel .lm-TabBar-tab", "04_forget_gate"))
    page.wait_for("04_forget_gate.ipynb")
    return page


def assert_ran(page):
    """All cells, without errors or warnings; each figure is there, and described for those who do not see it."""
    assert page.all("[data-mime-type$='jupyter.error'], [data-mime-type$='jupyter.stderr']", "one.textContent") == []
    figures = page.all(FIGURE, "[one.alt, one.complete, one.naturalWidth]")
    assert figures
    for alt, complete, width in figures:
        assert len(alt) >= 40 and complete and width > 300, (alt, width)


def ink(picture) -> float:
    """The share of its pixels that are dark."""
    return (np.asarray(picture.convert("L")) < 128).mean()


def test_the_printed_address_leads_to_the_first_lesson(lesson_00):
    assert urlsplit(lesson_00.url).path == "/lab/tree/course/00_welcome.ipynb"


def test_the_stored_figures_are_described_before_anything_is_run(welcome):
    assert len(welcome) >= 4 and min(welcome) >= 40


def test_lesson_00_runs(lesson_00):
    assert_ran(lesson_00)
    assert lesson_00.all(MAP, "one.alt")[0].startswith("Map of the course")


def test_an_exercise_is_solved_and_the_map_fills(lesson_00):
    page, browser = lesson_00, lesson_00.browser
    places = "my_persistence = sunspots[held_out]", 'check("00.persistence"', "course_map.show()"
    page.run(page.cell(places[0]), places[0])
    assert "Not yet" in page.run(page.cell(places[1]))
    page.run(page.cell(places[2]))
    begun = page.find(MAP)
    assert "Solved: none. Begun: 00. " in browser.script("return arguments[0].alt", begun)
    page.show(begun)
    hatched = ink(browser.screenshot(begun))

    # The solution is folded away until one clicks, and what it then says is what the learner types.
    folded = page.find("details", "A solution")
    page.show(folded)
    shown = "return arguments[0].querySelector('pre').checkVisibility()"
    assert not browser.script(shown, folded)
    browser.click(page.inside(folded, "summary"))
    assert browser.script(shown, folded)
    solution = browser.script("return arguments[0].querySelector('pre').textContent.trim()", folded)
    page.run(page.cell(places[0]), solution)
    verdict = page.run(page.cell(places[1]))
    assert "Solved." in verdict and "✗" not in verdict

    page.run(page.cell(places[2]))
    solved = page.find(MAP)
    assert "Solved: 00. Begun: none. " in browser.script("return arguments[0].alt", solved)
    page.show(solved)
    assert ink(browser.screenshot(solved)) > hatched + 0.01  # a dark lesson among 28: a fiftieth
    assert "00 · Welcome, and a first forecast: solved, 1 of 1 checks solved" in page.all("li", "one.textContent")
    progress = json.loads((page.folder / "progress.json").read_text(encoding="utf-8"))
    assert progress == {"checks": {"00.persistence": "solved"}}


def test_a_slider_moves_the_figure(lesson_04):
    page, browser = lesson_04, lesson_04.browser
    assert_ran(page)
    cell = page.cell("slider(decay")
    before = browser.script("const one = arguments[0].querySelector('img'); return [one.alt, one.src]", cell)
    assert "if the forget gate is 0.90 at each" in before[0]
    handle = page.inside(cell, ".noUi-handle")
    browser.script("arguments[0].focus()", handle)
    for _ in range(3):
        browser.press("ArrowRight")
    browser.until("return arguments[0].querySelector('img').alt.includes('gate is 0.93')", cell)
    after = browser.script("const one = arguments[0].querySelector('img'); return [one.alt, one.src]", cell)
    assert "Half is left after 9.6 steps" in after[0] and after[1] != before[1]
    browser.press("ArrowLeft")
    browser.until("return arguments[0].querySelector('img').alt.includes('gate is 0.92')", cell)


@pytest.mark.parametrize("view", [LAPTOP, PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("lesson", ["lesson_00", "lesson_04"])
def test_it_is_fit_to_be_seen(lesson, view, page, request, tmp_path):
    request.getfixturevalue(lesson)
    browser = page.browser
    browser.view(*view, mobile=view == PHONE)
    if view == PHONE:
        page.hide_files()
    assert page.misfits() == []
    for number, figure in enumerate(
        browser.script("return [...document.querySelectorAll(arguments[0])]", f"{lab_page.FRONT} {FIGURE}")
    ):
        page.show(figure)
        picture = browser.screenshot()
        picture.save(tmp_path / f"{lesson}_{number}.png")
        assert picture.size == view
        assert 0.005 < ink(picture) < 0.5
        assert 0.002 < ink(browser.screenshot(figure)) < 0.6


def test_on_a_phone_the_map_is_another_one(lesson_00):
    page, browser = lesson_00, lesson_00.browser
    drawn = "const one = arguments[0]; return [one.currentSrc === one.src, one.naturalWidth]"
    assert browser.script(drawn, page.find(MAP)) == [True, 1000]
    browser.view(*PHONE, mobile=True)
    browser.until(f"{drawn.split(';')[0]}; return one.currentSrc !== one.src && one.naturalWidth < 400", page.find(MAP))


def test_the_console_names_no_errors(lesson_04):
    errors = [entry["message"] for entry in lesson_04.browser.console() if entry["level"] == "SEVERE"]
    assert [message for message in errors if not message.startswith(BADGE)] == []


def test_nothing_is_fetched_from_elsewhere_but_the_badge(lesson_04):
    names = lesson_04.browser.script("return performance.getEntriesByType('resource').map(one => one.name)")
    here = f"http://{urlsplit(lesson_04.url).netloc}/"
    assert [name for name in names if not name.startswith((here, "data:", "blob:", BADGE))] == []
