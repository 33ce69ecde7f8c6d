"""What a user's mistake gives: one line."""

import pytest

from theseus_jax.errors import UserError


def refusal(call, *args, **kwargs):
    """The message of the UserError that the call raises, which has to be one line."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)
