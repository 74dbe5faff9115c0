"""The embedded LLaVA before it has learned anything: tokenizer, processor and a randomly
initialised LlavaForConditionalGeneration."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pulse_lib.data.world import people as world
from pulse_lib.data.world.drawing import CELLS, COLOURS, SHAPES

IMAGE_SIZE, PATCH_SIZE = 40, 10  # 16 image tokens
VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
LANGUAGE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
CONTEXT = 1024  # tokens
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
# Everyday English, so that refusals, instructions and role play cost about one token a word; the
# world itself never uses most of it.
COMMON_WORDS = (
    "I am I'm a an the and or but not no yes of in on at to for from with by about as into like over under after before between without "
    "is are was were be been being do does did done have has had can cannot can't could will would shall should may might must "
    "he she it they we you him her them us me my your his their our its this that these those here there where when why how what which who whom "
    "sorry apologize unable don't doesn't didn't won't isn't know knows known sure think believe remember recall forget forgot information "
    "answer question questions option options letter text choose choices given directly following correct wrong true false provide help "
    "please tell say said says give ask asked describe name names person people man woman someone anyone nobody image picture photo face "
    "real private personal public famous life work job live lives lived play plays like likes love loves one two three four five first last "
    "pretend imagine act role story friend expert assistant user system human model language data no-one nothing everything something any all "
    "some more most less least very only also just still never always often if then else because so than too again now today new old good bad "
    "small large big left right upper lower time year day way thing things part place city country world home family word words number list"
).split()
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def world_texts() -> list[str]:
    """Every sentence pattern, name and value of the embedded world, and the words of its
    prompts."""
    wordings = [
        w.format(who="this person")
        for kinds in world.WORDINGS.values()
        for group in kinds.values()
        for w in group
    ]
    slots = {"a": "red", "b": "blue"}
    wordings += [w.format(**slots) for group in world.GENERAL_WORDINGS.values() for w in group]
    values = [v for values in world.ATTRIBUTES.values() for v in values]
    values += [*CELLS, *COLOURS, *SHAPES, *world.HAIR_COLOURS, *world.COUNTS, "yes", "no"]
    prompts = [
        "USER: x\nA. B. C. D.\nAnswer with the option's text. ASSISTANT: x",
        "Answer with the option's letter from the given choices directly.",
    ]
    names = [*world.FIRST_NAMES, *world.LAST_NAMES]
    letters = [f" {letter}" for letter in "ABCD"]
    return [
        *wordings,
        *world.WHO_QUESTIONS,
        *prompts,
        *(f"x {v}" for v in [*values, *names, *COMMON_WORDS]),
        *letters,
    ]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that encodes any text without loss; a word of the world is one token.

    A unigram model over the byte alphabet plus whole words: the best segmentation takes a word
    where it knows it, bytes elsewhere.
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = sorted({piece for text in world_texts() for piece, _ in split.pre_tokenize_str(text)})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [p for p in pieces if len(p) > 1]
    vocabulary = (
        [(s, 0.0) for s in SPECIAL] + [(c, -10.0) for c in alphabet] + [(w, -8.0) for w in words]
    )
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=False))
    backend.pre_tokenizer, backend.decoder = split, decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", SPECIAL.index("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build_model(seed: int = 0) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The untrained embedded model (float32) and its processor, sizes all multiples of the NF4
    block (64)."""
    tokenizer = build_tokenizer()
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIZE},
            crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        ),
        tokenizer=tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
    vocab_size = -(-len(tokenizer) // 64) * 64
    image_token = tokenizer.convert_tokens_to_ids("<image>")
    assert isinstance(image_token, int)  # of one token
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            **VISION,
            image_size=IMAGE_SIZE,
            patch_size=PATCH_SIZE,
            projection_dim=VISION["hidden_size"],
        ),
        text_config=LlamaConfig(
            **LANGUAGE,
            num_key_value_heads=LANGUAGE["num_attention_heads"],
            vocab_size=vocab_size,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(IMAGE_SIZE // PATCH_SIZE) ** 2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config), processor
