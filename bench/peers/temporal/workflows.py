"""The workload as a workflow of Temporal."""

import json
from datetime import timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities import ask_model, lookup

TASK_QUEUE = "agents"
STEP_TIME_MAX = timedelta(seconds=120)


@workflow.defn
class Agent:
    @workflow.run
    async def run(self, task: str) -> str:
        messages = [{"role": "system", "content": "You look things up."}, {"role": "user", "content": task}]
        while True:
            reply = await workflow.execute_activity(ask_model, messages, start_to_close_timeout=STEP_TIME_MAX)
            calls = reply.get("tool_calls") or []
            if not calls:
                return reply["content"]
            messages.append(reply)
            for call in calls:
                q = json.loads(call["function"]["arguments"])["q"]
                found = await workflow.execute_activity(lookup, q, start_to_close_timeout=STEP_TIME_MAX)
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": found})
