"""Numbers of things, reasons and times in words, as all that a user reads has them."""

from datetime import timedelta


def counted(number: int, noun: str, plural: str = "") -> str:
    """`number` things: "1 image", "1,200 images", "2 classes"; `plural` where it is no regular
    one, or more than one word changes: `counted(n, "image shows", "images show")`."""
    return f"{number:,} {noun if number == 1 else plural or _plural(noun)}"


def reason_in_words(reason: str) -> str:
    """Why an image was left out: "not an image" of `not_an_image`, as files have it."""
    return reason.replace("_", " ")


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "tch")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, of more than two days as days."""
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:,.1f} days"
    return str(timedelta(seconds=round(seconds)))
