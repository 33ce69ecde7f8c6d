"""What a report shows, in the order of its page."""

from theseus_jax.report.panels import (
    claims,
    conversions,
    costs,
    guide_map,
    lead,
    provenance,
    samples,
    scores,
    seams,
    selector,
    tables,
    training,
    words,
)

FILES = (lead, claims, scores, tables, training, seams, guide_map, selector, conversions)
PANELS = tuple(file.PANEL for file in (*FILES, costs, samples, words, provenance))
