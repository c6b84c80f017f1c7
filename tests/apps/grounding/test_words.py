"""Words of an answer and the tokens that spell them, with tokens shorter than words."""

from __future__ import annotations

import pytest
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from aloe.apps.grounding.words import find, part, spell
from aloe.core.errors import UserError


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level pieces: two letters at most, so that every word has several tokens and accents are split."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pairs = [("\u0120", c) for c in "atcserm"] + [("a", "t"), ("c", "a"), ("e", "e"), ("o", "n")]
    vocabulary = {c: i for i, c in enumerate([*sorted(alphabet), *("".join(p) for p in pairs)])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return hf.PreTrainedTokenizerFast(tokenizer_object=made)


ANSWER = "A cat sees a café, one Tree; the tree's caterer."


def spelt(tokenizer, text=ANSWER):
    ids = tokenizer(text)["input_ids"]
    return ids, *spell(tokenizer, ids)


def test_every_word_is_spelt_by_its_tokens(tokenizer):
    ids, text, ends = spelt(tokenizer)
    assert text == ANSWER
    spans = find(text, ends)
    assert [s.text for s in spans] == ["A", "cat", "sees", "a", "café", "one", "Tree", "the", "tree's", "caterer"]
    for span in spans:
        assert tokenizer.decode([ids[k] for k in span.tokens]).strip() == span.text
        assert text[span.start : span.stop] == span.text
    assert len(spans[4].tokens) > 2  # an accent of two bytes belongs to the word


def test_words_are_whole_and_found_everywhere(tokenizer):
    _, text, ends = spelt(tokenizer)
    assert [(s.text, s.start) for s in find(text, ends, ["tree"])] == [
        ("Tree", text.index("Tree")),
        ("tree", text.index("tree")),
    ]
    assert [s.text for s in find(text, ends, ["sees  a", "cat"])] == ["cat", "sees a"]
    assert len(find(text, ends, ["cat"])) == 1  # not in caterer
    assert len(find(text, ends, ["cat", "CAT"])) == 1


@pytest.mark.parametrize("word", ["dog", "", " ", "cat sees the", "e"])
def test_other_words_are_refused(word, tokenizer):
    _, text, ends = spelt(tokenizer)
    with pytest.raises(UserError, match="The answer has no"):
        find(text, ends, [word])


def test_two_words_part_at_the_first_token_that_differs(tokenizer):
    ids, text, ends = spelt(tokenizer)
    span = find(text, ends, ["cat"])[0]
    at, other = part(tokenizer, ids, text, span, "car")
    assert at in span.tokens
    assert at > span.tokens[0]  # both begin with " ca"
    assert tokenizer.decode([*ids[span.tokens[0] : at], other]) == " ca"  # "at" against "a"
    with pytest.raises(UserError, match="cannot be told from"):
        part(tokenizer, ids, text, span, "cat")
    letters = [i for c in text.encode() for i in tokenizer.convert_tokens_to_ids([tokenizer.tokenize(chr(c))[0]])]
    with pytest.raises(UserError, match="not spelt as its tokenizer would"):
        part(tokenizer, letters, text, span, "dog")


def test_a_number_is_a_token(tokenizer):
    ids, text, ends = spelt(tokenizer)
    spans = find(text, ends, [2, "cat"])
    assert (2,) in [s.tokens for s in spans]
    assert all(text[s.start : s.stop].strip() == tokenizer.decode([ids[k] for k in s.tokens]).strip() for s in spans)
    with pytest.raises(UserError, match="no token 99"):
        find(text, ends, [99])
