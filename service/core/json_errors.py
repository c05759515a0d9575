"""What is wrong with a JSON text, in words for the one who wrote it."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from service.core.errors import InvalidInput

Decoded = TypeVar("Decoded")

_MISMATCH = re.compile(
    r"Expected `(?P<wanted>[^`]+)`, got `(?P<got>[^`]+)`(?: - at `(?P<at>[^`]+)`)?"
)
_KINDS = {
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def explain_mismatch(error: msgspec.ValidationError) -> str:
    """A sentence for JSON of the wrong shape; the library speaks of Python's types."""
    match = _MISMATCH.fullmatch(str(error))
    if match is None:
        return f"{error}."
    wanted = " or ".join(dict.fromkeys(_kind(name) for name in match["wanted"].split(" | ")))
    where = (match["at"] or "").removeprefix("$").removeprefix(".")
    said = f"expected {wanted}, got {_kind(match['got'])}."
    return f"`{where}`: {said}" if where else said[0].upper() + said[1:]


def explain_syntax(error: msgspec.DecodeError) -> str:
    """A sentence for a text that is no JSON."""
    return f"Not JSON: {str(error).removeprefix('JSON is malformed: ')}."


def read_json(
    decoder: msgspec.json.Decoder[Decoded], text: bytes, failure: type[InvalidInput]
) -> Decoded:
    """Decode what somebody sent.

    Raises:
        InvalidInput: as `failure`, with what is wrong and where.
    """
    try:
        # msgspec checks the syntax of raw JSON, but not its UTF-8.
        text.decode()
        return decoder.decode(text)
    except UnicodeDecodeError as error:
        raise failure(f"Not UTF-8 (byte {error.start}).") from None
    except msgspec.ValidationError as error:
        raise failure(explain_mismatch(error) + _fields(error, decoder)) from None
    except msgspec.DecodeError as error:
        if not text.strip():
            raise failure("Not JSON: there is nothing.") from None
        raise failure(explain_syntax(error)) from None
    except RecursionError:
        raise failure("Nested too deeply.") from None


def _fields(error: msgspec.ValidationError, decoder: msgspec.json.Decoder[Decoded]) -> str:
    """Which fields there are, for who gave one that there is not."""
    names = getattr(decoder.type, "__struct_encode_fields__", ())
    if not names or not str(error).startswith("Object contains unknown field"):
        return ""
    return f" Known: {', '.join(f'`{name}`' for name in names)}."


def _kind(name: str) -> str:
    return _KINDS.get(name, name)
