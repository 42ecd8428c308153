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
    names, text = sorted(valid), str(name)
    initials = [n for n in names if "".join(word[0] for word in n.split("_") if word) == text]
    close = initials or difflib.get_close_matches(text, names, n=1, cutoff=0.0)
    if not close:
        hint = "there are none"
    elif difflib.SequenceMatcher(None, text, close[0]).ratio() < 0.5 and not initials:
        hint = f"valid: {', '.join(names)}; closest: {close[0]!r}"
    else:
        hint = f"did you mean {close[0]!r}?"
    return InputError(f"unknown {kind} {text!r}; {hint}")
