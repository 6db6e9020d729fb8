"""Runs one model with vLLM for a parent process: chat completions as JSON lines, in by stdin and out by stdout.

The first line holds the engine's arguments; what is answered says what runs, or why nothing does. Each line after it is
`{"id": n, "body": CHAT COMPLETION REQUEST}` and gets `{"id": n, "status": 200, "body": CHAT COMPLETION}`, or another
status and an error, in any order. The process ends, and the model with it, when its input does: also when the parent
is killed. Started in a session of its own, it does not hear the parent's Ctrl-C.

It imports nothing of relabel, so that any Python that has vLLM can run it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

_FORMS = {"response_format", "structured_outputs"}
_OTHERWISE = {"model", "messages", "chat_template_kwargs", "logprobs", "top_logprobs", *_FORMS}
"""Parts of a request that are no sampling parameters of vLLM's under the same name."""


class Host:
    """An engine, and the way a chat completion goes through it."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        from vllm import AsyncEngineArgs, AsyncLLMEngine

        defaults = {"structured_outputs_config": {"disable_any_whitespace": True, "backend": "xgrammar"}}
        self.engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**{**defaults, **given}))
        self._tokenizer = self.engine.get_tokenizer()
        self._sampling = self.engine.model_config.get_diff_sampling_param()

    def facts(self) -> dict[str, Any]:
        """What runs."""
        import vllm

        config = self.engine.model_config
        commit = getattr(config.hf_config, "_commit_hash", None)
        return {
            "vllm": vllm.__version__,
            "dtype": str(config.dtype).removeprefix("torch."),
            "quantization": config.quantization,
            "revision": config.revision or commit,
            "max_model_len": config.max_model_len,
        }

    async def complete(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        """The chat completion for a request."""
        tokens = self._tokenizer.apply_chat_template(
            body["messages"],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
            **body.get("chat_template_kwargs", {}),
        )
        room = self.engine.model_config.max_model_len - len(tokens)
        if body.get("max_tokens", 1) > room:  # a server refuses that, too
            raise ValueError(f"the context length is too small: {len(tokens)} tokens of prompt leave room for {room}")
        params = self._params({"max_tokens": room, **body})
        async for found in self.engine.generate({"prompt_token_ids": tokens}, params, str(number)):
            output = found
        said = output.outputs[0]
        usage = {
            "prompt_tokens": len(tokens),
            "completion_tokens": len(said.token_ids),
            "prompt_tokens_details": {"cached_tokens": output.num_cached_tokens or 0},
        }
        tokens_said = zip(said.token_ids, said.logprobs or [], strict=False)
        content = None if said.logprobs is None else [_token(*one) for one in tokens_said]
        choice = {
            "message": {"role": "assistant", "content": said.text},
            "finish_reason": said.finish_reason,
            "logprobs": None if content is None else {"content": content},
        }
        return {"model": body["model"], "choices": [choice], "usage": usage}

    def _params(self, body: Mapping[str, Any]) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        given = {**self._sampling, **{name: value for name, value in body.items() if name not in _OTHERWISE}}
        form = body.get("structured_outputs")
        if "response_format" in body:
            form = {"json": body["response_format"]["json_schema"]["schema"]}
        return SamplingParams(
            **given,
            logprobs=body.get("top_logprobs", 0) if body.get("logprobs") else None,
            structured_outputs=StructuredOutputsParams(**form) if form else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def _token(chosen: int, alternatives: Mapping[int, Any]) -> dict[str, Any]:
    def shown(one: Any) -> dict[str, Any]:
        return {"token": one.decoded_token or "", "logprob": max(one.logprob, -9999.0)}

    ranked = sorted(alternatives.values(), key=lambda one: one.rank)
    return {**shown(alternatives[chosen]), "top_logprobs": [shown(one) for one in ranked]}


async def serve(out: IO[bytes]) -> None:
    """Answer lines until the input ends."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()

    ready = threading.Event()

    def read() -> None:
        for line in sys.stdin.buffer:
            loop.call_soon_threadsafe(lines.put_nowait, line)
        if not ready.is_set() and os.getpgrp() == os.getpid():  # nobody waits for the model any more
            os.killpg(0, signal.SIGKILL)
        loop.call_soon_threadsafe(lines.put_nowait, b"")

    def write(answer: Mapping[str, Any]) -> None:
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()

    threading.Thread(target=read, daemon=True).start()
    given = json.loads(await lines.get())
    try:
        host = Host(given)
        ready.set()
        write({"facts": host.facts()})
    except Exception as fault:
        write({"failed": f"{type(fault).__name__}: {fault}"})
        return

    async def answer(number: int, body: dict[str, Any]) -> None:
        try:
            write({"id": number, "status": 200, "body": await host.complete(number, body)})
        except Exception as fault:
            mine = isinstance(fault, (ValueError, TypeError)) or "Validation" in type(fault).__name__
            error = {"message": f"{fault}", "type": type(fault).__name__}
            write({"id": number, "status": 400 if mine else 500, "body": {"error": error}})

    tasks = set()
    while line := await lines.get():
        asked = json.loads(line)
        tasks.add(task := asyncio.create_task(answer(asked["id"], asked["body"])))
        task.add_done_callback(tasks.discard)
    host.engine.shutdown()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no answer
    asyncio.run(serve(answers))
    os._exit(0)
