"""The workload on LangGraph: its ready-made agent with a Postgres checkpointer, behind FastAPI, tokens streamed as SSE.

Served by `uvicorn app:app`; DATABASE_URL and OPENAI_BASE_URL say where the rest is. Before the first start,
`python app.py` makes the checkpointer's tables.
"""

import asyncio
import json
import os
from contextlib import asynccontextmanager
from uuid import uuid4

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain_core.messages import AIMessageChunk
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from agent import ready_made

# What the checkpointer asks of connections it is handed.
CONNECTION = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
CONNECTIONS_MAX = 20


@asynccontextmanager
async def lifespan(app: FastAPI):
    url = os.environ["DATABASE_URL"]
    async with AsyncConnectionPool(url, min_size=2, max_size=CONNECTIONS_MAX, kwargs=CONNECTION, open=False) as pool:
        app.state.agent = ready_made(AsyncPostgresSaver(pool))
        yield


app = FastAPI(lifespan=lifespan)


class Task(BaseModel):
    input: str


def frame(event: str, data: dict) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"


async def stream(task: str):
    start = {"messages": [{"role": "user", "content": task}]}
    thread = {"configurable": {"thread_id": str(uuid4())}}
    output = ""
    async for message, _ in app.state.agent.astream(start, thread, stream_mode="messages"):
        if isinstance(message, AIMessageChunk) and message.text:
            output += message.text
            yield frame("token", {"text": message.text})
    yield frame("done", {"output": output})


@app.get("/healthz")
async def healthz() -> dict:
    return {}


@app.post("/runs")
async def run(task: Task) -> StreamingResponse:
    return StreamingResponse(stream(task.input), media_type="text/event-stream")


async def set_up() -> None:
    async with AsyncPostgresSaver.from_conn_string(os.environ["DATABASE_URL"]) as saver:
        await saver.setup()


if __name__ == "__main__":
    asyncio.run(set_up())
