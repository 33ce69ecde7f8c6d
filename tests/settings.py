"""A config with values changed by their dotted paths, or by keywords with two underscores for a
dot.
"""


def changed(config, values, **changes):
    """The same config, with `values` and then `changes` in it."""
    for key, value in {
        **values,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }.items():
        section, _, last = key.rpartition(".")
        (config[section] if section else config)[last] = value
    return config
