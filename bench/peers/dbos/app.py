"""The workload on DBOS: a durable workflow whose model calls and tool call are steps, behind FastAPI.

Served by `uvicorn app:app`; DBOS_SYSTEM_DATABASE_URL and OPENAI_BASE_URL say where the rest is.
"""

import json
import os
from contextlib import asynccontextmanager

import httpx
from dbos import DBOS, DBOSConfig
from fastapi import FastAPI
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
async def lookup(q: str) -> str:
    return q


@DBOS.workflow()
async def agent(task: str) -> str:
    messages = [{"role": "system", "content": "You look things up."}, {"role": "user", "content": task}]
    while True:
        reply = await ask_model(messages)
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
