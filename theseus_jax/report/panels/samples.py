"""Texts that models generated."""

from theseus_jax.report.panel import Listing, Panel, Run


def listings(run: Run) -> list[Listing]:
    """One a sample: the prompt and how the model went on."""
    keys = (("model", "a model"), ("text", ""), ("prompt", ""))
    samples = run.results.get("samples") or ()
    return [(*(str(each.get(key, other)) for key, other in keys), False) for each in samples]


PANEL = Panel("Generated samples", listings=listings, page=True)
