"""LangGraph's ready-made agent: of the app beside it, and of the LangGraph server. OPENAI_BASE_URL says where the model is."""

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
async def lookup(q: str) -> str:
    """Returns the text it is given."""
    return q


def ready_made(checkpointer=None):
    model = ChatOpenAI(model="scripted-server", api_key="none", streaming=True)
    return create_agent(model, [lookup], system_prompt="You look things up.", checkpointer=checkpointer)
