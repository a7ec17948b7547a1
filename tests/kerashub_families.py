"""Small models of every family of KerasHub, with random weights: arguments and inputs, as tables.

`FAMILIES` has every backbone. Nothing is downloaded.
"""

import importlib
import zlib
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

LENGTH = 6
VOCABULARY = 20


@dataclass(frozen=True)
class Part:
    """A model or layer of KerasHub that is not built yet: the name of its class, and its arguments.

    A name with dots is the path of a class that KerasHub does not export.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def build(self) -> Any:
        """The model, with every part of its arguments built."""
        return found(self.name)(**{key: built(value) for key, value in self.arguments.items()})


def part(name: str, /, **arguments: Any) -> Part:
    return Part(name, arguments)


def built(value: Any) -> Any:
    return value.build() if isinstance(value, Part) else value


def found(name: str) -> Any:
    """The class of a name, in `keras_hub.models` or `keras_hub.layers`, or of a path below `keras_hub.src.models`."""
    if "." in name:
        module, name = name.rsplit(".", 1)
        return getattr(importlib.import_module(f"keras_hub.src.models.{module}"), name)
    hub = importlib.import_module("keras_hub")
    return getattr(hub.models, name, None) or getattr(hub.layers, name)


@dataclass(frozen=True)
class Array:
    """Inputs of two samples, which are not drawn yet."""

    shape: tuple[int, ...]
    kind: str = "numbers"

    def draw(self, name: str, samples: int = 2) -> np.ndarray:
        """Numbers between -1 and 1; ids; a mask without the last two steps of the second sample; or given integers."""
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        shape = (samples, *self.shape)
        if self.kind == "ids":
            return rng.integers(1, VOCABULARY - 1, shape).astype("int32")
        if self.kind == "mask":
            mask = np.ones(shape, "int32")
            mask[1:, ..., -2:] = 0
            return mask
        if self.kind == "ones":
            return np.ones(shape, "int32")
        if self.kind == "zeros":
            return np.zeros(shape, "int32")
        if self.kind == "vision":
            mask = np.zeros(shape, "int32")
            mask[:, :4] = 1
            return mask
        if self.kind == "grid":
            return np.broadcast_to(np.array([1, 4, 4], "int32"), shape).copy()
        if self.kind == "places":
            return np.broadcast_to(np.arange(self.shape[-1], dtype="int32"), shape).copy()
        return rng.uniform(-1, 1, shape).astype("float32")


@dataclass(frozen=True)
class Family:
    """How a model is built, and what it takes."""

    model: Part
    inputs: dict[str, Array] | Array

    def build(self) -> keras.Model:
        return self.model.build()

    def draw(self, samples: int = 2) -> Any:
        if isinstance(self.inputs, Array):
            return self.inputs.draw("input", samples)
        return {name: array.draw(name, samples) for name, array in self.inputs.items()}


IDS, MASK, ONES = Array((LENGTH,), "ids"), Array((LENGTH,), "mask"), Array((LENGTH,), "ones")
ZEROS, PLACES = Array((LENGTH,), "zeros"), Array((LENGTH,), "places")
TEXT = {"token_ids": IDS, "padding_mask": MASK}
SEGMENTS = {**TEXT, "segment_ids": Array((LENGTH,), "zeros")}
TWO_TEXTS = {
    "encoder_token_ids": IDS,
    "encoder_padding_mask": MASK,
    "decoder_token_ids": IDS,
    "decoder_padding_mask": MASK,
}


def images(size: int, width: int | None = None) -> Array:
    return Array((size, width or size, 3))


SMALL = {"vocabulary_size": VOCABULARY, "num_layers": 2, "hidden_dim": 8, "intermediate_dim": 12}
ENCODER = {**SMALL, "num_heads": 2, "max_sequence_length": 10}
DECODER = {**SMALL, "num_query_heads": 4, "num_key_value_heads": 2}
GEMMA = {**DECODER, "head_dim": 4}
EXPERTS = {"num_experts": 4, "top_k": 2}
LINEAR = {
    "num_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_conv_kernel_dim": 3,
}
VISION = {"patch_size": 4, "hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 12}
TEXTS = {
    "vocabulary_size": VOCABULARY, "embedding_dim": 8, "hidden_dim": 8, "num_layers": 2, "num_heads": 2,
    "intermediate_dim": 12, "max_sequence_length": LENGTH,
}  # fmt: skip
TWO_STACKS = {
    f"{side}_{name}": value
    for side in ("encoder", "decoder")
    for name, value in {
        "hidden_dim": 8, "intermediate_dim": 12, "num_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 4, "layer_types": ["sliding_attention", "full_attention"],
    }.items()
}  # fmt: skip
T5GEMMA = {
    "vocabulary_size": VOCABULARY, **TWO_STACKS, "sliding_window": 4, "cross_attention_hidden_size": 8,
    "attn_logit_softcapping": 50.0, "query_pre_attn_scalar": 4.0,
}  # fmt: skip

RESNET = part(
    "ResNetBackbone", input_conv_filters=[8], input_conv_kernel_sizes=[7], stackwise_num_filters=[64, 8, 8, 8],
    stackwise_num_blocks=[1, 1, 1, 1], stackwise_num_strides=[1, 2, 2, 2], block_type="bottleneck_block",
)  # fmt: skip
BASIC_RESNET = part(
    "ResNetBackbone", input_conv_filters=[64], input_conv_kernel_sizes=[7],
    stackwise_num_filters=[64, 8, 8, 8], stackwise_num_blocks=[1, 1, 1, 1], stackwise_num_strides=[1, 2, 2, 2],
    block_type="basic_block",
)  # fmt: skip
HGNET = {
    "stem_channels": [3, 8, 8], "embedding_size": 8, "hidden_act": "relu", "depths": [1, 1],
    "stackwise_stage_filters": [[8, 4, 8, 1, 2, 3], [8, 4, 12, 1, 2, 3]], "hidden_sizes": [8, 12],
    "apply_downsample": [False, True], "use_lightweight_conv_block": [False, True],
    "use_learnable_affine_block": True,
}  # fmt: skip
MIT = part(
    "MiTBackbone", layerwise_depths=[1, 1], image_shape=(32, 32, 3), hidden_dims=[4, 8], num_layers=2,
    layerwise_num_heads=[1, 2], layerwise_sr_ratios=[4, 2], max_drop_path_rate=0.1, layerwise_patch_sizes=[7, 3],
    layerwise_strides=[4, 2],
)  # fmt: skip
DINO = {**VISION, "patch_size": 14, "image_shape": (28, 28, 3)}
VAE = part(
    "vae.vae_backbone.VAEBackbone", encoder_num_filters=[32, 32, 32, 32], encoder_num_blocks=[1, 1, 1, 1],
    decoder_num_filters=[32, 32, 32, 32], decoder_num_blocks=[1, 1, 1, 1], sampler_method="mode",
)  # fmt: skip
GEMMA3_VISION = part(
    "Gemma3VisionEncoder", image_size=16, patch_size=4, pool_size=2, num_layers=1, num_heads=2, hidden_dim=8,
    intermediate_dim=12, output_dim=8,
)  # fmt: skip
GEMMA4_VISION = part(
    "Gemma4VisionEncoder", image_size=16, patch_size=4, pool_size=2, num_layers=1, num_heads=2, head_dim=4,
    num_key_value_heads=2, hidden_dim=8, intermediate_dim=12, output_dim=8,
)  # fmt: skip
GEMMA4_AUDIO = part(
    "Gemma4AudioEncoder", input_feat_size=8, hidden_size=8, num_heads=2, num_layers=1, chunk_size=4, context_left=5,
    context_right=0, sscp_conv_channels=(4, 2), output_proj_dims=None, output_dim=8,
)  # fmt: skip
GEMMA3N = {
    "text_vocab_size": VOCABULARY, "text_hidden_size": 8, "num_hidden_layers": 2, "pad_token_id": 0,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": [12, 12],
    "hidden_activation": "gelu_approximate", "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 4, "rope_theta": 10000.0, "max_position_embeddings": 16, "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 2, "altup_num_inputs": 2, "laurel_rank": 1,
}  # fmt: skip
QWEN_VISION = part(
    "qwen3_5.qwen3_5_vision_encoder.Qwen3_5VisionEncoder", depth=1, hidden_size=8, num_heads=2, intermediate_size=12,
    patch_size=4, temporal_patch_size=2, spatial_merge_size=2, out_hidden_size=8, num_position_embeddings=16,
)  # fmt: skip
BLIP2 = {
    "vision_encoder": part(
        "BLIP2VisionEncoder", image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, intermediate_dim=12,
        use_patch_bias=True, use_class_token=True, use_mha_bias=True, use_mlp_bias=True, dropout_rate=0.0,
        layer_norm_epsilon=1e-6, initializer_range=0.2, dtype="float32",
    ),
    "qformer": part(
        "BLIP2QFormer", num_query_tokens=2, num_layers=2, num_heads=2, hidden_dim=4, intermediate_dim=8, vision_dim=8,
        cross_attention_frequency=1, dropout=0.0, layer_norm_epsilon=1e-6, dtype="float32",
    ),
    "language_model": part(
        "BLIP2CustomOPT", vocabulary_size=VOCABULARY, num_layers=1, num_heads=2, hidden_dim=4, intermediate_dim=8,
        num_query_tokens=2, qformer_hidden_dim=4, max_sequence_length=12, dropout=0.0, dtype="float32",
    ),
}  # fmt: skip
SAM = {
    "image_encoder": part(
        "ViTDetBackbone", hidden_size=8, num_layers=2, intermediate_dim=12, num_heads=2,
        global_attention_layer_indices=[1], patch_size=4, num_output_channels=8, window_size=2, image_shape=(16, 16, 3),
    ),
    "prompt_encoder": part(
        "SAMPromptEncoder", hidden_size=8, image_embedding_size=(4, 4), input_image_size=(16, 16), mask_in_channels=16,
    ),
    "mask_decoder": part(
        "SAMMaskDecoder", num_layers=1, hidden_size=8, intermediate_dim=12, num_heads=2, embedding_dim=8,
        num_multimask_outputs=3, iou_head_depth=2, iou_head_hidden_dim=8,
    ),
}  # fmt: skip
SAM3_PART = {"hidden_dim": 8, "intermediate_dim": 12, "num_heads": 2}
SAM3 = {
    "vision_encoder": part(
        "SAM3VisionEncoder", image_shape=(56, 56, 3), patch_size=14, num_layers=2, **SAM3_PART, fpn_hidden_dim=8,
        fpn_scale_factors=[4.0, 2.0, 1.0, 0.5], pretrain_image_shape=(28, 28, 3), window_size=2,
        global_attn_indexes=[1],
    ),
    "text_encoder": part(
        "SAM3TextEncoder", vocabulary_size=VOCABULARY, embedding_dim=8, num_layers=1, **SAM3_PART,
    ),
    "geometry_encoder": part("SAM3GeometryEncoder", num_layers=1, roi_size=3, **SAM3_PART),
    "detr_encoder": part("SAM3DetrEncoder", num_layers=1, **SAM3_PART),
    "detr_decoder": part(
        "SAM3DetrDecoder", image_shape=(56, 56, 3), patch_size=14, num_layers=2, num_queries=5, **SAM3_PART,
    ),
    "mask_decoder": part("SAM3MaskDecoder", num_upsampling_stages=3, hidden_dim=8, num_heads=2),
}  # fmt: skip
DFINE = {
    "backbone": part(
        "HGNetV2Backbone", stem_channels=[3, 8, 8], embedding_size=8, hidden_act="relu", depths=[1, 1, 1, 1],
        stackwise_stage_filters=[[8, 8, 8, 1, 2, 3], [8, 8, 8, 1, 2, 3], [8, 8, 16, 1, 2, 5], [16, 8, 16, 1, 2, 5]],
        hidden_sizes=[8, 8, 16, 16], apply_downsample=[False, True, True, True],
        use_lightweight_conv_block=[False, False, True, True], use_learnable_affine_block=True,
        out_features=["stage3", "stage4"],
    ),
    "decoder_in_channels": [16, 16], "encoder_hidden_dim": 16, "num_labels": 4, "num_denoising": 0,
    "learn_initial_query": False, "num_queries": 8, "anchor_image_size": (64, 64), "feat_strides": [16, 32],
    "num_feature_levels": 2, "hidden_dim": 16, "encoder_in_channels": [16, 16], "encode_proj_layers": [1],
    "num_attention_heads": 2, "encoder_ffn_dim": 16, "num_encoder_layers": 1, "hidden_expansion": 0.5,
    "depth_multiplier": 0.34, "eval_idx": -1, "num_decoder_layers": 2, "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16, "decoder_n_points": [2, 2], "lqe_hidden_dim": 8, "num_lqe_layers": 2,
    "out_features": ["stage3", "stage4"], "image_shape": (64, 64, 3), "seed": 0,
}  # fmt: skip


def family(name: str, inputs: dict[str, Array] | Array, /, **arguments: Any) -> Family:
    return Family(part(name, **arguments), inputs)


FAMILIES: dict[str, Family] = {
    "ALBERT": family("AlbertBackbone", SEGMENTS, **ENCODER | {"num_layers": 4}, embedding_dim=4, num_groups=2,
                     num_inner_repetitions=2),
    "BART": family("BartBackbone", TWO_TEXTS, **ENCODER),
    "BASNet": family("BASNetBackbone", images(32), image_encoder=BASIC_RESNET, num_classes=1,
                     image_shape=(32, 32, 3)),
    "BERT": family("BertBackbone", SEGMENTS, **ENCODER),
    "BLIP-2": family("BLIP2Backbone", {"images": images(8), **TEXT}, **BLIP2),
    "Bloom": family("BloomBackbone", TEXT, **SMALL, num_heads=2),
    "CLIP": family("CLIPBackbone", {"images": images(8), "token_ids": IDS}, projection_dim=6,
                   vision_encoder=part("CLIPVisionEncoder", **VISION, image_shape=(8, 8, 3)),
                   text_encoder=part("CLIPTextEncoder", **TEXTS)),
    "CSPNet": family("CSPNetBackbone", images(32), stem_filters=8, stem_kernel_size=3, stem_strides=1,
                     stackwise_strides=2, stackwise_depth=[1, 2], stackwise_num_filters=[8, 12], down_growth=True,
                     bottle_ratio=(0.5, 1.0), block_ratio=(1.0, 0.5), expand_ratio=(2.0, 1.0), block_type="dark_block",
                     stage_type="csp", stem_padding="same", image_shape=(32, 32, 3)),
    "D-FINE": family("DFineBackbone", images(64), **DFINE),
    "DeBERTa V3": family("DebertaV3Backbone", TEXT, **ENCODER, bucket_size=4),
    "DeepLabV3": family("DeepLabV3Backbone", images(32), image_encoder=RESNET, spatial_pyramid_pooling_key="P4",
                        low_level_feature_key="P2", dilation_rates=[2, 3], upsampling_size=4, projection_filters=8,
                        image_shape=(32, 32, 3)),
    "DeiT": family("DeiTBackbone", images(8), **VISION, image_shape=(8, 8, 3)),
    "DenseNet": family("DenseNetBackbone", images(32), stackwise_num_repeats=[2, 2], growth_rate=4,
                       image_shape=(32, 32, 3)),
    "Depth Anything": family("DepthAnythingBackbone", images(84), reassemble_factors=[4, 2, 1, 0.5],
                             neck_hidden_dims=[4, 4, 8, 8], fusion_hidden_dim=8, head_hidden_dim=4, head_in_index=-1,
                             feature_keys=["stage1", "stage2", "stage3", "stage4"],
                             image_encoder=part("DINOV2Backbone",
                                                **DINO | {"num_layers": 4, "image_shape": (84, 84, 3)},
                                                position_embedding_shape=(84, 84, 3), apply_layernorm=True)),
    "DINOv2": family("DINOV2Backbone", {"images": images(28)}, **DINO, num_register_tokens=2,
                     position_embedding_shape=(42, 42, 3), use_swiglu_ffn=True),
    "DINOv3": family("DINOV3Backbone", {"pixel_values": images(28)}, **DINO, num_register_tokens=2),
    "DistilBERT": family("DistilBertBackbone", TEXT, **ENCODER),
    "EdRec": family("EdRecBackbone", TWO_TEXTS, vocab_size=VOCABULARY, num_layers_enc=2, num_layers_dec=2, num_heads=2,
                    hidden_dim=8, intermediate_dim=12),
    "EfficientNet": family("EfficientNetBackbone", images(32), stackwise_kernel_sizes=[3, 3],
                           stackwise_num_repeats=[1, 2], stackwise_input_filters=[8, 8],
                           stackwise_output_filters=[8, 16], stackwise_expansion_ratios=[1, 4],
                           stackwise_squeeze_and_excite_ratios=[0.0, 0.25], stackwise_strides=[1, 2],
                           stackwise_block_types=["fused", "unfused"], stackwise_force_input_filters=[0, 0],
                           stackwise_nores_option=[False, False], width_coefficient=1.0, depth_coefficient=1.0,
                           num_features=16),
    "ELECTRA": family("ElectraBackbone", SEGMENTS, vocab_size=VOCABULARY, num_layers=2, num_heads=2, hidden_dim=8,
                      embedding_dim=4, intermediate_dim=12, max_sequence_length=10),
    "ESM-2": family("ESMBackbone", {"token_ids": IDS}, **SMALL, num_heads=2, use_pre_layer_norm=True),
    "FNet": family("FNetBackbone", {"token_ids": IDS, "segment_ids": ZEROS}, **SMALL, max_sequence_length=LENGTH),
    "Falcon": family("FalconBackbone", TEXT, **SMALL, num_attention_heads=2),
    "Flux": family("FluxBackbone",
                   {"image": Array((4, 8)), "image_ids": Array((4, 3)), "text": Array((6, 8)),
                    "text_ids": Array((6, 3)), "y": Array((8,)), "timesteps": Array(()), "guidance": Array(())},
                   input_channels=8, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=1, depth_single_blocks=1,
                   axes_dim=[4, 6, 6], theta=10000, use_bias=True, guidance_embed=True, image_shape=(4, 8),
                   text_shape=(6, 8), image_ids_shape=(4, 3), text_ids_shape=(6, 3), y_shape=(8,)),
    "GPT-2": family("GPT2Backbone", TEXT, **ENCODER),
    "GPT-NeoX": family("GPTNeoXBackbone", TEXT, **ENCODER, rotary_percentage=0.5),
    "Gemma": family("GemmaBackbone", TEXT, **GEMMA),
    "Gemma 2": family("GemmaBackbone", TEXT, **GEMMA, use_post_ffw_norm=True, use_post_attention_norm=True,
                      attention_logit_soft_cap=50, final_logit_soft_cap=30, use_sliding_window_attention=True,
                      sliding_window_size=4),
    "Gemma 3": family("Gemma3Backbone", TEXT, **GEMMA, image_size=None, use_post_ffw_norm=True,
                      use_post_attention_norm=True, use_sliding_window_attention=True, sliding_window_size=4),
    "Gemma 3 vision": family("Gemma3Backbone",
                             {"images": Array((1, 16, 16, 3)), "vision_indices": Array((4,), "places"),
                              "vision_mask": Array((LENGTH,), "vision"), **TEXT},
                             **GEMMA, image_size=16, vision_encoder=GEMMA3_VISION),
    "Gemma 3n": family("Gemma3nBackbone", TEXT, **GEMMA3N),
    "Gemma 4": family("Gemma4Backbone", {**TEXT, "position_ids": PLACES}, **GEMMA, image_size=16,
                      sliding_window_size=4),
    "Gemma 4 experts": family("Gemma4Backbone", {**TEXT, "position_ids": PLACES}, **GEMMA, image_size=16,
                              enable_moe_block=True, num_experts=4, expert_intermediate_dim=8, num_experts_per_token=2),
    "Gemma 4 vision": family("Gemma4Backbone",
                             {"pixel_values": Array((1, 16, 48)), "pixel_position_ids": Array((1, 16, 2), "ones"),
                              "vision_indices": Array((4,), "places"), "vision_mask": Array((LENGTH,), "vision"),
                              **TEXT, "position_ids": PLACES},
                             **GEMMA, image_size=16, vision_encoder=GEMMA4_VISION),
    "Gemma 4 audio": family("Gemma4Backbone",
                            {"audio_mel": Array((1, 16, 8)), "audio_mel_mask": Array((1, 16), "ones"),
                             "audio_indices": Array((4,), "places"), "audio_mask": Array((LENGTH,), "vision"),
                             **TEXT, "position_ids": PLACES},
                            **GEMMA, image_size=16, audio_encoder=GEMMA4_AUDIO, num_audio_tokens_per_clip=4),
    "GPT-OSS": family("GptOssBackbone", TEXT, **DECODER, **EXPERTS, sliding_window=4, head_dim=4),
    "HGNetV2": family("HGNetV2Backbone", images(32), **HGNET, image_shape=(32, 32, 3), out_features=["stage2"]),
    "Llama": family("LlamaBackbone", TEXT, **DECODER),
    "Llama 3": family("Llama3Backbone", TEXT, **DECODER),
    "MetaCLIP 2": family("MetaCLIP2Backbone", {"images": images(8), "token_ids": IDS}, projection_dim=6,
                         vision_encoder=part("MetaCLIP2VisionEncoder", **VISION, image_shape=(8, 8, 3)),
                         text_encoder=part("MetaCLIP2TextEncoder", **TEXTS)),
    "MiT": Family(MIT, images(32)),
    "Mistral": family("MistralBackbone", TEXT, **DECODER, sliding_window=4),
    "Mixtral": family("MixtralBackbone", TEXT, **DECODER, **EXPERTS, sliding_window=4),
    "MobileNet": family("MobileNetBackbone", images(32), stackwise_expansion=[[8], [12, 12]],
                        stackwise_num_blocks=[1, 2], stackwise_num_filters=[[8], [8, 8]],
                        stackwise_kernel_size=[[3], [3, 5]], stackwise_num_strides=[[2], [2, 1]],
                        stackwise_se_ratio=[[0.25], [None, 0.25]], stackwise_activation=[["relu"], ["hard_swish"] * 2],
                        stackwise_padding=[[1], [1, 2]], output_num_filters=16, depthwise_filters=8,
                        depthwise_stride=2, depthwise_residual=False, last_layer_filter=16, image_shape=(32, 32, 3)),
    "MobileNetV5": family("MobileNetV5Backbone", images(32), stackwise_block_types=[["er"], ["uir", "mqa"]],
                          stackwise_num_blocks=[1, 2], stackwise_num_filters=[[8], [8, 8]],
                          stackwise_strides=[[2], [2, 1]], stackwise_act_layers=[["relu"], ["relu", "relu"]],
                          stackwise_exp_ratios=[[4.0], [4.0, 1.0]], stackwise_se_ratios=[[0.0], [0.0, 0.0]],
                          stackwise_dw_kernel_sizes=[[0], [5, 3]], stackwise_dw_start_kernel_sizes=[[0], [0, 0]],
                          stackwise_dw_end_kernel_sizes=[[0], [0, 0]], stackwise_exp_kernel_sizes=[[3], [0, 0]],
                          stackwise_pw_kernel_sizes=[[1], [0, 0]], stackwise_num_heads=[[0], [0, 2]],
                          stackwise_key_dims=[[0], [0, 4]], stackwise_value_dims=[[0], [0, 4]],
                          stackwise_kv_strides=[[0], [0, 2]], stackwise_use_cpe=[[False], [False, False]],
                          image_shape=(32, 32, 3), stem_size=8, use_msfa=False),
    "Moonshine": family("MoonshineBackbone",
                        {"encoder_input_values": Array((1600, 1)), "encoder_padding_mask": Array((1600,), "ones"),
                         "decoder_token_ids": IDS, "decoder_padding_mask": MASK},
                        vocabulary_size=VOCABULARY, filter_dim=8, encoder_num_layers=1, decoder_num_layers=1,
                        hidden_dim=8, intermediate_dim=12, encoder_num_heads=2, decoder_num_heads=2),
    "OPT": family("OPTBackbone", TEXT, **ENCODER),
    "PaliGemma": family("PaliGemmaBackbone",
                        {"images": images(8), **TEXT, "response_mask": ZEROS}, **GEMMA, image_size=8, vit_patch_size=4,
                        vit_num_heads=2, vit_hidden_dim=8, vit_num_layers=1, vit_intermediate_dim=12),
    "PARSeq": family("PARSeqBackbone", {"images": images(8, 16), **TEXT},
                     image_encoder=part("ViTBackbone", image_shape=(8, 16, 3), patch_size=(4, 8), num_layers=1,
                                        num_heads=2, hidden_dim=8, mlp_dim=12, use_class_token=False),
                     vocabulary_size=VOCABULARY, max_label_length=LENGTH, decoder_hidden_dim=8, num_decoder_layers=1,
                     num_decoder_heads=2, decoder_mlp_dim=12),
    "Phi-3": family("Phi3Backbone", TEXT, **DECODER),
    "Qwen": family("QwenBackbone", TEXT, **DECODER),
    "Qwen 3": family("Qwen3Backbone", TEXT, **DECODER, head_dim=4),
    "Qwen 3 MoE": family("Qwen3MoeBackbone", TEXT, **DECODER, **EXPERTS, moe_intermediate_dim=8),
    "Qwen 3.5": family("Qwen3_5Backbone", TEXT, **DECODER | LINEAR),
    "Qwen 3.5 MoE": family("Qwen3_5MoeBackbone", TEXT,
                           **{k: v for k, v in (DECODER | LINEAR).items() if k != "intermediate_dim"}, **EXPERTS,
                           moe_intermediate_dim=8, shared_expert_intermediate_size=8),
    "Qwen MoE": family("QwenMoeBackbone", TEXT, **DECODER, **EXPERTS, moe_intermediate_dim=8,
                       shared_expert_intermediate_dim=8),
    "ResNet": Family(RESNET, images(32)),
    "RetinaNet": family("RetinaNetBackbone", images(64), image_encoder=RESNET, min_level=3, max_level=5, use_p5=False,
                        image_shape=(64, 64, 3)),
    "RoBERTa": family("RobertaBackbone", TEXT, **ENCODER),
    "RoFormer V2": family("RoformerV2Backbone", {"token_ids": IDS, "segment_ids": ZEROS}, **SMALL, num_heads=2,
                          head_size=4),
    "RQ-VAE": family("rqvae.rqvae_backbone.RQVAEBackbone", Array((6,)), input_dim=6, encoder_layer_dims=[8],
                     output_dim=4, decoder_layer_dims=[8], num_embeddings=4, num_quantizers=2),
    "RWKV-7": family("RWKV7Backbone", {"token_ids": Array((16,), "ids"), "padding_mask": Array((16,), "ones")},
                     hidden_size=8, head_size=4, num_layers=2, vocabulary_size=VOCABULARY, intermediate_dim=12,
                     gate_lora=4, mv_lora=4, aaa_lora=4, decay_lora=4),
    "SAM": family("SAMBackbone",
                  {"images": images(16), "points": Array((1, 2)), "labels": Array((1,), "ones"),
                   "boxes": Array((1, 2, 2)), "masks": Array((1, 16, 16, 1))}, **SAM),
    "SAM 3": family("SAM3PromptableConceptBackbone",
                    {"pixel_values": images(56), **TEXT, "boxes": Array((1, 5)), "box_labels": Array((1,), "zeros")},
                    **SAM3),
    "SegFormer": family("SegFormerBackbone", images(32), image_encoder=MIT, projection_filters=8),
    "SigLIP": family("SigLIPBackbone", {"images": images(8), "token_ids": IDS},
                     vision_encoder=part("SigLIPVisionEncoder", **VISION, image_shape=(8, 8, 3)),
                     text_encoder=part("SigLIPTextEncoder", **TEXTS)),
    "SmolLM3": family("SmolLM3Backbone", TEXT, **SMALL, num_attention_heads=4, num_key_value_heads=2,
                      attention_bias=False, attention_dropout=0.0, rope_layer_enabled_list=[True, False],
                      layer_types=["attention", "attention"], mlp_bias=False, layer_norm_epsilon=1e-5,
                      max_position_embeddings=16, rope_theta=10000.0, partial_rotary_factor=1.0),
    "Swin": family("SwinTransformerBackbone", images(16), image_shape=(16, 16, 3), embed_dim=8, depths=(2, 2),
                   num_heads=(2, 2), window_size=2),
    "T5": family("T5Backbone", TWO_TEXTS, **SMALL, num_heads=2),
    "T5Gemma": family("T5GemmaBackbone", TWO_TEXTS, **T5GEMMA),
    "T5Gemma 2": family("T5Gemma2Backbone", TWO_TEXTS, **T5GEMMA),
    "VAE": Family(VAE, images(16)),
    "VGG": family("VGGBackbone", images(16), stackwise_num_repeats=[1, 2], stackwise_num_filters=[4, 6],
                  image_shape=(16, 16, 3)),
    "VideoPrism": family("VideoPrismBackbone",
                         {"pixel_values": Array((2, 8, 8, 3)), **TEXT},
                         num_frames=2, patch_size=4, hidden_dim=8, intermediate_dim=12, num_heads=2,
                         num_spatial_layers=1, num_temporal_layers=1, num_auxiliary_layers=1,
                         vocabulary_size=VOCABULARY, num_text_layers=1, attention_logit_soft_cap=50.0,
                         image_shape=(8, 8, 3)),
    "ViT": family("ViTBackbone", images(8), image_shape=(8, 8, 3), patch_size=4, num_layers=2, num_heads=2,
                  hidden_dim=8, mlp_dim=12),
    "ViTDet": family("ViTDetBackbone", images(16), image_shape=(16, 16, 3), patch_size=2, hidden_size=4, num_layers=2,
                     global_attention_layer_indices=[1], intermediate_dim=8, num_heads=2, num_output_channels=2,
                     window_size=2),
    "Whisper": family("WhisperBackbone",
                      {"encoder_features": Array((12, 5)), "decoder_token_ids": IDS, "decoder_padding_mask": MASK},
                      **SMALL, num_heads=2, num_mels=5, max_encoder_sequence_length=12, max_decoder_sequence_length=8),
    "XLM-RoBERTa": family("XLMRobertaBackbone", TEXT, **ENCODER),
    "XLNet": family("XLNetBackbone", SEGMENTS, **SMALL, num_heads=2),
    "Xception": family("XceptionBackbone", images(32), stackwise_conv_filters=[[4, 6], [8, 8], [12, 12]],
                       stackwise_pooling=[False, True, False], image_shape=(32, 32, 3)),
}  # fmt: skip

REFUSED: dict[str, Family] = {
    "Qwen 3.5 vision": family("Qwen3_5Backbone",
                              {"pixel_values": Array((16, 2, 4, 4, 3)), "image_grid_thw": Array((1, 3), "grid"),
                               "vision_indices": Array((4,), "places"), **TEXT},
                              **DECODER | LINEAR, vision_encoder=QWEN_VISION, mrope_section=[1, 0, 0]),
    "Stable Diffusion 3": family("StableDiffusion3Backbone",
                                 {"images": images(64), "latents": Array((8, 8, 16)), "clip_l_token_ids": IDS,
                                  "clip_l_negative_token_ids": IDS, "clip_g_token_ids": IDS,
                                  "clip_g_negative_token_ids": IDS, "num_steps": Array((), "ones"),
                                  "guidance_scale": Array(())},
                                 mmdit_patch_size=2, mmdit_hidden_dim=8, mmdit_num_layers=2, mmdit_num_heads=2,
                                 mmdit_position_size=8, mmdit_qk_norm=None, mmdit_dual_attention_indices=None, vae=VAE,
                                 clip_l=part("CLIPTextEncoder", **TEXTS, intermediate_output_index=-2, name="clip_l"),
                                 clip_g=part("CLIPTextEncoder", **TEXTS, intermediate_output_index=-2, name="clip_g"),
                                 image_shape=(64, 64, 3)),
}  # fmt: skip
"""Models whose Python code depends on the values of their inputs. Keras cannot compile them either."""
