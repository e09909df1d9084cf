"""JupyterLab with the course, in a browser: what a learner does there, for the tests."""

import json
import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests import webdriver
from tests.course_files import COURSE, ROOT, load

SETTINGS = {  # no questions and no network, and every cell in the document, also those out of sight
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
LAPTOP, PHONE = (1366, 768), (390, 844)


@contextmanager
def opened(folder: Path):
    """The course as start.py opens it, on a copy in ``folder``: nothing of one's own is read or written."""
    shutil.copytree(COURSE, folder / "project" / "course", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values), encoding="utf-8")
    own = {
        "GPULSTM_COURSE_PROGRESS": folder / "progress.json",
        "HOME": folder,
        "IPYTHONDIR": folder / "ipython",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_DATA_DIR": folder / "data",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "PYTHONPATH": ROOT,
    }
    foreign = ("GPULSTM_COURSE", "JUPYTER")  # JUPYTER_TOKEN, for one, would change what is printed
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    start = load("start", ROOT / "start.py").JOBS["course"][1]
    command = [sys.executable, *start, "--allow-root", "--no-browser", "--ServerApp.ip=127.0.0.1"]
    log = folder / "jupyterlab.log"
    environment = inherited | {name: str(value) for name, value in own.items()}
    with ExitStack() as stack:
        server = webdriver.running(command, log, cwd=folder / "project", env=environment)
        process = stack.enter_context(server)
        # Both start at the same time, one on each core.
        browser = stack.enter_context(webdriver.browser(folder))
        browser.view(*LAPTOP)
        url = webdriver.announced(process, log, r"(http://127\.0\.0\.1:\d+/\S*token=\w{16,})")
        yield LabPage(browser, url, folder)


FRONT = ".jp-NotebookPanel:not(.lm-mod-hidden)"


class LabPage:
    """The notebook that is in front, for somebody who reads, clicks and types."""

    def __init__(self, browser, url: str, folder: Path):
        self.browser, self.url, self.folder = browser, url, folder

    def start(self):
        """Follows the address that JupyterLab printed."""
        self.browser.open(self.url)
        self.wait_for("00_welcome.ipynb")

    def wait_for(self, notebook: str):
        """Until it is in front, and its kernel connected: before, JupyterLab would ask for one."""
        self.browser.until(
            """const tab = document.querySelector('#jp-main-dock-panel .lm-TabBar-tab.jp-mod-current')
               const kernel = document.querySelector(`${arguments[1]} .jp-Notebook-ExecutionIndicator`)
               return tab?.textContent.startsWith(arguments[0]) && kernel?.dataset.status === 'idle' &&
                   document.querySelector('#jp-main-statusbar').textContent.includes('| Idle')""",
            notebook,
            FRONT,
        )

    def find(self, selector: str, text: str = ""):
        return self.browser.find(f"{FRONT} {selector}", text)

    def all(self, selector: str, value: str) -> list:
        """A value, in JavaScript, of all elements ``one`` that a selector finds."""
        body = f"return [...document.querySelectorAll(arguments[0])].map(one => {value})"
        return self.browser.script(body, f"{FRONT} {selector}")

    def menu(self, name: str, entry: str):
        self.browser.click(self.browser.find(".lm-MenuBar-item", name))
        self.browser.click(self.browser.find(".lm-Menu-item", entry))

    def run_all(self):
        """Runs all cells. What was stored is cleared before, so that nothing of it is taken for new."""
        self.menu("Edit", "Clear Outputs of All Cells")
        self.menu("Run", "Run All Cells")
        self.browser.until(
            """const prompts = [...document.querySelectorAll(arguments[0])]
               return prompts.length && prompts.every(one => /\\d/.test(one.textContent))""",
            f"{FRONT} .jp-CodeCell .jp-InputPrompt",
            seconds=120,
        )

    def cell(self, text: str):
        """The first code cell whose source contains the text, scrolled into sight."""
        cell = self.find(".jp-CodeCell:has(.cm-content)", text)
        self.show(cell)
        return cell

    def show(self, element):
        self.browser.script("arguments[0].scrollIntoView({block: 'center'})", element)

    def inside(self, element, selector: str):
        return self.browser.until("return arguments[0].querySelector(arguments[1])", element, selector)

    def run(self, cell, source: str | None = None) -> str:
        """Runs a cell, with another source if one is given, and returns its output as text."""
        self.browser.click(self.inside(cell, ".cm-content"))
        if source is not None:
            self.browser.press("Control", "a")
            self.browser.type(source)
        prompt = self.inside(cell, ".jp-InputPrompt")
        self.browser.script("arguments[0].textContent = 'not yet'", prompt)  # its number may come to be the same again
        self.browser.press("Shift", "Enter")
        self.browser.until("return /\\d/.test(arguments[0].textContent)", prompt)
        return self.browser.script("return arguments[0].querySelector('.jp-OutputArea').textContent", cell)

    def hide_files(self):
        """Closes the list of files on the left, which on a phone leaves no room for the lesson."""
        if self.browser.script("return document.querySelector('#filebrowser')?.getClientRects().length"):
            self.browser.click(self.browser.find("li[data-id=filebrowser]"))
            self.browser.until("return !document.querySelector('#filebrowser')?.getClientRects().length")

    def misfits(self) -> list[str]:
        """Figures and texts of the notebook, all of them, that stick out of it or are cut off."""
        return self.browser.script(MISFITS, FRONT)


MISFITS = """
const panel = document.querySelector(`${arguments[0]} .jp-WindowedPanel-outer`)
const {left, right} = panel.getBoundingClientRect()
const found = []
const complain = (one, what) => found.push(`${one.tagName} ${(one.alt || one.textContent).slice(0, 60)}: ${what}`)
for (const one of panel.querySelectorAll('img, .jp-RenderedMarkdown, .jp-OutputArea-output, .widget-slider')) {
    const box = one.getBoundingClientRect()
    if (box.left < left - 1 || box.right > right + 1)
        complain(one, `reaches from ${box.left} to ${box.right}, and there is room from ${left} to ${right}`)
    // A long formula may be moved sideways, with the bar below it.
    if (one.tagName !== 'IMG' && one.scrollWidth > one.clientWidth + 1 && !one.querySelector('mjx-container'))
        complain(one, `needs ${one.scrollWidth} pixels and has ${one.clientWidth}`)
}
for (const one of panel.querySelectorAll('.jp-RenderedMarkdown > pre')) {
    const lines = one.textContent.trimEnd().split('\\n').length
    const height = one.getBoundingClientRect().height / parseFloat(getComputedStyle(one).lineHeight)
    if (height > lines + 1.5) complain(one, `${lines} lines are folded into ${height}`)
}
return found
"""
