"""The networks that the derivation of symmetries is tried on: timm's families and transformers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["Case", "timm_cases", "transformers_cases"]

#: One small model of each of timm's families.
TIMM_MODELS = (
    "beit_base_patch16_224", "eca_botnext26ts_256", "test_byobnet", "cait_xxs24_224", "coat_tiny",
    "convit_tiny", "convmixer_768_32", "test_convnext", "cpubone_nano", "crossvit_tiny_240",
    "csatv2", "cs3darknet_focus_s", "cspnext_tiny", "davit_tiny", "deepseek_vit_412m",
    "deit_tiny_patch16_224", "densenet121", "dla46_c", "dpn48b", "edgenext_xx_small",
    "efficientformer_l1", "efficientformerv2_s0", "test_efficientnet", "efficientvim_m1",
    "efficientvit_b0", "efficientvit_m0", "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0",
    "fastvit_t8", "focalnet_tiny_srf", "gcvit_xxtiny", "gemma4_vit_167m", "ghostnet_050",
    "hardcorenas_b", "hgnetv2_b0", "hiera_tiny_224", "sam2_hiera_tiny", "hrnet_w18_small",
    "iformer_t", "inception_next_atto", "inception_resnet_v2", "inception_v3", "inception_v4",
    "lcnetv2_small", "levit_128", "lowformer_b0", "test_mambaout", "test_coatnet",
    "poolformer_s12", "gmlp_ti16_224", "mobilenetv3_small_050", "mobilenetv5_base",
    "mobilevit_xxs", "mvitv2_tiny", "naflexvit_base_patch16_gap", "nasnetalarge", "nest_tiny",
    "nextvit_small", "test_nfnet", "pit_ti_224", "pnasnet5large", "pvt_v2_b0", "qwen3_vit_88m",
    "rdnet_tiny", "regnetx_004_tv", "repghostnet_050", "repvit_m1", "res2next50", "resnest14d",
    "test_resnet", "resnetv2_18", "rexnet_100", "selecsls42", "legacy_seresnet18", "sequencer2d_s",
    "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window16_256", "swinv2_cr_tiny_224", "tiny_vit_5m_224",
    "tnt_s_legacy_patch16_224", "tresnet_m", "twins_svt_small", "vgg11", "visformer_tiny",
    "test_vit", "vit_tiny_r_s16_p8_224", "test_vit_relpos", "samvit_base_patch16_224",
    "vitamin_small_224", "volo_d1_224", "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p",
    "xcit_nano_12_p8_224",
)

#: Side of the image for models that take any.
SMALL_IMAGE = 128

#: Arguments for models that would not fit into memory in float64.
TIMM_ARGUMENTS: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": {"depth": 2},
    "gemma4_vit_167m": {"depth": 2},
    "qwen3_vit_88m": {"depth": 2},
    "samvit_base_patch16_224": {"depth": 3, "global_attn_indexes": [1]},
    "beit_base_patch16_224": {"depth": 3},
    "naflexvit_base_patch16_gap": {"depth": 3},
}


@dataclass(frozen=True)
class Case:
    """One network to convert.

    Args:
        library: where it comes from.
        family: what it stands for.
        model: its name.
        make: builds it and example inputs: positional and by keyword.
    """

    library: str
    family: str
    model: str
    make: Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]


def _declare_vision_operators() -> list[torch.library.Library]:
    """Declare two operators that torchvision registers fakes for, so that it can be imported."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        return []  # a torchvision with its own operators is there already
    return [library]


_KEPT = _declare_vision_operators()


def timm_cases() -> Iterator[Case]:
    """Iterate over one model of each of timm's families."""
    import timm

    for name in TIMM_MODELS:
        family = timm.model_entrypoint(name).__module__.rpartition(".")[2]

        def make(name: str = name) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = timm.create_model(
                    name, pretrained=False, num_classes=10, **TIMM_ARGUMENTS.get(name, {})
                )
            return model.eval(), (_image(model.eval()),), {}

        yield Case("timm", family, name, make)


def _image(model: nn.Module) -> torch.Tensor:
    """Return an image that the model takes: a small one if it can, to run sooner."""
    channels, *size = model.default_cfg["input_size"]
    if not model.default_cfg.get("fixed_input_size") and max(size) > SMALL_IMAGE:
        image = torch.randn(1, channels, SMALL_IMAGE, SMALL_IMAGE)
        try:
            with torch.no_grad():
                model(image)
        except (RuntimeError, AssertionError, ValueError, IndexError, TypeError):
            pass  # it has windows, or pools, that do not fit
        else:
            return image
    return torch.randn(1, channels, *size)


#: What makes a configuration small, under the names that configurations have for it.
SMALL: dict[str, Any] = {
    "vocab_size": 99, "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32,
    "embedding_size": 32, "num_hidden_layers": 2, "num_layers": 2, "n_layer": 2, "n_layers": 2,
    "encoder_layers": 2, "decoder_layers": 2, "num_attention_heads": 4, "n_head": 4, "n_heads": 4,
    "num_heads": 4, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48, "d_ff": 48, "ffn_dim": 48, "hidden_dim": 48, "d_kv": 8, "head_dim": 8,
    "max_position_embeddings": 64, "n_positions": 64, "max_target_positions": 64,
    "image_size": 32, "patch_size": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1, "num_local_experts": 4, "num_experts": 4,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "rotary_dim": 4,
    "sliding_window": 4, "use_cache": False,
}

#: Kind of input -> classes that put a head on a model, so that its hidden states are no outputs.
HEADS = {
    "tokens": ("AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModel"),
    "encoder": ("AutoModelForMaskedLM", "AutoModel"),
    "pair": ("AutoModelForSeq2SeqLM", "AutoModel"),
    "image": ("AutoModelForImageClassification", "AutoModel"),
    "audio": ("AutoModelForCTC", "AutoModel"),
}

STAGES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}

#: Configuration name -> (kind of input, settings of its own).
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(
        (
            "bert", "roberta", "distilbert", "albert", "electra", "deberta", "deberta-v2", "mpnet",
            "camembert", "xlm-roberta", "convbert", "squeezebert", "fnet", "nystromformer",
            "roformer", "rembert",
        ),
        ("encoder", {}),
    ),
    **dict.fromkeys(
        (
            "gptj", "opt", "bloom", "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3",
            "gemma", "gemma2", "phi", "phi3", "falcon", "mpt", "codegen", "stablelm", "olmo",
            "olmo2", "granite", "cohere", "starcoder2", "persimmon", "gpt_neox", "gpt_bigcode",
            "mamba", "xglm",
        ),
        ("tokens", {}),
    ),
    # Without a token for padding these do not look for it, which would depend on the data.
    **dict.fromkeys(("gpt2", "biogpt"), ("tokens", {"pad_token_id": None})),
    **dict.fromkeys(("t5", "mt5", "bart", "mbart", "pegasus", "m2m_100", "marian"), ("pair", {})),
    **dict.fromkeys(
        ("vit", "deit", "beit", "dinov2", "vit_mae", "clip_vision_model"), ("image", {}),
    ),
    "yolos": ("image", {"image_size": [32, 32], "num_detection_tokens": 4}),
    **dict.fromkeys(("convnext", "convnextv2", "resnet", "poolformer"), ("image", STAGES)),
    "regnet": ("image", {**STAGES, "groups_width": 4}),
    "segformer": ("image", {**STAGES, "num_attention_heads": [1, 2, 2, 4]}),
    "swin": ("image", {
        "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2, 1],
        "num_heads": [2, 2, 4], "window_size": 4,
    }),
    "gpt_neo": ("tokens", {"attention_types": [[["global", "local"], 1]], "window_size": 4}),
    "mobilebert": ("encoder", {"intra_bottleneck_size": 16, "embedding_size": 24}),
    "wav2vec2": ("audio", {
        "conv_dim": (8, 8), "conv_kernel": (8, 4), "conv_stride": (4, 2),
        "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    }),
}


#: Configurations that are tried as they are called by default, too: with the cache they return.
CACHED = ("llama", "mistral", "qwen2", "gpt2", "t5", "bart", "gemma2", "mamba")


def transformers_cases() -> Iterator[Case]:
    """Iterate over tiny models of many of transformers' families, with random weights."""
    import transformers

    transformers.logging.set_verbosity_error()
    every = [(name, name, *TRANSFORMERS[name]) for name in TRANSFORMERS]
    for name in CACHED:
        kind, settings = TRANSFORMERS[name]
        every.append((name, f"{name} with its cache", kind, {**settings, "use_cache": True}))
    for name, title, kind, settings in every:

        def make(
            name: str = name, kind: str = kind, settings: dict[str, Any] = settings
        ) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
            config = transformers.CONFIG_MAPPING[name]()
            small = {} if "depths" in settings else _small(config)
            config = type(config)(**{**small, **settings})
            heads = (getattr(transformers, head) for head in HEADS[kind])
            head = next(h for h in heads if type(config) in h._model_mapping)
            config.architectures = config.architectures or []
            model = head.from_config(config).eval()
            if hasattr(model, "set_experts_implementation"):
                # The default multiplies ranges of rows in float32 and below only.
                model.set_experts_implementation("batched_mm")
            return model, (), _inputs(kind, model)

        yield Case("transformers", name, title, make)


def _small(config: Any) -> dict[str, Any]:
    """Return the settings that make a configuration small, as far as it has them."""
    own = {
        key: value for key, value in SMALL.items()
        if hasattr(config, key) and not isinstance(getattr(type(config), key, None), property)
    }
    names = getattr(config, "attribute_map", {})
    taken = {names.get(key, key): value for key, value in own.items()}
    if "layer_types" in vars(config):
        taken["layer_types"] = ["full_attention"] * taken.get("num_hidden_layers", 2)
    return taken


def _inputs(kind: str, model: nn.Module) -> dict[str, Any]:
    tokens = torch.randint(3, 90, (2, 10))
    if kind in ("tokens", "encoder"):
        return {"input_ids": tokens}
    if kind == "pair":
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, :6]}
    if kind == "audio":
        return {"input_values": torch.randn(2, 400)}
    return {"pixel_values": torch.randn(2, 3, 32, 32)}

