"""What a folder of graphs holds beside them, and how their caches are called."""

from typing import Annotated, Any

from pydantic import Field

from kmed_bench.core.formats import FileFormat, Head


class GraphRecord(Head):
    """Content of graph.json: the model's dimensions, its number of parameters, and the tokens that decoding needs.

    ``prompt`` starts every text, ``end`` ends it; ``suppressed`` are never written, ``suppressed_first`` never first.
    """

    dims: dict[str, int]
    parameters: int
    prompt: list[int]
    end: int
    suppressed: list[int]
    suppressed_first: list[int]


_Tokens = list[Annotated[int, Field(ge=0, lt=1 << 17)]]
GRAPH: FileFormat[GraphRecord] = FileFormat(
    "kmed-graph",
    1,
    1,
    "export the model again",
    {
        "dims": dict[str, Any],
        "parameters": Annotated[int, Field(ge=1)],
        "prompt": Annotated[_Tokens, Field(min_length=1)],
        "end": Annotated[int, Field(ge=0, lt=1 << 17)],
        "suppressed": _Tokens,
        "suppressed_first": _Tokens,
    },
)


def cache_names(kind: str, n_layer: int) -> list[str]:
    """Return the names of all decoder layers' keys and values in a graph, such as "past.0.key" and "past.0.value"."""
    return [f"{kind}.{layer}.{part}" for layer in range(n_layer) for part in ("key", "value")]
