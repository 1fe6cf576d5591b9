"""The workload's front, FastAPI: a task becomes a workflow, whose result is the answer.

Served by `uvicorn app:app`; TEMPORAL_ADDRESS says where the server is. The workflow is executed by worker.py.
"""

import os
from contextlib import asynccontextmanager
from uuid import uuid4

from fastapi import FastAPI
from pydantic import BaseModel
from temporalio.client import Client

from workflows import TASK_QUEUE, Agent


@asynccontextmanager
async def lifespan(app: FastAPI):
    app.state.temporal = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    yield


app = FastAPI(lifespan=lifespan)


class Task(BaseModel):
    input: str


@app.get("/healthz")
async def healthz() -> dict:
    return {}


@app.post("/runs")
async def run(task: Task) -> dict:
    output = await app.state.temporal.execute_workflow(Agent.run, task.input, id=str(uuid4()), task_queue=TASK_QUEUE)
    return {"output": output}
