"""The error that a user can mend; it imports next to nothing: command lines start at once."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can mend: shown as its message alone, never with a traceback.

    The message says what was got, what was expected and what to do.
    """


@contextmanager
def errors_of(place: str) -> Iterator[None]:
    """Put `place` and a colon before the message of a UserError that the block raises."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
