"""The page in a browser: with the keyboard, for screen readers, light and dark."""

import os
import pathlib

import numpy as np
import pytest
from browser import CHROMIUM, browser
from PIL import Image
from served import KEY, served, tiny

from keras_t5gemma2.serving.limits import Limits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium; CHROMIUM may name it"),
]
# A directory for pictures to look at, such as docs/.
PICTURES = os.environ.get("PAGE_PICTURES")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    lm = tiny()
    with (
        served(lm, Limits(max_tokens=64), api_key=KEY) as (address, _),
        browser(tmp_path_factory.mktemp("profile")) as found,
    ):
        found.open(address)
        yield found


def text_of(page, selector):
    return page.value(f"document.querySelector({selector!r}).textContent")


def submit(page, form):
    page.value(f"document.querySelector({form!r}).requestSubmit()")


def test_the_page(page, tmp_path):
    submit(page, "#write")
    page.until("document.querySelector('.error').textContent !== ''")
    assert "The API key must be that of the server" in text_of(page, ".error")
    page.write("[name=key]", KEY)

    # By the keyboard alone: to the text, write it, and on to the button.
    page.value("document.querySelector('#prompt').focus()")
    page.write("#prompt", "Spell 42 in German.")
    page.press("Tab")
    page.press("Tab")
    assert page.value("document.activeElement.textContent") == "Write"
    page.press("Enter", "\r")
    answer = "document.querySelector('#answer')"
    page.until(f"{answer}.textContent === 'zweiundvierzig' && {answer}.ariaBusy === 'false'")
    assert text_of(page, ".error") == ""

    page.until("!document.querySelector('#look').disabled")
    page.value("document.querySelector('#look').click()")
    page.until("!document.querySelector('#attention').hidden")
    assert "it looked most at" in text_of(page, "#looked")
    assert text_of(page, "#read").strip().endswith("German.")

    page.write("#message", "Spell 42 in German.")
    page.write("[name=max_tokens]", "8")
    submit(page, "#chat")
    page.until("document.querySelectorAll('.turn').length === 2")
    page.until("!document.querySelector('#chat [type=submit]').disabled")
    assert page.value("document.querySelector('#chat-section .error').textContent") == ""
    assert text_of(page, ".turn.user") == "Spell 42 in German."

    submit(page, "#search")
    page.until("document.querySelectorAll('#found li').length === 4")
    assert "Spell 7 in Dutch." in text_of(page, "#found li")

    picture = tmp_path / "picture.png"
    Image.fromarray(np.full((32, 32, 3), 128, "uint8")).save(picture)
    page.choose_files("#files", picture)
    page.until("document.querySelector('#images img')?.alt === 'picture.png'")
    page.write("#prompt", "Which number is this?")
    submit(page, "#write")
    page.until(f"{answer}.ariaBusy === 'false' && {answer}.textContent !== 'zweiundvierzig'")
    assert text_of(page, ".error") == ""
    assert page.nameless() == []

    folder = pathlib.Path(PICTURES or tmp_path)
    for scheme in ("light", "dark"):
        page.picture(folder / f"page-{scheme}.png", scheme)
        assert contrast(page) >= 4.5
    refused = [x for x in page.problems if "401" not in str(x) and "favicon" not in str(x)]
    assert refused == []


def contrast(page):
    """The least ratio of contrast of a text and what is behind it, as WCAG defines it."""
    script = """(() => {
      const levels = (c) => c.match(/[\\d.]+/g).slice(0, 3).map((x) => {
        const v = x / 255;
        return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      });
      const parts = [0.2126, 0.7152, 0.0722];
      const light = (c) => levels(c).reduce((sum, x, n) => sum + x * parts[n], 0);
      const behind = (e) => {
        for (; e; e = e.parentElement) {
          const c = getComputedStyle(e).backgroundColor;
          if (!c.endsWith(', 0)')) return c;
        }
        return 'rgb(255, 255, 255)';
      };
      let least = 99;
      const texts = 'h1,h2,h3,p,label,button,textarea,output,li span';
      for (const e of document.querySelectorAll(texts)) {
        if (e.disabled || !e.offsetParent) continue;
        const [a, b] = [getComputedStyle(e).color, behind(e)].map(light).sort((x, y) => y - x);
        least = Math.min(least, (a + 0.05) / (b + 0.05));
      }
      return least;
    })()"""
    return page.value(script)
