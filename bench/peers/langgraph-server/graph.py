"""The workload on the LangGraph server: the agent of ../langgraph; the checkpointer, the queue and HTTP are the server's."""

from agent import ready_made

graph = ready_made()
