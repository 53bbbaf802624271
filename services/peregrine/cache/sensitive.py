"""Does a value hold something that must not lie about: keys, tokens, card numbers? Pure.

A safety net below what tools and their answers say of themselves, so it looks for what can be
recognised by its form alone: secrets with a telling beginning, private keys, passwords in URLs, and
card numbers (a known issuer's range, the right length, a valid Luhn sum). A false alarm costs one
entry that is not kept.

Every stored value passes through here, so the forms are found by searching for their fixed
beginnings, which is a scan by the C library, and only what follows one is looked at closely. The
corpus beside the test is the specification: tests/unit/cache/sensitive_corpus.txt.
"""

import re

# A fixed beginning, and what has to follow it. None may be the tail of a longer word.
_TOKENS: tuple[tuple[bytes, re.Pattern[bytes]], ...] = tuple(
    (beginning, re.compile(rest))
    for beginning, rest in (
        (b"sk-", rb"[A-Za-z0-9_-]{20,}"),  # Anthropic, OpenAI and many more
        (b"sk_live_", rb"[A-Za-z0-9]{16,}"),  # Stripe
        (b"rk_live_", rb"[A-Za-z0-9]{16,}"),
        (b"whsec_", rb"[A-Za-z0-9+/=]{24,}"),
        (b"pk_", rb"[A-Za-z0-9]{6,}_[A-Za-z0-9_-]{32,}"),  # our own keys
        (b"AKIA", rb"[0-9A-Z]{16}(?![0-9A-Za-z])"),  # AWS
        (b"ASIA", rb"[0-9A-Z]{16}(?![0-9A-Za-z])"),
        (b"AIza", rb"[0-9A-Za-z_-]{35}"),  # Google
        (b"ya29.", rb"[0-9A-Za-z_-]{20,}"),
        (b"ghp_", rb"[0-9A-Za-z]{36}"),  # GitHub
        (b"gho_", rb"[0-9A-Za-z]{36}"),
        (b"ghu_", rb"[0-9A-Za-z]{36}"),
        (b"ghs_", rb"[0-9A-Za-z]{36}"),
        (b"ghr_", rb"[0-9A-Za-z]{36}"),
        (b"github_pat_", rb"[0-9A-Za-z_]{30,}"),
        (b"glpat-", rb"[0-9A-Za-z_-]{20,}"),  # GitLab
        (b"xoxb-", rb"[0-9A-Za-z-]{20,}"),  # Slack
        (b"xoxp-", rb"[0-9A-Za-z-]{20,}"),
        (b"xoxa-", rb"[0-9A-Za-z-]{20,}"),
        (b"xapp-", rb"[0-9A-Za-z-]{20,}"),
        (b"npm_", rb"[0-9A-Za-z]{36}"),
        (b"pypi-", rb"[0-9A-Za-z_-]{50,}"),
        (b"hf_", rb"[0-9A-Za-z]{30,}"),
        (b"SG.", rb"[0-9A-Za-z_-]{20,}\.[0-9A-Za-z_-]{20,}"),  # SendGrid
        (b"dop_v1_", rb"[0-9a-f]{64}"),
        (b"eyJ", rb"[0-9A-Za-z_-]{8,}\.eyJ[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]{8,}"),  # JWT
        (b"AGE-SECRET-KEY-1", rb"[0-9A-Z]{20,}"),
    )
)
_ANYWHERE: tuple[tuple[bytes, re.Pattern[bytes]], ...] = tuple(
    (beginning, re.compile(rest))
    for beginning, rest in (
        (b"-----BEGIN ", rb"(?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----"),
        # After the scheme of a URL: user:password@host.
        (b"://", rb"[^\s/:@\"'<>]{1,128}:[^\s/:@\"'<>]{1,128}@[A-Za-z0-9.\[-]"),
    )
)
_AUTHORIZATION = re.compile(
    rb"authorization[\"']?\s*[:=]\s*[\"']?(?:bearer|basic|token)\s+[A-Za-z0-9._~+/=-]{8,}",
    re.IGNORECASE,
)
_WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_CARD = re.compile(rb"(?<![0-9A-Za-z.])(?:[2-6](?:[ -]?[0-9]){12,18})(?![0-9A-Za-z]|\.[0-9])")
_DIGITS = frozenset(b"0123456789")
_SEPARATORS = b" -"


def holds_secret(value: bytes) -> bool:
    return _holds_token(value) or _holds_card(value)


def _holds_token(value: bytes) -> bool:
    for beginning, rest in _TOKENS:
        at = value.find(beginning)
        while at >= 0:
            after = at + len(beginning)
            if (at == 0 or value[at - 1] not in _WORD) and rest.match(value, after):
                return True
            at = value.find(beginning, after)
    for beginning, rest in _ANYWHERE:
        at = value.find(beginning)
        while at >= 0:
            after = at + len(beginning)
            if rest.match(value, after):
                return True
            at = value.find(beginning, after)
    if b"uthorization" in value or b"AUTHORIZATION" in value:
        return _AUTHORIZATION.search(value) is not None
    return False


def _holds_card(value: bytes) -> bool:
    return any(_begins_with_card(match[0]) for match in _CARD.finditer(value))


def _begins_with_card(text: bytes) -> bool:
    """Whether the digits up to some gap or the end of `text` are a card's number."""
    digits = text.translate(None, _SEPARATORS)
    if len(digits) == len(text):
        return _is_issued(digits) and _luhn(digits)
    count = 0
    for place, each in enumerate(text, 1):
        count += each in _DIGITS
        ends = place == len(text) or text[place] not in _DIGITS
        if count >= 13 and ends and _is_issued(digits[:count]) and _luhn(digits[:count]):
            return True
    return False


def _is_issued(digits: bytes) -> bool:
    """Whether an issuer has numbers that begin like this and are as long (ISO/IEC 7812)."""
    two, four, length = int(digits[:2]), int(digits[:4]), len(digits)
    if digits[:1] == b"4":
        return length in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return length == 16
    if two in (34, 37):
        return length == 15
    if two in (36, 38, 39) or 3000 <= four <= 3059:
        return length == 14
    if 3528 <= four <= 3589 or four == 6011 or two in (62, 65) or 6440 <= four <= 6499:
        return 16 <= length <= 19
    return False


def _luhn(digits: bytes) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = digit - 48
        if place % 2:
            number *= 2
            if number > 9:
                number -= 9
        total += number
    return total % 10 == 0
