"""The workload on DBOS: a durable workflow whose model calls and tool call are steps, behind FastAPI. `/runs` answers with the
result, `/runs/stream` with each token as SSE, from a durable stream.

Served by `uvicorn app:app`; DBOS_SYSTEM_DATABASE_URL and OPENAI_BASE_URL say where the rest is.
"""

import json
import os
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
from dbos import DBOS, DBOSConfig
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

LOOKUP = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Returns the text it is given.",
        "parameters": {
            "type": "object",
            "properties": {"q": {"type": "string", "description": "The text to return."}},
            "required": ["q"],
        },
    },
}

# The stream of each run that has one.
TOKENS = "tokens"

config: DBOSConfig = {
    "name": "side-by-side",
    "system_database_url": os.environ["DBOS_SYSTEM_DATABASE_URL"],
    # Several processes on one database need names of their own.
    "executor_id": f"bench-{os.getpid()}",
    "log_level": "WARNING",
}
DBOS(config=config)

http = httpx.AsyncClient(
    base_url=os.environ["OPENAI_BASE_URL"],
    timeout=120,
    trust_env=False,
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
)


@DBOS.step()
async def ask_model(messages: list[dict]) -> dict:
    """The reply's message, whole: the result is all that this app gives to its client."""
    body = {"model": "scripted-server", "messages": messages, "tools": [LOOKUP]}
    response = await http.post("/chat/completions", json=body)
    return response.raise_for_status().json()["choices"][0]["message"]


@DBOS.step()
async def ask_model_for_tokens(messages: list[dict]) -> dict:
    """The reply's message; each token of its text goes into the stream as it comes."""
    body = {"model": "scripted-server", "messages": messages, "tools": [LOOKUP], "stream": True}
    content, calls = "", {}
    async with http.stream("POST", "/chat/completions", json=body) as response:
        async for line in response.raise_for_status().aiter_lines():
            data = line.removeprefix("data: ")
            if data in ("", "[DONE]"):
                continue
            for choice in json.loads(data)["choices"]:
                delta = choice["delta"]
                if text := delta.get("content"):
                    content += text
                    await DBOS.write_stream_async(TOKENS, text)
                for part in delta.get("tool_calls") or []:
                    add_to_call(calls.setdefault(part["index"], {"type": "function"}), part)
    return {"role": "assistant", "content": content or None} | ({"tool_calls": [*calls.values()]} if calls else {})


def add_to_call(call: dict, part: dict) -> None:
    if part.get("id"):
        call["id"] = part["id"]
    function = call.setdefault("function", {"name": "", "arguments": ""})
    for key in function:
        function[key] += part.get("function", {}).get(key) or ""


@DBOS.step()
async def lookup(q: str) -> str:
    return q


@DBOS.workflow()
async def agent(task: str) -> str:
    return await converse(task, ask_model)


@DBOS.workflow()
async def streaming_agent(task: str) -> str:
    output = await converse(task, ask_model_for_tokens)
    await DBOS.close_stream_async(TOKENS)
    return output


async def converse(task: str, ask: Callable[[list[dict]], Awaitable[dict]]) -> str:
    messages = [{"role": "system", "content": "You look things up."}, {"role": "user", "content": task}]
    while True:
        reply = await ask(messages)
        calls = reply.get("tool_calls") or []
        if not calls:
            return reply["content"]
        messages.append(reply)
        for call in calls:
            found = await lookup(**json.loads(call["function"]["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": found})


@asynccontextmanager
async def lifespan(_app: FastAPI):
    DBOS.launch()
    yield
    await http.aclose()
    DBOS.destroy()


app = FastAPI(lifespan=lifespan)


class Task(BaseModel):
    input: str


@app.get("/healthz")
async def healthz() -> dict:
    return {}


@app.post("/runs")
async def run(task: Task) -> dict:
    return {"output": await agent(task.input)}


@app.post("/runs/stream")
async def run_streamed(task: Task) -> StreamingResponse:
    return StreamingResponse(stream(task.input), media_type="text/event-stream")


async def stream(task: str):
    handle = await DBOS.start_workflow_async(streaming_agent, task)
    async for text in DBOS.read_stream_async(handle.workflow_id, TOKENS):
        yield frame("token", {"text": text})
    yield frame("done", {"output": await handle.get_result()})


def frame(event: str, data: dict) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"
