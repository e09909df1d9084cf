"""What makes the course readable on a phone; that it does is seen in test_course_browser.py."""

import matplotlib.pyplot as plt
import pytest

from tests.course_files import COURSE  # noqa: F401  puts `lab` on the path

from lab import course_map, figures, lessons, screen  # isort: skip

ALT = "A figure with one line that goes up, from the left below to the right above."


def test_a_figure_may_have_a_narrow_form_inside_the_same_tag():
    wide, narrow = plt.subplots(figsize=(8, 2))[0], plt.subplots(figsize=(3, 2))[0]
    html = figures.Picture(wide, ALT, narrow).html
    plt.close("all")
    assert html.startswith(f'<picture><source media="{figures.PHONE}" srcset="data:image/png;base64,')
    assert html.endswith('"></picture>') and html.count(f'<img alt="{ALT}" src="data:image/png;base64,') == 1


def test_both_forms_are_closed(capsys):
    figures.show(plt.subplots()[0], ALT, narrow=plt.subplots()[0])
    assert plt.get_fignums() == []


@pytest.mark.parametrize("draw", [course_map.draw, course_map.draw_narrow])
def test_both_maps_have_a_box_for_each_lesson_in_the_look_of_its_state(draw):
    known = [lessons.Lesson(f"{n:02}", f"{n:02}_x.ipynb", f"Lesson {n}", ()) for n in range(28)]
    looks = dict(zip((lesson.number for lesson in known), ["solved", "begun", "open"] * 10, strict=False))
    (axes,) = draw(known, looks).axes
    plt.close("all")
    for lesson, box, text in zip(known, axes.patches, axes.texts, strict=True):
        grey, hatch, ink = course_map.LOOKS[looks[lesson.number]]
        assert text.get_text().startswith(lesson.number) and text.get_color() == ink
        assert (box.get_hatch() or "") == hatch and box.get_facecolor() == plt.matplotlib.colors.to_rgba(grey)
        extent = box.get_bbox()
        assert extent.x0 >= axes.get_xlim()[0] and extent.x1 <= axes.get_xlim()[1]
        assert extent.y0 >= axes.get_ylim()[0] and extent.y1 <= axes.get_ylim()[1]


def test_the_style_sheet_is_shown_in_notebooks_alone(monkeypatch):
    shown = []
    monkeypatch.setattr(screen, "display", shown.append)
    monkeypatch.setattr(screen, "get_ipython", lambda: None)
    screen.style()
    assert shown == []
    monkeypatch.setattr(screen, "get_ipython", object)
    screen.style()
    assert f"@media {figures.PHONE} {{" in shown[0].data and shown[0].data.count("{") == shown[0].data.count("}")
