"""The error that a user can mend; it imports next to nothing: command lines start at once."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A setting in backticks, as on a command line too (`-o a.b=c`); a remark in parentheses with one.
_SETTING = re.compile(r"`(-o )?([A-Za-z]\w*(?:\.\w+)*)(=[^`]*)?`")
_REMARK = re.compile(r" \([^()`]*`[^()]*\)")


class UserError(Exception):
    """A mistake that the user can mend: shown as its message alone, never with a traceback.

    The message says what was got, what was expected and what to do. Settings stand in backticks,
    called as where the error is raised; see `settings_named`.
    """


@contextmanager
def errors_of(place: str) -> Iterator[None]:
    """Put `place` and a colon before the message of a UserError that the block raises."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


@contextmanager
def settings_named(key_of: Callable[[str], str]) -> Iterator[None]:
    """Call the settings that a UserError of the block names as the user's file does.

    See `with_settings_named`.
    """
    try:
        yield
    except UserError as error:
        error.args = (with_settings_named(str(error), key_of),)
        raise


def with_settings_named(text: str, key_of: Callable[[str], str]) -> str:
    """`text` with each name in backticks replaced by its `key_of`.

    That is empty for a setting which the user's file does not have: a remark in parentheses that
    names one, such as "(or set `clip_norm`)", is left out.
    """

    def remark(found: re.Match[str]) -> str:
        return found[0] if all(key_of(each[2]) for each in _SETTING.finditer(found[0])) else ""

    def setting(found: re.Match[str]) -> str:
        option, name, value = found.groups("")
        return f"`{option}{key_of(name) or name}{value}`"

    return _SETTING.sub(setting, _REMARK.sub(remark, text))
