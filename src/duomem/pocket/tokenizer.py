"""The pocket tokenizer: byte-level BPE trained on the corpus, with one-token role marks and the chat template.

In: texts. Out: a Hugging Face fast tokenizer. Every word of the game, every invented word and every small number
becomes one token; anything else falls back to bytes, so no text is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

USER, ASSISTANT, END, PAD = "<|u|>", "<|a|>", "<|end|>", "<|pad|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|a|>{% else %}<|u|>{% endif %}{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"
)
GAME_WORDS = (
    "put clean hot cool heat some two find them look at examine under with the it in on and a take move use open close go "
    "to from slice inventory Guide: Task: Nothing happens. You arrive pick up turn using is closed. carrying: nothing special "
    "about This cold"
)
"""Words of real tasks and answers that must be single tokens although the corpus hardly holds them. They give the
tokenizer a vocabulary; no task text stands in the corpus for it."""


def train_tokenizer(texts: Iterable[str], size: int, words: Iterable[str], context: int) -> Any:
    """A tokenizer of `size` tokens; `words` (names of things and places, invented words) become tokens of their own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def lines() -> Iterable[str]:
        yield from texts
        for word in [*GAME_WORDS.split(), *words]:
            yield f" {word}" * 3000
        for number in range(45):
            yield f" {number}" * 3000

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(lines(), trainer)
    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer
