"""The systems that are compared, each in a file of its own, in the order in which they take their turns."""

from . import bare, dbos, dbos_rust, langgraph, restate, steadfast

ALL = [
    steadfast.Embedded,
    steadfast.Distributed,
    restate.Restate,
    dbos_rust.DbosRust,
    dbos.Dbos,
    langgraph.LangGraph,
    bare.Bare,
]
