"""What becomes of each of LLaMA-Factory's keys that is no parameter of a job.

One table. A key names another field of the job, or is dropped with the reason, or is refused with
what to do instead. The parameters of a job are declared in `workers.contract.parameters`, and the
declarations stand above this table: a key that is declared there is honoured, whatever is said of
it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from server.llamafactory.values import as_declared


class Field(StrEnum):
    """Fields of a job that are not its parameters."""

    MODEL = "model"
    METHOD = "method.type"
    SEED = "seed"
    TRAINING_FILE = "training_file"
    VALIDATION_FILE = "validation_file"


@dataclass(frozen=True, slots=True)
class Becomes:
    """A field of the job."""

    field: Field


@dataclass(frozen=True, slots=True)
class Renamed:
    """A parameter of the job that has another name."""

    name: str
    note: str


@dataclass(frozen=True, slots=True)
class OfEntry:
    """A setting of the model's entry, of which a job may only say the same."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """Without an effect on what is trained."""

    why: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Asks for what a job does not do, unless its value is null or one of `plain`, which stand for
    what a job does anyway. So does false, where true is none of them."""

    advice: str
    plain: tuple[object, ...] = ()

    def is_plain(self, value: object) -> bool:
        """YAML takes `1e-6` for text, so the value is read in the type of what it may be."""
        if any(as_declared(type(each), value) == each for each in self.plain):
            return True
        is_off = value is False and not any(each is True for each in self.plain)
        return value is None or is_off


Treatment = Becomes | Renamed | OfEntry | Dropped | Refused


def _all(treatment: Treatment, names: str) -> dict[str, Treatment]:
    return dict.fromkeys(names.split(), treatment)


_SPEED = Dropped("about speed and memory, not about what is learned")
_SERVING = Dropped("about inference; requests and the model's entry set it")
_PLACE = Dropped("the service keeps a job's files in its own data directory")
_LOGS = Dropped("the service keeps its own logs; a job's events have each report")
_DEVICES = Dropped("a job trains on one device")
_PROFILER = Dropped("jobs are not profiled")
_CACHES = Dropped("examples are tokenised for each job, and kept beside it")
_BY_CLI = Dropped("where `tuneyard train` looks for the data sets")
_ENTRY = Dropped("a setting of the model's entry; `tuneyard serve --config` takes it")
_NO_EVAL = Dropped("passes over the validation file compute losses alone")

_VOCABULARY = Refused("The vocabulary is the base model's: save the resized model, and serve that.")
_QUANTIZED = Refused("Jobs train on unquantised weights: leave it out, or quantise for serving.")
_MEDIA = Refused("Jobs train on text alone.")
_EXPORT = Refused(
    "A job's result is served as it is: leave the export out, and ask for the model by its id."
)
_KT = Refused("KTransformers is not a backend of jobs: leave its keys out, or use LLaMA-Factory.")
_MEGATRON = Refused("Megatron is not a backend of jobs: leave its keys out, or use LLaMA-Factory.")
_WHOLE = Refused("A reward model of this server is whole: name it in 'reward_model' alone.")
_OPTIMISER = Refused("Jobs do not have this optimiser: choose one with 'optim'.")
_MIXING = Dropped("how `tuneyard train` makes one file of several data sets")
_STREAMING = Refused("Files are read whole: leave it out.")
_REPORTS = Refused("This server reports to none: leave it out, or set none. Events have it all.")
_PREDICT = Refused("A job trains. Ask the model for answers through the API.")
_EVALUATION = Refused("An evaluation is not a job.")
_HUB = Refused("A job's result stays on this server: leave it out.", ("every_save",))
_BEST = "The best checkpoint is the one with the lowest loss: leave it out."
_FP8 = Refused("Jobs compute in bfloat16 or float32: use 'bf16'.", ("auto",))
_RENAMED = "LLaMA-Factory itself has it no more: use {}."

TABLE: dict[str, Treatment] = {
    "model_name_or_path": Becomes(Field.MODEL),
    "adapter_name_or_path": Becomes(Field.MODEL),
    "stage": Becomes(Field.METHOD),
    "seed": Becomes(Field.SEED),
    "dataset": Becomes(Field.TRAINING_FILE),
    "eval_dataset": Becomes(Field.VALIDATION_FILE),
    "neat_packing": Renamed("packing", "which always keeps examples apart"),
    **_all(OfEntry(), "template default_system tool_format"),
    # Plumbing.
    "do_train": Dropped("a job trains in any case"),
    "do_eval": Dropped("a validation file is evaluated on, as eval_strategy says"),
    **_all(_PLACE, "output_dir overwrite_output_dir logging_dir profiler_output_dir"),
    "run_name": Dropped("a job has an id; `suffix` names its result"),
    "save_only_model": Dropped("a job keeps what it needs to go on, and removes it at the end"),
    "disable_tqdm": Dropped("events tell of the progress"),
    "include_num_input_tokens_seen": Dropped("a job tells of its trained tokens"),
    "include_effective_tokens_per_second": Dropped("a job tells of its trained tokens"),
    "trust_remote_code": Dropped("the operator's setting, of the model's entry"),
    **_all(_CACHES, "overwrite_cache tokenized_path data_shared_file_system"),
    **_all(_BY_CLI, "dataset_dir media_dir"),
    **_all(
        _LOGS,
        "logging_strategy logging_first_step log_on_each_node log_level log_level_replica debug "
        "print_param_status skip_memory_metrics project trackio_space_id trackio_bucket_id "
        "trackio_static_space_id local_rank badam_verbose swanlab_project swanlab_workspace "
        "swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir swanlab_lark_webhook_url "
        "swanlab_lark_secret",
    ),
    **_all(
        _SPEED,
        "preprocessing_num_workers preprocessing_batch_size dataloader_num_workers "
        "dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor flash_attn "
        "use_unsloth use_unsloth_gc enable_liger_kernel use_liger_kernel liger_kernel_config "
        "use_v1_kernels use_reentrant_gc gradient_checkpointing_kwargs low_cpu_mem_usage "
        "use_fast_tokenizer offload_folder torch_empty_cache_steps tf32 use_cache use_kv_cache "
        "remove_unused_columns length_column_name torch_compile torch_compile_backend "
        "torch_compile_mode",
    ),
    **_all(
        _DEVICES,
        "deepspeed fsdp fsdp_config fsdp_transformer_layer_cls_to_wrap accelerator_config "
        "parallelism_config average_tokens_across_devices ddp_find_unused_parameters "
        "ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout "
        "ray_num_workers ray_init_kwargs master_addr master_port device_map save_on_each_node "
        "use_cpu",
    ),
    **_all(
        _PROFILER,
        "enable_torch_profiler profiler_wait_steps profiler_warmup_steps profiler_active_steps "
        "profiler_repeat profiler_record_shapes profiler_profile_memory profiler_with_stack "
        "profile_modules",
    ),
    **_all(
        _NO_EVAL,
        "per_device_eval_batch_size prediction_loss_only eval_do_concat_batches "
        "eval_use_gather_object eval_accumulation_steps batch_eval_metrics bf16_full_eval "
        "fp16_full_eval",
    ),
    **_all(
        _ENTRY,
        "cache_dir model_revision hf_hub_token ms_hub_token om_hub_token vllm_maxlen vllm_gpu_util "
        "vllm_enforce_eager vllm_max_lora_rank vllm_config sglang_maxlen sglang_mem_fraction "
        "sglang_tp_size sglang_config sglang_lora_backend",
    ),
    **_all(
        _SERVING,
        "infer_backend infer_dtype do_sample num_beams max_length length_penalty "
        "skip_special_tokens eval_num_beams generation_max_length "
        "generation_num_beams generation_config",
    ),
    **_all(Dropped("follows from others; LLaMA-Factory sets it itself"), "model_max_length"),
    "block_diag_attn": Dropped("examples of a packed row are always kept apart"),
    "compute_dtype": Dropped("follows from 'bf16'; LLaMA-Factory sets it itself"),
    # What a job does not do.
    "adapter_folder": Refused("Name the adapter by its id, in 'adapter_name_or_path'."),
    "resume_from_checkpoint": Refused(
        "A job goes on from its last checkpoint by itself. To train a fine-tuned model further, "
        "name it in 'model_name_or_path'."
    ),
    "train_from_scratch": Refused("Jobs start from the weights of a served model."),
    **_all(_VOCABULARY, "resize_vocab add_tokens add_special_tokens new_special_tokens"),
    "new_special_tokens_config": _VOCABULARY,
    "init_special_tokens": Refused(_VOCABULARY.advice, ("noise_init",)),
    "split_special_tokens": Dropped("what a conversation says is never read as control tokens"),
    "rope_scaling": Refused("Jobs train within the model's own context."),
    "shift_attn": Refused("Jobs attend to the whole example: leave it out."),
    "mixture_of_depths": Refused("Jobs train models as they are: leave it out."),
    "moe_aux_loss_coef": Refused("A job's loss is that of its stage alone: leave it out."),
    **_all(
        Refused("Weights have the type that 'bf16' and 'pure_bf16' say: leave it out."),
        "upcast_layernorm upcast_lmhead_output",
    ),
    "quantization_bit": _QUANTIZED,
    "ref_model_quantization_bit": _QUANTIZED,
    "reward_model_quantization_bit": _QUANTIZED,
    "quantization_device_map": _QUANTIZED,
    **_all(
        Dropped("says how quantization_bit is done, which jobs do not take"),
        "quantization_method quantization_type double_quantization",
    ),
    **_all(
        _MEDIA,
        "image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels "
        "video_min_pixels video_fps video_maxlen use_audio_in_video audio_sampling_rate "
        "freeze_language_model",
    ),
    **_all(Refused(_MEDIA.advice, (True,)), "freeze_vision_tower freeze_multi_modal_projector"),
    "image_resolution": Refused(_RENAMED.format("'image_max_pixels'")),
    "video_resolution": Refused(_RENAMED.format("'video_max_pixels'")),
    "train_mm_proj_only": Refused(_RENAMED.format("'freeze_vision_tower'")),
    **_all(
        _EXPORT,
        "export_dir export_quantization_bit export_quantization_dataset export_hub_model_id "
        "export_hf_on_finish",
    ),
    **_all(
        Dropped("says how an export is written"),
        "export_size export_device export_quantization_nsamples export_quantization_maxlen "
        "export_legacy_format",
    ),
    **_all(
        _KT,
        "use_kt kt_config kt_cpu_activation kt_weight_path kt_non_expert_weight_path "
        "kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num "
        "kt_lora_expert_intermediate_size",
    ),
    **_all(
        _MEGATRON,
        "use_mca tensor_model_parallel_size pipeline_model_parallel_size context_parallel_size "
        "expert_model_parallel_size sequence_parallel use_distributed_optimizer "
        "overlap_param_gather overlap_grad_reduce bias_activation_fusion apply_rope_fusion "
        "moe_grouped_gemm moe_token_dispatcher_type recompute_granularity mixed_precision "
        "use_packed_sequences",
    ),
    **_all(
        Refused("HyperParallel is not a backend of jobs: leave it out."),
        "use_hyper_parallel hyper_parallel_args",
    ),
    "use_llama_pro": Refused("Jobs add no layers: use finetuning_type freeze without it."),
    "loraplus_lr_embedding": Refused("Embeddings have no factors: leave it out.", (1e-6,)),
    "use_adam_mini": _OPTIMISER,
    "use_muon": _OPTIMISER,
    **_all(
        _OPTIMISER,
        "use_galore galore_target galore_rank galore_update_interval galore_scale galore_proj_type "
        "galore_layerwise use_apollo apollo_target apollo_rank apollo_update_interval apollo_scale "
        "apollo_proj apollo_proj_type apollo_scale_type apollo_layerwise apollo_scale_front "
        "use_badam badam_mode badam_start_block badam_switch_mode badam_switch_interval "
        "badam_update_ratio badam_mask_mode optim_args optim_target_modules",
    ),
    "lr_scheduler_kwargs": Refused("Schedules have their usual form: leave it out."),
    "label_smoothing_factor": Refused("Labels are not smoothed: leave it out.", (0,)),
    "pref_bco_weight": Refused("The loss has no such part: leave it out.", (0,)),
    "ld_alpha": Refused("The loss has no such part: leave it out."),
    "reward_model_adapters": _WHOLE,
    "ref_model_adapters": Renamed("ref_model", "the adapter's id says its base too"),
    **_all(_MIXING, "mix_strategy interleave_probs"),
    "streaming": _STREAMING,
    "buffer_size": Dropped("says how streaming is done, which jobs do not take"),
    "ignore_pad_token_for_loss": Refused("Padding is never learned.", (True,)),
    "eval_on_each_dataset": Refused("A job has one validation file: leave it out."),
    "enable_thinking": Refused(
        "The chat format says how thinking is written: name one in the model's entry.", (True,)
    ),
    "preserve_thinking": Refused("The chat format says how earlier thinking is written."),
    "disable_shuffling": Refused("Examples are shuffled by the seed: leave it out."),
    "train_sampling_strategy": Refused("Examples are shuffled by the seed.", ("random",)),
    "sortish_sampler": Refused("Examples are shuffled by the seed."),
    "data_seed": Refused("One seed holds for all that is random: use 'seed'."),
    "full_determinism": Refused("A seed repeats a training on one kind of device: leave it out."),
    "dataloader_drop_last": Refused("The last batch of an epoch is trained on too."),
    "auto_find_batch_size": Refused("Set per_device_train_batch_size."),
    "label_names": Refused("Jobs have their own names of columns: leave it out."),
    "logging_nan_inf_filter": Refused("A loss that is no number ends the job.", (True, False)),
    "ignore_data_skip": Refused("A job that goes on sees each example as often as it would have."),
    "restore_callback_states_from_checkpoint": Dropped("jobs have no callbacks"),
    "enable_jit_checkpoint": Dropped("a job that is stopped saves its state in any case"),
    "metric_for_best_model": Refused(_BEST, ("loss", "eval_loss")),
    "greater_is_better": Refused(_BEST),
    "eval_delay": Refused("Set 'eval_steps'.", (0,)),
    "eval_on_start": Refused("Set 'eval_steps': passes over the validation file follow steps."),
    "compute_accuracy": Dropped("the accuracy of each step is reported in any case"),
    "include_for_metrics": Refused("Passes over the validation file compute losses.", ([],)),
    "report_to": Refused(_REPORTS.advice, ("none", "", ["none"], [])),
    "use_swanlab": _REPORTS,
    **_all(_FP8, "fp8 fp8_backend fp8_enable_fsdp_float8_all_gather"),
    **_all(_PREDICT, "do_predict predict_with_generate"),
    **_all(
        _HUB,
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push "
        "hub_revision",
    ),
    **_all(_EVALUATION, "task task_dir lang n_shot save_dir download_mode"),
    "batch_size": Refused(
        "Evaluations of LLaMA-Factory have it. Use 'per_device_train_batch_size' and "
        "'gradient_accumulation_steps'."
    ),
}

_LORA, _FREEZE_ONLY, _OFT_ONLY = frozenset({"lora"}), frozenset({"freeze"}), frozenset({"oft"})
_PAIRS, _KTO_ONLY, _PPO_ONLY = frozenset({"dpo"}), frozenset({"kto"}), frozenset({"ppo"})


def _reads(place: frozenset[str], names: str) -> dict[str, frozenset[str]]:
    return dict.fromkeys(names.split(), place)


READ_IN: dict[str, frozenset[str]] = {
    **_reads(
        _LORA,
        "lora_rank lora_alpha lora_dropout lora_target loraplus_lr_ratio loraplus_lr_embedding "
        "use_rslora use_dora pissa_init pissa_iter pissa_convert",
    ),
    **_reads(_LORA | _OFT_ONLY, "additional_target create_new_adapter"),
    **_reads(_FREEZE_ONLY, "freeze_trainable_layers freeze_trainable_modules freeze_extra_modules"),
    **_reads(_OFT_ONLY, "oft_rank oft_block_size oft_target module_dropout"),
    **_reads(_PAIRS, "pref_loss dpo_label_smoothing simpo_gamma pref_bco_weight ld_alpha"),
    **_reads(_PAIRS | _KTO_ONLY, "pref_beta pref_ftx"),
    **_reads(_KTO_ONLY, "kto_chosen_weight kto_rejected_weight"),
    **_reads(
        _PPO_ONLY,
        "ppo_buffer_size ppo_epochs ppo_score_norm ppo_target ppo_whiten_rewards reward_model "
        "reward_model_adapters reward_model_quantization_bit reward_model_type max_new_tokens "
        "temperature top_p top_k repetition_penalty",
    ),
}
"""The stages, or kinds of fine-tuning, in which alone LLaMA-Factory itself reads a key. Elsewhere
the key says nothing, and is dropped."""
