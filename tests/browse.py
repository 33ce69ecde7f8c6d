"""Reports in headless Chromium, wide and narrow: what the console says, what is requested, whether
every picture is drawn and nothing is wider than the window; screenshots to look at.

    python tests/browse.py runs/*/report.html --out=/tmp/looks

Needs `chromium` (Debian's package). Exit code 1 where anything is wrong.
"""

import argparse
import html
import json
import pathlib
import re
import subprocess
import sys
import tempfile

WIDTHS = (1280, 400)
BROWSER = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
BROWSER += ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
LOOK = """<script>addEventListener("load", () => {
  const box = one => one.getBoundingClientRect();
  const all = what => [...document.querySelectorAll(what)];
  const drawn = one => one.closest("details:not([open])") || box(one).width * box(one).height > 1;
  const inside = one => { for (let p = one.parentElement; p; p = p.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX)) return true; };
  const letters = all("body *").filter(one => one.innerText && [...one.childNodes].some(
    node => node.nodeType == 3 && node.textContent.trim()) && box(one).width);
  parent.document.body.setAttribute("data-look", JSON.stringify({
    pictures: all("svg, img").length, undrawn: all("svg, img").filter(one => !drawn(one)).length,
    asked: performance.getEntriesByType("resource").map(one => one.name),
    width: innerWidth, height: document.documentElement.scrollHeight,
    wider: document.documentElement.scrollWidth - innerWidth,
    outside: all("body *").filter(one => box(one).right > innerWidth + 1 && !inside(one)).length,
    smallest: Math.min(...letters.map(one => parseFloat(getComputedStyle(one).fontSize)),
      ...all("svg text").filter(one => box(one).width).map(one => {
        const { a, b } = one.getScreenCTM();
        return parseFloat(getComputedStyle(one).fontSize) * Math.hypot(a, b); })) }));
});</script>"""


def looked(page, width, picture, folder):
    """(what the page says of itself, lines of its console); a window is 500 wide at least, so that
    the page stands in a frame.
    """
    framed = html.escape(page.read_text().replace("</body>", f"{LOOK}</body>"))
    given = [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000"]
    given += ["--enable-logging=stderr"]

    def shown(height, *more):
        frame = f'<iframe width="{width}" height="{height}" style="border:0" srcdoc="{framed}">'
        (folder / "page.html").write_text(f'<body style="margin:0">{frame}</iframe></body>')
        size = f"--window-size={max(width, 500)},{height}"
        command = [*BROWSER, *given, size, *more, folder / "page.html"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    said = shown(800, "--dump-dom")
    found = re.search(r'data-look="([^"]*)"', said.stdout)
    if not found:
        raise SystemExit(f"{page} did not load: {said.stderr[-500:]}")
    look = json.loads(html.unescape(found[1]))
    shown(min(look["height"], 16000), f"--screenshot={picture}")
    return look, [line for line in said.stderr.splitlines() if "CONSOLE" in line]


def main(pages, out):
    bad = False
    out.mkdir(parents=True, exist_ok=True)
    for page in pages:
        for width in WIDTHS:
            name = f"{page.resolve().parent.name}-{page.stem}-{width}.png"
            picture = out.resolve() / name
            with tempfile.TemporaryDirectory() as folder:
                look, console = looked(page, width, picture, pathlib.Path(folder))
            wrong = console + look["asked"]
            wrong += [f"{look[word]} {word}" for word in ("undrawn", "outside") if look[word]]
            wrong += [f"{look['wider']} pixels wider than the window"] * (look["wider"] > 0)
            wrong += [f"letters of {look['smallest']} px"] * (look["smallest"] < 10)
            wrong += [f"a window of {look['width']}"] * (look["width"] != width)
            wrong += ["no screenshot"] * (not picture.exists())
            bad |= bool(wrong)
            print(f"{page} at {width}: {look['pictures']} pictures, {look['height']} px; ", end="")
            print("; ".join(wrong) or "well", flush=True)
    return int(bad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args()
    sys.exit(main(given.pages, given.out))
