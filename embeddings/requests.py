"""What a caller may ask for: the body of `POST /v1/embeddings`, decoded and checked, and precise errors.

Owns the field names of the data plane. Decides nothing about models.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Literal

import msgspec

from core.errors import InvalidRequest, UnknownField
from core.money import nano_from_usd
from embeddings.tokens import VOCABULARY
from providers.base import InputType
from tenants.settings import Fallback

MAX_ITEMS = 2048
Strategy = Literal["priority", "cost", "latency", "quality"]


class Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The wire's form. `null` stands for absent in every optional field, as with OpenAI."""

    input: str | list[str | int | list[int]]
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=264)] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=65_536)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str, msgspec.Meta(max_length=500)] | None = None
    input_type: Literal["query", "document", "classification", "clustering", "similarity"] | None = None
    # It goes into the ledger, and PostgreSQL takes no NUL.
    task_type: Annotated[str, msgspec.Meta(max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")] | None = None
    optimize: Strategy | None = None
    truncate: Literal["error", "end"] | None = None
    max_cost_usd: Decimal | None = None
    fallback: Fallback | None = None
    on_item_error: Literal["fail", "partial"] | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, gc=False):
    """A checked request. Exactly one of `texts` and `tokens` is not empty."""

    texts: list[str]
    tokens: list[list[int]]
    model: str | None  # None: the caller leaves the choice to Quiver
    dimensions: int | None = None
    base64: bool = False
    input_type: InputType | None = None
    task_type: str = ""
    strategy: Strategy = "priority"
    truncate: bool = False
    max_cost_nano: int | None = None
    required_space: str = ""
    required_space_dimensions: int | None = None
    fallback: Fallback | None = None  # None: as the tenant set it
    is_partial: bool = False  # an item that fails alone leaves the others their answer
    reads_cache: bool = True
    fills_cache: bool = True

    @property
    def items(self) -> int:
        return len(self.texts) or len(self.tokens)


_decoder = msgspec.json.Decoder(Body)
_CHOICES = {
    "encoding_format": "float or base64",
    "input_type": "query, document, classification, clustering or similarity",
    "optimize": "priority, cost, latency or quality",
    "truncate": "error or end",
    "fallback": "auto, space or none",
    "on_item_error": "fail or partial",
    "task_type": "1 to 100 printable characters",
}


def decode(body: bytes, *, required_space: str = "", cache_control: bytes = b"") -> EmbeddingRequest:
    """Raises `InvalidRequest` and its kin with `param` set to the caller's own name of the field."""
    try:
        asked = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is no valid JSON: {error}", param=_field_at(body, str(error))) from None
    return checked(asked, required_space=required_space, cache_control=cache_control)


def checked(asked: Body, *, required_space: str = "", cache_control: bytes = b"") -> EmbeddingRequest:
    """What types alone cannot say. Raises as `decode` does."""
    texts, tokens = _inputs(asked.input)
    space, dimensions = _space(required_space)
    return EmbeddingRequest(
        texts=texts,
        tokens=tokens,
        model=None if asked.model in (None, "auto") else asked.model,
        dimensions=asked.dimensions,
        base64=asked.encoding_format == "base64",
        input_type=None if asked.input_type is None else InputType(asked.input_type),
        task_type=asked.task_type or "",
        strategy=asked.optimize or "priority",
        truncate=asked.truncate == "end",
        max_cost_nano=_max_cost(asked.max_cost_usd),
        required_space=space,
        required_space_dimensions=dimensions,
        fallback=asked.fallback,
        is_partial=asked.on_item_error == "partial",
        reads_cache=b"no-cache" not in cache_control,
        fills_cache=b"no-store" not in cache_control,
    )


def _inputs(given: str | list[str | int | list[int]]) -> tuple[list[str], list[list[int]]]:
    if isinstance(given, str):
        given = [given]
    if not given:
        raise InvalidRequest("`input` is empty; send at least one text.", param="input")
    if isinstance(given[0], int):
        given = [given]  # type: ignore[list-item]  # one token array; a mixture is found below
    if len(given) > MAX_ITEMS:
        raise InvalidRequest(f"`input` has {len(given)} items; at most {MAX_ITEMS} go into one request.", param="input")
    kind = type(given[0])
    for index, item in enumerate(given):
        if type(item) is not kind:
            raise InvalidRequest(
                "`input` mixes texts and tokens; send one kind.", param="input", extra={"index": index}
            )
        if not item:
            raise InvalidRequest(
                f"`input[{index}]` is empty; there is nothing to embed.", param="input", extra={"index": index}
            )
    if kind is str:
        return given, []  # type: ignore[return-value]
    _check_tokens(given)  # type: ignore[arg-type]
    return [], given  # type: ignore[return-value]


def _check_tokens(arrays: list[list[int]]) -> None:
    for index, array in enumerate(arrays):
        if any(type(token) is not int for token in array):
            raise InvalidRequest(
                "`input` mixes texts and tokens; send one kind.", param="input", extra={"index": index}
            )
        if min(array) < 0 or max(array) >= VOCABULARY:
            raise InvalidRequest(
                f"`input[{index}]` has a token outside of cl100k_base (0 to {VOCABULARY - 1}).",
                param="input",
                extra={"index": index},
            )


def _max_cost(usd: Decimal | None) -> int | None:
    if usd is None:
        return None
    if not usd.is_finite() or usd < 0 or usd > 1_000_000:
        raise InvalidRequest("`max_cost_usd` must be between 0 and 1,000,000.", param="max_cost_usd")
    return nano_from_usd(usd)


def _space(header: str) -> tuple[str, int | None]:
    if not header:
        return "", None
    space, at, dimensions = header.rpartition("@")
    if not at:
        return header, None
    if not (space and dimensions.isascii() and dimensions.isdigit() and int(dimensions[:9])):
        raise InvalidRequest(
            "`X-Require-Embedding-Space` must be `space` or `space@dimensions`.", param="X-Require-Embedding-Space"
        )
    return space, int(dimensions[:9])


def _refusal(message: str) -> InvalidRequest:
    """msgspec's refusal in the caller's words: `Expected … - at `$.input[3]`` names the field and the item."""
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`.*", message, re.DOTALL)
    if unknown:
        return UnknownField(f"`{unknown[1][:100]}` is no field of this request; remove it.", param=unknown[1][:100])
    missing = re.match(r"Object missing required field `(\w+)`", message)
    if missing:
        return InvalidRequest(f"`{missing[1]}` is missing.", param=missing[1])
    place = re.search(r" - at `\$\.(\w+)((?:\[[\d.]+\])*)`$", message)
    if not place:
        return InvalidRequest(f"The body must be a JSON object. {message}")
    name, path = place[1], place[2]
    index = re.match(r"\[(\d+)\]", path)
    what = f"must be {_CHOICES[name]}" if name in _CHOICES else message[: place.start()]
    return InvalidRequest(f"`{name}{path}`: {what}.", param=name, extra={"index": int(index[1])} if index else None)


def _field_at(body: bytes, message: str) -> str | None:
    """The field whose value broke the JSON, e.g. the `dimensions` of `{"dimensions": NaN}`."""
    at = re.search(r"\(byte (\d+)\)", message)
    names = re.findall(rb'"(\w{1,40})"\s*:\s*$', body[: int(at[1])]) if at else []
    name = names[-1].decode() if names else ""
    return name if name in Body.__struct_fields__ else None
