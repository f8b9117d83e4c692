"""The error that a user can mend; it imports nothing, for command lines that start at once."""


class UserError(Exception):
    """A mistake that the user can mend: shown as its message alone, never with a traceback.

    The message says what was got, what was expected and what to do.
    """
