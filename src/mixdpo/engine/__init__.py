"""From token ids to log-probabilities of completions. Knows nothing of files, plans or losses."""

from mixdpo.engine.logprobs import completion_logprobs, without_wrappers
from mixdpo.engine.precision import disable_dropout, hardware_has_bf16

__all__ = ["completion_logprobs", "disable_dropout", "hardware_has_bf16", "without_wrappers"]
