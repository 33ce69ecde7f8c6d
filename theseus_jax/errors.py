"""The user's mistakes: one clear line, naming what was given and the remedy."""


class UserError(ValueError):
    """A mistake in a config, a path, a shape or a pair of networks; the launcher prints it and
    exits with 2.

    The message is one line: what was given, what was expected, what to do.
    """


class Diverged(UserError):
    """A loss that is no longer finite: the setting is at fault, which a search may pass over."""


def root_of(error: BaseException) -> str:
    """The root of an exception chain in one line: orbax hides it below a list of its handlers."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    text = " ".join(f"{type(error).__name__}: {error}".partition("[tensorstore_spec=")[0].split())
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-200:]}"
