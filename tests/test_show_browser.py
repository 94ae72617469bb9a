"""The report in a browser: it draws what family.json says, makes no errors, asks for nothing, and fits a phone.

A copy of the page gets a script at its end that looks at the page as its reader would and tells what it found to a page
around it. That one is there since a window of a browser can't be as narrow as a phone.
"""

import json
import re
import shutil
import subprocess

import pytest

from outgrow.show import quantity
from outgrow.show.record import of_kind
from outgrow.show.report import write_report
from test_show_records import comparison, family, story
from test_show_report import EVIL

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DARK, LIGHT = 0, 1

LISTENER = """
window.errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
"""
PROBE = """{
const seen = (element) => element.getBoundingClientRect().width > 0;
const middle = (element) => {
  const box = element.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
};
const tip = document.getElementById("tip");
const marks = [...document.querySelectorAll("#front .mark[data-size]")].filter(seen).map((mark) => {
  mark.focus();
  const focused = tip.hidden ? "" : tip.innerText;
  mark.blur();
  const [x, y] = middle(mark.querySelector(".reach"));
  scrollTo(0, scrollY + y - innerHeight / 2);
  const [left, top] = middle(mark.querySelector(".reach"));
  const there = document.elementFromPoint(left, top);
  there.dispatchEvent(new PointerEvent("pointerover", { bubbles: true, clientX: left, clientY: top }));
  const pointed = tip.hidden ? "" : tip.innerText, box = tip.getBoundingClientRect();
  const inside = box.left >= 0 && box.right <= innerWidth && box.top >= 0 && box.bottom <= innerHeight;
  document.body.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
  return { ...mark.dataset, place: [x, y + scrollY], focused, pointed, inside, hidden: tip.hidden };
});
const ticks = [...document.querySelectorAll("#front [data-tick][text-anchor=middle]")].filter(seen)
  .map((tick) => [Number(tick.dataset.tick), middle(tick)[0]]);
const bands = [...document.querySelectorAll("#growth .mark[data-axis]")].filter(seen)
  .map((band) => [band.dataset.axis, Number(band.dataset.units)]);
const letters = [...document.querySelectorAll("figure text")].filter(seen)
  .map((text) => text.getBoundingClientRect().height);
const button = document.querySelector("button.copy");
button.click();
for (const details of document.querySelectorAll("details")) details.open = true;
const style = getComputedStyle(document.body), page = document.documentElement;
const found = {
  errors, marks, ticks, bands, ink: style.color, paper: style.backgroundColor, smallest: Math.min(...letters),
  dark: matchMedia("(prefers-color-scheme: dark)").matches, width: innerWidth, needed: page.scrollWidth,
  asked: performance.getEntriesByType("resource").map((entry) => entry.name),
  selected: getSelection().toString(), code: button.previousElementSibling.textContent,
  data: JSON.parse(document.getElementById("outgrow-data").textContent).family,
};
parent.postMessage(JSON.stringify(found), "*");
}"""
FRAME = """<!DOCTYPE html>
<html><head><meta name="color-scheme" content="light dark"></head><body style="margin:0">
<script>
addEventListener("message", (event) => {
  const block = document.createElement("pre");
  block.id = "found";
  block.textContent = event.data;
  document.body.append(block);
});
</script>
<iframe src="copy.html" style="border:0" width="WIDTH" height="900"></iframe>
</body></html>
"""


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """Open the report of some records in a browser; return what the script found and what the console said."""
    if BROWSER is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on the path")
    home = tmp_path_factory.mktemp("browser")

    def browse(records, scheme=LIGHT, width=1200, compared=None):
        run = home / "run"
        run.mkdir(exist_ok=True)
        (run / "journal.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (run / "family.json").write_text(json.dumps(family(records)))
        (run / "compare.json").write_text(json.dumps(compared or {}))
        source = write_report(run).read_text(encoding="utf-8")
        copy = home / "copy.html"
        probed = source.replace("<head>", f"<head><script>{LISTENER}</script>")
        copy.write_text(probed.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
        (home / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr"]
        options += [f"--user-data-dir={home / 'profile'}", "--window-size=1300,1000"]
        options += [f"--blink-settings=preferredColorScheme={scheme}"]
        options += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]
        done = subprocess.run(
            [BROWSER, *options, (home / "frame.html").as_uri()], capture_output=True, timeout=60, check=True
        )
        dom, log = done.stdout.decode(), done.stderr.decode(errors="replace")
        console = [line for line in log.splitlines() if "CONSOLE" in line]
        assert 'id="found"' in dom, console
        text = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]
        for name, letter in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
            text = text.replace(name, letter)
        return json.loads(text), console

    return browse


CASES = {
    "light": {},
    "dark": {"scheme": DARK},
    "a light phone": {"width": 390},
    "a dark phone": {"scheme": DARK, "width": 390},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_page_shows_what_the_family_says(browse, case):
    records = list(story(epochs=30, every=3))
    found, console = browse(records, compared=comparison(records), **case)
    assert console == []
    assert found["errors"] == []
    assert found["asked"] == []
    assert found["dark"] == (case.get("scheme") == DARK)
    assert found["width"] == case.get("width", 1200)
    assert found["needed"] <= found["width"]
    assert found["smallest"] >= 10
    assert contrast(found["ink"], found["paper"]) > 7
    assert found["data"] == family(records)
    assert found["selected"].strip() == found["code"]
    check_the_front(found, records)
    assert dict(found["bands"]) == of_kind(records, "size")[-1]["axes"]


def check_the_front(found, records):
    """Every size is drawn at its parameters, and tells its values where it is pointed at or focused."""
    sizes = {size["name"]: size for size in of_kind(records, "size")}
    assert {mark["size"] for mark in found["marks"]} == set(sizes)
    (low, left), (high, right) = found["ticks"][0], found["ticks"][-1]
    for mark in found["marks"]:
        size = sizes[mark["size"]]
        assert int(mark["params"]) == size["params"]
        assert float(mark["test"]) == size["test"]["accuracy"]
        assert float(mark["validation"]) == size["validation"]["accuracy"]
        share = (mark["place"][0] - left) / (right - left)
        assert low * (high / low) ** share == pytest.approx(size["params"], rel=0.02)
        for told in (mark["focused"], mark["pointed"]):
            assert f"{size['params']:,} parameters" in told
        assert f"test accuracy {quantity.metric('accuracy', size['test']['accuracy'], 2)}" in mark["focused"]
        assert mark["inside"]
        assert mark["hidden"]


HARD = {
    "long names": {"names": "encoder.layers.{}.a_name_without_any_place_to_break_it_" + 60 * "x"},
    "evil": {"names": EVIL, "data": EVIL},
    "forty axes": {"axes": 40, "epochs": 40, "every": 1},
    "one size": {"epochs": 1, "every": 0},
}


@pytest.mark.parametrize("case", HARD.values(), ids=HARD)
def test_hard_runs_fit_a_phone_without_errors(browse, case):
    found, console = browse(list(story(**case)), width=390)
    assert console == []
    assert found["errors"] == []
    assert found["needed"] <= found["width"] == 390


def contrast(one, other):
    """The contrast ratio of two colours as browsers write them."""

    def light(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)
