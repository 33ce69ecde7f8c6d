"""What a report shows, in the order of its page."""

# isort: skip_file
from theseus_jax.report.panels import claims, conversions, costs, guide_map, lead, newborn
from theseus_jax.report.panels import provenance, samples, scores, seams, selector, tables
from theseus_jax.report.panels import training, words

FILES = (lead, claims, scores, tables, training, seams, guide_map, newborn, selector, conversions)
PANELS = tuple(file.PANEL for file in (*FILES, costs, samples, words, provenance))
