"""The worker: executes workflows and activities. TEMPORAL_ADDRESS and OPENAI_BASE_URL say where the rest is."""

import asyncio
import logging
import os

from temporalio.client import Client
from temporalio.worker import Worker

from activities import ask_model, lookup
from workflows import TASK_QUEUE, Agent


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])
    async with Worker(client, task_queue=TASK_QUEUE, workflows=[Agent], activities=[ask_model, lookup]):
        print("worker started", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main())
