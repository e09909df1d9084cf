"""slider(): a figure that the learner moves."""

import os

import matplotlib.pyplot as plt
from IPython.display import display

from lab.figures import Picture, show


def slider(draw, **ranges) -> None:
    """Shows what ``draw`` draws, with one slider for each of ``ranges``: name=(lowest, highest, step, first).

    ``draw`` takes the values by name and returns a figure and its alt text. Where nothing can be moved (no ipywidgets,
    or the notebook is only being checked) the figure for the values at the beginning is shown.
    """
    starts = {name: values[3] for name, values in ranges.items()}
    widgets = None if os.environ.get("GPULSTM_COURSE_STATIC") else ipywidgets()
    if widgets is None:
        show(*draw(**starts))
        return
    controls = {name: control(widgets, name, *values) for name, values in ranges.items()}
    picture = widgets.HTML()

    def redraw(_=None):
        figure, alt = draw(**{name: one.value for name, one in controls.items()})
        # A widget's HTML, unlike an output's, does not shrink its images to the width of the window.
        picture.value = Picture(figure, alt).html.replace("<img ", '<img style="max-width: 100%" ', 1)
        plt.close(figure)

    for one in controls.values():
        one.observe(redraw, "value")
    redraw()
    display(widgets.VBox([*controls.values(), picture]))


def ipywidgets():
    try:
        import ipywidgets
    except ImportError:
        return None
    return ipywidgets


def control(widgets, name, lowest, highest, step, start):
    whole = all(isinstance(value, int) for value in (lowest, highest, step, start))
    kind = widgets.IntSlider if whole else widgets.FloatSlider
    # Only when let go of: a figure takes longer to draw than a mouse to move.
    slide = kind(start, min=lowest, max=highest, step=step, description=name.replace("_", " "), continuous_update=False)
    slide.layout.width = (
        "min(100% - 4px, 32em)"  # on a phone no wider than that, margins included; elsewhere long enough for fine steps
    )
    return slide
