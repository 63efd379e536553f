"""What byte-pair encoding builds tokens of: text of the tokens that are kept stays as it is."""

import random

import pytest
from gemma3_real import PROMPTS, gemma3_tokenizer
from tiny_vocabulary import tiny_tokenizer_data
from tokenizers import Tokenizer, models

from keras_t5gemma2.preprocessing.tokenizer import T5Gemma2Tokenizer
from keras_t5gemma2.vocabulary.derivations import Derivations, chosen
from keras_t5gemma2.vocabulary.resized import with_tokens
from keras_t5gemma2.vocabulary.vocabulary import Vocabulary

pytestmark = pytest.mark.once

TINY = Vocabulary(tiny_tokenizer_data())
EMBEDDED = T5Gemma2Tokenizer.from_preset("t5gemma2_tiny").loaded_vocabulary()


@pytest.mark.parametrize("vocabulary", [TINY, EMBEDDED], ids=["json", "sentencepiece"])
def test_a_token_is_merged_of_its_parts_where_the_library_merges_it(vocabulary):
    derivations, merged = Derivations(vocabulary), 0
    for id, token in enumerate(vocabulary.tokens):
        parts = derivations.parts(id)
        assert id in parts
        if len(token) > 1 and len(parts) > 1:
            assert vocabulary.encode([token.replace("▁", " ")]) == [[id]]
            joined = {a + b for a in map(vocabulary.tokens.__getitem__, parts) for b in token}
            assert token in joined or len(parts) > 2
            merged += 1
    assert merged > 100


@pytest.mark.parametrize("vocabulary", [TINY, EMBEDDED], ids=["json", "sentencepiece"])
def test_text_of_kept_tokens_is_split_as_before(vocabulary):
    """Random texts and random vocabularies of some of their tokens, closed under parts."""
    rng = random.Random(0)
    tokens = [vocabulary.decode([id]) for id in range(len(vocabulary))]
    found = 0
    for _ in range(20):
        texts = ["".join(rng.choices(tokens, k=rng.randint(1, 6))) for _ in range(60)]
        old = vocabulary.encode(texts)
        some = {id for ids in old[:30] for id in ids}
        kept = chosen(vocabulary, _special(vocabulary), dict.fromkeys(some, 1))
        small = Vocabulary(with_tokens(vocabulary, kept))
        assert small.tokens == [vocabulary.tokens[id] for id in kept]
        for before, after in zip(old, small.encode(texts), strict=True):
            if set(before) <= set(kept):
                assert [kept[id] for id in after] == before
                found += 1
    assert found >= 20 * 30


def test_without_its_parts_a_token_would_not_be_reached():
    """What `parts` is for: a token alone is none that a text comes to."""
    token = max(EMBEDDED.tokens, key=lambda token: len(token) * token.isalpha())
    id = EMBEDDED.token_to_id(token)
    alone = sorted({*_special(EMBEDDED), id})
    assert Vocabulary(with_tokens(EMBEDDED, alone)).encode([token]) != [[alone.index(id)]]
    kept = chosen(EMBEDDED, alone, {})
    assert Vocabulary(with_tokens(EMBEDDED, kept)).encode([token]) == [[kept.index(id)]]


def test_the_most_frequent_tokens_are_kept_first():
    special = sorted(_special(EMBEDDED))
    few = chosen(EMBEDDED, special, {})
    letters = [id for id in range(len(EMBEDDED)) if EMBEDDED.tokens[id] in ("x", "y", "z")]
    counts = dict(zip(letters, (1, 3, 2), strict=True))
    for size, kept in ((0, []), (1, letters[1:2]), (2, letters[1:]), (3, letters)):
        assert set(chosen(EMBEDDED, special, counts, len(few) + size)) == {*few, *kept}
    with pytest.raises(ValueError, match=f"at least {len(few)}.*size=3"):
        chosen(EMBEDDED, special, counts, 3)


def test_a_token_that_does_not_fit_with_its_parts_leaves_room_for_others():
    special = _special(EMBEDDED)
    few = chosen(EMBEDDED, special, {})
    x = EMBEDDED.token_to_id("x")
    long = EMBEDDED.token_to_id(max(EMBEDDED.tokens, key=lambda t: len(t) * t.isalpha()))
    kept = chosen(EMBEDDED, special, {long: 9, x: 1}, len(few) + 1)
    assert set(kept) == {*few, x}


def test_the_number_of_tokens_is_filled_up_with_merged_ones():
    few = chosen(EMBEDDED, _special(EMBEDDED), {})
    kept = chosen(EMBEDDED, _special(EMBEDDED), {}, multiple=len(few) + 5)
    assert len(kept) == len(few) + 5 and set(few) < set(kept)
    # Not above what was asked for.
    assert chosen(EMBEDDED, _special(EMBEDDED), {}, len(few) + 4, len(few) + 5) == few


def test_tokens_that_are_not_joined_as_they_are_are_refused():
    tokens = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "a": 3, "b</w>": 4, "ab</w>": 5}
    model = models.BPE(tokens, [("a", "b</w>")], end_of_word_suffix="</w>")
    with pytest.raises(ValueError, match="`end_of_word_suffix` is '</w>'"):
        Derivations(Vocabulary(Tokenizer(model).to_str().encode()))


@pytest.mark.slow
@pytest.mark.real
def test_gemmas_own_vocabulary_made_smaller():
    """32,768 of 262,144 tokens: those of ten prompts among them split these as before."""
    vocabulary = gemma3_tokenizer().loaded_vocabulary()
    counts = {}
    for ids in vocabulary.encode(list(PROMPTS)):
        for id in ids:
            counts[id] = counts.get(id, 0) + 1
    kept = chosen(vocabulary, _special(vocabulary), counts, multiple=32_768)
    assert len(kept) == 32_768
    small = Vocabulary(with_tokens(vocabulary, kept))
    old, new = (found.encode(list(PROMPTS)) for found in (vocabulary, small))
    assert [[kept[id] for id in ids] for ids in new] == old
    rng = random.Random(0)
    same = 0
    for _ in range(300):
        text = "".join(vocabulary.decode([id]) for id in rng.choices(kept, k=4))
        before, after = vocabulary.encode([text])[0], small.encode([text])[0]
        if set(before) <= set(kept):
            assert [kept[id] for id in after] == before
            same += 1
        assert small.decode(after) == text
    assert same > 100


def _special(vocabulary):
    names = ("<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)))
    return {vocabulary.token_to_id(name) for name in names}
