"""How a command ends: the user's mistake is one line and exit code 2."""

from __future__ import annotations

import pathlib
import sys
from typing import Callable

from theseus_jax.errors import UserError


def command(main: Callable[[], None]) -> None:
    """Run `main`, of the script that was started."""
    try:
        main()
    except UserError as error:
        print(f"{pathlib.Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
