"""Small tasks of KerasHub with random weights and preprocessors of their own: from texts and images to outputs.

`TASKS` has a row for each task class. Nothing is downloaded: all tokenizers have the same few words and letters.
"""

import dataclasses
import inspect
import io
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tests.kerashub_families import FAMILIES, Family, Part, built, found, part

LENGTH = 8
WORDS = "the film was great not".split()
SPECIAL = (
    "<pad> <s> </s> <unk> [PAD] [UNK] [CLS] [SEP] [MASK] <mask> <cls> <eos> <bos> <|endoftext|> <|startoftext|> "
    "<|begin_of_text|> <|end_of_text|> <|eot_id|> <|start_header_id|> <|end_header_id|> <|im_start|> <|im_end|> "
    "<|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|> <think> </think> <image> <img> <start_of_image> "
    "<end_of_image> <image_soft_token> <audio_soft_token> <start_of_audio> <end_of_audio> <start_of_turn> "
    "<end_of_turn> <|startoftranscript|> \u010a <|image> <image|> <|audio> <audio|> <|audio|> <|image|> <|video|> "
    "<|return|> [multimodal]"
).split()
"""What the tokenizers of all families add to texts."""


def byte_pairs():
    """A vocabulary of letters and words with the space in front of them, and the pairs that join them."""
    vocabulary, merges = [*SPECIAL, "\u0120", *map(chr, range(ord("a"), ord("z") + 1))], []
    for word in WORDS:
        for start in (word, f"\u0120{word}"):
            for i in range(1, len(start)):
                pair = f"{start[:i]} {start[i]}"
                merges += [pair] if pair not in merges else []
                vocabulary += [start[: i + 1]] if start[: i + 1] not in vocabulary else []
    return {token: i for i, token in enumerate(vocabulary)}, merges


def sentence_pieces():
    """The file of a vocabulary of words, as bytes."""
    import sentencepiece

    file = io.BytesIO()
    control = ("<pad>", "<s>", "</s>", "<unk>")
    special = [token for token in SPECIAL if token not in control]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 5),
        model_writer=file,
        # It also knows special tokens behind a space.
        vocab_size=len(control) + 2 * len(special) + len(WORDS),
        model_type="word",
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        user_defined_symbols=special,
        minloglevel=2,
    )
    return file.getvalue()


def tokenizer(kind: Any) -> Any:
    """A small tokenizer of a class of KerasHub, of whatever kind it is."""
    import keras_hub

    if issubclass(kind, keras_hub.tokenizers.WordPieceTokenizer):
        return kind(vocabulary=[*SPECIAL, *WORDS])
    if issubclass(kind, keras_hub.tokenizers.BytePairTokenizer):
        vocabulary, merges = byte_pairs()
        return kind(vocabulary=vocabulary, merges=merges)
    if issubclass(kind, keras_hub.tokenizers.SentencePieceTokenizer):
        return kind(proto=sentence_pieces())
    if kind.__name__ == "RWKVTokenizer":
        lines = [" ", *WORDS, *map(chr, range(ord("a"), ord("z") + 1))]
        return kind(vocabulary=[f"{i + 1} {line!r} {len(line)}" for i, line in enumerate(lines)])
    return kind()


TEXTS = ["the film was great", "not great"]
PAIRS = {"encoder_text": TEXTS, "decoder_text": ["the film was", "the"]}
SOUNDS = np.random.default_rng(0).uniform(-1, 1, (2, 1600)).astype("float32")
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3)).astype("uint8")


@dataclass(frozen=True)
class Task:
    """How a task is built, and what it is given.

    Args:
        name: The name of the class.
        family: How its backbone is built.
        arguments: Of the task. A `Part` is built, and a function called, here and in what follows.
        body: Arguments of the backbone that differ from those of its family.
        prepares: Arguments of the preprocessor.
        x: What `predict` takes; by default texts or images, as the preprocessor reads them, and for a task without a
            preprocessor what the model itself takes.
        once: Whether the preprocessor is called once, in front of the analyzer, because it hides tokens by chance, or
            has no inputs of the model for a text that is to be continued.
    """

    name: str
    family: Family
    arguments: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    prepares: dict[str, Any] = field(default_factory=dict)
    x: Any = None
    once: bool = False

    def build(self) -> keras.Model:
        """The task, with its backbone and its preprocessor."""
        reader = self.preprocessor()
        body = dataclasses.replace(self.family.model, arguments=self.family.model.arguments | self.body)
        if getattr(reader, "tokenizer", None) is not None:
            body = with_vocabulary(body, reader.tokenizer.vocabulary_size())
        own = {} if reader is None else {"preprocessor": reader}
        return found(self.name)(backbone=body.build(), **own, **all_built(self.arguments))

    def preprocessor(self) -> Any:
        """The preprocessor of the task's class; None if it has none."""
        kind = found(self.name).preprocessor_cls
        if kind is None:
            return None
        made = all_built(self.prepares)
        known = {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}
        if getattr(kind, "tokenizer_cls", None) is not None:
            made = {**dict.fromkeys(known & set(LENGTHS), LENGTH), "tokenizer": tokenizer(kind.tokenizer_cls), **made}
        if getattr(kind, "image_converter_cls", None) is not None and self.size:
            made = {"image_converter": kind.image_converter_cls(image_size=self.size), **made}
        return kind(**made)

    @property
    def size(self) -> tuple[int, ...] | None:
        """Height and width of the images that the backbone takes."""
        if "image_shape" in self.body:
            return self.body["image_shape"][:2]
        inputs = self.family.inputs
        shapes = [array.shape for array in (inputs.values() if isinstance(inputs, dict) else [inputs])]
        return next((shape[-3:-1] for shape in shapes if len(shape) >= 3 and shape[-1] == 3), None)

    def given(self) -> Any:
        """What the task is given."""
        kind = found(self.name).preprocessor_cls
        if self.x is not None or kind is None:
            return self.family.draw() if self.x is None else self.x
        return PICTURES if getattr(kind, "tokenizer_cls", None) is None else TEXTS


SIZES = ("vocabulary_size", "vocab_size", "text_vocab_size")
LENGTHS = ("sequence_length", "encoder_sequence_length", "decoder_sequence_length")


def all_built(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value() if callable(value) else built(value) for key, value in arguments.items()}


def with_vocabulary(body: Part, size: int) -> Part:
    """A part whose tables have a row for each token, and so have all parts that it is made of."""
    arguments = {key: with_vocabulary(value, size) if isinstance(value, Part) else value
                 for key, value in body.arguments.items()}  # fmt: skip
    return Part(body.name, arguments | {key: size for key in SIZES if key in arguments})


def row(name: str, family: str, /, x: Any = None, once: bool = False, prepares: Any = (), body: Any = (),
        **arguments: Any) -> Task:  # fmt: skip
    return Task(name, FAMILIES[family], arguments, dict(body), dict(prepares), x, once)


SAM_INPUTS = {name: array.draw(name) for name, array in FAMILIES["SAM"].inputs.items()}
FLAN_T5 = part(
    "blip2.blip2_flan_t5_lm.BLIP2FlanT5", vocabulary_size=LENGTH, num_layers=1, num_heads=2, hidden_dim=8,
    intermediate_dim=12, num_query_tokens=2, qformer_hidden_dim=4, dropout=0.0,
)  # fmt: skip

ROWS = [
    *(row(name, family, num_classes=3) for name, family in {
        "AlbertTextClassifier": "ALBERT", "BertTextClassifier": "BERT", "DebertaV3TextClassifier": "DeBERTa V3",
        "DistilBertTextClassifier": "DistilBERT", "ESMProteinClassifier": "ESM-2",
        "RobertaTextClassifier": "RoBERTa", "RoformerV2TextClassifier": "RoFormer V2",
        "XLMRobertaTextClassifier": "XLM-RoBERTa",
    }.items()),
    row("FNetTextClassifier", "FNet", body={"max_sequence_length": LENGTH}, num_classes=3),
    *(row(name, family) for name, family in {
        "BertTextEmbedder": "BERT", "Gemma3TextEmbedder": "Gemma 3", "Qwen3TextEmbedder": "Qwen 3",
        "XLMRobertaTextEmbedder": "XLM-RoBERTa",
    }.items()),
    *(row(name, family, once=True, prepares={"mask_selection_length": 2}) for name, family in {
        "AlbertMaskedLM": "ALBERT", "BertMaskedLM": "BERT", "DebertaV3MaskedLM": "DeBERTa V3",
        "DistilBertMaskedLM": "DistilBERT", "ESMMaskedPLM": "ESM-2",
        "RobertaMaskedLM": "RoBERTa", "RoformerV2MaskedLM": "RoFormer V2", "XLMRobertaMaskedLM": "XLM-RoBERTa",
    }.items()),
    row("FNetMaskedLM", "FNet", once=True, prepares={"mask_selection_length": 2},
        body={"max_sequence_length": LENGTH}),
    *(row(name, family) for name, family in {
        "BloomCausalLM": "Bloom", "FalconCausalLM": "Falcon", "GPT2CausalLM": "GPT-2", "GPTNeoXCausalLM": "GPT-NeoX",
        "GemmaCausalLM": "Gemma", "Gemma3CausalLM": "Gemma 3", "Gemma3nCausalLM": "Gemma 3n",
        "GptOssCausalLM": "GPT-OSS", "Llama3CausalLM": "Llama 3",
        "LlamaCausalLM": "Llama", "MistralCausalLM": "Mistral", "MixtralCausalLM": "Mixtral", "OPTCausalLM": "OPT",
        "Phi3CausalLM": "Phi-3", "QwenCausalLM": "Qwen", "Qwen3CausalLM": "Qwen 3", "Qwen3MoeCausalLM": "Qwen 3 MoE",
        "Qwen3_5CausalLM": "Qwen 3.5", "Qwen3_5MoeCausalLM": "Qwen 3.5 MoE", "QwenMoeCausalLM": "Qwen MoE",
        "SmolLM3CausalLM": "SmolLM3",
    }.items()),
    row("Gemma4CausalLM", "Gemma 4", x={"prompts": TEXTS, "responses": ["", ""]}),
    row("RWKV7CausalLM", "RWKV-7", once=True, prepares={"sequence_length": 16}),
    row("BLIP2CausalLM", "BLIP-2", x={"images": PICTURES, "text": TEXTS},
        prepares={"tokenizer": lambda: tokenizer(found("BLIP2OPTTokenizer"))}),
    row("PaliGemmaCausalLM", "PaliGemma", x={"images": PICTURES, "prompts": TEXTS}),
    row("PARSeqCausalLM", "PARSeq", x=PICTURES, body={"max_label_length": LENGTH}),
    *(row(name, family, x=PAIRS) for name, family in {
        "BartSeq2SeqLM": "BART", "T5Seq2SeqLM": "T5", "T5GemmaSeq2SeqLM": "T5Gemma", "T5Gemma2Seq2SeqLM": "T5Gemma 2",
    }.items()),
    row("BLIP2Seq2SeqLM", "BLIP-2", x={"images": PICTURES, **PAIRS}, body={"language_model": FLAN_T5}),
    row("EdRecSeq2SeqLM", "EdRec"),
    row("MoonshineAudioToText", "Moonshine", x={"audio": SOUNDS, "text": TEXTS},
        prepares={"audio_converter": part("MoonshineAudioConverter")}),
    *(row(name, family, num_classes=3) for name, family in {
        "CSPNetImageClassifier": "CSPNet", "DeiTImageClassifier": "DeiT", "DenseNetImageClassifier": "DenseNet",
        "EfficientNetImageClassifier": "EfficientNet", "MiTImageClassifier": "MiT",
        "MobileNetImageClassifier": "MobileNet", "MobileNetV5ImageClassifier": "MobileNetV5",
        "ResNetImageClassifier": "ResNet", "SwinTransformerImageClassifier": "Swin", "ViTImageClassifier": "ViT",
        "XceptionImageClassifier": "Xception", "DeepLabV3ImageSegmenter": "DeepLabV3",
        "SegFormerImageSegmenter": "SegFormer",
    }.items()),
    row("HGNetV2ImageClassifier", "HGNetV2", head_filters=8, num_classes=3),
    row("VGGImageClassifier", "VGG", body={"image_shape": (28, 28, 3)}, num_classes=3, pooling_hidden_dim=8),
    row("BASNetImageSegmenter", "BASNet"),
    row("SAMImageSegmenter", "SAM", x={**SAM_INPUTS, "images": PICTURES}, once=True),
    # Without a box its own code fails: the mask has one entry less than the prompt.
    row("SAM3PromptableConceptImageSegmenter", "SAM 3",
        x={"images": PICTURES, "prompts": TEXTS, "boxes": np.full((2, 1, 4), 0.3, "float32"),
           "box_labels": np.ones((2, 1), "int32")}),
    row("DFineObjectDetector", "D-FINE", num_classes=4, bounding_box_format="yxyx"),
    row("RetinaNetObjectDetector", "RetinaNet", num_classes=3, bounding_box_format="yxyx"),
    row("DepthAnythingDepthEstimator", "Depth Anything", depth_estimation_type="relative"),
]  # fmt: skip
TASKS = {each.name: each for each in ROWS}

DRAWS = "draws a picture by many calls of its backbone, one after the other, and has no single call to explain"
REFUSED_TASKS = {
    **dict.fromkeys(("FluxTextToImage", "StableDiffusion3ImageToImage", "StableDiffusion3Inpaint",
                     "StableDiffusion3TextToImage"), DRAWS),
    "Gemma4AssistantCausalLM": "drafts tokens for another model, and KerasHub does not let it be called alone",
}  # fmt: skip
"""Tasks that are not explained, and why."""
