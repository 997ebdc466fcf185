"""A runtime key's text: its randomness is all of it, and a slip of the hand is told before anything is looked up."""

import hashlib
import hmac
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.api_key import KEY_BYTES, KEY_CHARS, has_our_prefix, is_well_formed, key_digest, new_key, pepper_mark
from proxy.core.redact import MASK, Redactor

unit, prop = pytest.mark.unit, pytest.mark.property
few = settings(max_examples=50)
entropies = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def key_of(entropy: bytes) -> str:
    return new_key(lambda n: entropy[:n])


@prop
@few
@given(entropies)
def test_a_key_has_its_form_and_is_well_formed(entropy: bytes) -> None:
    key = key_of(entropy)
    assert len(key) == KEY_CHARS == 52
    assert re.fullmatch(r"tb_[0-9A-Za-z]{49}", key)
    assert is_well_formed(key.encode())


@prop
@few
@given(entropies, entropies)
def test_other_entropy_is_another_key(one: bytes, other: bytes) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)


@unit
def test_all_of_the_256_bits_are_in_it() -> None:
    assert new_key(lambda n: b"\0" * n).startswith("tb_" + "0" * 43)
    highest = int.from_bytes(b"\xff" * 32, "big")
    digits = key_of(b"\xff" * 32)[3:46]
    assert sum(ALPHABET.index(digit) * 62**place for place, digit in enumerate(reversed(digits))) == highest
    assert key_of(bytes(31) + b"\1") != key_of(bytes(32))
    assert key_of(b"\1" + bytes(31)) != key_of(bytes(32))


@prop
@few
@given(entropies, st.integers(0, KEY_CHARS - 1), st.sampled_from(ALPHABET + "_- "))
def test_one_wrong_character_is_told(entropy: bytes, place: int, wrong: str) -> None:
    key = key_of(entropy)
    changed = key[:place] + wrong + key[place + 1 :]
    assert is_well_formed(changed.encode()) == (changed == key)


@prop
@few
@given(entropies, st.integers(0, KEY_CHARS - 2))
def test_two_swapped_characters_are_told(entropy: bytes, place: int) -> None:
    key = key_of(entropy)
    changed = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
    assert is_well_formed(changed.encode()) == (changed == key)


@prop
@given(st.binary(max_size=80))
def test_anything_else_is_no_key(text: bytes) -> None:
    assert not is_well_formed(text)


@unit
@pytest.mark.parametrize("cut", range(KEY_CHARS))
def test_one_that_was_cut_off_is_told(cut: int) -> None:
    key = key_of(bytes(range(32)))
    assert not is_well_formed(key[:cut].encode())
    assert not is_well_formed((key + key[cut]).encode())
    assert has_our_prefix(key[:cut].encode()) == (cut >= 3)


@unit
def test_what_is_kept_is_a_digest_and_with_a_pepper_an_hmac() -> None:
    key, pepper = key_of(bytes(32)).encode(), b"pepper-0001"
    assert key_digest(key) == hashlib.sha256(key).digest()
    assert key_digest(key, pepper) == hmac.new(pepper, key, hashlib.sha256).digest()
    assert key_digest(key, pepper) != key_digest(key, b"pepper-0002")
    assert pepper_mark(pepper) != pepper_mark(b"pepper-0002")
    assert pepper.hex() not in pepper_mark(pepper)


@unit
def test_a_key_never_comes_out_of_the_redactor() -> None:
    key = key_of(bytes(range(32)))
    assert Redactor()(f"who is {key}?") == f"who is {MASK}?"
    assert Redactor()("the hint tb_…6Hyh stays") == "the hint tb_…6Hyh stays"
