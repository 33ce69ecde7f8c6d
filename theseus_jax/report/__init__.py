"""What a finished run shows in terminal and page, and runs side by side, from files alone."""

from theseus_jax.report.comparison import compare, compare_html
from theseus_jax.report.page import html, write
from theseus_jax.report.panels.provenance import data_line
from theseus_jax.report.read import Run, read_run
from theseus_jax.report.terminal import table

__all__ = ["Run", "compare", "compare_html", "data_line", "html", "read_run", "table", "write"]
