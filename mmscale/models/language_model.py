"""A causal language model of transformers, run on packed rows only."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmscale.config.model import LanguageModelConfig
from mmscale.data.segments import SpecialTokens, special_tokens
from mmscale.errors import UserError
from mmscale.models import attention, quantization
from mmscale.models.accounting import outlined, require_finite, require_whole
from mmscale.models.head import install_loss_head
from mmscale.models.key_value_cache import KeyValueCache, NewTokens
from mmscale.models.layer_fusion import EncoderMemory, fused
from mmscale.models.loading import DTYPES, load_model_configuration, load_pretrained
from mmscale.models.memory_efficient import make_memory_efficient
from mmscale.models.packed_layout import PackedLayout, TakeRows
from mmscale.models.self_check import require_known_right
from mmscale.models.skipping import skip_unread_positions
from mmscale.models.tokenizer_fit import require_fitting, say_doubts
from mmscale.models.weights import SafetensorsWeights, checkpoint_files
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.tensor import TensorParallelState, require_divisible, shard_model
from mmscale.parallel.zero import Partition
from mmscale.progress import say

_DECISIVE = (
    *("repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size"),
    *("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id"),
    *("forced_eos_token_id", "min_length", "min_new_tokens", "num_beams", "penalty_alpha", "guidance_scale"),
    *("exponential_decay_length_penalty", "stop_strings"),
)


class LanguageModel(nn.Module):
    """Embedding, trunk and head of a causal LM as three calls; T merged tokens, D width, V vocabulary."""

    def __init__(
        self,
        causal_lm: Any,
        tokenizer: Any,
        specials: SpecialTokens,
        tensor_parallel: TensorParallelState | None = None,
    ) -> None:
        super().__init__()
        self.causal_lm, self.tokenizer, self.specials = causal_lm, tokenizer, specials
        install_loss_head(causal_lm)
        make_memory_efficient(causal_lm)
        skip_unread_positions(causal_lm.get_decoder())
        self._tensor_parallel = tensor_parallel
        """How to use a model whose layers are cut over ranks."""

    @property
    def is_tensor_parallel(self) -> bool:
        """Whether its layers are cut over ranks."""
        return self._tensor_parallel is not None

    @property
    def config(self) -> Any:
        return self.causal_lm.config

    @property
    def device(self) -> torch.device:
        return self.causal_lm.get_input_embeddings().weight.device

    @property
    def width(self) -> int:
        return int(self.config.hidden_size)

    @property
    def depth(self) -> int:
        """Its layers."""
        return int(self.config.num_hidden_layers)

    @property
    def context_length(self) -> int:
        return context_length(self.config)

    @property
    def stop_ids(self) -> frozenset[int]:
        """EOS of ours and of the model's generation config (LLaMA-3 has several)."""
        return frozenset({self.specials.eos, *configured_stops(self.causal_lm)})

    def embed(self, token_ids: Tensor) -> Tensor:
        """int64 [N] -> [N, D]."""
        return self.causal_lm.get_input_embeddings()(token_ids)

    def hidden(
        self,
        inputs_TD: Tensor,
        position_ids: Tensor,
        layout: PackedLayout | None,
        cache: KeyValueCache | None = None,
        new: NewTokens | None = None,
        read: Tensor | None = None,
        memory: EncoderMemory | None = None,
    ) -> Tensor:
        """Last hidden states [T, D] of a packed row: with `layout` its tokens attend to each other, without to what
        `cache` holds; `new` says where in it they go. Those of the rows `read` (int64 [N], none twice) alone: [N, D].

        Layers that read encoder states read those of `memory`, which comes with the first tokens of each sequence, and of the
        cache with those that follow.
        """
        trunk, inputs = self.causal_lm.get_decoder(), inputs_TD[None]
        if memory is not None and self._tensor_parallel is not None:
            memory = memory.entered(self._tensor_parallel.regions)
        output: Tensor = trunk(
            inputs_embeds=inputs if self._tensor_parallel is None else self._tensor_parallel.regions.begin(inputs),
            position_ids=position_ids[None],
            attention_mask=None,
            use_cache=False,
            mmscale_layout=layout,
            mmscale_cache=cache,
            mmscale_new=new,
            mmscale_fused=fused(memory, layout, cache, new),
            mmscale_read_rows=self._known_to_layers(read),
        ).last_hidden_state
        states: Tensor = output[0] if self._tensor_parallel is None else self._tensor_parallel.regions.end(output)[0]
        return states if read is None else TakeRows.apply(states, read)

    def _known_to_layers(self, read: Tensor | None) -> Tensor | None:
        """Rows by whose numbers the last layer can go: not where it holds a stretch of them, or where it would see none."""
        stretches = self._tensor_parallel is not None and self._tensor_parallel.regions.split
        return None if read is None or stretches or not read.numel() else read

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V] of chosen rows; without gradient where the head is cut over ranks."""
        logits = self.causal_lm.get_output_embeddings()(hidden_ND)
        return logits if self._tensor_parallel is None else self._tensor_parallel.whole_logits(logits)

    def logit_part(self, hidden_ND: Tensor) -> Tensor:
        """This rank's stretch of the logits [N, v]; its first column is that of `first_token`."""
        logits = self.causal_lm.get_output_embeddings()(hidden_ND)
        return logits if self._tensor_parallel is None else self._tensor_parallel.own_logits(logits)

    @property
    def first_token(self) -> int:
        return 0 if self._tensor_parallel is None else self._tensor_parallel.vocabulary_shard.begin

    @property
    def vocabulary_group(self) -> Any:
        """The ranks that share the vocabulary; None where it is whole."""
        return None if self._tensor_parallel is None else self._tensor_parallel.context.tensor_group

    @property
    def vocabulary(self) -> int:
        """Columns of the whole logits."""
        return int(self.config.vocab_size)

    @functools.cached_property
    def tokens(self) -> int:
        """Columns of the logits that stand for a token of its tokenizer; those behind are padding."""
        known = self.tokenizer.get_vocab().values() if self.tokenizer is not None else ()
        return min(self.vocabulary, max(known, default=self.vocabulary - 1) + 1)

    def whole_logits(self, part_Nv: Tensor) -> Tensor:
        """Logits [N, V] of all ranks' stretches."""
        return part_Nv if self._tensor_parallel is None else self._tensor_parallel.joined(part_Nv)

    def cross_entropy_sum(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """Summed cross entropy (float32 scalar) of the tokens (int64 [N]) that follow chosen rows."""
        loss: Tensor = self.causal_lm.get_output_embeddings()(hidden_ND, targets_N)
        return loss

    def new_cache(self, slots: int, capacity: int) -> KeyValueCache:
        return KeyValueCache(int(self.config.num_hidden_layers), slots, capacity, self.device)


def configured_stops(causal_lm: Any) -> list[Any]:
    """What generation_config.json calls ends of a text."""
    ids = getattr(getattr(causal_lm, "generation_config", None), "eos_token_id", None)
    return [index for index in (ids if isinstance(ids, (list, tuple)) else [ids]) if index is not None]


_NEUTRAL = (None, 0, 1, False)


def _say_unread(path: str, causal_lm: Any) -> None:
    """Say what generation_config.json sets that changes even a greedy answer in transformers: asking alone decides here."""
    settings = getattr(causal_lm, "generation_config", None)
    unread = [name for name in _DECISIVE if getattr(settings, name, None) not in _NEUTRAL]
    if unread:
        say(
            f"warning: {path}: generation_config.json sets {', '.join(unread)}, of which nothing is used: answers are as "
            f"asked for (repetition_penalty, stop, max_new_tokens)"
        )


def context_length(model_config: Any) -> int:
    """Tokens that a sequence may have. Where rotations change with the longest sequence of a pass (dynamic, longrope), those
    that it may have before they do: packed with others, or grown since its first tokens, it would have theirs.
    """
    longest = int(getattr(model_config, "max_position_embeddings", None) or 1 << 30)
    rope = getattr(model_config, "rope_parameters", None) or getattr(model_config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) not in ("dynamic", "longrope"):
        return longest
    key = "original_max_position_embeddings"
    return min((longest, *(int(n) for n in (rope.get(key), getattr(model_config, key, None)) if n)))


def load_tokenizer(config: LanguageModelConfig) -> Any:
    return load_pretrained(AutoTokenizer, config, "tokenizer")


def load_model_config(config: LanguageModelConfig) -> Any:
    """Its config.json; UserError, too, for a context that holds no prompt and answer."""
    model_config = load_model_configuration(config, "model configuration")
    try:
        longest = context_length(model_config)
    except (TypeError, ValueError, AttributeError):
        longest = 0
    if longest < 2:
        raise UserError(f"{config.path}: config.json names no context of tokens: mend its max_position_embeddings")
    return model_config


def load_language_model(
    config: LanguageModelConfig, context: ParallelContext, partition: Partition | None = None
) -> LanguageModel:
    """The model of a configuration, in its dtype, on this rank's device: whole, or this rank's part of every layer, which
    `partition` cuts further.
    """
    model_config, tensor_parallel = load_model_config(config), None
    if context.tensor_size > 1:
        _require_cuttable(config, model_config, context)
    files = checkpoint_files(config)
    empty = outlined(lambda: _empty(config, model_config), files, config.path)
    require_known_right(model_config, config.path, context, bare, config.trust_remote_code)
    quantization.require_right_products(config, context.device)
    require_whole(empty, files, config.path)
    if context.tensor_size > 1:
        model, tensor_parallel = _load_sharded(config, model_config, context, partition)
    else:
        dtype = DTYPES[config.dtype]
        arguments = {
            "config": model_config,
            "dtype": dtype,
            "attn_implementation": attention.choose(config.attention, context.device),
            **quantization.arguments(config, dtype, context.device),
        }
        model = load_pretrained(AutoModelForCausalLM, config, "language model", **arguments)
        if config.quantization == quantization.NONE:
            model = model.to(context.device)  # where a quantised one was loaded
        quantization.require_right_values(model, config)
        quantization.compute_in_own_dtype(model, config)
    require_finite(model, files, config.path, context)
    tokenizer = load_tokenizer(config)
    stops = configured_stops(model)
    require_fitting(config, tokenizer, model.config, stops)
    if context.is_first:
        say_doubts(config, tokenizer, model.config, stops)
        _say_unread(config.path, model)
    specials = special_tokens(tokenizer, model.config, config.bos_token, config.eos_token)
    return LanguageModel(model, tokenizer, specials, tensor_parallel)


def _empty(config: LanguageModelConfig, model_config: Any) -> Any:
    return AutoModelForCausalLM.from_config(model_config, trust_remote_code=config.trust_remote_code)


def bare(causal_lm: Any, tensor_parallel: TensorParallelState | None) -> LanguageModel:
    """Ours around a model that reads no text."""
    return LanguageModel(causal_lm, None, SpecialTokens(0, 0), tensor_parallel)


def _require_cuttable(config: LanguageModelConfig, model_config: Any, context: ParallelContext) -> None:
    if config.quantization != quantization.NONE:
        raise UserError(
            f"language_model.quantization={config.quantization} keeps the model whole: set parallel.tensor_parallel_size=1"
        )
    require_divisible(model_config, context.tensor_size, config.path)


def _load_sharded(
    config: LanguageModelConfig, model_config: Any, context: ParallelContext, partition: Partition | None
) -> tuple[Any, TensorParallelState]:
    """Built without memory, cut, then read piece by piece: a rank holds its part and one tensor's piece at a time."""
    from accelerate import init_empty_weights

    weights = SafetensorsWeights(config)
    dtype = DTYPES[config.dtype]
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(
            model_config, dtype=dtype, attn_implementation=attention.choose(config.attention, context.device)
        )
    tensor_parallel = shard_model(model, context, dtype, weights.read, partition)
    return model.to(context.device), tensor_parallel
