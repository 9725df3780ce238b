"""A reward server made as OpenRLHF's serve_rm is: transformers, each request one padded batch, one at a time.

    python benchmarks/peers/padded_server.py DIR --port 5000

OpenRLHF 0.11.0 itself (openrlhf/cli/serve_rm.py) needs deepspeed; this has its structure: the model computes
inside of the handler, so that nothing else is answered meanwhile.
"""

import argparse
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-length", type=int, default=2048)
    flags = parser.parse_args()
    model = AutoModelForSequenceClassification.from_pretrained(flags.directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(flags.directory, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token_id = model.config.pad_token_id
    app = FastAPI()

    @app.post("/get_reward")
    async def get_reward(request: Request) -> Any:
        texts = (await request.json())["query"]
        batch = tokenizer(
            texts,
            return_tensors="pt",
            add_special_tokens=False,
            padding=True,
            truncation=True,
            max_length=flags.max_length,
        )
        with torch.no_grad():
            scores = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        return {"rewards": scores.tolist(), "scores": scores.tolist(), "extra_logs": {}}

    @app.get("/health")
    async def health() -> Any:
        return {}

    uvicorn.run(app, port=flags.port, log_level="warning")


if __name__ == "__main__":
    main()
