"""Generation by vLLM, in this process."""

from collections.abc import Sequence
from pathlib import Path

from modellink_rm.base.errors import UserError
from modellink_rm.base.json_files import read_json_object
from modellink_rm.config.generate import SamplingConfig
from modellink_rm.generation.engine import Request


class VllmEngine:
    """A model opened by vLLM 0.32, which batches requests as it sees fit and computes a shared prompt once.

    Raises:
        UserError: vLLM is not installed.
    """

    requests_at_once = 2048

    def __init__(
        self,
        directory: Path,
        sampling: SamplingConfig,
        *,
        end_ids: Sequence[int],
        num_gpus: int,
        trust_remote_code: bool,
    ) -> None:
        try:
            import vllm
        except ImportError:
            raise UserError(
                "--engine vllm: vLLM is not installed in this environment; install it, or leave --engine out"
            ) from None
        self._vllm = vllm
        self._sampling = sampling
        self._end_ids = list(end_ids)
        self._model = vllm.LLM(
            model=str(directory),
            skip_tokenizer_init=True,
            dtype=_dtype_of(directory),
            generation_config="vllm",  # not the directory's: flags alone say how to sample
            tensor_parallel_size=num_gpus,
            trust_remote_code=trust_remote_code,
        )

    def token_ids(self, requests: Sequence[Request]) -> list[list[int] | None]:
        """The new tokens of each request; vLLM does not say whether logits were numbers."""
        prompts = [self._vllm.TokensPrompt(prompt_token_ids=list(one.prompt_ids)) for one in requests]
        found = self._model.generate(prompts, list(map(self._parameters, requests)), use_tqdm=False)
        return [list(one.outputs[0].token_ids) for one in found]

    def _parameters(self, request: Request) -> object:
        sampling = self._sampling
        return self._vllm.SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_new_tokens,
            seed=None if sampling.is_greedy else request.seed(),
            stop_token_ids=self._end_ids,
            detokenize=False,
        )


def _dtype_of(directory: Path) -> str:
    """The weights' own: vLLM's "auto" would make bfloat16 of float32."""
    config = read_json_object(directory / "config.json")
    return str(config.get("dtype") or config.get("torch_dtype") or "auto")
