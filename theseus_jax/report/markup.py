"""An HTML page out of sections, through templates that escape everything but the pictures."""

import os
import pathlib
import re
from typing import Any, Sequence

from theseus_jax.errors import UserError
from theseus_jax.judging import FAILS, HOLDS, UNDECIDED
from theseus_jax.paths import local
from theseus_jax.report.panel import Section

# What may not stand in an HTML document (controls, lone surrogates) is the replacement character.
FORBIDDEN = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
MARKS = {FAILS: "✗ FAILS", UNDECIDED: "? undecided", HOLDS: "✓ holds"}


def page(title: str, sections: Sequence[Section], **top: Any) -> str:
    """A whole document that reads nothing from elsewhere. top: banner, meta, lead and note."""
    import jinja2

    loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates")
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters["figures"] = figures
    shown = {"title": title, "sections": sections, "marks": MARKS, **top}
    return FORBIDDEN.sub("\ufffd", pages.get_template("page.html").render(shown))


def figures(text: str) -> str:
    """Signs that plain text lacks: "1.0 +- 0.1" -> "1.0 ± 0.1", "45 us" -> "45 µs"."""
    return re.sub(r"(?<=\d) us\b", " µs", text.replace("+-", "±"))


def save(path: str | os.PathLike[str], document: str) -> pathlib.Path:
    """Write a page at once or not at all; returns its path. Raises UserError if it cannot be."""
    path = local(path)
    part = path.with_name(path.name + ".new")
    try:
        part.write_text(document, encoding="utf8")
        part.replace(path)
    except OSError as error:
        remedy = "give a file in a folder you may write to, with space left"
        raise UserError(f"{path} cannot be written ({error.strerror}); {remedy}") from error
    return path
