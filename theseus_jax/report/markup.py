"""Pieces of an HTML page. Functions take plain text and escape it; only `section` and `page` take markup."""

from __future__ import annotations

import os
import pathlib
import re
from html import escape
from typing import Any, Iterable, Sequence

from theseus_jax.judging import FAILS, HOLDS, UNDECIDED, verdict_of
from theseus_jax.errors import UserError
from theseus_jax.report.style import CSS
from theseus_jax.report.tables import Grid

# What may not stand in an HTML document (controls, lone surrogates) shows as the replacement character.
FORBIDDEN = re.compile("[^\t\n\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def paragraph(text: str, kind: str = "") -> str:
    """<p class=kind>."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def grid(content: Grid, bold: Sequence[str] = ()) -> str:
    """A table of figures; rows with a name in `bold` stand out."""

    def cells(tag: str, row: tuple[str, ...]) -> str:
        names = "".join(f'<{tag} class="name">{escape(cell)}</{tag}>' for cell in row[: content.names])
        figures = [re.sub(r" us$", " µs", cell.replace("+-", "±")) for cell in row[content.names :]]
        return names + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in figures)

    body = "".join(
        f'<tr class="ours">{cells("td", row)}</tr>'
        if set(row[: content.names]) & set(bold)
        else f"<tr>{cells('td', row)}</tr>"
        for row in content.rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{cells("th", content.header)}</tr></thead><tbody>{body}</tbody>'
        "</table></div>"
    )


def facts(pairs: Iterable[tuple[str, Any]]) -> str:
    """A table of names and values."""
    body = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{escape(str(value))}</td></tr>" for name, value in pairs
    )
    return f'<table class="facts"><tbody>{body}</tbody></table>'


MARKS = {FAILS: "✗ FAILS", UNDECIDED: "? undecided", HOLDS: "✓ holds"}


def claims(items: Sequence[dict[str, Any]]) -> str:
    """A list of claims: the failed first, then the undecided."""

    def item(claim: dict[str, Any]) -> str:
        verdict = verdict_of(claim)
        return (
            f'<li class="{verdict}"><span class="mark">{MARKS[verdict]}'
            f'</span>{escape(str(claim.get("text")))}<span class="measured">'
            f"{escape(str(claim.get('measured', 'no measurement is given')))}</span></li>"
        )

    failed_first = sorted(items, key=lambda claim: list(MARKS).index(verdict_of(claim)))
    return f'<ul class="claims">{"".join(map(item, failed_first))}</ul>'


def figure(svg: str | None, caption: str) -> str:
    """A picture with its caption; nothing where there is no picture."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" if svg else ""


def folded(title: str, text: str) -> str:
    """Preformatted text behind a line to click on."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def section(title: str, *parts: str) -> str:
    """A heading and its parts (markup); nothing where no part has anything."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>" if any(parts) else ""


def page(title: str, *parts: str) -> str:
    """A whole document that reads nothing from elsewhere. parts: markup."""
    document = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head><body><main><h1>{escape(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )
    return FORBIDDEN.sub("\ufffd", document)


def save(path: str | os.PathLike[str], document: str) -> pathlib.Path:
    """Write a page at once or not at all; returns its path. Raises UserError when it cannot be written."""
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".new")
    try:
        part.write_text(document, encoding="utf8")
        part.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); give a file in a folder you may write to, with "
            "space left"
        ) from error
    return path
