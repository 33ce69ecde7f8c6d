"""The user's mistakes: one clear line, naming what was given and the remedy."""


class UserError(ValueError):
    """A mistake in a config, a path, a shape or a pair of networks; the launcher prints it and exits with 2.

    The message is one line: what was given, what was expected, what to do.
    """
