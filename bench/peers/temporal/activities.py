"""What the workload does outside of its workflow: each call of the model and of the tool is an activity."""

import os

import httpx
from temporalio import activity

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

http = httpx.AsyncClient(
    base_url=os.environ["OPENAI_BASE_URL"],
    timeout=120,
    trust_env=False,
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
)


@activity.defn
async def ask_model(messages: list[dict]) -> dict:
    """The reply's message, whole: the result is all that this app gives to its client."""
    body = {"model": "scripted-server", "messages": messages, "tools": [LOOKUP]}
    response = await http.post("/chat/completions", json=body)
    return response.raise_for_status().json()["choices"][0]["message"]


@activity.defn
async def lookup(q: str) -> str:
    return q
