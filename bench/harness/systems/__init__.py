"""The systems that are compared, each in a file of its own, in the order in which they take their turns."""

from . import agentplane, bare, dbos, dbos_rust, langgraph, langgraph_server, restate, steadfast, temporal

ALL = [
    steadfast.Embedded,
    steadfast.Distributed,
    restate.Restate,
    temporal.Temporal,
    dbos_rust.DbosRust,
    agentplane.Agentplane,
    agentplane.AgentplaneOnRedb,
    dbos.Dbos,
    dbos.DbosStreams,
    langgraph.LangGraph,
    langgraph_server.LangGraphServer,
    bare.Bare,
    bare.KeptOnSqlite,
    bare.KeptOnPostgres,
    bare.KeptShared,
]


def measured_with(clients: int, systems: list) -> list:
    """Those that answer in time with so many clients."""
    return [system for system in systems if system.clients_max is None or clients <= system.clients_max]


def turns(systems: list, number: int) -> list:
    """The order of a round (from 1): as above, the reverse of it, then the same two from elsewhere in the circle.

    A machine that grows faster or slower meanwhile favours nobody over two rounds, and nobody always comes first.
    """
    pair, second = divmod(number - 1, 2)
    start = pair * (len(systems) // 2 + 1) % len(systems)
    order = systems[start:] + systems[:start]
    return order[::-1] if second else order
