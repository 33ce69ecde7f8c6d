"""The user's mistakes: one clear line, naming what was given and the remedy."""


class UserError(ValueError):
    """A mistake in a config, a path, a shape or a pair of networks; the launcher prints it and
    exits with 2.

    The message is one line: what was given, what was expected, what to do.
    """


class Diverged(UserError):
    """A loss that is no longer finite: the setting is at fault, which a search may pass over."""
