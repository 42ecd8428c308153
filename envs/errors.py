"""Bad input, reported in one line that names the nearest valid value."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A value that the caller can mend. The message is one line; the command line exits with code 2."""


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> InputError:
    """An `InputError` for a name that does not exist, with the closest valid one.

    Args:
        kind: what the name stands for, such as "environment".
        name: the name that was given.
        valid: every name that would have been accepted.
    """
    names = sorted(valid)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    if close:
        hint = f"did you mean {close[0]!r}?"
    elif names:
        hint = f"valid: {', '.join(names)}"
    else:
        hint = "there are none"
    return InputError(f"unknown {kind} {str(name)!r}; {hint}")
