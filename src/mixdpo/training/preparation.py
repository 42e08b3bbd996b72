"""What a run starts from, made ready: the policy and its frozen reference, the tokenizer, the pairs."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, set_seed
from transformers.utils.quantization_config import QuantizationConfigMixin

from mixdpo.common.errors import InputError
from mixdpo.data.token_report import TokenReport
from mixdpo.data.tokenize import tokens_of
from mixdpo.generation.local_generation import stop_token_ids
from mixdpo.models.engine import (
    causal_model,
    disable_dropout,
    has_routers,
    pack_rows,
    pad_rows,
    prepare_packing,
    router_coefficient,
)
from mixdpo.models.loading import load_policy, load_tokenizer, weight_format
from mixdpo.models.model_settings import ModelSettings
from mixdpo.models.token_limits import check_tokens_fit, embedding_rows, long_pairs_warning, tokens_of_longer_side
from mixdpo.plan.make_plan import make_plan
from mixdpo.plan.plan import Plan
from mixdpo.training.batch import RowLayout
from mixdpo.training.checks import rounding_warning
from mixdpo.training.config import MixDPOConfig
from mixdpo.training.deepspeed_run import check_adapters, check_formats, copy_of, save_whole_model
from mixdpo.training.gradient_sync import shards_weights
from mixdpo.training.rate_weights import rate_weights
from mixdpo.training.sampling import PlannedPairs, mismatched_pairs
from mixdpo.training.step_settings import check_margins

logger = logging.getLogger(__name__)


def prepare_policy(
    model: PreTrainedModel | PeftModel | str | Path,
    peft_config: PeftConfig | None,
    args: MixDPOConfig,
    quantization_config: QuantizationConfigMixin | dict[str, Any] | None = None,
) -> PreTrainedModel | PeftModel:
    """Return the policy without dropout.

    Raises:
        InputError: it cannot be loaded or trained, or was loaded and there are settings of how to.
    """
    policy: Any = model
    if isinstance(model, (str, Path)):
        policy = load_named(str(model), args, peft_config is not None, quantization_config)
    elif args.model_init_kwargs or quantization_config is not None:
        name = "quantization_config" if quantization_config is not None else "model_init_kwargs"
        raise InputError(
            f"{name} says how to load the model, and it is loaded already", hint="give the model by its name or folder"
        )
    if not reads_only_text(causal_model(policy)):
        logger.warning(f"{type(causal_model(policy)).__name__} reads more than text; it is trained on text alone")
    check_adapters([*getattr(policy, "peft_config", {}).values(), peft_config], args.deepspeed_plugin)
    if peft_config is not None:
        if isinstance(policy, PeftModel):
            raise InputError("the model has adapters already; leave out peft_config to continue training them")
        set_seed(args.seed)  # adapters start at random values
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers for a name of the past
            policy = get_peft_model(policy, peft_config)
    check_formats(policy, args.deepspeed_plugin)
    disable_dropout(policy)
    if args.deepspeed_plugin is None and (warning := rounding_warning(policy)):  # DeepSpeed keeps float32 copies
        logger.warning(warning)
    return policy


def given_reference(
    ref_model: PreTrainedModel | str | Path | None, args: MixDPOConfig, adapters: bool
) -> PreTrainedModel | None:
    """Return the reference that the caller gives, loaded in the policy's number format where it is only named."""
    if isinstance(ref_model, (str, Path)):
        named: PreTrainedModel = load_named(str(ref_model), args, adapters)
        return named
    return ref_model


def load_named(
    name: str,
    args: MixDPOConfig,
    adapters: bool,
    quantization_config: QuantizationConfigMixin | dict[str, Any] | None = None,
) -> Any:
    """Load a model as `model_init_kwargs` and `trust_remote_code` say; `adapters`: whether it will have some."""
    more = dict(args.model_init_kwargs or {})
    if "torch_dtype" in more:  # its name in transformers 4
        more["dtype"] = more.pop("torch_dtype")
    if isinstance(more.get("dtype"), str) and more["dtype"] != "auto":
        more["dtype"] = weight_format(ModelSettings(name_or_path=name, dtype=more["dtype"].removeprefix("torch.")))
    if quantization_config is not None:
        more["quantization_config"] = quantization_config
    try:
        return load_policy(named_model(name, args), adapters, more)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise InputError(f"model_init_kwargs: {error}", hint="give keywords of from_pretrained") from error


def named_model(name: str, args: MixDPOConfig) -> ModelSettings:
    """Return where a model and its tokenizer come from."""
    more = args.model_init_kwargs or {}
    remote_code = bool(more.get("trust_remote_code", args.trust_remote_code))
    return ModelSettings(name_or_path=name, revision=more.get("revision"), trust_remote_code=remote_code)


def reads_only_text(model: Any) -> bool:
    """Whether a model has no parts for images or sound."""
    return model.config.get_text_config() is model.config


def frozen_reference(policy: nn.Module, ref_model: nn.Module | None, args: MixDPOConfig) -> nn.Module | None:
    """Return a model for the reference, or None where the policy itself serves (adapters off, or one pass first)."""
    if ref_model is policy:
        raise InputError("ref_model is the policy itself and would be trained; leave it out or give a copy")
    if isinstance(ref_model, PeftModel):
        raise InputError(
            "ref_model has adapters, and a reference runs without them", hint="give ref_model.merge_and_unload()"
        )
    live = args.reads_reference and not args.precompute_ref_log_probs
    needs_copy = live and not isinstance(policy, PeftModel)
    if ref_model is None and not needs_copy:
        return None
    reference = copy_of(policy) if ref_model is None else ref_model
    disable_dropout(reference)
    return reference.requires_grad_(False).eval().to(args.device)


def check_layout(accelerator: Accelerator) -> None:
    """Raise `InputError` for ways to spread a model over processes that were not compared with one process."""
    parallel: Any = accelerator.parallelism_config
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    of_a_row = parallel is not None and parallel.non_data_parallel_size > 1
    fsdp = accelerator.distributed_type == DistributedType.FSDP
    for wrong, problem, hint in (
        (of_a_row, "tensor, context and sequence parallelism are not supported", "share pairs out by dp_shard_size"),
        (accelerator.distributed_type == DistributedType.MEGATRON_LM, "Megatron-LM is not supported", "take FSDP2"),
        (fsdp and not accelerator.is_fsdp2, "FSDP1 is not supported", "set fsdp_version to 2"),
        (
            fsdp and isinstance(plugin.cpu_offload, CPUOffloadPolicy),
            "FSDP2 with weights on the CPU (fsdp_offload_params) is not supported",
            "set it to false; adapters, activation_checkpointing and more GPUs take less memory, too",
        ),
    ):
        if wrong:
            raise InputError(problem, hint=f"{hint}; recipes/accelerate has files that work")


def prepare_sharding(args: MixDPOConfig, accelerator: Accelerator) -> None:
    """Make ready for weights sharded by FSDP or DeepSpeed; to be called before they are.

    Accelerate has FSDP2 cast what modules return to the number format of the forward pass. The packed engine's head
    returns float32 log-probabilities, and near 400 nats bfloat16 counts in steps of 2. So outputs stay as they are.

    Raises:
        InputError: what `check_layout` refuses; a reference that follows the policy, whose weights no process has
            whole; or tokens that are to be measured under DeepSpeed, whose engine would count the steps.
    """
    check_layout(accelerator)
    sharded = shards_weights(accelerator)
    if sharded:  # over accumulation steps as within one: see `more_to_come`
        accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
    if args.max_tokens_per_batch == "auto" and accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise InputError(
            "max_tokens_per_batch auto does not work under DeepSpeed", hint="set it to a number of tokens, or use FSDP"
        )
    if args.sync_ref_model and sharded:
        raise InputError(
            "sync_ref_model does not work with weights that are sharded by FSDP or DeepSpeed",
            hint="run it data parallel, with recipes/accelerate/ddp.yaml, or leave sync_ref_model out",
        )
    save_whole_model(accelerator)
    if accelerator.is_fsdp2 and accelerator.state.fsdp_plugin.mixed_precision_policy is not None:
        plugin = accelerator.state.fsdp_plugin
        plugin.mixed_precision_policy = dataclasses.replace(plugin.mixed_precision_policy, output_dtype=None)


def prepare_data_parallel(policy: nn.Module, args: MixDPOConfig, accelerator: Accelerator) -> None:
    """Let processes exchange gradients without a search for weights that a step left unused, where it leaves none.

    Transformers has PyTorch walk the whole graph after every forward pass for it. A setting of the user's stays.
    """
    if args.ddp_find_unused_parameters is None and accelerator.ddp_handler is not None:
        accelerator.ddp_handler.find_unused_parameters = may_leave_weights_unused(policy)


def may_leave_weights_unused(policy: nn.Module) -> bool:
    """Whether a forward pass over text may leave trained weights without a gradient.

    Transformers' own text models use all weights for every row, adapters too, as long as no layer is dropped at
    random: it keeps a layer's experts in one tensor, so some of them get tokens in every pass. Text does not reach
    what reads images and sound, and of other code nothing is known.
    """
    model = causal_model(policy)
    drops_layers = bool(getattr(model.config, "layerdrop", 0))
    return not (type(model).__module__.startswith("transformers.") and reads_only_text(model)) or drops_layers


def router_factor(policy: nn.Module, args: MixDPOConfig) -> float:
    """Return the factor of the loss that balances a mixture of experts' routers, 0 where there are none.

    Raises:
        InputError: `router_aux_loss_coef` is given, and the policy has no routers.
    """
    if args.router_aux_loss_coef is None:
        return router_coefficient(policy)
    if args.router_aux_loss_coef and not has_routers(policy):
        raise InputError("router_aux_loss_coef is given, and the model is no mixture of experts", hint="leave it out")
    return args.router_aux_loss_coef


def choose_layout(policy: nn.Module, ref_model: nn.Module | None, args: MixDPOConfig) -> RowLayout:
    """Return how micro-batches are laid out, and make the models ready for it.

    Raises:
        InputError: `engine: packed`, or what only packed rows can do, and one of the models cannot be packed.
    """
    if args.engine != "padded":
        refusal = "torch_compile is on and would compile every packed row anew" if args.torch_compile else None
        autocast = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        for model in (policy, ref_model):
            if model is not None and refusal is None:
                refusal = prepare_packing(model, args.device.type == "cuda", autocast)
        if refusal is None:
            return pack_rows
        if args.engine == "packed":
            raise InputError(f"the model cannot be packed: {refusal}", hint="set engine to padded or auto")
        cost = "slower than packed ones (for UltraFeedback 1.6 times their FLOPs)"
        logger.warning("the model runs on padded rows, %s: %s", cost, refusal)
    if args.reward_calibration:
        raise InputError(
            "reward_calibration measures answers in packed rows, and the model runs on padded ones",
            hint="set engine to packed, which says what stands in the way, or leave reward_calibration out",
        )
    return partial(pad_rows, pad_token_id=0)  # padding is masked out, so any id will do


def prepare_tokenizer(
    policy: Any, given: PreTrainedTokenizerBase | ProcessorMixin | None, args: MixDPOConfig | None = None
) -> PreTrainedTokenizerBase:
    """Return the tokenizer, by default the policy's own, and name its stop tokens in what is saved with the policy.

    Servers such as vLLM stop at the tokens of the generation settings alone. A base model's end only its texts, while
    it is trained here to end its turns as the chat template does; served without that token it would write on to
    the limit.

    Raises:
        InputError: there is none, or `pad_token` is none of its tokens.
    """
    name = policy.config._name_or_path
    tokenizer: Any = getattr(given, "tokenizer", given) if isinstance(given, ProcessorMixin) else given
    if tokenizer is None:
        tokenizer = load_tokenizer(ModelSettings(name_or_path=name) if args is None else named_model(name, args))
    if args is not None and args.pad_token is not None:
        if args.pad_token not in tokenizer.get_vocab():
            raise InputError(f"pad_token is {args.pad_token!r}, which the tokenizer does not have")
        tokenizer.pad_token = args.pad_token
    if policy.generation_config is not None:
        policy.generation_config.eos_token_id = stop_token_ids(policy, tokenizer) or None
    prepared: PreTrainedTokenizerBase = tokenizer
    return prepared


def check_pairs_fit(
    policy: nn.Module,
    ref_model: nn.Module | None,
    tokenizer: PreTrainedTokenizerBase,
    data_sets: Sequence[PlannedPairs],
) -> None:
    """Check that the models of a run can read its pairs, and warn if the policy hardly can.

    Raises:
        InputError: a pair has a token id or more tokens than a model can read; names it.
    """
    data_sets = [*data_sets, *(pairs.mismatched for pairs in data_sets if pairs.mismatched is not None)]
    for pairs in data_sets:
        for model in (policy, ref_model):
            if model is not None:
                check_tokens_fit(pairs.tokens, model, pairs.loaded)
    rows = embedding_rows(policy)
    if len(tokenizer) > rows:
        logger.warning(
            f"the tokenizer has {len(tokenizer):,} tokens and the model embeddings for {rows:,}; the data uses none "
            "of those beyond"
        )
    lengths = np.concatenate([tokens_of_longer_side(pairs.tokens) for pairs in data_sets])
    if warning := long_pairs_warning(policy, lengths):
        logger.warning(warning)


def listed_sets(pairs: PlannedPairs | dict[str, PlannedPairs] | None) -> list[PlannedPairs]:
    """Return the evaluation sets, one, several or none, as a list."""
    if isinstance(pairs, dict):
        return list(pairs.values())
    return [] if pairs is None else [pairs]


class PairPreparation:
    """Prepares the pairs of a run; `reports` tells what tokenising did to each data set."""

    def __init__(self, args: MixDPOConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.args, self.tokenizer = args, tokenizer
        self.reports: dict[str, TokenReport] = {}

    def train(self, dataset: Dataset, plan: Plan) -> PlannedPairs:
        """Return pairs to train by `plan`, with the weights that only the run's schedule tells."""
        pairs = self._planned(dataset, "train", plan, sft_target=self.args.sft_target)
        if plan.settings.weight == "rate":
            pairs.weigh(rate_weights(pairs, self.args))
        return pairs

    def evaluation(self, dataset: Dataset, metric: str, name: str = "eval") -> PlannedPairs:
        """Return pairs that are all measured with the preference loss, in buckets by `margin/<metric>`.

        Args:
            dataset: pairs from `load_pairs`.
            metric: the plan's.
            name: what reports call them.

        Raises:
            InputError: the loss reads margins, and the pairs have none.
        """
        plan = make_plan(dataset, "dpo", order="as_is", metric=metric)
        check_margins(self.args, plan, "the evaluation data")
        return self._planned(dataset, name, plan, all_sides=True)

    def evaluation_sets(
        self, given: Dataset | Mapping[str, Dataset] | None, metric: str
    ) -> PlannedPairs | dict[str, PlannedPairs] | None:
        """Return what `evaluation` makes of pairs, of each of several, or of none."""
        if isinstance(given, Mapping):
            return {name: self.evaluation(pairs, metric, f"eval_{name}") for name, pairs in given.items()}
        return None if given is None else self.evaluation(given, metric)

    def _planned(self, dataset: Dataset, name: str, plan: Plan, **settings: Any) -> PlannedPairs:
        tokens, self.reports[name] = tokens_of(dataset, self.tokenizer, self.args.token_settings())
        pairs = PlannedPairs(tokens, plan, loaded=dataset, **self.args.pair_needs(), **settings)
        if self.args.reads_mismatched:
            if len(tokens) < 2:
                raise InputError("kto reads answers to other prompts, and the data has one pair")
            pairs.mismatched = mismatched_pairs(pairs, self.args.max_length)
        return pairs
