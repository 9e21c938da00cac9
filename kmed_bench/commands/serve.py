"""`serve`: a registered model over HTTP, with bounds."""

import argparse

from kmed_bench.commands.options import Commands, resolve
from kmed_bench.core.errors import KmedError


def register(commands: Commands) -> None:
    """Add the command of this module."""
    serve = commands.add(
        "serve",
        _serve,
        "Serve a registered model over HTTP, as `mlflow models serve` with bounds.",
        reads=["tracking.uri"],
    )
    serve.add_argument("model", help="models:/NAME@ALIAS, runs:/… or the folder of a registered model")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    serve.add_argument("--port", type=int, default=5000, help="port to listen on; 0 takes a free one (5000)")
    serve.add_argument("--timeout-s", type=int, default=300, metavar="N", help="longest time to an answer (300)")
    serve.add_argument("--max-body-mib", type=float, default=32.0, metavar="X", help="largest request (32)")
    serve.add_argument("--max-requests", type=int, default=16, metavar="N", help="requests at the same time (16)")
    serve.add_argument("--body-within-s", type=float, default=60.0, metavar="X", help="time for a body to arrive (60)")
    serve.add_argument(
        "--trust-code", action="store_true", help="run the model's own code though this release did not write it"
    )


def _serve(args: argparse.Namespace) -> int:
    for name in ("timeout_s", "max_body_mib", "max_requests", "body_within_s"):
        if not getattr(args, name) > 0:
            raise KmedError(f"--{name.replace('_', '-')} is {getattr(args, name)}; give a number over 0.")
    from kmed_bench.tracking.registry.serving import ServerLimits, serve
    from kmed_bench.tracking.store import open_store

    limits = ServerLimits(
        timeout_s=args.timeout_s,
        max_body_mib=args.max_body_mib,
        max_requests=args.max_requests,
        body_within_s=args.body_within_s,
    )
    serve(
        args.model,
        host=args.host,
        port=args.port,
        tracking_uri=open_store(resolve(args).tracking),
        limits=limits,
        trust_code=args.trust_code,
    )
    return 0
