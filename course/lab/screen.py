"""What JupyterLab must be told so that lessons can be read on a phone, too."""

from IPython import get_ipython
from IPython.display import HTML, display

from lab.figures import PHONE

# JupyterLab folds preformatted text where the window ends. A diagram made of characters is then one no longer, so it
# keeps its lines, and can be moved sideways. What cells print is folded between words, instead of inside them. And an
# empty margin on the right is given to the figures.
NARROW = f"""
@media {PHONE} {{
  .jp-RenderedMarkdown.jp-RenderedHTMLCommon pre, .jp-RenderedMarkdown.jp-RenderedHTMLCommon pre code {{
    white-space: pre; overflow-x: auto; padding-bottom: 12px;  /* for the bar */
  }}
  .jp-RenderedHTMLCommon {{ padding-right: 4px; }}
  .jp-RenderedText.jp-OutputArea-output pre {{ word-break: normal; overflow-wrap: anywhere; }}
}}
"""


def style() -> None:
    """`start` calls it; outside a notebook it does nothing."""
    if get_ipython() is not None:
        display(HTML(f"<style>{NARROW}</style>"))
