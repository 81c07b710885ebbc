"""Keys as Hugging Face's Trainer, PEFT, TRL and DeepSpeed call them, and where ours are."""

from __future__ import annotations

_STAGE = "recipes.METHOD.STAGE"
_BATCH = (
    f"{_STAGE}.packing.global_batch_size",
    "the examples of one optimizer step over all ranks; packing.row_tokens bounds the memory of a micro-step",
)
_NO_LORA = ("", "there is no LoRA here: a stage trains the whole language model, or a mapping into it")
_TOKENS = (f"{_STAGE}.packing.max_joined_tokens", "or max_prompt_tokens and max_target_tokens beside it")
_QUANTIZED = ("language_model.quantization", "nf4 or int8, of a language model that is not trained")
_PRECISION = (f"{_STAGE}.precision", "float32 or bfloat16")

USUAL_NAMES: dict[str, tuple[str, str]] = {
    "batch_size": _BATCH,
    "train_batch_size": _BATCH,
    "per_device_train_batch_size": _BATCH,
    "train_micro_batch_size_per_gpu": _BATCH,
    "micro_batch_size": _BATCH,
    "gradient_accumulation_steps": (
        f"{_STAGE}.packing.global_batch_size",
        "accumulation follows from it, packing.row_tokens and the number of ranks",
    ),
    "per_device_eval_batch_size": ("evaluation.tasks.TASK.generation.batch_size", ""),
    "eval_batch_size": ("evaluation.tasks.TASK.generation.batch_size", ""),
    "lr": (f"{_STAGE}.optimizer.learning_rate", ""),
    "adam_beta1": (f"{_STAGE}.optimizer.betas", "the first of two"),
    "adam_beta2": (f"{_STAGE}.optimizer.betas", "the second of two"),
    "adam_epsilon": (f"{_STAGE}.optimizer.eps", ""),
    "max_grad_norm": (f"{_STAGE}.optimizer.max_gradient_norm", ""),
    "gradient_clipping": (f"{_STAGE}.optimizer.max_gradient_norm", ""),
    "lr_scheduler_type": (f"{_STAGE}.optimizer.schedule", "constant, cosine or linear"),
    "warmup_ratio": (f"{_STAGE}.optimizer.warmup_share", ""),
    "warmup_steps": (f"{_STAGE}.optimizer.warmup_share", "a share of all steps"),
    "num_train_epochs": (f"{_STAGE}.epochs", ""),
    "num_epochs": (f"{_STAGE}.epochs", ""),
    "max_steps": (f"{_STAGE}.steps", ""),
    "num_train_steps": (f"{_STAGE}.steps", ""),
    "max_seq_length": _TOKENS,
    "max_seq_len": _TOKENS,
    "max_length": _TOKENS,
    "model_max_length": _TOKENS,
    "cutoff_len": _TOKENS,
    "block_size": _TOKENS,
    "max_source_length": (f"{_STAGE}.packing.max_prompt_tokens", ""),
    "max_prompt_length": (f"{_STAGE}.packing.max_prompt_tokens", ""),
    "max_target_length": (f"{_STAGE}.packing.max_target_tokens", ""),
    "max_completion_length": (f"{_STAGE}.packing.max_target_tokens", ""),
    "bf16": _PRECISION,
    "fp16": _PRECISION,
    "mixed_precision": _PRECISION,
    "logging_steps": (f"{_STAGE}.log_every_steps", ""),
    "save_steps": (f"{_STAGE}.save_every_steps", ""),
    "eval_steps": (f"{_STAGE}.evaluate_every_steps", ""),
    "load_best_model_at_end": (f"{_STAGE}.keep", "keep: best"),
    "metric_for_best_model": (f"{_STAGE}.best_by", "dev_loss or accuracy"),
    "dataset_name": (f"{_STAGE}.data.N.path", "a hub id, with source: table"),
    "dataset": (f"{_STAGE}.data.N.path", "a hub id, with source: table"),
    "train_file": (f"{_STAGE}.data.N.path", ""),
    "eval_dataset": (f"{_STAGE}.dev_data", ""),
    "validation_file": (f"{_STAGE}.dev_data", ""),
    "max_train_samples": (f"{_STAGE}.data.N.limit_per_language", ""),
    "dataset_text_field": (f"{_STAGE}.data.N.options", "columns of source table"),
    "chat_template": (f"{_STAGE}.prompt", "a name of `mmscale list prompts`"),
    "model_name_or_path": ("language_model.path", ""),
    "model_name": ("language_model.path", ""),
    "model": ("language_model.path", ""),
    "base_model": ("language_model.path", ""),
    "torch_dtype": ("language_model.dtype", ""),
    "attn_implementation": ("language_model.attention", ""),
    "use_flash_attention_2": ("language_model.attention", "auto takes flash-attention where it can be had"),
    "load_in_4bit": _QUANTIZED,
    "load_in_8bit": _QUANTIZED,
    "quantization_config": _QUANTIZED,
    "run_name": ("name", ""),
    "data_seed": ("seed", ""),
    "deepspeed": ("parallel.zero", "further keys of DeepSpeed's JSON go into parallel.zero.extra"),
    "zero_stage": ("parallel.zero.stage", ""),
    "zero_optimization": ("parallel.zero", ""),
    "tp_size": ("parallel.tensor_parallel_size", ""),
    "fsdp": ("parallel.zero.stage", "3 partitions parameters, gradients and optimizer"),
    "report_to": ("trackers", "names of `mmscale list trackers`; metrics.jsonl is always written"),
    "optim": ("", "the optimizer is AdamW"),
    "use_peft": _NO_LORA,
    "peft_config": _NO_LORA,
    "lora_r": _NO_LORA,
    "lora_rank": _NO_LORA,
    "lora_alpha": _NO_LORA,
    "lora_dropout": _NO_LORA,
    "lora_target_modules": _NO_LORA,
    "freeze_encoder": (f"{_STAGE}.trains", "[connector, encoder] trains it"),
    "freeze_language_model": (f"{_STAGE}.trains", "[connector, language_model] trains it"),
    "learning_rate_enc": (f"{_STAGE}.optimizer.encoder_learning_rate", ""),
    "do_sample": ("evaluation.tasks.TASK.generation.temperature", "0 is greedy"),
    "max_tokens": ("evaluation.tasks.TASK.generation.max_new_tokens", ""),
    "stop_sequences": ("evaluation.tasks.TASK.generation.stop", ""),
}
"""Their name -> (path of our key, or "" where there is none; what to know about it). A name that is also one of our keys, in
another section, is found in the configuration itself."""

RETIRED: dict[str, str] = {
    "evaluation.precision": "nothing ever read it, so take it out; answers are computed in language_model.dtype",
}
"""Path of a key that was ours once -> what to do about it."""
