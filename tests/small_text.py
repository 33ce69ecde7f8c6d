"""A folder of little texts, and what every tiny run of a language model on them says."""

LANGUAGE = {
    "data.source": "directory",
    "data.tokenizer": "bytes",
    "data.share": 0.5,
    "data.validation": 0.2,
    "guide.width": 16,
    "guide.depth": 2,
    "guide.heads": 2,
    "guide.steps": 12,
    "target.width": 16,
    "target.depth": 2,
    "train.chunk": 3,
    "seeds": 2,
    "report.latency_repeats": 2,
    "report.sample_tokens": 4,
}


def write_texts(folder, sentences):
    """Twelve chapters of so many sentences each."""
    for i in range(12):
        words = " ".join(f"the {i + j} cats sat on mat {j}." for j in range(sentences))
        (folder / f"{i}.txt").write_text(f"chapter {i}: {words}")
    return folder
