"""The handshake by which both ends of a connection prove that they know the authentication key.

Each side challenges the other with random bytes and checks the keyed digest that comes back;
the key itself never travels.  Two dialects are on the wire:

- today's: a challenge is ``{digest}`` followed by random bytes, and so is its answer; the
  digest name is part of what is authenticated, hence nobody in between can talk a peer into a
  weaker one;
- that of Python 3.11 and older: 20 random bytes, answered by 16 bytes of HMAC-MD5.

We speak today's and understand the old one, on every Python, so that a program may be moved to this
package one machine at a time.
"""

from __future__ import annotations

import os
from typing import Protocol

from .context import AuthenticationError

MESSAGE_LENGTH = 40

_CHALLENGE = b"#CHALLENGE#"
_WELCOME = b"#WELCOME#"
_FAILURE = b"#FAILURE#"

_ALLOWED_DIGESTS = frozenset({"md5", "sha256", "sha384", "sha3_256", "sha3_384"})
_OLD_CHALLENGE_SIZE = 20
_OLD_ANSWER_SIZE = 16
# Before a peer has shown that it knows the key, nothing longer than this is read from it.
_LONGEST_MESSAGE = 256


def _mac(authkey: bytes, message: bytes, digest: str) -> bytes:
    # OpenSSL is slow to load, and most programs never need it.
    import hmac

    return hmac.new(authkey, message, digest).digest()


class _Channel(Protocol):
    """As much of a connection as the handshake needs."""

    def send_bytes(self, buf: bytes, /) -> object: ...

    def recv_bytes(self, maxlength: int, /) -> bytes: ...


def _split_digest(message: bytes) -> tuple[str, bytes]:
    """The digest that `message` names, and what follows; ``""`` where it is in the old dialect."""
    if len(message) in (_OLD_CHALLENGE_SIZE, _OLD_ANSWER_SIZE):
        return "", message
    if message.startswith(b"{"):
        name, brace, payload = message[1:].partition(b"}")
        digest = name.decode("ascii", "replace")
        if brace and digest in _ALLOWED_DIGESTS:
            return digest, payload
    raise AuthenticationError(
        f"unsupported message length, missing digest prefix, or unsupported digest: {message=}"
    )


def _create_response(authkey: bytes, message: bytes) -> bytes:
    """The answer to the challenge `message`."""
    digest = _split_digest(message)[0]
    if not digest:
        try:
            return _mac(authkey, message, "md5")
        except ValueError:
            # A hardened OpenSSL has no MD5.  The old peer is going to refuse the better digest, but
            # that refusal is the clearest error there can be.
            digest = "sha256"
    return b"{%s}%s" % (digest.encode("ascii"), _mac(authkey, message, digest))


def _verify_challenge(authkey: bytes, message: bytes, response: bytes) -> None:
    """Raise AuthenticationError unless `response` answers the challenge `message`."""
    from hmac import compare_digest

    named, answered = _split_digest(response)
    digest = named or "md5"
    try:
        expected = _mac(authkey, message, digest)
    except ValueError:
        raise AuthenticationError(f"response_digest={digest!r} unsupported") from None
    if len(expected) != len(answered):
        raise AuthenticationError(
            f"expected {digest!r} of length {len(expected)} got {len(answered)}"
        )
    if not compare_digest(expected, answered):
        raise AuthenticationError("digest received was wrong")


def _require_bytes(authkey: object) -> None:
    if not isinstance(authkey, bytes):
        raise ValueError(f"Authkey must be bytes, not {type(authkey)!s}")


def deliver_challenge(connection: _Channel, authkey: bytes, digest_name: str = "sha256") -> None:
    """Have the peer prove that it knows `authkey`; AuthenticationError if it does not."""
    _require_bytes(authkey)
    message = b"{%s}%s" % (digest_name.encode("ascii"), os.urandom(MESSAGE_LENGTH))
    connection.send_bytes(_CHALLENGE + message)
    response = connection.recv_bytes(_LONGEST_MESSAGE)
    try:
        _verify_challenge(authkey, message, response)
    except AuthenticationError:
        connection.send_bytes(_FAILURE)
        raise
    connection.send_bytes(_WELCOME)


def answer_challenge(connection: _Channel, authkey: bytes) -> None:
    """Prove to the peer that this side knows `authkey`; AuthenticationError if it fails."""
    _require_bytes(authkey)
    message = connection.recv_bytes(_LONGEST_MESSAGE)
    if not message.startswith(_CHALLENGE):
        raise AuthenticationError(f"Protocol error, expected challenge: {message=}")
    message = message.removeprefix(_CHALLENGE)
    if len(message) < _OLD_CHALLENGE_SIZE:
        raise AuthenticationError(f"challenge too short: {len(message)} bytes")
    connection.send_bytes(_create_response(authkey, message))
    if connection.recv_bytes(_LONGEST_MESSAGE) != _WELCOME:
        raise AuthenticationError("digest sent was rejected")
