"""What a report shows, in the order of its page."""

# isort: skip_file
from theseus_jax.report.panels import claims, conversions, costs, guide_map, lead, provenance
from theseus_jax.report.panels import samples, scores, seams, selector, tables, training
from theseus_jax.report.panels import words

FILES = (lead, claims, scores, tables, training, seams, guide_map, selector, conversions)
PANELS = tuple(file.PANEL for file in (*FILES, costs, samples, words, provenance))
